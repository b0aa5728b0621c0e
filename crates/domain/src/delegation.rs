//! Delegation: an agent hands another agent a narrower right, for a while: some scopes, smaller
//! parameters, shorter lives. Whoever asks under it asks for the whole chain of agents that handed it on.
//!
//! A delegation gives no right that policy does not give: policy is asked about the agent that asks and
//! about each that passed the right on. It is bound to its agent's certificate and is no secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::authority::{Authority, FORGET_MS};
use crate::digest::Digest;
use crate::event::{Delegated, DelegationEnded};
use crate::id::{AgentId, DelegationId, HumanId, InstanceId, ScopeName};
use crate::param::{ParamValue, Params};
use crate::request::Terms;
use crate::scope::Scope;
use crate::state::Violation;
use crate::time::Timestamp;

/// Most agents that pass a right on, one to the next.
pub const MAX_DEPTH: usize = 4;
/// Longest life of a delegation (24 h).
pub const LIFE_MS: i64 = 24 * 3_600_000;
/// Most scopes of one delegation.
pub const MAX_SCOPES: usize = 64;
/// Most delegations of one agent that are in force at a time.
pub const MAX_LIVE: usize = 100;
/// Most delegations of one agent that are remembered: those in force, and those that were over less than a
/// day ago. Each is held in memory, and looked through with every one that follows.
pub const MAX_KEPT: usize = 1000;

/// How much of a scope is handed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Digest of the scope's declaration: once it changes, the delegation covers it no longer.
    pub template: Digest,
    /// Each parameter that is listed must be there and be this or narrower; the others are free.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: Params,
    /// Longest lifetime in seconds.
    pub ttl_s: u32,
}

/// A right that was handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delegation {
    /// Agents that passed it on, first the outermost; the last is the one that made it.
    pub chain: Vec<AgentId>,
    /// The sidecar through which it was made.
    pub instance: InstanceId,
    /// Who may ask under it.
    pub to: AgentId,
    /// What it was passed on from.
    pub parent: Option<DelegationId>,
    /// What may be asked for.
    pub scopes: BTreeMap<ScopeName, Bounds>,
    /// How many times it may be passed on further.
    pub passes: u32,
    /// When it was made.
    pub made_at: Timestamp,
    /// Its end, by itself.
    pub expires_at: Timestamp,
    /// When it was ended, if it was.
    pub ended_at: Option<Timestamp>,
}

impl Delegation {
    /// True while it can be asked under. What it was passed on from is in force then too: the end of
    /// that ends this, and its life is no longer.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.ended_at.is_none() && now < self.expires_at
    }

    /// Everyone it concerns: the chain, and who may ask.
    pub fn agents(&self) -> impl Iterator<Item = &AgentId> {
        self.chain.iter().chain([&self.to])
    }

    /// Since when it is over, or from when on.
    #[must_use]
    pub fn over_at(&self) -> Timestamp {
        self.ended_at.map_or(self.expires_at, |at| at.min(self.expires_at))
    }
}

fn refuse(code: &'static str, detail: impl Into<String>) -> Violation {
    Violation::coded("delegation", code, detail.into())
}

fn wider(detail: impl Into<String>) -> Violation {
    refuse("delegation_wider", detail)
}

impl Authority {
    /// The delegation by which `agent` may ask or pass on at `now`. Another agent's is not found.
    ///
    /// # Errors
    /// The rule `delegation`: unknown, ended or expired.
    pub fn delegation(
        &self,
        id: &DelegationId,
        agent: &AgentId,
        now: Timestamp,
    ) -> Result<&Delegation, Violation> {
        let known = self.delegations.get(id).filter(|d| d.to == *agent);
        let known = known.ok_or_else(|| {
            refuse("delegation_unknown", format!("there is no delegation `{id}` to this agent"))
        })?;
        if known.ended_at.is_some() {
            return Err(refuse("delegation_ended", format!("delegation `{id}` was ended")));
        }
        if !known.is_live(now) {
            let detail = format!("delegation `{id}` expired at {}", known.expires_at);
            return Err(refuse("delegation_ended", detail));
        }
        Ok(known)
    }

