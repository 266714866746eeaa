//! How much memory the answers of metrics servers may take, over all rollouts of the process: 128 evaluations at once
//! with 128 KiB of answers each, three large ones with up to 12 MiB, and one past with as much. That is 64 MiB of text
//! at the very most, and some three times that while it is read. Who waits holds nothing, is served in turn, and waits
//! no longer than it says.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout};

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Evaluations that read at the same time.
    pub at_once: usize,
    /// What each may hold: nearly all need less.
    pub small: usize,
    /// Evaluations of large workloads that read at the same time.
    pub large_at_once: usize,
    /// What one of those, or one past, may hold. More is a selector that matches too much.
    pub large: usize,
    /// Pasts (an hour of samples) that are read at the same time. Their room is their own: live evidence never waits
    /// for one.
    pub past_at_once: usize,
}

const SIZES: Sizes = Sizes { at_once: 128, small: 128 << 10, large_at_once: 3, large: 12 << 20, past_at_once: 1 };

/// What a turn is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Small,
    Large,
    Past,
}

/// Of one process. Each queue is first come, first served.
#[derive(Debug)]
pub struct Rooms {
    sizes: Sizes,
    small: Semaphore,
    large: Semaphore,
    past: Semaphore,
}

/// One reading's room, given back when it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    _place: SemaphorePermit<'a>,
    most: usize,
    small: usize,
    held: AtomicUsize,
    refused: watch::Sender<bool>,
    ends: Instant,
}

impl Default for Rooms {
    fn default() -> Self {
        Rooms::new(SIZES)
    }
}

impl Rooms {
    pub fn new(sizes: Sizes) -> Self {
        Rooms {
            sizes,
            small: Semaphore::new(sizes.at_once),
            large: Semaphore::new(sizes.large_at_once),
            past: Semaphore::new(sizes.past_at_once),
        }
    }

    /// Waits for a place, at most `wait`; all that is asked in this turn then has `span`. None: it did not come.
    pub async fn turn(&self, room: Room, wait: Duration, span: Duration) -> Option<Turn<'_>> {
        let (queue, most) = match room {
            Room::Small => (&self.small, self.sizes.small),
            Room::Large => (&self.large, self.sizes.large),
            Room::Past => (&self.past, self.sizes.large),
        };
        // The inner error says that the semaphore was closed, which nobody does.
        let place = timeout(wait, queue.acquire()).await.ok()?.ok()?;
        Some(Turn {
            _place: place,
            most,
            small: self.sizes.small,
            held: AtomicUsize::new(0),
            refused: watch::Sender::new(false),
            ends: Instant::now() + span,
        })
    }
}

impl Turn<'_> {
    /// Room for so many bytes more. Error: how much this turn may hold; who asked for too much holds nothing of it, and
    /// there is as much for the others as before.
    pub fn take(&self, bytes: usize) -> Result<(), usize> {
        let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.most);
        match self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.refused.send_replace(true);
                Err(self.most)
            }
        }
    }

    /// An answer that is of no use is not kept.
    pub fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Ends once something was refused for want of room.
    pub async fn refused(&self) {
        // An error says that the sender is gone, which is ours.
        let _ = self.refused.subscribe().wait_for(|refused| *refused).await;
    }

    pub fn was_refused(&self) -> bool {
        *self.refused.borrow()
    }

    /// Whether what is held would have fitted into a small room.
    pub fn is_small(&self) -> bool {
        self.held.load(Ordering::Relaxed) <= self.small
    }

    pub fn ends(&self) -> Instant {
        self.ends
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const SPAN: Duration = Duration::from_secs(2);
    const LONG: Duration = Duration::from_secs(60);

    fn rooms(at_once: usize) -> Rooms {
        Rooms::new(Sizes { at_once, small: 10, large_at_once: 1, large: 100, past_at_once: 1 })
    }

    #[tokio::test]
    async fn large_readings_wait_in_turn_and_small_ones_and_the_past_wait_for_none_of_them() {
        let rooms = rooms(1);
        let turn = |room| Box::pin(rooms.turn(room, LONG, SPAN));
        let first = turn(Room::Large).await.unwrap();
        let (mut second, mut third) = (turn(Room::Large), turn(Room::Large));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        let small = turn(Room::Small).now_or_never().flatten().expect("a place: who waits for a large room has none");
        assert_eq!((small.take(10), small.take(1)), (Ok(()), Err(10)));
        assert!(turn(Room::Past).now_or_never().flatten().is_some(), "a past has a room of its own");
        assert_eq!((first.take(100), first.take(1)), (Ok(()), Err(100)));
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "not before the one that came earlier");
        let second = second.now_or_never().flatten().unwrap();
        drop(second);
        assert!(third.now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn pasts_wait_for_each_other_and_leave_large_readings_their_room() {
        let rooms = rooms(1);
        let turn = |room| Box::pin(rooms.turn(room, LONG, SPAN));
        let _past = turn(Room::Past).await.unwrap();
        assert!(turn(Room::Past).now_or_never().is_none());
        assert!(turn(Room::Large).now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn who_asks_for_too_much_takes_nothing_from_the_others() {
        let rooms = rooms(1);
        let turn = rooms.turn(Room::Large, LONG, SPAN).await.unwrap();
        assert_eq!(turn.take(60), Ok(()));
        assert_eq!(turn.take(50), Err(100), "too much");
        assert!(turn.was_refused());
        assert_eq!(turn.take(40), Ok(()), "the rest is still there");
        turn.give_back(60);
        assert_eq!(turn.take(60), Ok(()), "what was given back is there");
        assert_eq!(turn.take(usize::MAX), Err(100));
    }

    #[tokio::test]
    async fn no_more_than_so_many_read_at_once_and_each_has_its_turn() {
        let rooms = rooms(2);
        let turn = || Box::pin(rooms.turn(Room::Small, LONG, SPAN));
        let (first, _second) = (turn().await.unwrap(), turn().await.unwrap());
        let (mut third, mut fourth) = (turn(), turn());
        assert!(third.as_mut().now_or_never().is_none() && fourth.as_mut().now_or_never().is_none());
        let before = Instant::now();
        drop(first);
        assert!(fourth.as_mut().now_or_never().is_none(), "not before the one that came earlier");
        let third = third.now_or_never().flatten().unwrap();
        assert!(third.ends() >= before + SPAN, "its time begins with its turn");
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_it_said() {
        let rooms = rooms(1);
        let held = rooms.turn(Room::Small, LONG, SPAN).await.unwrap();
        let waited = timeout(LONG, rooms.turn(Room::Small, Duration::from_millis(5), SPAN)).await;
        assert!(waited.expect("it ends by itself").is_none());
        drop(held);
        assert!(rooms.turn(Room::Small, LONG, SPAN).now_or_never().flatten().is_some(), "and leaves nothing behind");
    }
}
