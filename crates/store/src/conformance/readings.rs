//! Lists, leases, due work and searches.

use grantwright_domain::{HumanId, LeaseId, Phase, Timestamp};

use super::{Outcome, begin, done, ensure, state, world};
use crate::{LeaseFilter, RequestFilter, RequestSearch, Store, StoreError};

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
