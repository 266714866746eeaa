//! Waiting for what the fleet does by itself: asked often, given up with what was seen last.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(100);

/// Asks until there is an answer.
///
/// # Errors
/// After `limit`, naming what was waited for.
pub async fn until<T, F>(limit: Duration, what: &str, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        sleep(PAUSE).await;
    }
}

/// Asks until `Ok`; an `Err` says how things stand meanwhile and ends up in the message when time is over.
///
/// # Errors
/// After `limit`, with the last of these.
pub async fn until_ok<T, F>(limit: Duration, what: &str, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let last = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(last) => last,
        };
        if Instant::now() >= deadline {
            bail!("not within {} s: {what}; last seen: {last}", limit.as_secs());
        }
        sleep(PAUSE).await;
    }
}
