//! What every database must do behind [`crate::Store`], as functions that a test runs against each.
//! Each takes the URL of an empty store of its own and says what went wrong. For tests only.

pub mod world;

use std::future::Future;
use std::pin::Pin;

use futures_util::future::join_all;
use grantwright_domain::event::Decision;
use grantwright_domain::{HumanId, LeaseId, Phase, Timestamp};
use grantwright_proof::{Checkpoint, Hash, Tile, TileKind, leaf_hash, tile::decode_entries};
use grantwright_proof::{verify_consistency, verify_inclusion};

use crate::{
    Committed, Evidence, Fault, Faults, LeaseFilter, Options, RequestFilter, RequestSearch, Side,
    Store, StoreError, Text, Transition,
};
use world::World;

/// What a check found wrong.
pub type Outcome = Result<(), String>;
type Check = fn(String) -> Pin<Box<dyn Future<Output = Outcome> + Send>>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// Every check with its name, which begins with the invariant it serves, if any.
        pub const ALL: &[(&str, Check)] = &[$((stringify!($name), |url| Box::pin($name(url)))),*];
    };
}

checks! {
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

/// Opens the store as [`World`] does.
///
/// # Errors
/// In words, as in all checks.
pub async fn open(url: &str, faults: &Faults) -> Result<Store, String> {
    let options = Options { faults: faults.clone(), ..Options::default() };
    Store::open_with(url, world::keys(), options).await.map_err(|e| format!("open: {e}"))
}

async fn begin(url: &str) -> Result<(Store, World), String> {
    let store = open(url, &Faults::default()).await?;
    let world = World::new();
    done(store.commit(world.opening()).await)?;
    Ok((store, world))
}

fn done<T>(result: Result<T, StoreError>) -> Result<T, String> {
    result.map_err(|e| format!("{e} ({e:?})"))
}

fn ensure(ok: bool, what: impl FnOnce() -> String) -> Outcome {
    if ok { Ok(()) } else { Err(what()) }
}

fn state(committed: &Committed) -> Result<grantwright_domain::RequestState, String> {
    committed.state.as_deref().cloned().ok_or_else(|| "no state".to_owned())
}

fn opened(note: &str) -> Result<Checkpoint, String> {
    Checkpoint::open(note, world::keys().signer.vkey(), world::ORIGIN)
        .map(|c| c.into_inner())
        .map_err(|e| format!("checkpoint: {e}"))
}

fn check_evidence(e: &Evidence, from: Option<&Checkpoint>) -> Outcome {
    let to = opened(&e.checkpoint)?;
    verify_inclusion(leaf_hash(&e.leaf), e.index, to.size(), &e.inclusion, to.root())
        .map_err(|e| format!("inclusion: {e}"))?;
    let Some(from) = from else { return Ok(()) };
    ensure(e.consistent_from == from.size(), || "evidence from another size".into())?;
    verify_consistency(from.size(), from.root(), to.size(), to.root(), &e.consistency)
        .map_err(|e| format!("consistency: {e}"))
}

/// What decisions rest on and credentials that may live go on in a new log; open requests do not.
///
/// # Errors
/// In words.
pub async fn a_new_epoch_carries_rights_and_living_credentials(url: String) -> Outcome {
    let (old, world) = begin(&url).await?;
    for n in 0..3 {
        done(old.commit(world.grant(n)).await)?;
    }
    let revoked = state(&done(old.commit(world.grant(3)).await)?)?;
    done(old.commit(world.revoke(&revoked)).await)?;
    let asked = state(&done(old.commit(world.ask(4)).await)?)?;
    let approved = state(&done(old.commit(world.vote(&asked, "bob", Decision::Approve)).await)?)?;
    let intended = state(&done(old.commit(world.allowed(5)).await)?)?;
    done(old.commit(world.intend(&intended)).await)?;

    // By a clock that is behind, everything would be dated ahead of whatever follows.
    let ahead = old.heritage(world.at(-3_600_000)).await;
    ensure(matches!(ahead, Err(StoreError::Violation(_))), || format!("{ahead:?}"))?;
    // While credentials live: all of them, one ended early, and the mint without an outcome.
    let now = world.at(60_000);
    let heritage = done(old.heritage(now).await)?;
    ensure(heritage.requests == 5 && heritage.size == old.head().size, || format!("{heritage:?}"))?;
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let place = format!("sqlite://{}/new", folder.path().display());
    let new = done(Store::open(&place, world::next_keys()).await)?;
    let first = world.epoch(&old, &heritage, now);
    let carried = heritage.carried();
    done(new.begin_epoch(&old, first.clone(), heritage).await)?;
    ensure(new.head().size == carried + 1, || format!("{:?}", new.head()))?;
    new.close().await;

    let new = done(Store::open(&place, world::next_keys()).await)?;
    let (was, is) = (old.authority(), new.authority());
    ensure(is.origin == first.origin && is.epochs == [first], || format!("{:?}", is.epochs))?;
    ensure(
        is.humans == was.humans && is.agents == was.agents && is.instances == was.instances,
        || "other rights".into(),
    )?;
    ensure(is.catalog == was.catalog && is.policy_set == was.policy_set, || "other policy".into())?;
    for n in [0, 1, 2, 3, 5] {
        let before = done(old.load(&world::request(n)).await)?.ok_or("gone")?;
        let after = done(new.load(&world::request(n)).await)?.ok_or("not carried over")?;
        ensure(before.state.phase == after.state.phase, || format!("{:?}", after.state))?;
        ensure(before.state.lease == after.state.lease, || format!("{:?}", after.state))?;
        ensure(before.texts == after.texts, || format!("{:?}", after.texts))?;
    }
    let key = done(new.key(&world::agent("bot"), &world::key(1)).await)?;
    ensure(key.is_some_and(|k| k.request == world::request(1)), || "the key is free".into())?;
    let lost = done(new.load(&world::request(4)).await)?;
    ensure(lost.is_none(), || "an approval outlived its epoch".into())?;
    let late = new.commit(world.intend(&approved)).await;
    ensure(late.is_err(), || format!("an old approval was spent: {late:?}"))?;
    ensure(done(new.unfinished().await)? == [world::request(5)], || "unfinished".into())?;
    let again = new.commit(world.grant(9)).await;
    ensure(matches!(&again, Err(StoreError::Violation(v)) if v.rule == "origin"), || {
        format!("terms of the old log: {again:?}")
    })?;
    new.close().await;
    // Once nothing lives any more, only rights are left, and the mint without an outcome.
    let heritage = done(old.heritage(world.at(86_400_000)).await)?;
    ensure(heritage.requests == 1, || format!("{heritage:?}"))?;
    old.close().await;
    Ok(())
}

/// Of transitions that wait together, a refused one changes nothing for the others.
///
/// # Errors
/// In words.
pub async fn a_refusal_leaves_its_neighbours(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let mut work = Vec::new();
    for n in 0..40 {
        let mut grant = world.grant(n);
        if n % 4 == 1 {
            // The rules forbid an outcome without an intent.
            grant.events.remove(2);
        }
        if n % 4 == 3 {
            // A key that its neighbour claims too.
            grant.key = world.grant(n - 1).key;
        }
        work.push(store.commit(grant));
    }
    let results = join_all(work).await;
    for (n, result) in results.iter().enumerate() {
        let right = match (n % 4, result) {
            (0 | 2, Ok(c)) => c.state.as_ref().is_some_and(|s| s.phase == Phase::Granted),
            (1, Err(StoreError::Violation(v))) => v.rule == "intent",
            (3, Err(StoreError::KeyTaken { .. })) => true,
            _ => false,
        };
        ensure(right, || format!("transition {n}: {result:?}"))?;
    }
    let again = store.commit(world.grant(0)).await;
    ensure(matches!(again, Err(StoreError::KeyTaken { .. })), || format!("{again:?}"))?;
    let mut keyless = world.grant(0);
    keyless.key = None;
    let again = store.commit(keyless).await;
    ensure(matches!(&again, Err(StoreError::Violation(v)) if v.rule == "request-once"), || {
        format!("{again:?}")
    })?;
    let size = store.head().size;
    ensure(size == world.opening().events.len() as u64 + 20 * 4, || format!("{size} leaves"))?;
    let mut same_lease = world.grant(77);
    if let (Some(issued), Some(other)) =
        (same_lease.events.last_mut(), world.grant(0).events.last())
        && let (grantwright_domain::Event::Issued(a), grantwright_domain::Event::Issued(b)) =
            (issued, other)
    {
        a.lease_id = b.lease_id.clone();
    }
    let refused = store.commit(same_lease).await;
    ensure(matches!(&refused, Err(StoreError::Violation(v)) if v.rule == "lease-once"), || {
        format!("{refused:?}")
    })?;
    store.close().await;
    Ok(())
}

/// While an ask is open, an identical one names it; afterwards another may open.
///
/// # Errors
/// In words.
pub async fn identical_open_asks_are_one(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let mut second = world.ask_like(2, 1);
    second.key = world.grant(2).key;
    let (first, twin) = tokio::join!(store.commit(world.ask(1)), store.commit(second.clone()));
    let first = done(first)?;
    let is_open = |r: &Result<Committed, StoreError>| match r {
        Err(StoreError::AlreadyOpen { request }) => *request == world::request(1),
        _ => false,
    };
    ensure(is_open(&twin), || format!("{twin:?}"))?;
    // The refused ask's key is free, and binds to the open one.
    let mut bind = Transition::at(state(&first)?, Vec::new());
    bind.key = second.key.clone();
    done(store.commit(bind).await)?;
    let named = match &second.key {
        Some(k) => done(store.key(&k.agent, &k.key).await)?,
        None => None,
    };
    ensure(named.is_some_and(|k| k.request == world::request(1)), || "the key is unbound".into())?;
    second.key = None;
    done(store.commit(world.cancel(&state(&first)?)).await)?;
    done(store.commit(second).await)?;
    store.close().await;
    Ok(())
}

/// A lost transaction leaves nothing, an unknown one all or nothing, and neither stops the log.
///
/// # Errors
/// In words.
pub async fn invariant_02_intents_are_durable_or_refused(url: String) -> Outcome {
    let faults = Faults::default();
    let store = open(&url, &faults).await?;
    let world = World::new();
    done(store.commit(world.opening()).await)?;
    let ask = done(store.commit(world.allowed(1)).await)?;
    let approved = state(&ask)?;
    let before = store.head();

    faults.push(Fault::BeforeCommit);
    let lost = store.commit(world.intend(&approved)).await;
    ensure(matches!(lost, Err(StoreError::Unavailable(_))), || format!("{lost:?}"))?;
    ensure(store.head() == before, || "a lost batch moved the head".into())?;
    let loaded = done(store.load(&world::request(1)).await)?.ok_or("the request is gone")?;
    ensure(loaded.state == approved, || format!("{:?}", loaded.state))?;

    faults.push(Fault::AfterCommit);
    let unknown = store.commit(world.intend(&approved)).await;
    ensure(matches!(unknown, Err(StoreError::OutcomeUnknown)), || format!("{unknown:?}"))?;
    let again = store.commit(world.intend(&approved)).await;
    ensure(matches!(again, Err(StoreError::Conflict)), || format!("{again:?}"))?;
    let loaded = done(store.load(&world::request(1)).await)?.ok_or("the request is gone")?;
    ensure(loaded.state.phase == Phase::Intended, || format!("{:?}", loaded.state.phase))?;
    let unfinished = done(store.unfinished().await)?;
    ensure(unfinished == [world::request(1)], || format!("{unfinished:?}"))?;
    let issued = done(store.commit(world.issue(&loaded.state)).await)?;
    ensure(state(&issued)?.phase == Phase::Granted, || "not issued".into())?;
    let old = opened(&before.checkpoint)?;
    let new = opened(&issued.checkpoint)?;
    let proof = done(store.consistency(old.size(), new.size()).await)?;
    verify_consistency(old.size(), old.root(), new.size(), new.root(), &proof)
        .map_err(|e| e.to_string())?;
    store.close().await;
    Ok(())
}

/// However many brokers and callers race: one intent for one approval.
///
/// # Errors
/// In words.
pub async fn invariant_03_one_approval_one_intent(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let asked = done(store.commit(world.ask(1)).await)?;
    let voted = done(store.commit(world.vote(&state(&asked)?, "bob", Decision::Approve)).await)?;
    let approved = state(&voted)?;
    ensure(approved.phase == Phase::Approved, || format!("{:?}", approved.phase))?;
    let results = join_all((0..20).map(|_| store.commit(world.intend(&approved)))).await;
    let intents = results.iter().filter(|r| r.is_ok()).count();
    ensure(intents == 1, || format!("{intents} intents"))?;
    let others = results.iter().filter(|r| matches!(r, Err(StoreError::Conflict))).count();
    ensure(others == 19, || format!("{others} conflicts"))?;
    // Also not with a state made up to look current.
    let loaded = done(store.load(&world::request(1)).await)?.ok_or("the request is gone")?;
    let mut forged = approved;
    forged.version = loaded.state.version;
    forged.last_index = loaded.state.last_index;
    let issued = done(store.commit(world.issue(&loaded.state)).await)?;
    let late = store.commit(world.intend(&forged)).await;
    ensure(late.is_err(), || "intended again after the outcome".into())?;
    let late = store.commit(world.intend(&state(&issued)?)).await;
    ensure(late.is_err(), || "intended again after the outcome".into())?;
    store.close().await;
    Ok(())
}

/// Same key, same agent: the first request, whatever the body; another agent's key is another.
///
/// # Errors
/// In words.
pub async fn invariant_06_a_key_names_one_request(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    done(store.commit(world.grant(1)).await)?;
    for same in [true, false] {
        let mut second = world.grant(2);
        second.key = world.grant(1).key;
        if let (false, Some(key)) = (same, &mut second.key) {
            key.body = grantwright_domain::Digest([9; 32]);
        }
        let taken = store.commit(second).await;
        let right = matches!(&taken, Err(StoreError::KeyTaken { request, same_body, .. })
            if *request == world::request(1) && *same_body == same);
        ensure(right, || format!("{taken:?}"))?;
    }
    let mut other = world.grant(3);
    if let (Some(claim), Some(first)) = (&mut other.key, world.grant(1).key) {
        claim.key = first.key;
        claim.agent = world::agent("other");
    }
    done(store.commit(other).await)?;
    let (a, b) = (world.grant(4), world.grant(5));
    let second = Transition { key: a.key.clone(), ..b };
    let (a, b) = tokio::join!(store.commit(a), store.commit(second));
    ensure(a.is_ok() && matches!(b, Err(StoreError::KeyTaken { .. })), || format!("{a:?} {b:?}"))?;
    store.close().await;
    Ok(())
}

/// A draft is taken as it was folded only while the authority is the very same: what it allowed before
/// a revocation is refused after it.
///
/// # Errors
/// In words.
pub async fn invariant_11_a_draft_under_past_rights_is_folded_again(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let (first, second) = (world.draft(1, store.authority()), world.draft(2, store.authority()));
    let committed = done(store.commit(Transition::draft(first)).await)?;
    let loaded = done(store.load(&world::request(1)).await)?.ok_or("no request")?;
    ensure(committed.state.as_deref() == Some(&loaded.state), || {
        format!("{:?} is not the fold of its leaves, {:?}", committed.state, loaded.state)
    })?;
    let again = store.commit(Transition::draft(world.draft(1, store.authority()))).await;
    ensure(refused(&again, "request-once"), || format!("{again:?}"))?;
    done(store.commit(world.revoke_agent()).await)?;
    let late = store.commit(Transition::draft(second)).await;
    ensure(refused(&late, "agent-live"), || format!("{late:?}"))?;
    store.close().await;
    Ok(())
}

fn refused(result: &Result<Committed, StoreError>, rule: &str) -> bool {
    matches!(result, Err(StoreError::Violation(v)) if v.rule == rule)
}

/// Every checkpoint verifies and extends every earlier one, whatever the batches were.
///
/// # Errors
/// In words.
pub async fn invariant_19_every_checkpoint_extends_the_last(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let mut seen = vec![opened(&store.head().checkpoint)?];
    let mut next = 0;
    for width in [1, 2, 7, 64, 1, 100, 3] {
        let known = seen.first().map_or(0, Checkpoint::size);
        let work = (next..next + width).map(|n| {
            let mut grant = world.grant(n);
            grant.known_size = known;
            grant.want_evidence = true;
            store.commit(grant)
        });
        next += width;
        for result in join_all(work).await {
            let committed = done(result)?;
            let evidence = committed.evidence.ok_or("no evidence")?;
            check_evidence(&evidence, seen.first())?;
            let latest = opened(&evidence.checkpoint)?;
            if seen.iter().all(|c| c.size() != latest.size()) {
                seen.push(latest);
            }
        }
    }
    for (old, new) in seen.iter().zip(seen.iter().skip(1)) {
        let proof = done(store.consistency(old.size(), new.size()).await)?;
        verify_consistency(old.size(), old.root(), new.size(), new.root(), &proof)
            .map_err(|e| format!("{} to {}: {e}", old.size(), new.size()))?;
    }
    let ahead = Transition { known_size: 1 << 40, ..world.grant(5000) };
    let ahead = store.commit(ahead).await;
    ensure(matches!(ahead, Err(StoreError::Ahead { .. })), || format!("{ahead:?}"))?;
    store.close().await;
    Ok(())
}

/// A sealed credential is there for its instance until it is acknowledged or over time.
///
/// # Errors
/// In words.
pub async fn invariant_21_a_sealed_copy_goes(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let until = world.at(120_000);
    for n in 1..=3 {
        let mut grant = world.grant(n);
        grant.side.sealed = Some(world.sealed(b"sealed", until));
        done(store.commit(grant).await)?;
    }
    let of = |n| {
        let store = store.clone();
        async move { done(store.sealed(&world::request(n), &world::instance()).await) }
    };
    ensure(of(1).await?.is_some_and(|s| s.bytes == b"sealed"), || "no sealed copy".into())?;
    let stranger = grantwright_domain::InstanceId::parse("stranger").map_err(|e| e.to_string())?;
    let other = done(store.sealed(&world::request(1), &stranger).await)?;
    ensure(other.is_none(), || "another instance's copy".into())?;
    done(store.acknowledge(world::request(1)))?;
    // It rides along with the next batch.
    done(store.commit(world.grant(9)).await)?;
    ensure(of(1).await?.is_none(), || "acknowledged, but there".into())?;
    ensure(of(2).await?.is_some(), || "not acknowledged, but gone".into())?;
    let over = done(store.unacknowledged(until, 10, 0).await)?;
    ensure(over.requests.len() == 2 && !over.more, || format!("{over:?}"))?;
    let page = done(store.unacknowledged(until, 1, 1).await)?;
    let rest = over.requests.iter().skip(1);
    ensure(page.requests.iter().eq(rest) && page.more, || format!("{page:?}"))?;
    let early = done(store.unacknowledged(until.plus_millis(-1), 10, 0).await)?;
    ensure(early.requests.is_empty(), || format!("{early:?}"))?;
    let loaded = done(store.load(&world::request(2)).await)?.ok_or("the request is gone")?;
    let mut revoke = world.revoke(&loaded.state);
    revoke.side.delete_sealed = true;
    done(store.commit(revoke).await)?;
    ensure(of(2).await?.is_none(), || "revoked, but there".into())?;
    ensure(of(3).await?.is_some(), || "another's, but gone".into())?;
    done(store.unseal(vec![world::request(3)]).await)?;
    ensure(of(3).await?.is_none(), || "unsealed, but there".into())?;
    store.close().await;
    Ok(())
}

/// A new epoch goes on; what was opened in an earlier one is refused.
///
/// # Errors
/// In words.
pub async fn invariant_27_an_ended_epoch_commits_nothing(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let raised = done(store.raise_epoch().await)?;
    ensure(raised == 2 && store.head().epoch == 2, || format!("epoch {raised}"))?;
    done(store.commit(world.grant(1)).await)?;
    store.clone().close().await;
    let closed = store.commit(world.grant(2)).await;
    ensure(matches!(closed, Err(StoreError::Halted(_))), || format!("{closed:?}"))?;
    if url.starts_with("sqlite") {
        let again = open(&url, &Faults::default()).await?;
        ensure(again.head().epoch == 2, || "the epoch went back".into())?;
        again.close().await;
        return Ok(());
    }
    let old = open(&url, &Faults::default()).await?;
    let new = open(&url, &Faults::default()).await?;
    done(new.raise_epoch().await)?;
    for _ in 0..2 {
        let ended = old.commit(world.grant(3)).await;
        ensure(matches!(ended, Err(StoreError::EpochEnded)), || format!("{ended:?}"))?;
    }
    done(new.commit(world.grant(3)).await)?;
    old.close().await;
    new.close().await;
    Ok(())
}

/// What is too much or malformed is refused and changes nothing.
///
/// # Errors
/// In words.
pub async fn invariant_28_bounds_refuse(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let before = store.head();
    let long = "x".repeat(70_000);
    let mut bad = vec![
        Transition::new(Vec::new()),
        Transition::authority(Vec::new()),
        Transition::authority(world.grant(1).events),
        Transition::new(world.opening().events),
        Transition::new(vec![world.grant(1).events; 20].concat()),
        Transition {
            events: world.grant(1).events.into_iter().chain(world.grant(2).events).collect(),
            ..world.grant(1)
        },
    ];
    let mut failed = world.grant(1);
    if let Some(grantwright_domain::Event::Issued(e)) = failed.events.last_mut() {
        e.facts.insert("long".into(), long);
    }
    bad.push(failed);
    let text =
        |name: &str, text: &str| Text { name: name.into(), salt: [0; 16], text: text.into() };
    for texts in [vec![text("a", ""), text("a", "")], vec![text("a", "\0")]] {
        bad.push(Transition { side: Side { texts, ..Side::default() }, ..world.grant(1) });
    }
    for (n, transition) in bad.into_iter().enumerate() {
        let refused = store.commit(transition).await;
        ensure(matches!(refused, Err(StoreError::Invalid(_))), || format!("{n}: {refused:?}"))?;
    }
    ensure(store.head() == before, || "the head moved".into())?;
    store.close().await;
    Ok(())
}

/// After a storage fault nothing is written until the store is opened again.
///
/// # Errors
/// In words.
pub async fn invariant_29_a_failed_fsync_ends_writing(url: String) -> Outcome {
    let faults = Faults::default();
    let store = open(&url, &faults).await?;
    let world = World::new();
    done(store.commit(world.opening()).await)?;
    let before = store.head();
    faults.push(Fault::Fsync);
    for n in 0..3 {
        let halted = store.commit(world.grant(n)).await;
        ensure(matches!(halted, Err(StoreError::Halted(_))), || format!("{n}: {halted:?}"))?;
    }
    store.close().await;
    let again = open(&url, &Faults::default()).await?;
    ensure(again.head() == before, || "the head moved".into())?;
    done(again.commit(world.grant(0)).await)?;
    again.close().await;
    Ok(())
}

/// What a search finds is what a list shows, within each condition.
async fn searches(store: &Store, all: &[crate::RequestSummary]) -> Outcome {
    let found = async |s: RequestSearch| done(store.search(s).await);
    let every = found(RequestSearch::default()).await?;
    ensure(every.rows == all && every.next.is_none(), || format!("{every:?}"))?;
    let page = found(RequestSearch { limit: 3, ..RequestSearch::default() }).await?;
    let before = page.next.map(|(before, _)| before);
    let rest = found(RequestSearch { before, ..RequestSearch::default() }).await?;
    let joined: Vec<_> = page.rows.into_iter().chain(rest.rows).collect();
    ensure(joined == all, || format!("{joined:?}"))?;
    let granted = RequestSearch { phase: Some(Phase::Granted), ..RequestSearch::default() };
    ensure(found(granted).await?.rows.len() == 5, || "granted".into())?;
    let stranger = RequestSearch { agent: Some(world::agent("other")), ..RequestSearch::default() };
    ensure(found(stranger).await?.rows.is_empty(), || "another agent's".into())?;
    let (agent, scope) = all.first().map(|r| (r.agent.clone(), r.scope.clone())).unzip();
    let theirs = RequestSearch { agent, scope: scope.clone(), ..RequestSearch::default() };
    ensure(found(theirs).await?.rows == all, || "an agent's for a scope".into())?;
    let scoped = RequestSearch { scope, ..RequestSearch::default() };
    ensure(found(scoped).await?.rows == all, || "for a scope".into())?;
    let text = |text: &str| RequestSearch { text: Some(text.into()), ..RequestSearch::default() };
    let reason = done(store.load(&world::request(10)).await)?;
    let reason = reason.and_then(|l| l.texts.into_iter().find(|t| t.name == "reason"));
    let reason = reason.ok_or("no reason")?.text;
    let words = found(text(&reason.to_uppercase())).await?.rows;
    ensure(words.iter().any(|r| r.id == world::request(10)), || format!("{words:?}"))?;
    for pattern in ["%zz%", "_", "100%", "\\"] {
        let none = found(text(pattern)).await?.rows;
        ensure(none.is_empty() || reason.contains(pattern), || format!("{pattern}: {none:?}"))?;
    }
    for (reason, fine) in [("looks_wrong", true), ("%", false), ("\"", false)] {
        let denied = store.denied_because(reason, 0).await;
        let as_wanted = match &denied {
            Ok(none) => fine && none.is_empty(),
            Err(e) => !fine && matches!(e, StoreError::Invalid(_)),
        };
        ensure(as_wanted, || format!("{reason}: {denied:?}"))?;
    }
    let who = |who: &str| HumanId::parse(who).map_err(|e| e.to_string());
    let nobody = RequestSearch { human: Some(who("nobody")?), ..RequestSearch::default() };
    ensure(found(nobody).await?.rows.is_empty(), || "nobody's".into())?;
    let dataset = done(store.load(&world::request(10)).await)?;
    let dataset = dataset.and_then(|l| l.state.terms.params.values().next().map(|v| v.text()));
    let dataset = dataset.ok_or("no parameter")?;
    let with =
        |text: &str| RequestSearch { resource: Some(text.into()), ..RequestSearch::default() };
    let named = found(with(&dataset)).await?.rows;
    ensure(named.iter().any(|r| r.id == world::request(10)), || format!("{named:?}"))?;
    ensure(found(with("no such resource")).await?.rows.is_empty(), || "no such resource".into())?;
    let (early, late) = (world_time(all, false), world_time(all, true));
    let within = RequestSearch { from: early, ..RequestSearch::default() };
    ensure(found(within).await?.rows.len() == all.len(), || "from the first".into())?;
    let after = RequestSearch { from: late.map(|t| t.plus_millis(1)), ..RequestSearch::default() };
    ensure(found(after).await?.rows.is_empty(), || "after the last".into())
}

fn world_time(all: &[crate::RequestSummary], last: bool) -> Option<Timestamp> {
    let times = all.iter().map(|r| r.created_at);
    if last { times.max() } else { times.min() }
}

/// Lists, leases, due work and single requests say the same.
///
/// # Errors
/// In words.
pub async fn readings_agree(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    for n in 0..5 {
        done(store.commit(world.grant(n)).await)?;
    }
    let asked = done(store.commit(world.ask(10)).await)?;
    done(store.commit(world.ask(11)).await)?;
    let filter = |open, limit| RequestFilter { open, limit, ..RequestFilter::default() };
    let all = done(store.list(filter(false, 0)).await)?;
    ensure(all.len() == 7 && all.is_sorted_by(|a, b| a.first_index > b.first_index), || {
        format!("{all:?}")
    })?;
    let open = done(store.list(filter(true, 0)).await)?;
    let ids: Vec<_> = open.iter().map(|r| r.id.clone()).collect();
    ensure(ids == [world::request(11), world::request(10)], || format!("{ids:?}"))?;
    let page = done(store.list(filter(false, 2)).await)?;
    let before = page.last().map(|r| r.first_index);
    let rest = done(store.list(RequestFilter { before, ..RequestFilter::default() }).await)?;
    ensure(page.len() == 2 && rest.len() == 5, || format!("{} {}", page.len(), rest.len()))?;
    let pending = RequestFilter { phase: Some(Phase::Pending), ..RequestFilter::default() };
    ensure(done(store.list(pending).await)?.len() == 2, || "pending".into())?;
    let stranger = RequestFilter { agent: Some(world::agent("other")), ..RequestFilter::default() };
    ensure(done(store.list(stranger).await)?.is_empty(), || "another agent's".into())?;
    ensure(done(store.count_open(&world::agent("bot")).await)? == 2, || "count".into())?;

    ensure(done(store.count_all_open().await)? == 2, || "open of all".into())?;
    let by_agent = done(store.open_by_agent().await)?;
    ensure(by_agent == [(world::agent("bot"), 2)], || format!("{by_agent:?}"))?;
    let soonest = RequestFilter { open: true, soonest: true, ..RequestFilter::default() };
    let rows = done(store.list(soonest.clone()).await)?;
    let due: Vec<_> = rows.iter().map(|r| r.due_at).collect();
    ensure(due.len() == 2 && due.is_sorted(), || format!("{due:?}"))?;
    // From the place of each on: itself, and what stands behind it; from behind the last: nothing.
    for (n, row) in rows.iter().enumerate() {
        let at = row.due_at.ok_or("an open request without an end")?;
        for (index, left) in
            [(row.first_index, rows.len() - n), (row.first_index + 1, rows.len() - n - 1)]
        {
            let later = RequestFilter { soonest_from: Some((at, index)), ..soonest.clone() };
            let got = done(store.list(later).await)?;
            ensure(got.len() == left && rows.ends_with(&got), || format!("{n} {index}: {got:?}"))?;
        }
    }
    let ended = RequestFilter { ended: true, ..RequestFilter::default() };
    ensure(done(store.list(ended).await)?.len() == 5, || "ended".into())?;
    searches(&store, &all).await?;

    let loaded = done(store.load(&world::request(10)).await)?.ok_or("the request is gone")?;
    ensure(Some(&loaded.state) == asked.state.as_deref(), || "the fold differs".into())?;
    ensure(loaded.texts.iter().any(|t| t.name == "reason"), || "no reason".into())?;
    ensure(done(store.load(&world::request(99)).await)?.is_none(), || "a ghost".into())?;

    let leases = done(store.leases(LeaseFilter { live: true, ..LeaseFilter::default() }).await)?;
    ensure(leases.len() == 5, || format!("{} leases", leases.len()))?;
    for lease in &leases {
        let one = done(store.lease(&lease.id).await)?;
        ensure(one.as_ref() == Some(lease), || format!("{one:?}"))?;
    }
    let none = LeaseId::parse("l-none").map_err(|e| e.to_string())?;
    ensure(done(store.lease(&none).await)?.is_none(), || "a ghost lease".into())?;
    let granted = done(store.load(&world::request(0)).await)?.ok_or("the request is gone")?;
    done(store.commit(world.revoke(&granted.state)).await)?;
    let leases = done(store.leases(LeaseFilter { live: true, ..LeaseFilter::default() }).await)?;
    ensure(leases.len() == 4, || "a revoked lease lives".into())?;
    let early = |at| LeaseFilter { ended_early: Some(at), ..LeaseFilter::default() };
    let ended = done(store.leases(early(world.at(0))).await)?;
    let id = granted.state.lease.as_ref().map(|l| &l.id);
    ensure(ended.iter().map(|l| Some(&l.id)).eq([id]), || format!("ended early: {ended:?}"))?;
    let ended = done(store.leases(early(world.at(86_400_000))).await)?;
    ensure(ended.is_empty(), || format!("ended by itself since: {ended:?}"))?;

    let due = done(store.due(world.at(0), 10, None).await)?;
    ensure(due.requests.is_empty() && due.leases.is_empty(), || format!("{due:?}"))?;
    let due = done(store.due(world.at(86_400_000), 10, None).await)?;
    ensure(due.requests.len() == 2 && due.leases.len() == 4, || format!("{due:?}"))?;
    let late = done(store.commit(world.expire(&loaded.state, world.at(86_400_000))).await)?;
    ensure(state(&late)?.phase == Phase::Expired, || "not expired".into())?;
    let due = done(store.due(world.at(86_400_000), 10, None).await)?;
    ensure(due.requests == [world::request(11)], || format!("{due:?}"))?;

    // Texts go with the leaf that says so, and with no other's.
    done(store.commit(world.erase(10)).await)?;
    let erased = done(store.load(&world::request(10)).await)?.ok_or("the request is gone")?;
    ensure(erased.texts.is_empty(), || format!("{:?}", erased.texts))?;
    let other = done(store.load(&world::request(11)).await)?.ok_or("the request is gone")?;
    ensure(!other.texts.is_empty(), || "another request's texts are gone".into())?;
    store.close().await;
    Ok(())
}

/// A closed and reopened store has the same head, authority and requests, and goes on.
///
/// # Errors
/// In words.
pub async fn reopening_finds_the_same_log(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    for chunk in 0..5 {
        let work = (chunk * 60..chunk * 60 + 60).map(|n| store.commit(world.grant(n)));
        for result in join_all(work).await {
            done(result)?;
        }
    }
    let asked = done(store.commit(world.ask(1000)).await)?;
    let (head, authority) = (store.head(), store.authority());
    let old = opened(&head.checkpoint)?;
    store.close().await;
    let store = open(&url, &Faults::default()).await?;
    ensure(store.head() == head, || format!("{:?}", store.head()))?;
    let same = format!("{:?}", store.authority().agents) == format!("{:?}", authority.agents)
        && store.authority().catalog.len() == authority.catalog.len()
        && store.authority().last_leaf == authority.last_leaf;
    ensure(same, || "the authority differs".into())?;
    let mut vote = world.vote(&state(&asked)?, "bob", Decision::Approve);
    vote.want_evidence = true;
    vote.known_size = old.size();
    let voted = done(store.commit(vote).await)?;
    let evidence = voted.evidence.as_ref().ok_or("no evidence")?;
    check_evidence(evidence, Some(&old))?;
    // A size that only tiles can prove from.
    for known in [1, 255, 256, 257, 700] {
        let mut grant = world.grant(2000 + known);
        (grant.known_size, grant.want_evidence) = (known, true);
        let committed = done(store.commit(grant).await)?;
        let evidence = committed.evidence.ok_or("no evidence")?;
        check_evidence(&evidence, None)?;
        let (old, new) = (root_of(&store, known).await?, opened(&evidence.checkpoint)?);
        verify_consistency(known, old, new.size(), new.root(), &evidence.consistency)
            .map_err(|e| format!("from {known}: {e}"))?;
    }
    store.close().await;
    Ok(())
}

/// Side rows are found by kind and key, and by prefix in order, until their end; bounds refuse.
///
/// # Errors
/// In words.
pub async fn side_rows_are_there_until_they_end(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    let head = store.head();
    let (now, end) = (world.at(0), world.at(1000));
    for key in ["a:2", "a:1", "a:10", "b:1", "a", "a:\u{e9}"] {
        let value = key.as_bytes().to_vec();
        done(store.side_put("test", key, value, (key == "a:10").then_some(end)).await)?;
    }
    done(store.side_put("other", "a:1", b"else".to_vec(), None).await)?;
    let keys = async |prefix: &str, after: Option<&str>, limit, now| {
        let rows = done(store.side_list("test", prefix, after, limit, now).await)?;
        let right = rows.iter().all(|r| r.value == r.key.as_bytes());
        ensure(right, || "values of other rows".into())?;
        Ok::<_, String>(rows.into_iter().map(|r| r.key).collect::<Vec<_>>())
    };
    let all = keys("a:", None, 9, now).await?;
    ensure(all == ["a:1", "a:10", "a:2", "a:\u{e9}"], || format!("{all:?}"))?;
    let page = keys("", Some("a:1"), 2, now).await?;
    ensure(page == ["a:10", "a:2"], || format!("{page:?}"))?;
    let later = keys("a:", None, 9, end).await?;
    ensure(later == ["a:1", "a:2", "a:\u{e9}"], || format!("{later:?}"))?;
    let row = done(store.side_get("test", "a:10", now).await)?.ok_or("not there")?;
    ensure(row.expires_at == Some(end) && row.value == b"a:10", || format!("{row:?}"))?;
    ensure(done(store.side_get("test", "a:10", end).await)?.is_none(), || "past its end".into())?;
    ensure(done(store.side_take("test", "a:10", end).await)?.is_none(), || "taken late".into())?;
    done(store.side_put("test", "c", Vec::new(), Some(end)).await)?;
    ensure(done(store.side_delete_expired(end).await)? == 1, || "another count".into())?;
    ensure(done(store.side_delete("test", "b:1").await)?, || "not deleted".into())?;
    ensure(!done(store.side_delete("test", "b:1").await)?, || "deleted twice".into())?;
    let most = crate::MAX_SIDE_VALUE;
    done(store.side_put("test", &"k".repeat(256), vec![1; most], None).await)?;
    for (kind, key, len) in [
        ("test", "k", most + 1),
        ("test", "", 0),
        ("", "k", 0),
        ("Test", "k", 0),
        ("test", "\0", 0),
    ] {
        let refused = store.side_put(kind, key, vec![0; len], None).await;
        ensure(matches!(refused, Err(StoreError::Invalid(_))), || format!("{kind} {key:?}"))?;
    }
    let long = store.side_put("test", &"k".repeat(257), Vec::new(), None).await;
    ensure(matches!(long, Err(StoreError::Invalid(_))), || format!("{long:?}"))?;
    ensure(store.head() == head, || "a side row moved the head".into())?;
    store.close().await;
    let store = open(&url, &Faults::default()).await?;
    ensure(done(store.side_get("test", "a:1", now).await)?.is_some(), || "lost".into())?;
    store.close().await;
    Ok(())
}

/// Of many that race for a side row, one wins; a lost write wrote nothing.
///
/// # Errors
/// In words.
pub async fn side_rows_are_won_once(url: String) -> Outcome {
    let faults = Faults::default();
    let store = open(&url, &faults).await?;
    let world = World::new();
    done(store.commit(world.opening()).await)?;
    let (now, end) = (world.at(0), world.at(1000));
    for round in [now, end] {
        // In the second round the first winner's row is past its end.
        let race = (0..20u8).map(|n| {
            store.side_put_if_absent("race", "x", vec![n], Some(round.plus_millis(1000)), round)
        });
        let won = join_all(race).await.into_iter().map(done).collect::<Result<Vec<_>, _>>()?;
        ensure(won.iter().filter(|w| **w).count() == 1, || format!("{won:?}"))?;
    }
    done(store.side_put("race", "x", b"old".to_vec(), Some(end)).await)?;
    let race = (0..20u8)
        .map(|n| store.side_replace("race", "x", b"old".to_vec(), vec![n], Some(end), now));
    let won = join_all(race).await.into_iter().map(done).collect::<Result<Vec<_>, _>>()?;
    ensure(won.iter().filter(|w| **w).count() == 1, || format!("{won:?}"))?;
    faults.push(Fault::BeforeCommit);
    let lost = store.side_take("race", "x", now).await;
    ensure(matches!(lost, Err(StoreError::Unavailable(_))), || format!("{lost:?}"))?;
    let race = (0..20).map(|_| store.side_take("race", "x", now));
    let won = join_all(race).await.into_iter().map(done).collect::<Result<Vec<_>, _>>()?;
    ensure(won.iter().filter(|w| w.is_some()).count() == 1, || format!("{won:?}"))?;
    let gone = done(store.side_replace("race", "x", vec![1], vec![2], None, now).await)?;
    ensure(!gone, || "a row that is gone was replaced".into())?;
    // The log goes on beside it, also after a lost side write.
    let (grant, _) =
        tokio::join!(store.commit(world.grant(1)), store.side_put("race", "y", vec![1], None));
    done(grant)?;
    faults.push(Fault::Fsync);
    let halted = store.side_put("race", "z", vec![1], None).await;
    ensure(matches!(halted, Err(StoreError::Halted(_))), || format!("{halted:?}"))?;
    let halted = store.commit(world.grant(2)).await;
    ensure(matches!(halted, Err(StoreError::Halted(_))), || format!("{halted:?}"))?;
    store.close().await;
    Ok(())
}

async fn root_of(store: &Store, size: u64) -> Result<Hash, String> {
    let mut frontier = grantwright_proof::Frontier::new();
    while frontier.size() < size {
        let limit = u32::try_from((size - frontier.size()).min(1000)).unwrap_or(1000);
        let leaves = done(store.leaves(frontier.size(), limit).await)?;
        ensure(!leaves.is_empty(), || "leaves are missing".into())?;
        leaves.iter().for_each(|(_, body)| frontier.append(leaf_hash(body)));
    }
    Ok(frontier.root())
}

/// Tiles, bundles and proofs of any part of the log lead to its checkpoint.
///
/// # Errors
/// In words.
pub async fn tiles_and_proofs_serve_the_log(url: String) -> Outcome {
    let (store, world) = begin(&url).await?;
    for chunk in 0..4 {
        let work = (chunk * 40..chunk * 40 + 40).map(|n| store.commit(world.grant(n)));
        for result in join_all(work).await {
            done(result)?;
        }
    }
    let head = store.head();
    let size = head.size;
    ensure(root_of(&store, size).await? == head.root, || "the leaves have another root".into())?;
    let kinds = [TileKind::Entries, TileKind::Hashes { level: 0 }, TileKind::Hashes { level: 1 }];
    for kind in kinds {
        let mut index = 0;
        while let Some(tile) = Tile::at_size(kind, index, size) {
            let bytes = done(store.tile(tile).await)?.ok_or_else(|| format!("no {tile}"))?;
            let right = match kind {
                TileKind::Entries => decode_entries(&bytes, tile.width()).is_ok(),
                TileKind::Hashes { .. } => bytes.len() == usize::from(tile.width()) * 32,
            };
            ensure(right, || format!("{tile}: {} bytes", bytes.len()))?;
            if kind == (TileKind::Hashes { level: 0 }) {
                let leaves = done(store.leaves(tile.first(), tile.width().into()).await)?;
                let hashes: Vec<u8> =
                    leaves.iter().flat_map(|(_, body)| leaf_hash(body).0).collect();
                ensure(hashes == bytes, || format!("{tile} holds other hashes"))?;
            }
            index += 1;
        }
        let beyond = Tile::new(kind, index, 1).map_err(|e| e.to_string())?;
        ensure(done(store.tile(beyond).await)?.is_none(), || format!("{beyond} is there"))?;
    }
    for index in [0, 1, 255, 256, size - 2, size - 1] {
        let proof = done(store.inclusion(index, size).await)?;
        let leaf = done(store.leaves(index, 1).await)?;
        let leaf = leaf.first().map(|(_, body)| leaf_hash(body)).ok_or("no leaf")?;
        verify_inclusion(leaf, index, size, &proof, head.root).map_err(|e| e.to_string())?;
    }
    let beyond = store.inclusion(0, size + 1).await;
    ensure(matches!(beyond, Err(StoreError::Ahead { .. })), || format!("{beyond:?}"))?;
    let beyond = store.inclusion(size, size).await;
    ensure(matches!(beyond, Err(StoreError::Invalid(_))), || format!("{beyond:?}"))?;
    store.close().await;
    Ok(())
}

/// Two brokers on one shared database: one total order, and each follows the other.
///
/// # Errors
/// In words.
pub async fn two_brokers_keep_one_order(url: String) -> Outcome {
    let world = World::new();
    let faults = Faults::default();
    let (a, b) = tokio::join!(open(&url, &faults), open(&url, &faults));
    let (a, b) = (a?, b?);
    done(a.commit(world.opening()).await)?;
    let mut checkpoints = Vec::new();
    for round in 0..10 {
        let work = (0..20).map(|n| {
            let store = if n % 2 == 0 { &a } else { &b };
            let mut grant = world.grant(round * 20 + n);
            grant.want_evidence = true;
            store.commit(grant)
        });
        for result in join_all(work).await {
            let evidence = done(result)?.evidence.ok_or("no evidence")?;
            check_evidence(&evidence, None)?;
            checkpoints.push(opened(&evidence.checkpoint)?);
        }
    }
    checkpoints.sort_by_key(Checkpoint::size);
    for (old, new) in checkpoints.iter().zip(checkpoints.iter().skip(1)) {
        let proof = done(a.consistency(old.size(), new.size()).await)?;
        verify_consistency(old.size(), old.root(), new.size(), new.root(), &proof)
            .map_err(|e| format!("{} to {}: {e}", old.size(), new.size()))?;
    }
    // Asked at one, voted at the other, intended at both: once.
    let asked = done(a.commit(world.ask(5000)).await)?;
    let twin = b.commit(world.ask_like(5001, 5000)).await;
    ensure(matches!(twin, Err(StoreError::AlreadyOpen { .. })), || format!("{twin:?}"))?;
    let voted = done(b.commit(world.vote(&state(&asked)?, "bob", Decision::Approve)).await)?;
    let approved = state(&voted)?;
    let (x, y) = tokio::join!(a.commit(world.intend(&approved)), b.commit(world.intend(&approved)));
    ensure(x.is_ok() != y.is_ok(), || format!("{x:?} {y:?}"))?;
    let taken = b.commit(world.grant(0)).await;
    ensure(matches!(taken, Err(StoreError::KeyTaken { .. })), || format!("{taken:?}"))?;
    // A right that ends at one has ended at the other.
    done(a.commit(world.revoke_agent()).await)?;
    done(b.refresh().await)?;
    let revoked = b.authority().agents.values().any(|agent| agent.revoked);
    ensure(revoked, || "the other broker does not know".into())?;
    let refused = b.commit(world.grant(9000)).await;
    ensure(matches!(&refused, Err(StoreError::Violation(v)) if v.rule == "agent-live"), || {
        format!("{refused:?}")
    })?;
    let size = a.head().size.max(b.head().size);
    ensure(root_of(&a, size).await? == b.head().root, || "two roots".into())?;
    a.close().await;
    b.close().await;
    Ok(())
}