    /// Whether what is asked lies within the delegation that it names; always so where it names none.
    /// What is issued ends no later than the delegation.
    ///
    /// # Errors
    /// The rule `delegation`.
    pub fn covers(&self, terms: &Terms, now: Timestamp) -> Result<(), Violation> {
        let Some(id) = &terms.delegation_id else {
            return match terms.delegation.is_empty() {
                true => Ok(()),
                false => Err(refuse("delegation_unknown", "the chain names no delegation")),
            };
        };
        let known = self.delegation(id, &terms.agent, now)?;
        if known.chain != terms.delegation {
            return Err(refuse("delegation_unknown", "the chain is not that of the delegation"));
        }
        let bounds = known.bounds(&terms.scope, &terms.template)?;
        if terms.ttl_s > bounds.ttl_s {
            return Err(wider(format!(
                "`ttl` of {} s is above the {} s of the delegation",
                terms.ttl_s, bounds.ttl_s
            )));
        }
        if now.plus_seconds(i64::from(terms.ttl_s)) > known.expires_at {
            return Err(wider(format!(
                "`ttl` of {} s is longer than delegation `{id}` lasts, until {}",
                terms.ttl_s, known.expires_at
            )));
        }
        self.within(&terms.scope, bounds, &terms.params)
    }

    /// When the delegation that these terms name ends by itself; none where they name none. One that is
    /// remembered no longer is over since long.
    #[must_use]
    pub fn lasts(&self, terms: &Terms) -> Option<Timestamp> {
        let known = self.delegations.get(terms.delegation_id.as_ref()?);
        Some(known.map_or(Timestamp::from_millis(0), |d| d.expires_at))
    }

    /// Since when the right that these terms name was handed on, by the first who did; none where they name
    /// none, or one that is remembered no longer.
    #[must_use]
    pub fn handed_since(&self, terms: &Terms) -> Option<Timestamp> {
        let mut known = self.delegations.get(terms.delegation_id.as_ref()?)?;
        for _ in 0..MAX_DEPTH {
            match known.parent.as_ref().and_then(|parent| self.delegations.get(parent)) {
                Some(parent) => known = parent,
                None => break,
            }
        }
        Some(known.made_at)
    }

    /// As [`Authority::lasts`], of a credential that is valid until `end`: no credential outlives the
    /// delegation under which it was asked for, however long its backend took.
    ///
    /// # Errors
    /// The rule `delegation`.
    pub fn outlasts(&self, terms: &Terms, end: Timestamp) -> Result<Option<Timestamp>, Violation> {
        match self.lasts(terms) {
            Some(last) if end > last => Err(refuse(
                "delegation_outlived",
                format!("the credential lasts until {end}, its delegation until {last}"),
            )),
            last => Ok(last),
        }
    }

    /// Whether every parameter that is bounded is there, and is as narrow.
    fn within(&self, name: &ScopeName, bounds: &Bounds, params: &Params) -> Result<(), Violation> {
        let scope = self.declared(name, &bounds.template)?;
        for (param, bound) in &bounds.params {
            let spec = scope.params.get(param);
            match (spec, params.get(param)) {
                (Some(spec), Some(value)) if spec.narrower_or_equal(bound, value) => {}
                (_, Some(value)) => {
                    return Err(wider(format!(
                        "params.{param}: `{}` is not within the delegation's `{}`",
                        value.text(),
                        bound.text()
                    )));
                }
                // Left out, it could mean all of it.
                (_, None) => {
                    return Err(wider(format!(
                        "params.{param}: is missing; the delegation is for `{}`",
                        bound.text()
                    )));
                }
            }
        }
        Ok(())
    }

