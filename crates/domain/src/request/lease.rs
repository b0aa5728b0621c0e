//! The life of a credential.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Rights, bound, in_order};
use crate::digest::Digest;
use crate::event::{Event, Expired, Renewed, Revoked};
use crate::id::LeaseId;
use crate::state::Violation;
use crate::time::Timestamp;

/// The life of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// When the credential began.
    pub issued_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// It can be ended early.
    pub revocable: bool,
    /// `live`, `withdrawn`, `revoked` or `expired`.
    pub state: LeaseState,
    /// What ending it did.
    pub effect: String,
    /// What identifies it at the backend.
    pub facts: BTreeMap<String, String>,
}

impl Lease {
    /// Folds a leaf about this very lease in: its end, its extension, its revocation.
    /// It lasts until `until` at most, however often it is extended.
    pub(super) fn step(&mut self, event: &Event, until: Timestamp) -> Result<(), Violation> {
        let refuse = |rule, detail: String| Err(Violation::rule(rule, detail));
        let named = match event {
            Event::Expired(e) => e.lease_id.as_ref(),
            Event::Renewed(e) => Some(&e.lease_id),
            Event::Revoked(e) => Some(&e.lease_id),
            _ => None,
        };
        if named != Some(&self.id) || !self.state.is_valid() {
            return Err(no_live_lease());
        }
        match event {
            Event::Expired(e) => {
                if e.at < self.expires_at {
                    return refuse("lease", format!("the lease ends at {} only", self.expires_at));
                }
                self.state = LeaseState::Expired;
            }
            Event::Renewed(e) => {
                if self.state != LeaseState::Live {
                    return refuse("lease", "a withdrawn lease is not extended".into());
                }
                if e.expires_at > until {
                    return refuse("lifetime", format!("renewed beyond its last end, {until}"));
                }
                if e.at >= self.expires_at || e.expires_at <= e.at {
                    return refuse(
                        "lifetime",
                        format!("renewed at {} until {}", e.at, e.expires_at),
                    );
                }
                self.expires_at = e.expires_at;
            }
            Event::Revoked(e) => {
                self.state =
                    if e.still_valid { LeaseState::Withdrawn } else { LeaseState::Revoked };
                self.effect.clone_from(&e.effect);
            }
            _ => {}
        }
        Ok(())
    }
}

pub(super) fn no_live_lease() -> Violation {
    Violation::rule("lease", "no live lease of that id".into())
}

/// Whether a credential still lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Valid until its end.
    Live,
    /// No longer served, but its backend could not end it: valid until its own end.
    Withdrawn,
    /// Ended early.
    Revoked,
    /// Ended by itself.
    Expired,
}

impl LeaseState {
    /// The credential may still be valid: a leaf may tell of its end.
    #[must_use]
    pub fn is_valid(self) -> bool {
        matches!(self, Self::Live | Self::Withdrawn)
    }
}

/// What is left of a request once its credential was issued: all that its later leaves are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// D that was minted.
    pub digest: Digest,
    /// How far its lease can be extended: for the lifetime that was approved, and no further than the
    /// delegation under which it was issued.
    pub until: Timestamp,
    /// Time of the request's last leaf.
    pub last_at: Timestamp,
    /// The lease.
    pub lease: Lease,
}

impl Granted {
    /// Folds the next leaf of the request in.
    ///
    /// # Errors
    /// Whenever [`super::RequestState::apply`] refuses it, by that rule where it is about the lease.
    pub fn apply(
        &mut self,
        index: u64,
        event: &Event,
        rights: Rights<'_>,
    ) -> Result<(), Violation> {
        let (Event::Expired(Expired { digest, .. })
        | Event::Renewed(Renewed { digest, .. })
        | Event::Revoked(Revoked { digest, .. })) = event
        else {
            return Err(Violation::rule("terminal", "the request is granted already".into()));
        };
        in_order(index, self.last_at, event, rights)?;
        bound(*digest, self.digest)?;
        self.lease.step(event, self.until)?;
        self.last_at = event.at();
        Ok(())
    }
}
