//! How much memory the answers of metrics servers may take, over all rollouts of the process: 128 evaluations at once
//! with 128 KiB of answers each, four of them with up to 12 MiB. That is 64 MiB of text at the very most, and some
//! three times that while it is read. Who waits is served in turn, and the wait counts towards no deadline.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Evaluations that read at the same time.
    pub at_once: usize,
    /// What each may hold: nearly all need less.
    pub small: usize,
    /// Evaluations that may hold more than that: an hour of a large workload's past.
    pub large_at_once: usize,
    /// What one of those may hold. More is a selector that matches too much.
    pub large: usize,
}

const SIZES: Sizes = Sizes { at_once: 128, small: 128 << 10, large_at_once: 4, large: 12 << 20 };

/// Of one process. Both queues are first come, first served.
#[derive(Debug)]
pub struct Rooms {
    sizes: Sizes,
    places: Semaphore,
    large: Semaphore,
}

/// One evaluation's room, given back when it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    rooms: &'a Rooms,
    _place: Option<SemaphorePermit<'a>>,
    large: OnceCell<Option<SemaphorePermit<'a>>>,
    held: AtomicUsize,
    ends: Instant,
    /// What it waited for its large room.
    waited_ms: AtomicU64,
}

impl Default for Rooms {
    fn default() -> Self {
        Rooms::new(SIZES)
    }
}

impl Rooms {
    pub fn new(sizes: Sizes) -> Self {
        Rooms { sizes, places: Semaphore::new(sizes.at_once), large: Semaphore::new(sizes.large_at_once) }
    }

    /// Waits for a place; all that is asked in this turn then has `span`.
    pub async fn turn(&self, span: Duration) -> Turn<'_> {
        // An error says that the semaphore was closed, which nobody does.
        let place = self.places.acquire().await.ok();
        Turn {
            rooms: self,
            _place: place,
            large: OnceCell::new(),
            held: AtomicUsize::new(0),
            ends: Instant::now() + span,
            waited_ms: AtomicU64::new(0),
        }
    }
}

impl Turn<'_> {
    /// Room for so many bytes more, waiting for it where there is none. Error: how much one evaluation may hold.
    pub async fn take(&self, bytes: usize) -> Result<(), usize> {
        let sizes = self.rooms.sizes;
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > sizes.large {
            return Err(sizes.large);
        }
        if held > sizes.small && self.large.get().is_none() {
            let since = Instant::now();
            self.large.get_or_init(|| async { self.rooms.large.acquire().await.ok() }).await;
            let waited = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            // Queries of one evaluation wait together: the longest wait is the whole of it.
            self.waited_ms.fetch_max(waited, Ordering::Relaxed);
        }
        Ok(())
    }

    /// An answer that is of no use is not kept.
    pub fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// When it is over. What was waited for our own room is no delay of the server's.
    pub fn ends(&self) -> Instant {
        self.ends + self.waited()
    }

    pub fn waited(&self) -> Duration {
        Duration::from_millis(self.waited_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const SPAN: Duration = Duration::from_secs(2);

    fn rooms(at_once: usize) -> Rooms {
        Rooms::new(Sizes { at_once, small: 10, large_at_once: 1, large: 100 })
    }

    #[tokio::test]
    async fn large_readings_wait_in_turn_and_small_ones_wait_for_nobody() {
        let rooms = rooms(8);
        let (first, second, third, small) =
            (rooms.turn(SPAN).await, rooms.turn(SPAN).await, rooms.turn(SPAN).await, rooms.turn(SPAN).await);
        assert_eq!(first.take(50).await, Ok(()));
        let mut second_waits = Box::pin(second.take(50));
        assert!(second_waits.as_mut().now_or_never().is_none());
        let mut third_waits = Box::pin(third.take(50));
        assert!(third_waits.as_mut().now_or_never().is_none());
        assert_eq!(small.take(10).now_or_never(), Some(Ok(())), "a small one");
        assert_eq!(first.take(50).now_or_never(), Some(Ok(())), "who has the room fills it");
        assert_eq!(first.take(1).now_or_never(), Some(Err(100)), "and has no more than that");
        drop(first);
        assert!(third_waits.as_mut().now_or_never().is_none(), "not before the one that came earlier");
        assert_eq!(second_waits.now_or_never(), Some(Ok(())));
        drop(second);
        assert_eq!(third_waits.now_or_never(), Some(Ok(())));
    }

    #[tokio::test]
    async fn queries_of_one_evaluation_share_its_room() {
        let rooms = rooms(8);
        let (one, other) = (rooms.turn(SPAN).await, rooms.turn(SPAN).await);
        let (a, b) = tokio::join!(one.take(30), one.take(30));
        assert_eq!((a, b), (Ok(()), Ok(())));
        assert!(other.take(30).now_or_never().is_none());
        one.give_back(30);
        assert_eq!(one.take(60).now_or_never(), Some(Ok(())), "what was given back is there");
    }

    #[tokio::test]
    async fn no_more_than_so_many_read_at_once_and_each_has_its_turn() {
        let rooms = rooms(2);
        let (first, _second) = (rooms.turn(SPAN).await, rooms.turn(SPAN).await);
        let (mut third, mut fourth) = (Box::pin(rooms.turn(SPAN)), Box::pin(rooms.turn(SPAN)));
        assert!(third.as_mut().now_or_never().is_none() && fourth.as_mut().now_or_never().is_none());
        let before = Instant::now();
        drop(first);
        assert!(fourth.as_mut().now_or_never().is_none(), "not before the one that came earlier");
        let third = third.now_or_never().unwrap();
        assert!(third.ends() >= before + SPAN, "its time begins with its turn");
    }
}
