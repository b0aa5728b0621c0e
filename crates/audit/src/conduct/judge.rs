//! What policy said, asked again: verdicts, and who may approve.

use std::collections::HashMap;
use std::sync::Arc;

use grantwright_domain::event::{Decided, Intended, PolicyLoaded, Voted};
use grantwright_domain::{
    Authority, Digest, HumanId, RequestId, RequestState, Scope, Timestamp, text,
};
use grantwright_policy::{Approval, PolicySet, Replayed, attributes};
use serde_json::{Map, Value};

use crate::report::Findings;
use crate::{CannotVerify, Source};

/// Replays decisions against the policy set in force.
#[derive(Default)]
pub(crate) struct Judge {
    /// The set in force; none when its blobs are missing or wrong, which is a finding of its own.
    set: Option<PolicySet>,
    /// What that set answered before.
    replayed: Replayed,
    /// Of each open request, what its last verdict rested on.
    last: HashMap<RequestId, Basis>,
}

struct Basis {
    policy_set: Digest,
    attributes: Map<String, Value>,
}

impl Judge {
    /// Reads what `policy_loaded` put in force; the scopes, or why it cannot be read. Blobs prove
    /// themselves by their digests.
    pub(crate) fn load(
        &mut self,
        e: &PolicyLoaded,
        source: &mut dyn Source,
    ) -> Result<Result<Vec<Arc<Scope>>, String>, CannotVerify> {
        self.set = None;
        self.replayed = Replayed::default();
        let Some(policies) = source.blob(&e.policy_set)? else {
            return Ok(Err(format!("policy set {} is not beside the log", e.policy_set)));
        };
        let mut scopes = Vec::with_capacity(e.scopes.len());
        for (name, digest) in &e.scopes {
            match source.blob(digest)? {
                Some(bytes) => scopes.push(bytes),
                None => return Ok(Err(format!("scope `{name}` ({digest}) is not beside the log"))),
            }
        }
        let set = match PolicySet::from_blobs(&policies, scopes) {
            Ok(set) => set,
            Err(faults) => {
                let why: Vec<String> = faults.iter().take(3).map(ToString::to_string).collect();
                return Ok(Err(format!("the policy set does not load: {}", why.join("; "))));
            }
        };
        let digests = set.scope_digests().map_err(|e| e.to_string());
        if set.digest() != e.policy_set || digests.as_ref() != Ok(&e.scopes) {
            return Ok(Err("the blobs beside the log are not those that the leaf names".into()));
        }
        let scopes = set.scopes().values().cloned().collect();
        self.set = Some(set);
        Ok(Ok(scopes))
    }

    /// A verdict is what policy gives for the agent as it was registered at that moment.
    pub(crate) fn verdict(
        &mut self,
        leaf: u64,
        e: &Decided,
        request: &RequestState,
        authority: &Authority,
        findings: &mut Findings,
    ) {
        if e.attributes != attributes(authority, &request.terms.agent, e.at) {
            let detail = "the attributes are not those that the log registers for the agent";
            findings.add(leaf, "attributes", detail);
        }
        if let (Some(set), Some(scope)) = (&self.set, scope(request, authority))
            && let Err(why) = set.replay_again(&mut self.replayed, e, &request.terms, scope)
        {
            findings.add(leaf, "verdict", text::shorten(&text::visible(&why), 500));
        }
        if request.phase.is_open() {
            let basis =
                Basis { policy_set: e.verdict.policy_set, attributes: e.attributes.clone() };
            self.last.insert(e.request_id.clone(), basis);
        } else {
            self.last.remove(&e.request_id);
        }
    }

    /// A vote names the policies that let its voter decide.
    pub(crate) fn vote(
        &self,
        leaf: u64,
        e: &Voted,
        request: &RequestState,
        authority: &Authority,
        findings: &mut Findings,
    ) {
        match self.may_approve(&e.request_id, &e.human, &e.channel, e.at, request, authority) {
            Some(Err(why)) => findings.add(leaf, "approve", why),
            Some(Ok(policies)) if policies != e.policies => {
                let detail = format!("the vote names {:?}, policy says {policies:?}", e.policies);
                findings.add(leaf, "policies", text::shorten(&text::visible(&detail), 500));
            }
            _ => {}
        }
    }

    /// At the intent the verdict is of the policy then in force, and each approver may still
    /// approve by it.
    pub(crate) fn intent(
        &mut self,
        leaf: u64,
        e: &Intended,
        request: &RequestState,
        authority: &Authority,
        findings: &mut Findings,
    ) {
        let decided_under = self.last.get(&e.request_id).map(|b| b.policy_set);
        if decided_under != authority.policy_set {
            let detail = "the verdict is of a policy set that is no longer in force at the intent";
            findings.add(leaf, "policy-set", detail);
        }
        for human in &e.approvers {
            // Through the channel of the vote that stands.
            let Some(vote) = request.votes.iter().rev().find(|v| v.live && &v.human == human)
            else {
                continue;
            };
            let answer =
                self.may_approve(&e.request_id, human, &vote.channel, e.at, request, authority);
            if let Some(Err(why)) = answer {
                findings.add(leaf, "approve", format!("at the intent: {why}"));
            }
        }
        self.last.remove(&e.request_id);
    }

    /// Forgets a request that ended.
    pub(crate) fn forget(&mut self, id: &RequestId) {
        self.last.remove(id);
    }

    /// None when there is nothing to ask: the blobs are missing, which is a finding already.
    fn may_approve(
        &self,
        id: &RequestId,
        human: &HumanId,
        channel: &str,
        at: Timestamp,
        request: &RequestState,
        authority: &Authority,
    ) -> Option<Result<std::collections::BTreeSet<String>, String>> {
        let (set, scope, basis) =
            (self.set.as_ref()?, scope(request, authority)?, self.last.get(id)?);
        let groups = authority.groups_of(human, at);
        let answer = set.may_approve(&Approval {
            human,
            groups: &groups,
            scope,
            params: &request.terms.params,
            agent: &request.terms.agent,
            attributes: &basis.attributes,
            ttl_s: request.terms.ttl_s,
            channel,
            at,
        });
        Some(answer.map_err(|r| {
            let why = text::visible(&r.to_string());
            format!("policy does not let `{human}` approve: {}", text::shorten(&why, 300))
        }))
    }
}

fn scope<'a>(request: &RequestState, authority: &'a Authority) -> Option<&'a Scope> {
    authority.catalog.get(&request.terms.template).map(AsRef::as_ref)
}
