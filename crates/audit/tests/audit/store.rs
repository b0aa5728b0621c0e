//! The same campaign against a log that the real store wrote: its last tile has no row yet.

use std::collections::HashMap;

use grantwright_audit::{CannotVerify, Report, Source, Text, verify};
use grantwright_domain::{Digest, Event, RequestId, RequestState};
use grantwright_proof::Hash;
use grantwright_store::readonly::{RawText, Snapshot};
use grantwright_store::{Keys, Side, Store, StoreError, Transition};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::fixture::{Writer, whole};
use crate::source::{ORIGIN, Rules, SIGNER};

struct Log(Snapshot);

fn unreadable(e: StoreError) -> CannotVerify {
    CannotVerify::Unreadable(e.to_string())
}

impl Source for Log {
    fn leaves(&mut self, from: u64, most: usize) -> Result<Vec<(u64, Vec<u8>)>, CannotVerify> {
        self.0.raw_leaves(from, most as u64).map_err(unreadable)
    }
    fn count(&mut self) -> Result<Option<u64>, CannotVerify> {
        self.0.count_leaves().map(Some).map_err(unreadable)
    }
    fn checkpoints(&mut self) -> Result<Vec<(u64, String)>, CannotVerify> {
        self.0.raw_checkpoints(None, 1 << 20).map_err(unreadable)
    }
    fn leaf_hashes(&mut self, from: u64, most: usize) -> Result<Vec<Hash>, CannotVerify> {
        self.0.leaf_hashes(from, most).map_err(unreadable)
    }
    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, CannotVerify> {
        self.0.blob(digest).map_err(unreadable)
    }
    fn texts(
        &mut self,
        _: Option<&RequestId>,
        each: &mut dyn FnMut(Text),
    ) -> Result<(), CannotVerify> {
        let mut last: Option<(String, String)> = None;
        loop {
            let after = last.as_ref().map(|(request, name)| (request.as_str(), name.as_str()));
            let page = self.0.raw_texts(after, 1024).map_err(unreadable)?;
            let Some(end) = page.last() else { return Ok(()) };
            last = Some((end.request.clone(), end.name.clone()));
            page.into_iter().for_each(|RawText { request, name, salt, text }| {
                each(Text { request: RequestId::parse(&request).unwrap(), name, salt, text });
            });
        }
    }
}

/// A folder with a store.
struct Place {
    folder: TempDir,
    leaves: u64,
}

impl Place {
    /// Commits a whole log. Leaves of one request that follow each other are one transition; requests
    /// that are one transition only are committed `abreast` at once.
    fn of(w: &Writer, abreast: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/store.db", folder.path().display());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let signer = grantwright_proof::NoteSigner::from_seed(ORIGIN, &[7; 32]).unwrap();
            let store = Store::open(&url, Keys { signer, mac_key: [9; 32] }).await.unwrap();
            let mut states: HashMap<RequestId, RequestState> = HashMap::new();
            let mut flying = JoinSet::new();
            for events in w.events.chunk_by(|a, b| a.request_id() == b.request_id()) {
                let transition = transition(events.to_vec(), &mut states, w);
                let store = store.clone();
                flying.spawn(async move { store.commit(transition).await.unwrap().state });
                if flying.len() >= abreast {
                    while let Some(state) = flying.join_next().await {
                        states.extend(state.unwrap().map(|s| (s.terms.request_id.clone(), *s)));
                    }
                }
            }
            flying.join_all().await;
            store.close().await;
        });
        Self { folder, leaves: w.events.len() as u64 }
    }

    fn sql(&self) -> Connection {
        Connection::open(self.folder.path().join("store.db")).unwrap()
    }

    fn verify(&self) -> Report {
        let url = format!("sqlite://{}/store.db", self.folder.path().display());
        let mut log = Log(Snapshot::open(&url).unwrap());
        verify(&mut log, Some(SIGNER.vkey()), &[], &mut |_| {}).unwrap()
    }

    fn body(&self, leaf: u64) -> Vec<u8> {
        let sql = "SELECT body FROM leaves WHERE idx = ?1";
        self.sql().query_row(sql, [leaf.cast_signed()], |row| row.get(0)).unwrap()
    }

    fn write(&self, leaf: u64, body: &[u8]) {
        let sql = "UPDATE leaves SET body = ?2 WHERE idx = ?1";
        assert_eq!(self.sql().execute(sql, (leaf.cast_signed(), body)).unwrap(), 1);
    }
}

