//! SQLite behind the store: the conformance checks, and what only a file can show.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use grantwright_store::conformance::{self, world, world::World};
use grantwright_store::readonly::Snapshot;
use grantwright_store::{Faults, LeaseFilter, Options, Store, StoreError};

fn url(folder: &Path) -> String {
    format!("sqlite://{}/store.db", folder.display())
}

async fn check(name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (_, check) = conformance::ALL.iter().find(|(n, _)| *n == name).unwrap();
    if let Err(what) = check(url(folder.path())).await {
        panic!("{name}: {what}");
    }
}

macro_rules! conformance_tests {
    ($($name:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $name() {
            check(stringify!($name)).await;
        })*

        #[test]
        fn every_check_is_run() {
            let run = [$(stringify!($name)),*];
            assert_eq!(conformance::ALL.iter().map(|(n, _)| *n).collect::<Vec<_>>(), run);
        }
    };
}

conformance_tests! {
    a_new_epoch_carries_rights_and_living_credentials,
    a_refusal_leaves_its_neighbours,
    identical_open_asks_are_one,
    invariant_02_intents_are_durable_or_refused,
    invariant_03_one_approval_one_intent,
    invariant_06_a_key_names_one_request,
    invariant_11_a_draft_under_past_rights_is_folded_again,
    invariant_19_every_checkpoint_extends_the_last,
    invariant_21_a_sealed_copy_goes,
    invariant_27_an_ended_epoch_commits_nothing,
    invariant_28_bounds_refuse,
    invariant_29_a_failed_fsync_ends_writing,
    readings_agree,
    reopening_finds_the_same_log,
    side_rows_are_there_until_they_end,
    side_rows_are_won_once,
    tiles_and_proofs_serve_the_log,
}

#[tokio::test]
async fn a_second_broker_is_refused_while_readers_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let url = url(folder.path());
    let store = conformance::open(&url, &Faults::default()).await.unwrap();
    let world = World::new();
    store.commit(world.opening()).await.unwrap();
    store.commit(world.grant(1)).await.unwrap();

    let second = Store::open_with(&url, world::keys(), Options::default()).await;
    assert!(matches!(second, Err(StoreError::Locked(_))), "{second:?}");
    let before = names(folder.path());
    let at = url.clone();
    let (leaves, leases) = tokio::task::spawn_blocking(move || read_all(&at)).await.unwrap();
    assert_eq!((leaves, leases), (store.head().size, 1));
    assert_eq!(names(folder.path()), before, "reading made files");
    store.close().await;

    let store = conformance::open(&url, &Faults::default()).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_store_at_rest_is_read_from_a_copy_and_nothing_is_made_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let url = url(folder.path());
    let store = conformance::open(&url, &Faults::default()).await.unwrap();
    let world = World::new();
    store.commit(world.opening()).await.unwrap();
    store.commit(world.grant(1)).await.unwrap();
    let size = store.head().size;

    // What a crash leaves: the file and its log, without the broker's lock.
    let crashed = tempfile::tempdir().unwrap();
    for name in ["store.db", "store.db-wal"] {
        fs::copy(folder.path().join(name), crashed.path().join(name)).unwrap();
    }
    let mode = fs::metadata(folder.path().join("store.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    store.close().await;

    for place in [folder.path(), crashed.path()] {
        let before = names(place);
        let at = self::url(place);
        let (leaves, leases) = tokio::task::spawn_blocking(move || read_all(&at)).await.unwrap();
        assert_eq!((leaves, leases), (size, 1), "{}", place.display());
        assert_eq!(names(place), before, "reading made files");
    }
    let recovered =
        conformance::open(&self::url(crashed.path()), &Faults::default()).await.unwrap();
    assert_eq!(recovered.head().size, size);
    recovered.commit(world.grant(2)).await.unwrap();
    recovered.close().await;

    let nowhere = format!("sqlite://{}/none.db", folder.path().display());
    assert!(matches!(Snapshot::open(&nowhere), Err(StoreError::NotFound(_))));
    fs::write(folder.path().join("empty.db"), b"").unwrap();
    let empty = format!("sqlite://{}/empty.db", folder.path().display());
    assert!(matches!(Snapshot::open(&empty), Err(StoreError::NotFound(_))));
}

fn read_all(url: &str) -> (u64, usize) {
    let mut snapshot = Snapshot::open(url).unwrap();
    let mut leaves = 0;
    snapshot
        .for_each_leaf(|index, body| {
            assert_eq!(index, leaves);
            assert!(body.starts_with(b"{"));
            leaves += 1;
            true
        })
        .unwrap();
    assert_eq!(snapshot.size().unwrap(), leaves);
    let note = snapshot.checkpoint().unwrap().unwrap();
    assert!(note.starts_with(&format!("{}\n{leaves}\n", world::ORIGIN)), "{note}");
    assert!(!snapshot.checkpoints(0).unwrap().is_empty());
    assert_eq!(snapshot.texts(&world::request(1)).unwrap().len(), 1);
    assert_eq!(snapshot.request_leaves(&world::request(1)).unwrap().len(), 4);
    (leaves, snapshot.leases(&LeaseFilter::default()).unwrap().len())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
