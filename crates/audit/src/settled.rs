//! Requests whose life is told: of those that ended only that they were there, of those whose
//! credential may still be valid as little as their later leaves are judged by. A log tells of
//! millions; whoever is still open is elsewhere, whole.

use std::collections::HashSet;

use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{
    Authority, Digest, Event, FoldMap, Granted, LeaseId, Phase, RequestId, RequestState, Rights,
    Timestamp,
};
use grantwright_proof::leaf_hash;

use crate::known::{In, Out};

/// The first half of a hash: nobody finds two ids, or two digests, with the same.
pub(crate) type Mark = [u8; 16];

/// The mark of an id.
pub(crate) fn mark(id: &str) -> Mark {
    leaf_hash(id.as_bytes()).as_bytes().first_chunk().copied().unwrap_or_default()
}

/// In the place of a request that ended.
const OVER: u32 = u32::MAX;

/// The requests, and every lease there ever was.
#[derive(Clone, Default)]
pub(crate) struct Settled {
    /// Of each request its place in `granted`, or [`OVER`].
    places: FoldMap<Mark, u32>,
    granted: Vec<Packed>,
    free: Vec<u32>,
    leases: HashSet<Mark, foldhash::fast::RandomState>,
}

/// A request whose credential may still be valid.
#[derive(Clone)]
struct Packed {
    digest: Mark,
    lease: Mark,
    expires_at: Timestamp,
    until: Timestamp,
    last_at: Timestamp,
    withdrawn: bool,
}

/// What became of a leaf about a request that is settled.
pub(crate) enum Followed {
    /// There is no such request here.
    Unknown,
    /// It was folded in.
    Folded,
    /// The rules refuse it.
    Refused,
}

impl Settled {
    /// How many requests.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn knows(&self, id: &RequestId) -> bool {
        self.places.contains_key(&mark(id.as_str()))
    }

    pub(crate) fn knows_lease(&self, id: &LeaseId) -> bool {
        self.leases.contains(&mark(id.as_str()))
    }

    /// Takes a request over if it is past its intent; true if so.
    pub(crate) fn take(
        &mut self,
        id: &RequestId,
        request: &RequestState,
        authority: &Authority,
    ) -> bool {
        if request.phase.is_open() || request.phase == Phase::Intended {
            return false;
        }
        if let Some(lease) = &request.lease {
            self.leases.insert(mark(lease.id.as_str()));
        }
        let place = match request.granted(authority) {
            Some(granted) => self.put(&granted),
            None => OVER,
        };
        self.places.insert(mark(id.as_str()), place);
        true
    }

    fn put(&mut self, granted: &Granted) -> u32 {
        let packed = Packed::of(granted);
        if let Some(place) = self.free.pop()
            && let Some(slot) = self.granted.get_mut(place as usize)
        {
            *slot = packed;
            return place;
        }
        let place = u32::try_from(self.granted.len()).unwrap_or(OVER);
        if self.granted.len() == self.granted.capacity() {
            // By a quarter, not by as much again: there may be millions.
            self.granted.reserve_exact(self.granted.len() / 4 + 1024);
        }
        self.granted.push(packed);
        place
    }

    pub(crate) fn write(&self, out: &mut Out) {
        out.list(self.places.iter(), |out, (mark, place)| {
            out.0.extend_from_slice(mark);
            out.0.extend_from_slice(&place.to_be_bytes());
        });
        out.list(self.granted.iter(), |out, packed| {
            for mark in [&packed.digest, &packed.lease] {
                out.0.extend_from_slice(mark);
            }
            for time in [packed.expires_at, packed.until, packed.last_at] {
                out.number(time.millis().cast_unsigned());
            }
            out.number(u64::from(packed.withdrawn));
        });
        out.list(self.free.iter(), |out, place| out.0.extend_from_slice(&place.to_be_bytes()));
        out.list(self.leases.iter(), |out, mark| out.0.extend_from_slice(mark));
    }

    pub(crate) fn read(from: &mut In<'_>) -> Option<Self> {
        let place = |from: &mut In<'_>| from.chunk().map(u32::from_be_bytes);
        let places = from.list(|from| Some((from.chunk()?, place(from)?)))?;
        let granted = from.list(|from| {
            let (digest, lease) = (from.chunk()?, from.chunk()?);
            let time =
                |from: &mut In<'_>| Some(Timestamp::from_millis(from.number()?.cast_signed()));
            let (expires_at, until, last_at) = (time(from)?, time(from)?, time(from)?);
            let withdrawn = from.number()? == 1;
            Some(Packed { digest, lease, expires_at, until, last_at, withdrawn })
        })?;
        let free = from.list(place)?;
        let leases = from.list(In::chunk)?;
        let places = places.into_iter().collect();
        Some(Self { places, granted, free, leases: leases.into_iter().collect() })
    }

    /// Lets a request go.
    pub(crate) fn forget(&mut self, id: &RequestId) {
        if let Some(place) = self.places.remove(&mark(id.as_str()))
            && place != OVER
        {
            self.free.push(place);
        }
    }

    /// Folds in what happened to a credential, in the leaf at `index`.
    pub(crate) fn follow(
        &mut self,
        id: &RequestId,
        index: u64,
        event: &Event,
        authority: &Authority,
    ) -> Followed {
        let Some(place) = self.places.get_mut(&mark(id.as_str())) else { return Followed::Unknown };
        let Some(packed) = self.granted.get_mut(*place as usize) else { return Followed::Refused };
        let Some(mut granted) = packed.unpack(event) else { return Followed::Refused };
        if granted.apply(index, event, Rights::Now(authority)).is_err() {
            return Followed::Refused;
        }
        if granted.lease.state.is_valid() {
            *packed = Packed::of(&granted);
        } else {
            self.free.push(*place);
            *place = OVER;
        }
        Followed::Folded
    }
}

fn short(digest: Digest) -> Mark {
    digest.0.first_chunk().copied().unwrap_or_default()
}

impl Packed {
    fn of(granted: &Granted) -> Self {
        let Granted { digest, until, last_at, lease } = granted;
        Self {
            digest: short(*digest),
            lease: mark(lease.id.as_str()),
            expires_at: lease.expires_at,
            until: *until,
            last_at: *last_at,
            withdrawn: lease.state == LeaseState::Withdrawn,
        }
    }

    /// What is left of the request, in the words of a leaf about it; none where the leaf is about
    /// another lease or digest, which no rule allows.
    fn unpack(&self, event: &Event) -> Option<Granted> {
        let (digest, lease) = match event {
            Event::Expired(e) => (e.digest, e.lease_id.as_ref()?),
            Event::Renewed(e) => (e.digest, &e.lease_id),
            Event::Revoked(e) => (e.digest, &e.lease_id),
            _ => return None,
        };
        if short(digest) != self.digest || mark(lease.as_str()) != self.lease {
            return None;
        }
        let lease = Lease {
            id: lease.clone(),
            // No later leaf is judged by its beginning, its revocability or its facts.
            issued_at: self.last_at,
            expires_at: self.expires_at,
            revocable: false,
            state: if self.withdrawn { LeaseState::Withdrawn } else { LeaseState::Live },
            effect: String::new(),
            facts: std::collections::BTreeMap::new(),
        };
        Some(Granted { digest, until: self.until, last_at: self.last_at, lease })
    }
}
