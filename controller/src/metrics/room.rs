//! How much memory the answers of metrics servers may take, over all rollouts of the process: 128 evaluations at once
//! with 128 KiB of the pods' answers and as much of the gateway's, three large ones with up to 12 MiB, and one past with
//! as much. That is 80 MiB of text at the very most, and some three times that while it is read. Who waits for a large
//! room holds no more than it read in a small one; all are served in turn, and wait no longer than they say.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

/// Sizes in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Evaluations that read at the same time.
    pub at_once: usize,
    /// What each may hold of the pods' answers: nearly all need less.
    pub small: usize,
    /// And of the gateway's, which nothing else takes: its word alone may roll back.
    pub small_gateway: usize,
    /// Evaluations of large workloads that read at the same time.
    pub large_at_once: usize,
    /// What one of those may hold of the pods' answers, or one past in all. More is a selector that matches too much.
    pub large: usize,
    /// And of the gateway's.
    pub large_gateway: usize,
    /// Pasts (an hour of samples) that are read at the same time. Their room is their own: live evidence never waits
    /// for one.
    pub past_at_once: usize,
}

const SIZES: Sizes = Sizes {
    at_once: 128,
    small: 128 << 10,
    small_gateway: 128 << 10,
    large_at_once: 3,
    large: 11 << 20,
    large_gateway: 1 << 20,
    past_at_once: 1,
};

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
    pods: Part,
    gateway: Part,
    ends: Instant,
}

/// What one witness may hold of a turn.
#[derive(Debug)]
struct Part {
    most: usize,
    /// What would have fitted into a small room.
    small: usize,
    held: AtomicUsize,
    refused: AtomicBool,
}

/// One witness's part of a turn, as long as that lasts.
#[derive(Clone, Copy, Debug)]
pub struct Budget<'a> {
    part: &'a Part,
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
        let sizes = &self.sizes;
        let (queue, pods, gateway) = match room {
            Room::Small => (&self.small, sizes.small, sizes.small_gateway),
            Room::Large => (&self.large, sizes.large, sizes.large_gateway),
            Room::Past => (&self.past, sizes.large, 0),
        };
        // The inner error says that the semaphore was closed, which nobody does.
        let place = timeout(wait, queue.acquire()).await.ok()?.ok()?;
        Some(Turn {
            _place: place,
            pods: Part::new(pods, sizes.small),
            gateway: Part::new(gateway, sizes.small_gateway),
            ends: Instant::now() + span,
        })
    }
}

impl Turn<'_> {
    /// For whatever is not the gateway's.
    pub fn pods(&self) -> Budget<'_> {
        Budget { part: &self.pods, ends: self.ends }
    }

    pub fn gateway(&self) -> Budget<'_> {
        Budget { part: &self.gateway, ends: self.ends }
    }

    /// Whether something was refused for want of room, or would have been in a small one.
    pub fn needs_large(&self) -> bool {
        self.pods.needs_large() || self.gateway.needs_large()
    }
}

impl Part {
    fn new(most: usize, small: usize) -> Self {
        Part { most, small, held: AtomicUsize::new(0), refused: AtomicBool::new(false) }
    }

    fn needs_large(&self) -> bool {
        self.refused.load(Ordering::Relaxed) || self.held.load(Ordering::Relaxed) > self.small
    }
}

impl Budget<'_> {
    /// Room for so many bytes more. Error: how much this part may hold; who asked for too much holds nothing of it, and
    /// there is as much for the others as before.
    pub fn take(&self, bytes: usize) -> Result<(), usize> {
        let part = self.part;
        let more = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= part.most);
        match part.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => {
                part.refused.store(true, Ordering::Relaxed);
                Err(part.most)
            }
        }
    }

    /// An answer that is of no use is not kept.
    pub fn give_back(&self, bytes: usize) {
        self.part.held.fetch_sub(bytes, Ordering::Relaxed);
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
        let (small, small_gateway, large, large_gateway) = (10, 5, 100, 50);
        Rooms::new(Sizes { at_once, small, small_gateway, large_at_once: 1, large, large_gateway, past_at_once: 1 })
    }

    #[tokio::test]
    async fn large_readings_wait_in_turn_and_small_ones_and_the_past_wait_for_none_of_them() {
        let rooms = rooms(1);
        let turn = |room| Box::pin(rooms.turn(room, LONG, SPAN));
        let first = turn(Room::Large).await.unwrap();
        let (mut second, mut third) = (turn(Room::Large), turn(Room::Large));
        assert!(second.as_mut().now_or_never().is_none() && third.as_mut().now_or_never().is_none());
        let small = turn(Room::Small).now_or_never().flatten().expect("a place: who waits for a large room has none");
        assert_eq!((small.pods().take(10), small.pods().take(1)), (Ok(()), Err(10)));
        assert!(turn(Room::Past).now_or_never().flatten().is_some(), "a past has a room of its own");
        assert_eq!((first.pods().take(100), first.pods().take(1)), (Ok(()), Err(100)));
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
        assert_eq!(turn.pods().take(60), Ok(()));
        assert_eq!(turn.pods().take(50), Err(100), "too much");
        assert!(turn.needs_large());
        assert_eq!(turn.pods().take(40), Ok(()), "the rest is still there");
        turn.pods().give_back(60);
        assert_eq!(turn.pods().take(60), Ok(()), "what was given back is there");
        assert_eq!(turn.pods().take(usize::MAX), Err(100));
    }

    #[tokio::test]
    async fn the_gateway_has_a_part_that_the_pods_do_not_take() {
        let rooms = rooms(1);
        for (room, pods, gateway) in [(Room::Small, 10, 5), (Room::Large, 100, 50)] {
            let turn = rooms.turn(room, LONG, SPAN).await.unwrap();
            assert_eq!((turn.pods().take(pods), turn.pods().take(1)), (Ok(()), Err(pods)));
            assert_eq!((turn.gateway().take(gateway), turn.gateway().take(1)), (Ok(()), Err(gateway)));
        }
    }

    #[tokio::test]
    async fn what_would_fit_into_a_small_room_needs_no_large_one() {
        let rooms = rooms(1);
        for (pods, gateway, needs) in [(10, 5, false), (11, 0, true), (0, 6, true), (0, 51, true)] {
            let turn = rooms.turn(Room::Large, LONG, SPAN).await.unwrap();
            let _ = (turn.pods().take(pods), turn.gateway().take(gateway));
            assert_eq!(turn.needs_large(), needs, "{pods} {gateway}");
        }
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
        assert!(third.ends >= before + SPAN, "its time begins with its turn");
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
