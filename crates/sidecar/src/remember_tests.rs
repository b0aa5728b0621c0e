use grantwright_domain::event::EpochStarted;
use grantwright_proof::{Edge, Frontier, HashReader, NoteSigner};

use super::*;

/// Proofs of a few leaves never leave the edge's memory.
struct Nothing;

impl HashReader for Nothing {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        Err(ProofError::MissingHash { level, index })
    }
}

struct Log {
    edge: Edge,
    signer: NoteSigner,
}

impl Log {
    fn new() -> Self {
        let mut edge = Edge::from_frontier(&Frontier::new());
        edge.append(leaf_hash(b"opened"));
        Self { edge, signer: NoteSigner::from_seed("test.example/log", &[1; 32]).unwrap() }
    }

    fn checkpoint(&self) -> String {
        Checkpoint::new(self.signer.vkey().name(), self.edge.size(), self.edge.root())
            .unwrap()
            .sign(&self.signer)
    }

    fn proof(&self, old: u64) -> Vec<Vec<u8>> {
        let proof = self.edge.consistency_proof(old, self.edge.size(), &Nothing).unwrap();
        proof.into_iter().map(|hash| hash.0.to_vec()).collect()
    }

    fn consistency(&self, old: u64) -> ConsistencyReply {
        ConsistencyReply {
            checkpoint: self.checkpoint(),
            proof: self.proof(old),
            ..ConsistencyReply::default()
        }
    }

    fn issue(&mut self, request_id: &str, known: u64) -> Evidence {
        let leaf = json!({
            "kind": "issued", "request_id": request_id, "lease_id": "l-1",
            "at": "2026-11-21T01:44:50Z",
        });
        let leaf = leaf.to_string().into_bytes();
        let index = self.edge.size();
        self.edge.append(leaf_hash(&leaf));
        let inclusion = self.edge.inclusion_proof(index, index + 1, &Nothing).unwrap();
        Evidence {
            leaf,
            index,
            inclusion: inclusion.into_iter().map(|hash| hash.0.to_vec()).collect(),
            checkpoint: self.checkpoint(),
            consistent_from: known,
            consistency: self.proof(known),
        }
    }
}

fn remember(log: &Log, dir: &std::path::Path) -> Remember {
    opened(log.signer.vkey(), dir).unwrap()
}

fn opened(vkey: &Vkey, dir: &std::path::Path) -> Result<Remember, SidecarError> {
    Remember::open(PinnedLog::new(dir, vkey.clone(), None), dir.join("checkpoint"))
}

fn check(it: &Remember, evidence: &Evidence) -> Result<Issued, EvidenceError> {
    it.check_evidence(it.kept().as_ref(), Some(evidence), "r-1", "l-1")
}

#[test]
fn good_evidence_moves_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new();
    let it = remember(&log, dir.path());
    it.check_consistency(None, &log.consistency(0)).unwrap();
    assert_eq!(it.size(), 1);
    let issued = check(&it, &log.issue("r-1", 1)).unwrap();
    assert_eq!((it.size(), issued.at.seconds()), (2, 1_795_225_490));
    assert!(issued.receipt["proof"].as_str().unwrap().contains("test.example/log\n2\n"));
}

#[test]
fn any_part_that_is_wrong_is_refused_and_moves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new();
    let it = remember(&log, dir.path());
    it.check_consistency(None, &log.consistency(0)).unwrap();
    let good = log.issue("r-1", 1);
    let mut other = Log::new();
    other.edge.append(leaf_hash(b"another history"));
    let forked = other.issue("r-1", 1);
    let mut shrunk = Log::new();
    shrunk.edge = Edge::new();
    let shrunk = shrunk.issue("r-1", 0);
    let wrong: Vec<(&str, Evidence)> = vec![
        ("leaf", Evidence { leaf: b"{}".to_vec(), ..good.clone() }),
        ("index", Evidence { index: 0, ..good.clone() }),
        ("inclusion", Evidence { inclusion: vec![], ..good.clone() }),
        ("long", Evidence { inclusion: vec![vec![0; 32]; 100], ..good.clone() }),
        ("hash", Evidence { consistency: vec![vec![0; 31]], ..good.clone() }),
        ("consistency", Evidence { consistency: vec![], ..good.clone() }),
        ("checkpoint", Evidence { checkpoint: String::new(), ..good.clone() }),
        (
            "signature",
            Evidence { checkpoint: good.checkpoint.replace("\n2\n", "\n3\n"), ..good.clone() },
        ),
        ("forked", forked),
        ("shrunk", shrunk),
    ];
    for (what, evidence) in wrong {
        // The fork happens to extend the one leaf that is kept: only a later look can tell it.
        if what != "forked" {
            assert!(check(&it, &evidence).is_err(), "{what}");
            assert_eq!(it.size(), 1, "{what}");
        }
    }
    let absent = it.check_evidence(it.kept().as_ref(), None, "r-1", "l-1");
    assert!(matches!(absent, Err(EvidenceError::Absent)));
    for (request, lease) in [("r-2", "l-1"), ("r-1", "l-2")] {
        let other = it.check_evidence(it.kept().as_ref(), Some(&good), request, lease);
        assert!(matches!(other, Err(EvidenceError::OtherLeaf)));
    }
    check(&it, &good).unwrap();
    assert!(it.announced(&other.checkpoint()).is_ok_and(|newer| newer));
    assert!(it.check_consistency(it.kept().as_ref(), &other.consistency(2)).is_err());
}

