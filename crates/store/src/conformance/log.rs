//! The log: checkpoints, proofs, epochs, and one order for all.

use futures_util::future::join_all;
use grantwright_domain::event::Decision;
use grantwright_proof::{
    Checkpoint, Hash, Tile, TileKind, leaf_hash, tile::decode_entries, verify_consistency,
    verify_inclusion,
};

use super::{
    Outcome, begin, check_evidence, done, ensure, open, opened, state,
    world::{self, World},
};
use crate::{Faults, Store, StoreError, Transition};

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