fn transition(
    events: Vec<Event>,
    states: &mut HashMap<RequestId, RequestState>,
    w: &Writer,
) -> Transition {
    let Some(id) = events[0].request_id().cloned() else {
        let blobs = w.beside.blobs.iter().map(|(d, b)| (*d, b.clone())).collect();
        return Transition {
            side: Side { blobs, ..<_>::default() },
            ..Transition::authority(events)
        };
    };
    let mut transition = match states.remove(&id) {
        Some(state) => return Transition::at(state, events),
        None => Transition::new(events),
    };
    // Texts lie in the order of their requests.
    let texts = w.beside.texts.iter().skip_while(|t| t.request != id);
    let texts = texts.take_while(|t| t.request == id);
    transition.side.texts.extend(texts.map(|t| grantwright_store::Text {
        name: t.name.clone(),
        salt: t.salt.as_slice().try_into().unwrap(),
        text: t.text.clone(),
    }));
    transition
}

#[test]
fn invariant_20_a_changed_leaf_of_a_real_store_is_named() {
    let place = Place::of(&whole(), 1);
    let report = place.verify();
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.leaves, place.leaves);
    assert!(report.checkpoints < report.leaves, "some batches have several leaves");
    for leaf in 0..place.leaves {
        let body = place.body(leaf);
        // By turns a byte in the middle, and one that keeps the leaf parsing.
        let digit = body.iter().rposition(u8::is_ascii_digit).unwrap();
        let at = if leaf % 2 == 0 { digit } else { body.len() / 2 };
        let mut edited = body.clone();
        edited[at] ^= 1;
        place.write(leaf, &edited);
        let report = place.verify();
        assert_eq!(report.first(), Some(leaf), "{at} of {leaf}: {:?}", report.findings);
        assert!(report.names(leaf, "root"), "{at} of {leaf}: {:?}", report.findings);
        place.write(leaf, &body);
    }
    for leaf in (1..place.leaves).step_by(3) {
        let (one, two) = (place.body(leaf - 1), place.body(leaf));
        place.write(leaf - 1, &two);
        place.write(leaf, &one);
        let report = place.verify();
        assert_eq!(report.first(), Some(leaf - 1), "swap {leaf}: {:?}", report.findings);
        assert!(report.names(leaf, "root"), "swap {leaf}: {:?}", report.findings);
        place.write(leaf - 1, &one);
        place.write(leaf, &two);
    }
    for leaf in (0..place.leaves).step_by(3) {
        let sql = place.sql();
        sql.execute_batch("BEGIN; CREATE TEMP TABLE kept AS SELECT * FROM leaves").unwrap();
        sql.execute("DELETE FROM leaves WHERE idx = ?1", [leaf.cast_signed()]).unwrap();
        sql.execute_batch("COMMIT").unwrap();
        let report = place.verify();
        assert_eq!(report.first(), Some(leaf), "delete {leaf}: {:?}", report.findings);
        sql.execute("INSERT INTO leaves SELECT * FROM kept WHERE idx = ?1", [leaf.cast_signed()])
            .unwrap();
    }
    assert!(place.verify().ok);
}

/// The column is a hint: a wrong one accuses nobody, and hides nothing.
#[test]
fn stored_hashes_are_believed_only_where_the_root_proves_them() {
    let place = Place::of(&whole(), 1);
    let sql = place.sql();
    sql.execute("UPDATE leaves SET hash = zeroblob(32)", []).unwrap();
    assert!(place.verify().ok);
    let leaf = place.leaves - 5;
    let mut edited = place.body(leaf);
    let at = edited.len() / 2;
    edited[at] ^= 1;
    place.write(leaf, &edited);
    let report = place.verify();
    assert!(!report.ok);
    assert!(report.first().is_some_and(|first| first <= leaf), "{:?}", report.findings);
    sql.execute("UPDATE leaves SET hash = x'00'", []).unwrap();
    assert!(!place.verify().ok);
}
