//! What this log says was issued, by what backends call it.

use std::collections::{BTreeMap, HashMap};

use grantwright_domain::{
    AgentId, Digest, Event, HumanId, LeaseId, ParamValue, RequestId, Scope, ScopeName, Timestamp,
};
use serde_json::Value;

use super::{Backend, Names};
use crate::{CannotVerify, Source};

/// Leaves that are read at once.
const PAGE: usize = 4096;

/// A credential that was issued.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Its request.
    pub request: RequestId,
    /// Leaf of its "issued".
    pub leaf: u64,
    /// Whose audit log it appears in.
    pub backend: Backend,
    /// Whose.
    pub agent: AgentId,
    /// For what.
    pub scope: ScopeName,
    /// With which open parameters.
    pub params: BTreeMap<String, String>,
    /// Actions that its scope's template allows, in lower case; empty: not known.
    pub actions: Vec<String>,
    /// Who approved it.
    pub approvers: Vec<HumanId>,
    /// When it began.
    pub from: Timestamp,
    /// When it could no longer be used.
    pub until: Timestamp,
    /// What identifies it at its backend.
    pub facts: BTreeMap<String, String>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Leases {
    leases: Vec<Lease>,
    by_key: HashMap<String, usize>,
    by_session: HashMap<String, usize>,
    by_vault: HashMap<String, usize>,
    /// By their own id: leases whose token at Vault names it.
    by_token: HashMap<String, usize>,
    /// Agents' names: what the broker sets as source identity.
    pub(super) agents: Names,
    /// Roles that were assumed, `account/role`.
    pub(super) roles: Names,
    /// Paths at which Vault made leases for us, with their `/` at the end.
    pub(super) paths: Names,
    origin: String,
}

/// What an ask says of its lease.
struct Asked {
    agent: AgentId,
    scope: ScopeName,
    params: BTreeMap<String, String>,
    actions: Vec<String>,
    approvers: Vec<HumanId>,
}