#[test]
fn the_latch_opens_only_by_a_proof() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new();
    let it = remember(&log, dir.path());
    it.check_consistency(None, &log.consistency(0)).unwrap();
    check(&it, &log.issue("r-1", 1)).unwrap();
    it.latch(&"test");
    check(&it, &log.issue("r-1", 2)).unwrap();
    assert!(it.is_inconsistent());
    let short = Log::new();
    assert!(it.check_consistency(it.kept().as_ref(), &short.consistency(1)).is_err());
    assert!(it.is_inconsistent());
    it.check_consistency(it.kept().as_ref(), &log.consistency(3)).unwrap();
    assert!(!it.is_inconsistent());
}

/// Two calls under way know the same size; the second reply may be the older or the newer one.
#[test]
fn replies_may_overtake_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new();
    let it = remember(&log, dir.path());
    it.check_consistency(None, &log.consistency(0)).unwrap();
    let sent = it.kept();
    let first = log.issue("r-1", 1);
    let second = log.issue("r-2", 1);
    it.check_evidence(sent.as_ref(), Some(&second), "r-2", "l-1").unwrap();
    it.check_evidence(sent.as_ref(), Some(&first), "r-1", "l-1").unwrap();
    assert_eq!(it.size(), 3);
    // A redelivery with its first, older checkpoint comes with the proof that we extend it.
    let kept = it.kept();
    let older = Evidence { consistency: log.proof(2), consistent_from: 2, ..first };
    it.check_evidence(kept.as_ref(), Some(&older), "r-1", "l-1").unwrap();
    assert_eq!(it.size(), 3);
}

#[tokio::test]
async fn what_is_kept_outlives_the_process_and_is_never_silently_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::new();
    let it = remember(&log, dir.path());
    it.check_consistency(None, &log.consistency(0)).unwrap();
    it.save().await;
    assert_eq!(remember(&log, dir.path()).kept(), it.kept());
    let other = NoteSigner::from_seed("test.example/log", &[2; 32]).unwrap();
    let path = dir.path().join("checkpoint");
    assert!(opened(other.vkey(), dir.path()).is_err());
    std::fs::write(&path, "").unwrap();
    assert!(opened(log.signer.vkey(), dir.path()).is_err());
}

#[tokio::test]
async fn checkpoints_of_the_past_are_shown_bounded_and_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new();
    let open = |log: &Log| opened(log.signer.vkey(), dir.path()).unwrap();
    let remember = open(&log);
    for n in 0..300 {
        let sent = remember.kept();
        let known = remember.size();
        let evidence = log.issue(&format!("r-{n}"), known);
        remember.check_evidence(sent.as_ref(), Some(&evidence), &format!("r-{n}"), "l-1").unwrap();
        remember.save().await;
        remember.save_past().await;
    }
    let seen = remember.seen();
    let notes = note::split(&seen);
    assert!(notes.len() <= MOST_PAST + 1, "{}", notes.len());
    let sizes: Vec<u64> =
        notes.iter().map(|n| super::open(n, log.signer.vkey()).unwrap().size).collect();
    assert!(sizes.is_sorted_by(|a, b| a < b), "{sizes:?}");
    assert_eq!(sizes.last(), Some(&301));
    assert!(sizes.first().is_some_and(|first| *first < 100), "{sizes:?}");
    assert_eq!(open(&log).seen(), seen);
}

