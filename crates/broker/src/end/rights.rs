//! Live leases end when the right they rest on does: the agent or its sidecar is revoked, its scope is
//! gone, its model lapsed from the register, or policy as it now is would refuse it or ask more people.
//!
//! Looked at whenever what decides changes, for whom it changed; for everybody at the start, so that a
//! broker that stopped in the middle leaves none, and each half hour, since rules and their times end too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use grantwright_domain::request::{LeaseState, Rights};
use grantwright_domain::{AgentId, Authority, Event, RequestState, Timestamp, VerdictKind};
use grantwright_policy::attributes;
use grantwright_store::Loaded;
use grantwright_wire::Refusal;

use super::many::Many;
use crate::core::Broker;
use crate::issue::decide;

const LOOK: Duration = Duration::from_millis(500);
/// Rules with an end and hours of the day: looked at by this, in milliseconds.
const ROUND_MS: i64 = 1_800_000;

/// What was in force at the last look.
#[derive(Default)]
pub struct Seen(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// Agents whose leases somebody is ending at this moment, and how often: they are not looked at meanwhile,
    /// so that nothing is ended twice.
    ending: BTreeMap<AgentId, u64>,
    /// Those that were left out for that: looked at when it is done.
    left_out: BTreeSet<AgentId>,
    seen: Option<(Arc<Authority>, Timestamp)>,
    /// Under these rights some could not be looked at: not tried again before.
    failed: Option<(Arc<Authority>, Timestamp)>,
}

/// While nothing is changed by anybody, time alone changes rights: looked at so often, in milliseconds.
const IDLE_MS: i64 = 5_000;
/// How many leases are looked at between two lines that tell how far it is.
const TOLD_EVERY: usize = 1000;
/// Pause after a look that could not be done for all, in milliseconds.
const PAUSE_MS: i64 = 30_000;

/// Whose live leases are to be looked at.
#[derive(Debug, PartialEq, Eq)]
enum Whose {
    Everybody,
    These(BTreeSet<AgentId>),
}

/// Looks again and again, until the process ends.
pub async fn watch(broker: Arc<Broker>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if broker.consistent().is_err() {
            continue;
        }
        // While policy is being replaced nothing is decided; the next look sees the new one.
        if let Err(refusal) = look(&broker).await
            && refusal.code != "policy_changing"
        {
            tracing::warn!(code = refusal.code, "live leases wait to be looked at again");
        }
    }
}

/// Looks once; says how many leases were ended.
///
/// # Errors
/// When the store cannot be read, or policy is being replaced; the next look sees the same again.
pub(crate) async fn look(broker: &Arc<Broker>) -> Result<u64, Refusal> {
    if !broker.config.guards.end_with_rights {
        return Ok(0);
    }
    let (authority, now) = (broker.authority(), broker.now());
    let (whose, ending) = {
        let inner = broker.rights.lock();
        // What changed since is looked at without delay.
        let waits = |(under, until): &(Arc<Authority>, Timestamp)| {
            Arc::ptr_eq(under, &authority) && now < *until
        };
        if inner.failed.as_ref().is_some_and(waits) {
            return Ok(0);
        }
        let idle = |(under, then): &(Arc<Authority>, Timestamp)| {
            Arc::ptr_eq(under, &authority) && now.since(*then) < IDLE_MS
        };
        let late = inner.left_out.iter().any(|agent| !inner.ending.contains_key(agent));
        if !late && inner.seen.as_ref().is_some_and(idle) {
            return Ok(0);
        }
        let mut whose = whose(inner.seen.as_ref(), &authority, now);
        let ending: BTreeSet<AgentId> = inner.ending.keys().cloned().collect();
        if let Whose::These(agents) = &mut whose {
            agents.extend(inner.left_out.iter().cloned());
        }
        (whose, Arc::new(ending))
    };
    let (mut ended, mut failed) = (0, 0);
    if whose != Whose::These(BTreeSet::new()) {
        if authority.policy_set.is_some() {
            decide::in_force(broker, &authority)?;
        }
        let agents: Vec<Option<AgentId>> = match whose {
            Whose::Everybody => {
                broker.rights.lock().left_out.extend(ending.iter().cloned());
                vec![None]
            }
            Whose::These(mut agents) => {
                let theirs = agents.intersection(&ending).cloned();
                broker.rights.lock().left_out.extend(theirs);
                agents.retain(|agent| !ending.contains(agent));
                agents.into_iter().map(Some).collect()
            }
        };
        (ended, failed) = all_of(broker, &agents, &ending).await?;
    }
    if ended > 0 {
        tracing::warn!(ended, failed, "live leases were ended with the rights behind them");
    }
    let mut inner = broker.rights.lock();
    inner.failed = (failed > 0).then(|| (Arc::clone(&authority), now.plus_millis(PAUSE_MS)));
    if failed == 0 {
        inner.seen = Some((authority, now));
        inner.left_out.retain(|agent| ending.contains(agent));
    }
    Ok(ended)
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody is ending the leases of this agent.
    pub(super) fn is_ending(&self, agent: &AgentId) -> bool {
        self.lock().ending.contains_key(agent)
    }

    /// Somebody ends the leases of an agent; until what is given back is dropped, nobody else looks at them.
    pub(super) fn begin(&self, agent: &AgentId) -> AtIt {
        *self.lock().ending.entry(agent.clone()).or_default() += 1;
        AtIt { inner: Arc::clone(&self.0), agent: agent.clone() }
    }
}

