//! What fails: transactions, disks, and input beyond its bounds.

use grantwright_domain::Phase;
use grantwright_proof::verify_consistency;

use super::{
    Outcome, begin, done, ensure, open, opened, state,
    world::{self, World},
};
use crate::{Fault, Faults, Side, StoreError, Text, Transition};

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
