//! Places for connections, so many on each socket. When all are taken, whoever has not shown yet that it
//! may come in gives way to the newcomer, the longest there first: thousands of connections that say
//! nothing keep nobody out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

const STRANGER: u8 = 0;
const KNOWN: u8 = 1;
const TURNED_OUT: u8 = 2;

/// The places of one socket.
pub(crate) struct Places {
    most: usize,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    count: usize,
    next: u64,
    strangers: BTreeMap<u64, Arc<Guest>>,
}

struct Guest {
    standing: AtomicU8,
    told: Notify,
}

/// One connection's place; given back when dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
    guest: Arc<Guest>,
}

/// Whether a place is still its connection's.
pub(crate) struct Seat(Arc<Guest>);

impl Seat {
    pub(crate) fn is_lost(&self) -> bool {
        self.0.standing.load(Ordering::Relaxed) == TURNED_OUT
    }
}

impl Places {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default(), freed: Notify::new() })
    }

    /// A place for a connection that is there; waits while all are taken by those who may come in.
    pub(crate) async fn admit(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.free() {
                return place;
            }
            self.freed.notified().await;
        }
    }

    /// Turns so many of the longest waiting strangers out; says how many there were.
    pub(crate) fn make_room(&self, most: usize) -> usize {
        let mut taken = self.taken();
        (0..most).take_while(|_| taken.turn_out()).count()
    }

    /// How many have not shown yet that they may come in.
    pub(crate) fn strangers(&self) -> usize {
        self.taken().strangers.len()
    }

    fn free(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken();
        if taken.count >= self.most && !taken.turn_out() {
            return None;
        }
        let number = taken.next;
        let guest = Arc::new(Guest { standing: AtomicU8::new(STRANGER), told: Notify::new() });
        taken.next += 1;
        taken.count += 1;
        taken.strangers.insert(number, Arc::clone(&guest));
        Some(Place { places: Arc::clone(self), number, guest })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn turn_out(&mut self) -> bool {
        let Some((_, guest)) = self.strangers.pop_first() else { return false };
        guest.standing.store(TURNED_OUT, Ordering::Relaxed);
        guest.told.notify_one();
        self.count = self.count.saturating_sub(1);
        true
    }
}

impl Place {
    /// It has shown that it may come in: it stays.
    pub(crate) fn known(&self) {
        if self.guest.standing.load(Ordering::Relaxed) == STRANGER {
            let mut taken = self.places.taken();
            if taken.strangers.remove(&self.number).is_some() {
                self.guest.standing.store(KNOWN, Ordering::Relaxed);
            }
        }
    }

    /// Whether it cannot be turned out any more.
    pub(crate) fn is_known(&self) -> bool {
        self.guest.standing.load(Ordering::Relaxed) == KNOWN
    }

    /// For whoever may outlive it.
    pub(crate) fn seat(&self) -> Seat {
        Seat(Arc::clone(&self.guest))
    }

    /// Completes when it is turned out.
    pub(crate) async fn turned_out(&self) {
        self.guest.told.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.strangers.remove(&self.number);
        // Who was turned out left its place to another.
        if self.guest.standing.load(Ordering::Relaxed) != TURNED_OUT {
            taken.count = taken.count.saturating_sub(1);
        }
        drop(taken);
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn strangers_give_way_and_the_known_do_not() {
        let places = Places::new(2);
        let (first, second) = (places.admit().await, places.admit().await);
        first.known();
        let third = places.admit().await;
        second.turned_out().await;
        assert!(second.seat().is_lost() && !first.seat().is_lost());
        assert!(first.is_known() && !second.is_known() && !third.is_known());
        third.known();
        // All are known: a newcomer waits until one leaves.
        assert!(places.free().is_none() && places.make_room(1) == 0);
        drop(second);
        assert!(places.free().is_none(), "who was turned out frees no second place");
        drop(first);
        assert!(places.free().is_some());
    }

    #[tokio::test]
    async fn who_was_turned_out_is_not_known_afterwards() {
        let places = Places::new(1);
        let first = places.admit().await;
        assert_eq!((places.strangers(), places.make_room(9), places.strangers()), (1, 1, 0));
        first.known();
        assert!(!first.is_known());
    }
}
