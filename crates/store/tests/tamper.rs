//! Whoever can write the database changes it behind the broker's back.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

use std::path::Path;

use grantwright_domain::event::Decision;
use grantwright_domain::{AgentId, Phase, RequestState};
use grantwright_proof::NoteSigner;
use grantwright_store::conformance::{self, world, world::World};
use grantwright_store::{Faults, Keys, Store, StoreError};
use rusqlite::Connection;

struct Place {
    folder: tempfile::TempDir,
    world: World,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), world: World::new() }
    }
    fn url(&self) -> String {
        format!("sqlite://{}/store.db", self.folder.path().display())
    }
    async fn open(&self) -> Store {
        conformance::open(&self.url(), &Faults::default()).await.unwrap()
    }
    async fn reopen(&self) -> Result<Store, StoreError> {
        Store::open(&self.url(), world::keys()).await
    }
    fn sql(&self, sql: &str) {
        let changed = connect(self.folder.path()).execute(sql, []).unwrap();
        assert!(changed > 0, "`{sql}` changed nothing");
    }
    /// A log with an opening, a grant and a pending request, closed.
    async fn filled(&self) -> RequestState {
        let store = self.open().await;
        store.commit(self.world.opening()).await.unwrap();
        store.commit(self.world.grant(1)).await.unwrap();
        let asked = store.commit(self.world.ask(2)).await.unwrap();
        store.close().await;
        *asked.state.unwrap()
    }
    async fn refused(&self, how: &str) {
        match self.reopen().await {
            Err(StoreError::Tampered(_)) => {}
            other => panic!("{how}: {other:?}"),
        }
    }
}

fn connect(folder: &Path) -> Connection {
    Connection::open(folder.join("store.db")).unwrap()
}

#[tokio::test]
async fn a_row_that_says_it_expired_keeps_no_live_lease_from_the_next_epoch() {
    let place = Place::new();
    place.filled().await;
    place.sql("UPDATE requests SET lease_expires_ms = 0 WHERE lease_id IS NOT NULL");
    let store = place.reopen().await.unwrap();
    let heritage = store.heritage(place.world.at(60_000)).await.unwrap();
    assert_eq!(heritage.requests, 1);
    store.close().await;
}

#[tokio::test]
async fn a_changed_database_is_refused_at_open() {
    let edits = [
        (
            "an edited authority leaf",
            "UPDATE leaves SET body = CAST(replace(body, 'bob', 'eve') AS BLOB) WHERE idx = 4",
        ),
        ("a deleted authority leaf", "DELETE FROM leaves WHERE idx = 4"),
        ("a hidden authority leaf", "UPDATE leaves SET request_id = 'req-x' WHERE idx = 4"),
        (
            "a request's leaf among the authority's",
            "UPDATE leaves SET request_id = NULL WHERE idx = 11",
        ),
        (
            "an added leaf",
            "INSERT INTO leaves SELECT 16, NULL, kind, body, hash FROM leaves WHERE idx = 4",
        ),
        ("a deleted last leaf", "DELETE FROM leaves WHERE idx = 15"),
        (
            "an edited last leaf",
            "UPDATE leaves SET body = CAST(body || ' ' AS BLOB) WHERE idx = 15",
        ),
        ("an edited epoch", "UPDATE head SET epoch = 7"),
        ("an edited size", "UPDATE head SET size = size - 1"),
        ("an edited chain", "UPDATE head SET chain = zeroblob(32)"),
        ("an edited tag", "UPDATE head SET open_tag = zeroblob(32)"),
        ("an edited MAC", "UPDATE head SET mac = zeroblob(32)"),
        ("a deleted head row", "DELETE FROM head"),
        ("a deleted checkpoint", "DELETE FROM checkpoints WHERE size = 16"),
        ("an edited checkpoint", "UPDATE checkpoints SET note = replace(note, '16', '17')"),
        ("an edited scope", "UPDATE blobs SET body = CAST(replace(body, 'jwt', 'sts') AS BLOB)"),
        ("a deleted scope", "DELETE FROM blobs"),
        (
            "a hidden open request",
            "UPDATE requests SET phase = 'denied', identity = NULL WHERE id = 'req-00000002'",
        ),
        ("a deleted open request", "DELETE FROM requests WHERE id = 'req-00000002'"),
        ("an older version", "UPDATE requests SET version = 1 WHERE id = 'req-00000002'"),
        (
            "a hidden live lease",
            "UPDATE requests SET lease_state = 'revoked', due_ms = NULL WHERE id = 'req-00000001'",
        ),
        (
            "a live lease that is not due",
            "UPDATE requests SET due_ms = NULL WHERE id = 'req-00000001'",
        ),
        (
            "a live lease of another agent",
            "UPDATE requests SET agent = 'other' WHERE id = 'req-00000001'",
        ),
        ("a deleted live lease", "DELETE FROM requests WHERE id = 'req-00000001'"),
        ("an older live lease", "UPDATE requests SET version = 3 WHERE id = 'req-00000001'"),
        ("a reopened request", "UPDATE requests SET phase = 'intended' WHERE id = 'req-00000001'"),
    ];
    for (how, sql) in edits {
        let place = Place::new();
        place.filled().await;
        place.sql(sql);
        place.refused(how).await;
    }
    let place = Place::new();
    place.filled().await;
    place.reopen().await.unwrap().close().await;
}

