//! A loaded policy set: the texts, the scopes they were checked against, and what was built of both.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use cedar_policy::{Authorizer, PolicyId};
use cedar_policy_core::ast::Entity;
use grantwright_domain::{AgentId, Digest, Scope, ScopeName, Terms, Timestamp};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};

use crate::facts::{self, Kinds};
use crate::index::Index;
use crate::remembered::Remembered;
use crate::rule::Rule;

/// Scopes and policies, checked against each other. Everything is decided by pure functions of it.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) blob: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) texts: BTreeMap<String, String>,
    /// Some policy may look at the time.
    pub(crate) minds_time: bool,
    pub(crate) zone: TimeZone,
    pub(crate) zone_name: String,
    pub(crate) scopes: BTreeMap<ScopeName, Arc<Scope>>,
    /// The scopes again, as decisions find them.
    pub(crate) known: HashMap<ScopeName, Known>,
    pub(crate) rules: HashMap<PolicyId, Rule>,
    pub(crate) index: Index,
    pub(crate) kinds: Kinds,
    pub(crate) authorizer: Authorizer,
    pub(crate) remembered: Remembered,
}

/// A scope and its entity.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) scope: Arc<Scope>,
    pub(crate) entity: Arc<Entity>,
    /// [`PolicySet::minds_params`], once it was asked for.
    pub(crate) minds_params: OnceLock<bool>,
}

impl Known {
    pub(crate) fn new(scope: &Arc<Scope>, kinds: &Kinds) -> Self {
        let entity = kinds.scope(scope);
        Self { scope: Arc::clone(scope), entity, minds_params: OnceLock::new() }
    }

    /// True when `pinned` is the declaration in this set.
    pub(crate) fn is(&self, pinned: &Scope) -> bool {
        std::ptr::eq(self.scope.as_ref(), pinned) || self.scope.as_ref() == pinned
    }
}

impl PolicySet {
    /// The canonical bytes `{"policies": {file: text}, "zone": …}` that lie beside the log.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Digest of [`PolicySet::blob`] under the label `policy-set`.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The policy texts, by file.
    #[must_use]
    pub fn texts(&self) -> &BTreeMap<String, String> {
        &self.texts
    }

    /// The name of the time zone in which policies see hours, weekdays and dates.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// The scopes, by name.
    #[must_use]
    pub fn scopes(&self) -> &BTreeMap<ScopeName, Arc<Scope>> {
        &self.scopes
    }

    /// The digests of the scopes, as the leaf `policy_loaded` names them.
    ///
    /// # Errors
    /// Never for scopes that were loaded: their canonical form was tried.
    pub fn scope_digests(
        &self,
    ) -> Result<BTreeMap<ScopeName, Digest>, grantwright_domain::CanonicalError> {
        self.scopes.iter().map(|(n, s)| Ok((n.clone(), s.digest()?))).collect()
    }

    /// Where a policy stands: file and line, counted from 1.
    #[must_use]
    pub fn place(&self, policy: &str) -> Option<(&str, usize)> {
        let rule = self.rules.get(&PolicyId::new(policy))?;
        Some((&rule.place.file, rule.place.line))
    }

    /// A policy's own text, as it stands in its file.
    #[must_use]
    pub fn source(&self, policy: &str) -> Option<&str> {
        let rule = self.rules.get(&PolicyId::new(policy))?;
        let rest = self.texts.get(&rule.place.file)?.get(rule.offset..)?;
        crate::statement::split(rest).first().map(|s| s.text)
    }

    /// The schema that the policies were checked against.
    #[must_use]
    pub fn schema_text(&self) -> String {
        crate::schema::schema_text(self.scopes.values().map(AsRef::as_ref))
    }

    /// The context of a decision at `now`, as `decided` records it: `peer` is what the connection
    /// itself proves (never the agent's words), `delegation` and `on_behalf_of` are as in the terms.
    #[must_use]
    pub fn context(
        &self,
        now: Timestamp,
        peer: &str,
        delegation: &[AgentId],
        on_behalf_of: bool,
    ) -> Map<String, Value> {
        facts::context(&self.zone, now, peer, delegation, on_behalf_of)
    }

    /// As [`PolicySet::context`], of a request's terms: with what the sidecar saw of the process that
    /// asks, where it did.
    #[must_use]
    pub fn context_of(&self, now: Timestamp, peer: &str, terms: &Terms) -> Map<String, Value> {
        let behalf = terms.on_behalf_of.is_some();
        let mut out = facts::context(&self.zone, now, peer, &terms.delegation, behalf);
        if let Some(process) = &terms.process {
            out.insert("workload".into(), facts::workload(process));
        }
        out
    }
}