/// A log that goes on from `old`, its first leaf signed by `recovery`.
fn next(old: &Log, recovery: &NoteSigner) -> (Log, Vec<u8>) {
    let signer = NoteSigner::from_seed("test.example/log/epoch-2", &[2; 32]).unwrap();
    let first = EpochStarted {
        at: Timestamp::from_millis(1_795_225_490_000),
        version: 1,
        origin: signer.vkey().name().into(),
        vkey: signer.vkey().to_string(),
        trust_domain: "test.example".into(),
        recovery_key: recovery.vkey().to_string(),
        old_origin: old.signer.vkey().name().into(),
        old_vkey: old.signer.vkey().to_string(),
        old_checkpoint: old.checkpoint(),
        restored: 1,
        restored_root: old.edge.root().to_base64(),
        carried: 1,
        carried_root: Hash([1; 32]).to_base64(),
        signature: String::new(),
    };
    let leaf = grantwright_proof::epoch::sign(&first, recovery).unwrap().to_leaf().unwrap();
    let mut edge = Edge::from_frontier(&Frontier::new());
    edge.append(leaf_hash(&leaf));
    (Log { edge, signer }, leaf)
}

fn shown(log: &Log, leaf: &[u8]) -> ConsistencyReply {
    let inclusion = log.edge.inclusion_proof(0, log.edge.size(), &Nothing).unwrap();
    ConsistencyReply {
        epochs: vec![leaf.to_vec()],
        first_leaf_inclusion: inclusion.into_iter().map(|hash| hash.0.to_vec()).collect(),
        ..log.consistency(0)
    }
}

#[tokio::test]
async fn only_the_pinned_recovery_key_moves_it_to_a_new_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let recovery = NoteSigner::from_seed("test.example/recovery", &[9; 32]).unwrap();
    let mut old = Log::new();
    let pinned =
        PinnedLog::new(dir.path(), old.signer.vkey().clone(), Some(recovery.vkey().clone()));
    pinned.save().unwrap();
    let open = || {
        let pinned = PinnedLog::open(dir.path(), old_vkey()).unwrap();
        Remember::open(pinned, dir.path().join("checkpoint")).unwrap()
    };
    let it = open();
    it.check_consistency(None, &old.consistency(0)).unwrap();
    check(&it, &old.issue("r-1", 1)).unwrap();
    it.save().await;
    let kept = it.kept();

    // Another key of the same name, the log's own key, and no vouching at all.
    let forger = NoteSigner::from_seed("test.example/recovery", &[8; 32]).unwrap();
    for other in [&forger, &old.signer] {
        let (log, leaf) = next(&old, other);
        it.check_consistency(kept.as_ref(), &shown(&log, &leaf)).unwrap_err();
    }
    let (mut log, leaf) = next(&old, &recovery);
    it.check_consistency(kept.as_ref(), &log.consistency(0)).unwrap_err();
    // A first leaf that the log shown does not begin with.
    let mut edge = Edge::from_frontier(&Frontier::new());
    edge.append(leaf_hash(b"another"));
    let other =
        Log { edge, signer: NoteSigner::from_seed(log.signer.vkey().name(), &[2; 32]).unwrap() };
    it.check_consistency(kept.as_ref(), &shown(&other, &leaf)).unwrap_err();
    assert_eq!(it.kept(), kept);

    it.latch(&"it was shown another log");
    it.check_consistency(kept.as_ref(), &shown(&log, &leaf)).unwrap();
    assert!(!it.is_inconsistent());
    assert_eq!(it.size(), 1);
    check(&it, &log.issue("r-1", 1)).unwrap();
    assert!(it.seen().starts_with(&kept.as_ref().unwrap().note), "what it saw stays as evidence");
    // The old log does not come back, nor the chain a second time.
    it.check_consistency(None, &old.consistency(0)).unwrap_err();
    it.save_past().await;
    // A crash before the new checkpoint is on disk.
    let again = open();
    assert_eq!(again.kept(), None);
    again.check_consistency(None, &shown(&log, &leaf)).unwrap();
    again.save().await;
    assert_eq!(open().size(), 2);
    assert!(open().seen().contains(&kept.unwrap().note));
}

fn old_vkey() -> &'static Vkey {
    static KEY: std::sync::LazyLock<Vkey> =
        std::sync::LazyLock::new(|| Log::new().signer.vkey().clone());
    &KEY
}

