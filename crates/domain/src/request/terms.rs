//! What is asked for: everything that D covers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::canonical::{self, CanonicalError};
use crate::digest::Digest;
use crate::id::{AgentId, DelegationId, HumanId, InstanceId, RequestId, ScopeName};
use crate::param::Params;
use crate::process::LocalProcess;
use crate::scope::Scope;
use crate::time::Timestamp;

/// Everything D covers. Free text and sensitive values enter as salted commitments.
// In canonical order, as the log writes them: nothing need be sorted for a leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Who asks.
    pub agent: AgentId,
    /// When the undecided request ends; pauses do not change it.
    pub decide_by: Timestamp,
    /// Agents that passed the right on, first the outermost.
    pub delegation: Vec<AgentId>,
    /// By which delegation; absent: by the agent's own right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation_id: Option<DelegationId>,
    /// Through which sidecar.
    pub instance: InstanceId,
    /// The human on whose behalf the task runs, when proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<HumanId>,
    /// Origin of the log.
    pub origin: String,
    /// Open parameters.
    pub params: Params,
    /// The process that asked, as the sidecar saw it; absent where a token names the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<LocalProcess>,
    /// Commitment to the reason.
    pub reason: Digest,
    /// The request.
    pub request_id: RequestId,
    /// What is asked for.
    pub scope: ScopeName,
    /// Commitments to sensitive parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sealed_params: BTreeMap<String, Digest>,
    /// Commitment to the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Digest>,
    /// Digest of the scope's declaration, template included.
    pub template: Digest,
    /// Lifetime in seconds.
    pub ttl_s: u32,
    /// Version of this structure: 1.
    pub version: u32,
    /// Which local workload.
    pub workload: String,
}

impl Terms {
    /// D.
    ///
    /// # Errors
    /// Never for terms that were parsed; the canonical form has no floats or nulls.
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        canonical::digest("request", self)
    }

    /// What makes two asks identical (never reason or task); across instances they are separate.
    ///
    /// # Errors
    /// As [`Terms::digest`].
    pub fn identity(&self) -> Result<Digest, CanonicalError> {
        let asked = (
            &self.agent,
            &self.instance,
            &self.workload,
            &self.delegation,
            self.on_behalf_of.as_ref().map_or("", HumanId::as_str),
            &self.scope,
            &self.template,
            &self.params,
            &self.sealed_params,
            self.ttl_s,
        );
        match (&self.process, &self.delegation_id) {
            (None, None) => canonical::digest("identical", &asked),
            (Some(process), None) => canonical::digest("identical", &(asked, process.identity())),
            (process, Some(id)) => {
                let process = process.as_ref().map(LocalProcess::identity).into_iter();
                canonical::digest("identical", &(asked, id, process.collect::<Vec<_>>()))
            }
        }
    }

    /// What a deny sticks to: agent, scope and parameters only.
    ///
    /// # Errors
    /// As [`Terms::digest`].
    pub fn deny_key(&self) -> Result<Digest, CanonicalError> {
        canonical::digest("denied", &(&self.agent, &self.scope, &self.params, &self.sealed_params))
    }

    /// Checks that `new` is these terms made narrower and nothing else.
    ///
    /// # Errors
    /// Says which field is wider or changed.
    pub fn narrows_to(&self, new: &Self, scope: &Scope) -> Result<(), String> {
        let same = Self { params: self.params.clone(), ttl_s: self.ttl_s, ..new.clone() };
        if &same != self {
            return Err("only the lifetime and parameters can be narrowed".into());
        }
        if new.ttl_s == 0 || new.ttl_s > self.ttl_s {
            return Err(format!("ttl: {} s is not within {} s", new.ttl_s, self.ttl_s));
        }
        if self.params.keys().ne(new.params.keys()) {
            return Err("params: the same parameters must be there".into());
        }
        for ((name, old), (_, value)) in self.params.iter().zip(&new.params) {
            let ordered = scope.params.get(name).is_some_and(|s| s.narrower_or_equal(old, value));
            if !ordered {
                return Err(format!(
                    "params.{name}: `{}` is not within `{}`",
                    value.text(),
                    old.text()
                ));
            }
        }
        if new.ttl_s == self.ttl_s && new.params == self.params {
            return Err("nothing is narrower".into());
        }
        Ok(())
    }
}