    fn declared(&self, name: &ScopeName, template: &Digest) -> Result<&Scope, Violation> {
        self.catalog.get(template).map(AsRef::as_ref).ok_or_else(|| {
            Violation::rule("scope-known", format!("the declaration of `{name}` is missing"))
        })
    }

    /// Folds a delegation in.
    pub(crate) fn delegate(&mut self, e: &Delegated) -> Result<(), Violation> {
        let id = &e.delegation_id;
        if self.delegations.contains_key(id) {
            return Err(refuse("delegation_once", format!("delegation `{id}` exists")));
        }
        let lives = |agent| self.agents.get(agent).is_some_and(|a| !a.revoked);
        let mine = self.instances.get(&e.instance).is_some_and(|i| i.agent == e.from && !i.revoked);
        if !lives(&e.from) || !mine {
            let detail = format!("agent `{}` or its instance is unknown or revoked", e.from);
            return Err(Violation::rule("agent-live", detail));
        }
        if !lives(&e.to) {
            let detail = format!("there is no agent `{}` to hand a right to", e.to);
            return Err(refuse("delegate_unknown", detail));
        }
        let parent = e.parent.as_ref().map(|p| self.delegation(p, &e.from, e.at)).transpose()?;
        let mut chain = parent.map(|p| p.chain.clone()).unwrap_or_default();
        chain.push(e.from.clone());
        if chain.contains(&e.to) {
            let detail = format!("`{}` is among those who pass the right on", e.to);
            return Err(refuse("delegation_cycle", detail));
        }
        if chain.len().saturating_add(e.passes as usize) > MAX_DEPTH {
            let detail = format!("a right is passed on {MAX_DEPTH} times at most");
            return Err(refuse("delegation_depth", detail));
        }
        if parent.is_some_and(|p| p.passes <= e.passes) {
            let detail = "it may not be passed on, or not so often".to_owned();
            return Err(refuse("delegation_depth", detail));
        }
        let latest = parent.map_or(e.at.plus_millis(LIFE_MS), |p| p.expires_at);
        if e.expires_at <= e.at || e.expires_at > latest {
            return Err(wider(format!(
                "its end is to lie after now, and at {latest} at the latest"
            )));
        }
        if e.scopes.is_empty() || e.scopes.len() > MAX_SCOPES {
            return Err(wider(format!("it wants 1 to {MAX_SCOPES} scopes")));
        }
        for (name, bounds) in &e.scopes {
            self.handed(name, bounds, parent)?;
        }
        self.delegations.retain(|_, d| d.over_at().plus_millis(FORGET_MS) > e.at);
        let mine = |d: &&Delegation| d.chain.last() == Some(&e.from);
        if self.delegations.values().filter(mine).count() >= MAX_KEPT {
            let detail = format!("this agent made {MAX_KEPT} delegations within a day");
            return Err(refuse("delegation_bound", detail));
        }
        let live = self.delegations.values().filter(mine).filter(|d| d.is_live(e.at));
        if live.count() >= MAX_LIVE {
            let detail = format!("{MAX_LIVE} delegations of this agent are in force already");
            return Err(refuse("delegation_bound", detail));
        }
        let delegation = Delegation {
            chain,
            instance: e.instance.clone(),
            to: e.to.clone(),
            parent: e.parent.clone(),
            scopes: e.scopes.clone(),
            passes: e.passes,
            made_at: e.at,
            expires_at: e.expires_at,
            ended_at: None,
        };
        self.delegations.insert(id.clone(), delegation);
        Ok(())
    }