/// See [`Seen::begin`].
pub(super) struct AtIt {
    inner: Arc<Mutex<Inner>>,
    agent: AgentId,
}

impl Drop for AtIt {
    fn drop(&mut self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = inner.ending.get_mut(&self.agent) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                inner.ending.remove(&self.agent);
            }
        }
    }
}

fn whose(seen: Option<&(Arc<Authority>, Timestamp)>, now: &Authority, at: Timestamp) -> Whose {
    let Some((was, then)) = seen else { return Whose::Everybody };
    let round = |t: Timestamp| t.millis().div_euclid(ROUND_MS);
    if was.policy_set != now.policy_set || was.scopes != now.scopes || round(*then) != round(at) {
        return Whose::Everybody;
    }
    let mut changed = BTreeSet::new();
    for agent in now.agents.keys() {
        // What policy knows of an agent: empty once it is revoked, and whether its model is qualified.
        if attributes(was, agent, *then) != attributes(now, agent, at) {
            changed.insert(agent.clone());
        }
    }
    for (id, instance) in &now.instances {
        if instance.revoked && was.instances.get(id).is_some_and(|i| !i.revoked) {
            changed.insert(instance.agent.clone());
        }
    }
    // Policy asks about all who handed a right on.
    for delegation in now.delegations.values() {
        if delegation.chain.iter().any(|agent| changed.contains(agent)) {
            changed.insert(delegation.to.clone());
        }
    }
    Whose::These(changed)
}

/// Looks at the live leases of these agents (`None`: of all): how many were ended, how many could not be
/// looked at. Not those of the agents that somebody is `ending`.
async fn all_of(
    broker: &Arc<Broker>,
    agents: &[Option<AgentId>],
    ending: &Arc<BTreeSet<AgentId>>,
) -> Result<(u64, u64), Refusal> {
    let not_these = Arc::clone(ending);
    let mut many =
        Many::new(broker, "broker", move |broker, loaded| why(broker, loaded, &not_these));
    let looked = look_at_all(broker, &mut many, agents).await;
    let over = many.finish().await;
    let ended = u64::try_from(over.ended.len()).unwrap_or(u64::MAX);
    broker.counts.ended_with_rights.fetch_add(ended, Ordering::Relaxed);
    looked.map(|()| (ended, over.failed))
}

async fn look_at_all(
    broker: &Broker,
    many: &mut Many,
    agents: &[Option<AgentId>],
) -> Result<(), Refusal> {
    let mut looked = 0usize;
    for agent in agents {
        for id in super::living(broker, agent.as_ref()).await? {
            many.look_at(id).await;
            looked += 1;
            if looked.is_multiple_of(TOLD_EVERY) {
                let ended = many.ended();
                tracing::info!(looked, ended, "the rights behind live leases are looked at");
            }
        }
    }
    Ok(())
}

/// Why the lease of a request is to end with its right, if it is.
fn why(
    broker: &Broker,
    loaded: &Loaded,
    ending: &BTreeSet<AgentId>,
) -> Result<Option<&'static str>, Refusal> {
    let (now, authority) = (broker.now(), broker.authority());
    let live = loaded.state.lease.as_ref();
    let live = live.is_some_and(|l| l.state == LeaseState::Live && l.expires_at > now);
    if !live || ending.contains(&loaded.state.terms.agent) {
        return Ok(None);
    }
    lost(broker, &authority, &loaded.state, &peer_of(&loaded.leaves), now)
}

/// The address from which a request came, as its last verdict recorded it.
pub(super) fn peer_of(leaves: &[(u64, Event)]) -> String {
    let context = leaves.iter().rev().find_map(|(_, event)| match event {
        Event::Decided(decided) => Some(&decided.context),
        _ => None,
    });
    let peer = context.and_then(|c| c.get("peer")).and_then(serde_json::Value::as_str);
    peer.unwrap_or_default().to_owned()
}

