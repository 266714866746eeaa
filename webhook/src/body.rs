//! Reads a request's body under a limit that is counted while reading and under a deadline. Never
//! trusts `Content-Length`, and never holds more than the limit.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt};

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive within {} s", .0.as_secs())]
    TooSlow(Duration),
    #[error("the body broke off")]
    BrokenOff,
}

/// A body beyond the limit is read on (and dropped) up to so many times the limit: a sender that is
/// still writing when the connection closes would see a reset instead of our answer.
const DRAIN: usize = 16;

/// The whole body, at most `limit` bytes, at most `deadline` from now.
pub async fn read<S, B, E>(body: S, limit: usize, deadline: Duration) -> Result<Bytes, BodyError>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let over = std::sync::atomic::AtomicBool::new(false);
    let collect = async {
        let mut body = std::pin::pin!(body);
        let (mut whole, mut total) = (BytesMut::new(), 0usize);
        while let Some(chunk) = body.next().await {
            let mut chunk = chunk.map_err(|_| BodyError::BrokenOff)?;
            total = total.saturating_add(chunk.remaining());
            if total <= limit {
                whole.extend_from_slice(&chunk.copy_to_bytes(chunk.remaining()));
                continue;
            }
            over.store(true, Relaxed);
            whole = BytesMut::new();
            if total > limit.saturating_mul(DRAIN) {
                break;
            }
        }
        if over.load(Relaxed) { Err(BodyError::TooLarge(limit)) } else { Ok(whole.freeze()) }
    };
    match tokio::time::timeout(deadline, collect).await {
        Ok(answer) if !over.load(Relaxed) => answer,
        Err(_) if !over.load(Relaxed) => Err(BodyError::TooSlow(deadline)),
        _ => Err(BodyError::TooLarge(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(sizes: &[usize]) -> impl Stream<Item = Result<Bytes, ()>> + use<> {
        futures::stream::iter(sizes.iter().map(|n| Ok(Bytes::from(vec![b'x'; *n]))).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn the_limit_is_counted_over_all_chunks() {
        let second = Duration::from_secs(1);
        assert_eq!(read(chunks(&[4, 6]), 10, second).await.map(|b| b.len()), Ok(10));
        assert_eq!(read(chunks(&[4, 6, 1]), 10, second).await, Err(BodyError::TooLarge(10)));
    }

    #[tokio::test]
    async fn a_body_that_stops_coming_meets_the_deadline() {
        let stuck = chunks(&[1]).chain(futures::stream::pending());
        let deadline = Duration::from_millis(20);
        assert_eq!(read(stuck, 10, deadline).await, Err(BodyError::TooSlow(deadline)));
    }
}