#[tokio::test]
async fn invariant_19_an_old_head_with_newer_leaves_is_refused() {
    let place = Place::new();
    place.filled().await;
    connect(place.folder.path()).execute_batch("CREATE TABLE kept AS SELECT * FROM head").unwrap();
    let store = place.reopen().await.unwrap();
    store.commit(place.world.grant(3)).await.unwrap();
    store.close().await;
    place.sql("INSERT OR REPLACE INTO head SELECT * FROM kept");
    place.refused("an old head row").await;
}

/// Restoring the row that a request had before its intent must not let it be minted again.
#[tokio::test]
async fn invariant_03_a_restored_row_spends_nothing_twice() {
    let place = Place::new();
    let asked = place.filled().await;
    let store = place.reopen().await.unwrap();
    let vote = place.world.vote(&asked, "bob", Decision::Approve);
    let approved = store.commit(vote).await.unwrap().state.unwrap();
    let keep = "CREATE TABLE kept AS SELECT * FROM requests WHERE id = 'req-00000002'";
    connect(place.folder.path()).execute_batch(keep).unwrap();
    let intended = store.commit(place.world.intend(&approved)).await.unwrap().state.unwrap();
    store.commit(place.world.issue(&intended)).await.unwrap();

    // While the broker runs, the old row reads well, but nothing is built on it.
    place.sql("INSERT OR REPLACE INTO requests SELECT * FROM kept");
    let loaded = store.load(&world::request(2)).await.unwrap().unwrap();
    assert_eq!(loaded.state.phase, Phase::Approved);
    let again = store.commit(place.world.intend(&loaded.state)).await;
    assert!(matches!(again, Err(StoreError::Conflict)), "{again:?}");
    store.close().await;
    place.refused("a restored row").await;
}

/// What a revocation ends is what the broker's memory knows, whatever the rows say.
#[tokio::test]
async fn invariant_24_a_hidden_row_hides_no_live_lease() {
    let place = Place::new();
    place.filled().await;
    let store = place.reopen().await.unwrap();
    let granted = store.load(&world::request(1)).await.unwrap().unwrap().state;
    let agent = granted.terms.agent.clone();
    let live = async || store.live(Some(&agent), None).await.unwrap();
    assert_eq!(live().await, [world::request(1)]);
    place.sql(
        "UPDATE requests SET lease_state = 'expired', due_ms = NULL, agent = 'other' \
         WHERE id = 'req-00000001'",
    );
    assert_eq!(live().await, [world::request(1)]);
    assert!(store.live(Some(&agent), Some(&world::request(1))).await.unwrap().is_empty());
    let none = AgentId::parse("nobody").unwrap();
    assert!(store.live(Some(&none), None).await.unwrap().is_empty());
    store.close().await;
    place.refused("a hidden live lease").await;
}

#[tokio::test]
async fn a_request_is_loaded_from_all_its_own_leaves_or_not_at_all() {
    let edits = [
        "UPDATE leaves SET body = CAST(replace(body, 'ask', 'all') AS BLOB) WHERE idx = 15",
        "UPDATE leaves SET body = (SELECT body FROM leaves WHERE idx = 11) WHERE idx = 15",
        "UPDATE requests SET leaf_list = ',14' WHERE id = 'req-00000002'",
        "UPDATE requests SET leaf_list = ',14,11' WHERE id = 'req-00000002'",
        "UPDATE requests SET leaf_list = ',14,15,15', version = 3 WHERE id = 'req-00000002'",
        "UPDATE requests SET leaf_list = ',10,11', version = 2 WHERE id = 'req-00000002'",
        "UPDATE requests SET leaf_list = ',x' WHERE id = 'req-00000002'",
        "DELETE FROM leaves WHERE idx = 15",
        "UPDATE head SET frontier = zeroblob(8)",
    ];
    for sql in edits {
        let place = Place::new();
        place.filled().await;
        let store = place.reopen().await.unwrap();
        place.sql(sql);
        let loaded = store.load(&world::request(2)).await;
        assert!(matches!(loaded, Err(StoreError::Tampered(_))), "{sql}: {loaded:?}");
        store.close().await;
    }
}

