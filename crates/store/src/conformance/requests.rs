//! Requests: what names one, what opens one, and what a refusal leaves.

use futures_util::future::join_all;
use grantwright_domain::Phase;
use grantwright_domain::event::Decision;

use super::{Outcome, begin, done, ensure, state, world};
use crate::{Committed, StoreError, Transition};

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