/// Why a granted request would not be granted now; none: it would.
///
/// # Errors
/// While policy is being replaced.
pub(crate) fn lost(
    broker: &Broker,
    authority: &Authority,
    state: &RequestState,
    peer: &str,
    at: Timestamp,
) -> Result<Option<&'static str>, Refusal> {
    let terms = &state.terms;
    if authority.agents.get(&terms.agent).is_none_or(|a| a.revoked) {
        return Ok(Some("its agent is revoked"));
    }
    if authority.instances.get(&terms.instance).is_none_or(|i| i.revoked) {
        return Ok(Some("its sidecar is revoked"));
    }
    let delegation = terms.delegation_id.as_ref();
    if delegation.is_some_and(|id| authority.delegation(id, &terms.agent, at).is_err()) {
        return Ok(Some("its delegation is over"));
    }
    let Some(scope) =
        authority.catalog.get(&terms.template).filter(|s| authority.scopes.contains_key(&s.name))
    else {
        return Ok(Some("its scope is no longer there"));
    };
    let policy = decide::in_force(broker, authority)?;
    let (verdict, ..) = decide::evaluate(&policy, authority, state, scope, peer, at);
    let quorum = verdict.quorum as usize;
    Ok(match verdict.kind {
        VerdictKind::Allow => None,
        VerdictKind::Deny => Some("policy no longer allows it"),
        VerdictKind::Ask => {
            let mut asked = state.clone();
            asked.verdict = Some(verdict);
            // As they voted; whether their own right lasts is for `end_with_approvers`.
            let enough = quorum > 0 && asked.standing(Rights::Past, at).len() >= quorum;
            (!enough).then_some("policy now asks more people than approved it")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use grantwright_domain::authority::{Agent, Ownership};
    use grantwright_domain::event::Attributes;
    use grantwright_domain::{Delegation, DelegationId, Digest, HumanId, InstanceId};

    fn world() -> Authority {
        let mut authority = Authority::default();
        let owners = vec![Ownership { human: HumanId::parse("alice").unwrap(), until: None }];
        let attributes =
            Attributes { model: "m".into(), model_version: "1".into(), ..Attributes::default() };
        for name in ["etl", "other"] {
            let (owners, attributes) = (owners.clone(), attributes.clone());
            let agent = Agent { owners, attributes, revoked: false };
            authority.agents.insert(AgentId::parse(name).unwrap(), agent);
        }
        let until = Timestamp::from_millis(5_000);
        authority.models.insert(("m".into(), "1".into()), until);
        authority
    }

    #[test]
    fn only_those_are_looked_at_for_whom_something_changed() {
        let at = Timestamp::from_millis;
        let was = Arc::new(world());
        let seen = (Arc::clone(&was), at(1_000));
        let these = |names: &[&str]| {
            Whose::These(names.iter().map(|n| AgentId::parse(n).unwrap()).collect())
        };
        assert_eq!(whose(None, &was, at(1_000)), Whose::Everybody, "at the start");
        assert_eq!(whose(Some(&seen), &was, at(2_000)), these(&[]));
        assert_eq!(whose(Some(&seen), &was, at(6_000)), these(&["etl", "other"]), "model lapsed");
        assert_eq!(whose(Some(&seen), &was, at(ROUND_MS)), Whose::Everybody);
        let mut revoked = world();
        revoked.agents.get_mut(&AgentId::parse("etl").unwrap()).unwrap().revoked = true;
        assert_eq!(whose(Some(&seen), &revoked, at(2_000)), these(&["etl"]));
        // Whoever it handed a right on to loses it too.
        let id = DelegationId::parse("d-1").unwrap();
        let handed_on = Delegation {
            chain: vec![AgentId::parse("etl").unwrap()],
            instance: InstanceId::parse("i-1").unwrap(),
            to: AgentId::parse("other").unwrap(),
            parent: None,
            scopes: BTreeMap::new(),
            passes: 0,
            made_at: at(0),
            expires_at: at(9_000),
            ended_at: None,
        };
        revoked.delegations.insert(id, handed_on);
        assert_eq!(whose(Some(&seen), &revoked, at(2_000)), these(&["etl", "other"]));
        let mut reloaded = world();
        reloaded.policy_set = Some(Digest([1; 32]));
        assert_eq!(whose(Some(&seen), &reloaded, at(2_000)), Whose::Everybody);
    }
}