#[test]
fn a_sidecar_that_pinned_no_recovery_key_accepts_no_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let recovery = NoteSigner::from_seed("test.example/recovery", &[9; 32]).unwrap();
    let old = Log::new();
    let it = remember(&old, dir.path());
    it.check_consistency(None, &old.consistency(0)).unwrap();
    let (log, leaf) = next(&old, &recovery);
    it.check_consistency(it.kept().as_ref(), &shown(&log, &leaf)).unwrap_err();
}

/// A log whose first leaf is this.
fn log_of(first: &[u8]) -> Log {
    let mut edge = Edge::from_frontier(&Frontier::new());
    edge.append(leaf_hash(first));
    edge.append(leaf_hash(b"another"));
    Log { edge, signer: NoteSigner::from_seed("test.example/log", &[1; 32]).unwrap() }
}

fn first_leaf(vkey: &Vkey, recovery: Option<&Vkey>) -> Vec<u8> {
    let mut leaf =
        json!({"at": "2026-11-21T01:44:50Z", "kind": "opened", "vkey": vkey.to_string()});
    if let (Value::Object(map), Some(key)) = (&mut leaf, recovery) {
        map.insert("recovery_key".into(), key.to_string().into());
    }
    canonical::to_bytes(&leaf).unwrap()
}

fn with_first(log: &Log, leaf: &[u8]) -> ConsistencyReply {
    let inclusion = log.edge.inclusion_proof(0, log.edge.size(), &Nothing).unwrap();
    ConsistencyReply {
        first_leaf: leaf.to_vec(),
        first_leaf_inclusion: inclusion.into_iter().map(|hash| hash.0.to_vec()).collect(),
        ..log.consistency(0)
    }
}

#[test]
fn one_that_pinned_no_recovery_key_learns_it_from_the_first_leaf_of_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let key = |seed| NoteSigner::from_seed("test.example/recovery", &[seed; 32]).unwrap();
    let (recovery, other) = (key(9), key(8));
    let vkey = old_vkey();
    let leaf = first_leaf(vkey, Some(recovery.vkey()));
    let log = log_of(&leaf);
    let reopened = || PinnedLog::open(dir.path(), vkey).unwrap().recovery;
    let it = remember(&log, dir.path());
    it.check_consistency(None, &log.consistency(0)).unwrap();
    assert!(it.wants_recovery_key(), "none was shown");
    // A leaf that is not the log's first: another key, the same at another place, no proof.
    let forged = first_leaf(vkey, Some(other.vkey()));
    let unproven = ConsistencyReply { first_leaf_inclusion: vec![], ..with_first(&log, &leaf) };
    for reply in [with_first(&log, &forged), with_first(&log, b"another"), unproven] {
        it.check_consistency(it.kept().as_ref(), &reply).unwrap();
        assert!(it.wants_recovery_key() && reopened().is_none());
        assert!(!it.is_inconsistent(), "what it knew holds all the same");
    }
    it.check_consistency(it.kept().as_ref(), &with_first(&log, &leaf)).unwrap();
    assert!(!it.wants_recovery_key());
    assert_eq!(reopened().map(|k| k.to_string()), Some(recovery.vkey().to_string()));
    // Of two logs with one key, the other's first leaf replaces nothing that is pinned.
    let pinned = PinnedLog::open(dir.path(), vkey).unwrap();
    let path = dir.path().join("fresh");
    let it = Remember::open(pinned, path).unwrap();
    it.check_consistency(None, &with_first(&log_of(&forged), &forged)).unwrap();
    assert_eq!(reopened().map(|k| k.to_string()), Some(recovery.vkey().to_string()));
}

#[test]
fn a_log_that_names_no_recovery_key_is_asked_for_it_once() {
    let recovery = NoteSigner::from_seed("test.example/recovery", &[9; 32]).unwrap();
    let stranger = NoteSigner::from_seed("test.example/log", &[7; 32]).unwrap();
    for leaf in [first_leaf(old_vkey(), None), first_leaf(stranger.vkey(), Some(recovery.vkey()))] {
        let dir = tempfile::tempdir().unwrap();
        let log = log_of(&leaf);
        let it = remember(&log, dir.path());
        it.check_consistency(None, &with_first(&log, &leaf)).unwrap();
        assert!(!it.wants_recovery_key());
        assert!(PinnedLog::open(dir.path(), old_vkey()).unwrap().recovery.is_none());
    }
}