    /// One scope that is handed on: in force, of its types, and no wider than what `parent` has of it.
    fn handed(
        &self,
        name: &ScopeName,
        bounds: &Bounds,
        parent: Option<&Delegation>,
    ) -> Result<(), Violation> {
        if self.scopes.get(name) != Some(&bounds.template) {
            let detail = format!("scope `{name}` is not in force with this template");
            return Err(Violation::rule("scope-pinned", detail));
        }
        let scope = self.declared(name, &bounds.template)?;
        if bounds.ttl_s == 0 || bounds.ttl_s > scope.ttl.max_s {
            let most = scope.ttl.max_s;
            return Err(wider(format!("{name}: its lifetime is 1 to {most} s")));
        }
        for (param, value) in &bounds.params {
            let fits = |value: &ParamValue| {
                let spec = scope.params.get(param).filter(|s| !s.sensitive);
                spec.is_some_and(|s| s.check(param, &value.json()).is_ok())
            };
            if !fits(value) {
                let detail = format!("{name}: params.{param} is no value that can bound it");
                return Err(refuse("delegation_params", detail));
            }
        }
        let Some(parent) = parent else { return Ok(()) };
        let had = parent.bounds(name, &bounds.template)?;
        if bounds.ttl_s > had.ttl_s {
            return Err(wider(format!("{name}: `ttl` is above the {} s handed on", had.ttl_s)));
        }
        self.within(name, had, &bounds.params)
    }

    /// Whether this person may end a delegation: an operator, or the owner of one of its agents.
    #[must_use]
    pub fn may_end(&self, delegation: &Delegation, human: &HumanId) -> bool {
        let mut agents = delegation.agents().filter_map(|a| self.agents.get(a));
        self.is_operator(human)
            || (self.humans.get(human).is_some_and(|h| h.active)
                && agents.any(|a| a.owner() == Some(human)))
    }

    /// Folds the end of a delegation in.
    pub(crate) fn end_delegation(&mut self, e: &DelegationEnded) -> Result<(), Violation> {
        let known = self.delegations.get(&e.delegation_id).filter(|d| d.is_live(e.at));
        let known = known.ok_or_else(|| {
            refuse("delegation_unknown", "there is no such delegation, or it has ended")
        })?;
        let may = match (&e.agent, &e.human) {
            (Some(agent), None) => known.agents().any(|a| a == agent),
            (None, Some(human)) => self.may_end(known, human),
            _ => false,
        };
        if !may {
            let detail = "only its agents, their owners and operators end a delegation";
            return Err(refuse("delegation_foreign", detail));
        }
        let id = e.delegation_id.clone();
        if let Some(d) = self.delegations.get_mut(&id) {
            d.ended_at = Some(e.at);
        }
        self.end_delegations(e.at, |_| false);
        Ok(())
    }

    /// Ends what `which` names, and what was passed on from what has ended.
    pub(crate) fn end_delegations(&mut self, at: Timestamp, which: impl Fn(&Delegation) -> bool) {
        let hit = self.delegations.values_mut().filter(|d| d.ended_at.is_none() && which(d));
        hit.for_each(|d| d.ended_at = Some(at));
        for _ in 0..MAX_DEPTH {
            let known = &self.delegations;
            let ended = |id: &DelegationId| known.get(id).is_none_or(|d| d.ended_at.is_some());
            let orphans: Vec<DelegationId> = known
                .iter()
                .filter(|(_, d)| d.ended_at.is_none() && d.parent.as_ref().is_some_and(ended))
                .map(|(id, _)| id.clone())
                .collect();
            for id in orphans {
                if let Some(d) = self.delegations.get_mut(&id) {
                    d.ended_at = Some(at);
                }
            }
        }
    }
}

impl Delegation {
    /// What is handed on of a scope, as it is declared now.
    fn bounds(&self, name: &ScopeName, template: &Digest) -> Result<&Bounds, Violation> {
        let bounds = self.scopes.get(name);
        let bounds = bounds.ok_or_else(|| wider(format!("scope `{name}` was not handed on")))?;
        if bounds.template != *template {
            let detail = format!("scope `{name}` was changed since it was handed on");
            return Err(wider(detail));
        }
        Ok(bounds)
    }
}