/// Full tiles that were proven are kept in memory: what is read later is compared with them, and neither an
/// edited leaf nor an edited tile changes what a request is, before they are kept and after.
#[tokio::test]
async fn what_was_proven_before_is_no_less_proven_when_it_is_read_again() {
    let place = Place::new();
    place.filled().await;
    let store = place.reopen().await.unwrap();
    for n in 3..70 {
        store.commit(place.world.grant(n)).await.unwrap();
    }
    assert!(store.head().size > 256);
    store.close().await;
    let spoil_leaf =
        "UPDATE leaves SET body = CAST(replace(body, 'ask', 'all') AS BLOB) WHERE idx = 15";
    // Another leaf, with its own hash beside it.
    let other_leaf = "UPDATE leaves SET (body, hash) = (SELECT body, hash FROM leaves WHERE idx = 18) \
                      WHERE idx = 14";
    // What the fold alone would take.
    let more_people = "UPDATE leaves SET \
                       body = CAST(replace(body, '\"quorum\":1', '\"quorum\":2') AS BLOB) WHERE idx = 15";
    for warm in [false, true] {
        for sql in [spoil_leaf, other_leaf, more_people] {
            let store = place.reopen().await.unwrap();
            if warm {
                store.load(&world::request(2)).await.unwrap().unwrap();
            }
            let was = leaves_of_2(place.folder.path());
            place.sql(sql);
            let loaded = store.load(&world::request(2)).await;
            assert!(
                matches!(loaded, Err(StoreError::Tampered(_))),
                "warm {warm}, {sql}: {loaded:?}"
            );
            let others = store.load(&world::request(3)).await.unwrap().unwrap();
            assert_eq!(others.leaves.len(), 4);
            store.close().await;
            for (index, body, hash) in was {
                let sql = "UPDATE leaves SET body = ?2, hash = ?3 WHERE idx = ?1";
                connect(place.folder.path()).execute(sql, (index, body, hash)).unwrap();
            }
        }
    }
    let store = place.reopen().await.unwrap();
    // The proof of leaf 0 does not read the leaf's own place in the tile: that it holds does not make the
    // tile whole.
    place.sql(
        "UPDATE tiles SET hashes = CAST(zeroblob(32) || substr(hashes, 33) AS BLOB) \
         WHERE level = 0 AND idx = 0",
    );
    for _ in 0..2 {
        assert_eq!(store.proven_leaves(0, 1).await.unwrap().len(), 1);
    }
    let loaded = store.load(&world::request(2)).await;
    assert!(matches!(loaded, Err(StoreError::Tampered(_))), "{loaded:?}");
    store.close().await;
}

type Bodies = Vec<(i64, Vec<u8>, Vec<u8>)>;

/// Leaves 14 and 15 as they are.
fn leaves_of_2(folder: &Path) -> Bodies {
    let db = connect(folder);
    let mut read = db.prepare("SELECT idx, body, hash FROM leaves WHERE idx IN (14, 15)").unwrap();
    let rows = read.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn invariant_29_a_head_that_moves_by_itself_ends_writing() {
    for sql in ["UPDATE head SET epoch = epoch + 1", "DELETE FROM head"] {
        let place = Place::new();
        place.filled().await;
        let store = place.reopen().await.unwrap();
        place.sql(sql);
        let refused = store.commit(place.world.grant(3)).await;
        assert!(matches!(refused, Err(StoreError::Tampered(_))), "{refused:?}");
        let refused = store.commit(place.world.grant(3)).await;
        assert!(matches!(refused, Err(StoreError::Halted(_))), "{refused:?}");
        store.close().await;
    }
}

#[tokio::test]
async fn other_keys_are_refused() {
    let place = Place::new();
    place.filled().await;
    let mac = Keys { mac_key: [8; 32], ..world::keys() };
    let refused = Store::open(&place.url(), mac).await;
    assert!(matches!(refused, Err(StoreError::Tampered(_))), "{refused:?}");
    let signer = NoteSigner::from_seed(world::ORIGIN, &[8; 32]).unwrap();
    let refused = Store::open(&place.url(), Keys { signer, ..world::keys() }).await;
    assert!(matches!(refused, Err(StoreError::WrongKey { .. })), "{refused:?}");
    place.reopen().await.unwrap().close().await;
}

#[tokio::test]
async fn a_text_that_no_leaf_commits_to_is_as_if_erased() {
    let edits = [
        "UPDATE texts SET body = 'INC-4711, agreed with security'",
        "UPDATE texts SET salt = zeroblob(16)",
        "UPDATE texts SET name = 'task'",
    ];
    for sql in edits {
        let place = Place::new();
        place.filled().await;
        let store = place.reopen().await.unwrap();
        let read = async || store.load(&world::request(1)).await.unwrap().unwrap().texts.len();
        assert_eq!(read().await, 1);
        place.sql(sql);
        assert_eq!(read().await, 0, "{sql}");
        store.close().await;
    }
}