impl Leases {
    /// Reads the whole log. It proves nothing: [`crate::verify`] does.
    ///
    /// # Errors
    /// [`CannotVerify::BadLeaf`] or [`CannotVerify::Unreadable`].
    pub fn of(source: &mut dyn Source) -> Result<Self, CannotVerify> {
        let mut out = Self::default();
        let mut asked: HashMap<RequestId, Asked> = HashMap::new();
        let mut places: HashMap<LeaseId, usize> = HashMap::new();
        let mut scopes: HashMap<Digest, Vec<String>> = HashMap::new();
        let mut next = 0;
        loop {
            let page = source.leaves(next, PAGE)?;
            let Some(after) = page.last().and_then(|(last, _)| last.checked_add(1)) else { break };
            if after <= next {
                break;
            }
            next = after;
            for (index, leaf) in page {
                let event = Event::from_leaf(&leaf)
                    .map_err(|e| CannotVerify::BadLeaf { leaf: index, why: e.to_string() })?;
                match event {
                    Event::EpochStarted(e) if out.origin.is_empty() => out.origin = e.origin,
                    Event::Opened(e) if out.origin.is_empty() => out.origin = e.origin,
                    Event::AgentSet(e) => {
                        out.agents.insert(e.agent.to_string());
                    }
                    Event::Requested(e) => {
                        let terms = e.terms;
                        let text = |v: &ParamValue| v.text();
                        let actions = match scopes.get(&terms.template) {
                            Some(known) => known.clone(),
                            None => {
                                let found = actions(source.blob(&terms.template)?);
                                scopes.insert(terms.template, found.clone());
                                found
                            }
                        };
                        let params =
                            terms.params.iter().map(|(n, v)| (n.clone(), text(v))).collect();
                        let (agent, scope) = (terms.agent, terms.scope);
                        let ask = Asked { agent, scope, params, actions, approvers: Vec::new() };
                        asked.insert(e.request_id, ask);
                    }
                    Event::Narrowed(e) => {
                        if let Some(ask) = asked.get_mut(&e.request_id) {
                            let params = e.terms.params.iter();
                            ask.params = params.map(|(n, v)| (n.clone(), v.text())).collect();
                        }
                    }
                    Event::Intended(e) => {
                        if let Some(ask) = asked.get_mut(&e.request_id) {
                            ask.approvers = e.approvers.into_iter().collect();
                        }
                    }
                    Event::Issued(e) => {
                        let Some(ask) = asked.remove(&e.request_id) else { continue };
                        places.insert(e.lease_id.clone(), out.leases.len());
                        out.add(Lease {
                            backend: backend(&e.facts),
                            id: e.lease_id,
                            request: e.request_id,
                            leaf: index,
                            agent: ask.agent,
                            scope: ask.scope,
                            params: ask.params,
                            actions: ask.actions,
                            approvers: ask.approvers,
                            from: e.at,
                            until: e.expires_at,
                            facts: e.facts,
                        });
                    }
                    Event::Renewed(e) => {
                        if let Some(lease) = out.lease_mut(&places, &e.lease_id) {
                            lease.until = e.expires_at;
                        }
                    }
                    Event::Revoked(e) if !e.still_valid => {
                        if let Some(lease) = out.lease_mut(&places, &e.lease_id) {
                            lease.until = lease.until.min(e.at);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(out)
    }

    fn lease_mut(&mut self, places: &HashMap<LeaseId, usize>, id: &LeaseId) -> Option<&mut Lease> {
        places.get(id).and_then(|place| self.leases.get_mut(*place))
    }

    fn add(&mut self, lease: Lease) {
        let place = self.leases.len();
        let fact = |name: &str| lease.facts.get(name).cloned();
        if let Some(key) = fact("access_key_id") {
            self.by_key.insert(key, place);
        }
        if let Some(session) = fact("role_session_name") {
            self.by_session.insert(session, place);
        }
        self.by_session.entry(lease.request.to_string()).or_insert(place);
        if let Some(role) = fact("assumed_role_arn").as_deref().and_then(role_of) {
            self.roles.insert(role);
        }
        if let Some(accessor) = fact("vault_accessor") {
            self.by_vault.insert(accessor, place);
            self.by_token.insert(lease.id.to_string(), place);
        }
        if let Some(id) = fact("vault_lease_id") {
            if let Some((path, _)) = id.rsplit_once('/') {
                self.paths.insert(format!("{path}/"));
            }
            self.by_vault.insert(id, place);
        }
        self.leases.push(lease);
    }

    /// All of them, in the order of their leaves.
    pub fn all(&self) -> impl Iterator<Item = &Lease> {
        self.leases.iter()
    }

    /// Origin of the log.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn by_key(&self, key: &str) -> Option<&Lease> {
        self.leases.get(*self.by_key.get(key)?)
    }

    pub(super) fn by_session(&self, session: &str) -> Option<&Lease> {
        self.leases.get(*self.by_session.get(session)?)
    }

    pub(super) fn by_vault(&self, id: &str) -> Option<&Lease> {
        self.leases.get(*self.by_vault.get(id)?)
    }

    pub(super) fn by_token(&self, lease: &str) -> Option<&Lease> {
        self.leases.get(*self.by_token.get(lease)?)
    }
}

/// `account/role` of `arn:aws:sts::account:assumed-role/role/session`.
pub(super) fn role_of(arn: &str) -> Option<String> {
    let mut parts = arn.splitn(6, ':').skip(4);
    let (account, resource) = (parts.next()?, parts.next()?);
    let role = resource.strip_prefix("assumed-role/")?.split('/').next()?;
    Some(format!("{account}/{role}"))
}

fn backend(facts: &BTreeMap<String, String>) -> Backend {
    if facts.contains_key("access_key_id") {
        Backend::CloudTrail
    } else if facts.contains_key("vault_lease_id") || facts.contains_key("vault_accessor") {
        Backend::Vault
    } else {
        Backend::Other
    }
}

/// Every action that a scope's template names.
fn actions(blob: Option<Vec<u8>>) -> Vec<String> {
    let scope = blob.and_then(|blob| serde_json::from_slice::<Scope>(&blob).ok());
    let mut out = Vec::new();
    if let Some(scope) = scope {
        let mut waiting: Vec<&Value> = scope.template.values().collect();
        // A template is at most as deep as its blob may be.
        while let Some(value) = waiting.pop() {
            match value {
                Value::Array(items) => waiting.extend(items),
                Value::Object(map) => {
                    if let Some(Value::Array(actions)) = map.get("actions") {
                        let texts = actions.iter().filter_map(Value::as_str);
                        out.extend(texts.map(str::to_ascii_lowercase));
                    }
                    waiting.extend(map.values());
                }
                _ => {}
            }
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}
