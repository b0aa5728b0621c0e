//! The verifier's view of a store: one read-only snapshot, trusted for nothing.

use grantwright_audit::{CannotVerify, Page, Source, Text};
use grantwright_domain::request::LeaseState;
use grantwright_domain::{Digest, RequestId, Timestamp};
use grantwright_proof::Hash;
use grantwright_store::readonly::{RawText, Snapshot};
use grantwright_store::{LeaseFilter, StoreError};
use serde_json::{Value, json};

use crate::exit::Failure;

/// Texts that are read at once.
const PAGE: u64 = 1024;

/// A store at rest or in use, seen at one moment.
pub struct Log(Snapshot);

impl Log {
    /// Opens the store at `url`; creates nothing beside it.
    ///
    /// # Errors
    /// When there is no store, or it cannot be read.
    pub fn open(url: &str) -> Result<Self, Failure> {
        Snapshot::open(url).map(Self).map_err(Failure::unable)
    }

    /// Opens it to be read whole, and asked afterwards whether it is [settled](Source::settled).
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_whole(url: &str) -> Result<Self, Failure> {
        Snapshot::open_in_place(url).map(Self).map_err(Failure::unable)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a `map_err` function")]
fn unreadable(error: StoreError) -> CannotVerify {
    CannotVerify::Unreadable(error.to_string())
}

impl Source for Log {
    fn leaves(&mut self, from: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, CannotVerify> {
        self.0.raw_leaves(from, most as u64).map_err(unreadable)
    }

    fn page(&mut self, from: u64, most: usize, page: &mut Page) -> Result<(), CannotVerify> {
        let mut each = |index, leaf: &[u8]| page.push(index, leaf);
        self.0.each_raw_leaf(from, most as u64, &mut each).map_err(unreadable)
    }

    fn count(&mut self) -> Result<Option<u64>, CannotVerify> {
        self.0.count_leaves().map(Some).map_err(unreadable)
    }

    fn checkpoints(&mut self) -> Result<Vec<(u64, String)>, CannotVerify> {
        self.0.raw_checkpoints(None, i64::MAX as u64).map_err(unreadable)
    }

    fn each_checkpoints(
        &mut self,
        from: u64,
        each: &mut dyn FnMut(Vec<(u64, String)>),
    ) -> Result<(), CannotVerify> {
        let mut after = from.checked_sub(1);
        loop {
            let page = self.0.raw_checkpoints(after, PAGE).map_err(unreadable)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            each(page);
        }
    }

    fn witnessed(&mut self) -> Result<Option<String>, CannotVerify> {
        self.0.raw_witnessed().map_err(unreadable)
    }

    fn settled(&mut self) -> Result<(), CannotVerify> {
        self.0.settled().map_err(unreadable)
    }

    fn leaf_hashes(&mut self, from: u64, most: usize) -> Result<Vec<Hash>, CannotVerify> {
        self.0.leaf_hashes(from, most).map_err(unreadable)
    }

    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, CannotVerify> {
        match self.0.blob(digest) {
            // A blob that was changed is as good as gone; the verifier says what it is missing.
            Err(StoreError::MissingBlob(_) | StoreError::Tampered(_)) => Ok(None),
            other => other.map_err(unreadable),
        }
    }

    fn texts(
        &mut self,
        request: Option<&RequestId>,
        each: &mut dyn FnMut(Text),
    ) -> Result<(), CannotVerify> {
        let mut give = |raw: RawText| {
            // A row under a name that is no request's belongs to nothing that could be checked.
            if let Ok(request) = RequestId::parse(&raw.request) {
                each(Text { request, name: raw.name, salt: raw.salt, text: raw.text });
            }
        };
        if let Some(request) = request {
            self.0.raw_texts_of(request).map_err(unreadable)?.into_iter().for_each(give);
            return Ok(());
        }
        let mut last: Option<(String, String)> = None;
        loop {
            let after = last.as_ref().map(|(request, name)| (request.as_str(), name.as_str()));
            let page = self.0.raw_texts(after, PAGE).map_err(unreadable)?;
            let Some(end) = page.last() else { return Ok(()) };
            last = Some((end.request.clone(), end.name.clone()));
            page.into_iter().for_each(&mut give);
        }
    }
}

/// Leases of a store, newest first, in the API's words.
///
/// # Errors
/// When the store cannot be read.
pub fn leases(url: &str, all: bool, now: Timestamp) -> Result<Value, Failure> {
    let mut snapshot = Snapshot::open(url).map_err(Failure::unable)?;
    let mut filter = LeaseFilter { live: !all, ..LeaseFilter::default() };
    let mut shown = Vec::new();
    loop {
        let page = snapshot.leases(&filter).map_err(Failure::unable)?;
        let Some(last) = page.last() else { break };
        filter.before = Some(last.first_index);
        for lease in page {
            let ended = lease.expires_at <= now;
            if ended && !all {
                continue;
            }
            let state = match lease.state {
                LeaseState::Live if !ended => "live",
                LeaseState::Withdrawn if !ended => "withdrawn",
                LeaseState::Revoked => "revoked",
                LeaseState::Live | LeaseState::Withdrawn | LeaseState::Expired => "expired",
            };
            shown.push(json!({
                "lease_id": lease.id, "request_id": lease.request, "agent": lease.agent,
                "scope": lease.scope, "state": state, "expires_at": lease.expires_at,
                "revocable": lease.revocable,
            }));
        }
    }
    Ok(json!({ "leases": shown }))
}
