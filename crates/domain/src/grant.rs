//! The permission to mint exactly D once. It has one constructor, no `Clone`, and is moved into the
//! minter, which sees nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::authority::Authority;
use crate::digest::Digest;
use crate::id::{AgentId, HumanId, LeaseId, RequestId};
use crate::param::Params;
use crate::request::{Phase, RequestState, Rights};
use crate::scope::Scope;
use crate::state::Violation;
use crate::time::Timestamp;

/// See the module.
#[derive(Debug)]
pub struct Grant {
    request: RequestId,
    lease: LeaseId,
    digest: Digest,
    agent: AgentId,
    trust_domain: String,
    scope: Arc<Scope>,
    params: Params,
    ttl_s: u32,
    approvers: BTreeSet<HumanId>,
    at: Timestamp,
}

impl Grant {
    /// Spends an intended request. `secret_params` are the sensitive values that lie beside the log.
    ///
    /// # Errors
    /// When the request is not at its intent, or the pinned template is missing or another one.
    pub fn spend(
        request: &RequestState,
        authority: &Authority,
        lease: LeaseId,
        secret_params: &Params,
        at: Timestamp,
    ) -> Result<Self, Violation> {
        if request.phase != Phase::Intended {
            return Err(Violation::rule(
                "intent",
                format!("a grant needs an intent, the request is {}", request.phase.word()),
            ));
        }
        let terms = &request.terms;
        let scope = authority.catalog.get(&terms.template).cloned().ok_or_else(|| {
            Violation::rule("scope-known", "the pinned template is missing".into())
        })?;
        if secret_params.keys().ne(terms.sealed_params.keys()) {
            return Err(Violation::rule(
                "params",
                "the sensitive parameters are not at hand".into(),
            ));
        }
        let mut params = terms.params.clone();
        params.extend(secret_params.iter().map(|(k, v)| (k.clone(), v.clone())));
        Ok(Self {
            request: terms.request_id.clone(),
            lease,
            digest: request.digest,
            agent: terms.agent.clone(),
            trust_domain: authority.trust_domain.clone(),
            scope,
            params,
            ttl_s: terms.ttl_s,
            approvers: request.standing(Rights::Now(authority), at),
            at,
        })
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> &RequestId {
        &self.request
    }
    /// The lease that will begin.
    #[must_use]
    pub fn lease(&self) -> &LeaseId {
        &self.lease
    }
    /// D.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }
    /// For whom.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }
    /// SPIFFE trust domain of the agent.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
    /// The pinned declaration.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
    /// The parameters, sensitive ones included.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }
    /// Lifetime in seconds.
    #[must_use]
    pub fn ttl_s(&self) -> u32 {
        self.ttl_s
    }
    /// Whose approvals stand; they stamp identity tags only.
    #[must_use]
    pub fn approvers(&self) -> &BTreeSet<HumanId> {
        &self.approvers
    }
    /// When the grant was spent.
    #[must_use]
    pub fn at(&self) -> Timestamp {
        self.at
    }
}
