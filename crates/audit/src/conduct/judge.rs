//! What policy said, asked again: verdicts, and who may approve.

use std::sync::Arc;

use grantwright_domain::event::{Decided, Intended, PolicyLoaded, Voted};
use grantwright_domain::{
    Authority, Digest, Event, FoldMap, HumanId, RequestId, RequestState, Scope, Timestamp,
    VerdictKind, text,
};
use grantwright_policy::{Approval, Moment, PolicySet, Replayed, attributes, attributes_are};
use serde_json::{Map, Value};

use crate::report::Findings;
use crate::shape::Like;
use crate::{CannotVerify, Sets, Source};

/// Replays decisions against the policy set in force.
#[derive(Default)]
pub(crate) struct Judge {
    /// The set in force; none when its blobs are missing or wrong, which is a finding of its own.
    set: Option<Arc<PolicySet>>,
    sets: Sets,
    /// What that set answered before.
    replayed: Replayed,
    /// Shapes of an ask and of the decision upon it whose verdict this set gives, with the date.
    again: FoldMap<(u64, u64), String>,
    /// Of a scope's declaration, whether its verdicts may rest on parameters.
    minds_params: FoldMap<Digest, bool>,
    /// The second that was asked for last.
    second: Option<(i64, Moment)>,
    /// The shapes of asks that are not decided yet, whose parameters are of their types.
    asked: FoldMap<RequestId, u64>,
    /// Of each request that waits for people, what its last verdict rested on.
    last: FoldMap<RequestId, Basis>,
}

/// The attributes of an agent, and of those that passed the right on to it.
struct Basis {
    attributes: Map<String, Value>,
    chain: Vec<Map<String, Value>>,
}

/// Most pairs of shapes that are remembered.
const MOST_PAIRS: usize = 65_536;

impl Judge {
    pub(crate) fn new(sets: Sets) -> Self {
        Self { sets, ..Self::default() }
    }

    /// Reads what `policy_loaded` put in force; the scopes, or why it cannot be read. Blobs prove
    /// themselves by their digests.
    pub(crate) fn load(
        &mut self,
        e: &PolicyLoaded,
        source: &mut dyn Source,
    ) -> Result<Result<Vec<Arc<Scope>>, String>, CannotVerify> {
        self.set = None;
        self.replayed = Replayed::default();
        self.again.clear();
        self.minds_params.clear();
        self.second = None;
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
        let set = match self.sets.compiled(policies, scopes) {
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
        let chain = request.terms.delegation.iter().map(|a| attributes(authority, a, e.at));
        if !chain.eq(e.chain.iter().cloned())
            || e.attributes != attributes(authority, &request.terms.agent, e.at)
        {
            let detail = "the attributes are not those that the log registers for the agent";
            findings.add(leaf, "attributes", detail);
        }
        if let (Some(set), Some(scope)) = (&self.set, scope(request, authority))
            && let Err(why) = set.replay_again(&mut self.replayed, e, &request.terms, scope)
        {
            findings.add(leaf, "verdict", text::shorten(&text::visible(&why), 500));
        }
        self.rests_on(&e.request_id, &e.attributes, &e.chain, request);
    }

    /// Remembers what a verdict rested on for as long as people may be asked about it.
    fn rests_on(
        &mut self,
        id: &RequestId,
        attributes: &Map<String, Value>,
        chain: &[Map<String, Value>],
        request: &RequestState,
    ) {
        let asks = request.verdict.as_ref().is_some_and(|v| v.kind == VerdictKind::Ask);
        if request.phase.is_open() && asks {
            let basis = Basis { attributes: attributes.clone(), chain: chain.to_vec() };
            self.last.insert(id.clone(), basis);
        } else if !self.last.is_empty() {
            self.last.remove(id);
        }
    }

    /// Remembers the shape of an ask whose parameters are of their types.
    pub(crate) fn asked(&mut self, id: RequestId, shape: u64) {
        self.asked.insert(id, shape);
    }

    /// As [`Judge::verdict`], of a leaf that is like one which was read: where ask and decision are like
    /// those of a verdict that policy was found to give, and differ in nothing that it could rest on, it
    /// gives this one too.
    pub(crate) fn verdict_like(
        &mut self,
        leaf: u64,
        body: &[u8],
        like: Like<'_>,
        request: &RequestState,
        authority: &Authority,
        findings: &mut Findings,
    ) {
        let Event::Decided(e) = &like.read.event else { return };
        let id = &request.terms.request_id;
        let pair = self.asked.remove(id).map(|asked| (asked, like.read.id));
        let known = self.moment(request.last_at).is_some_and(|m| like.time() == m.record);
        let date = self.second.as_ref().map(|(_, m)| m.date.clone()).unwrap_or_default();
        // Its first decision, upon the very terms that were asked.
        let pair =
            pair.filter(|_| known && request.version == 2 && request.terms.delegation.is_empty());
        if let Some(pair) = &pair
            && self.again.get(pair) == Some(&date)
            && attributes_are(&e.attributes, authority, &request.terms.agent, request.last_at)
        {
            self.rests_on(id, &e.attributes, &e.chain, request);
            return;
        }
        let before = findings.count();
        match Event::from_leaf(body) {
            Ok(Event::Decided(e)) => self.verdict(leaf, &e, request, authority, findings),
            Ok(_) => {}
            Err(why) => findings.add(leaf, "canonical", why.to_string()),
        }
        if findings.count() == before
            && let Some(pair) = pair
            && self.rests_on_shape(request, authority)
        {
            if self.again.len() >= MOST_PAIRS {
                self.again.clear();
            }
            self.again.insert(pair, date);
        }
    }

    /// Whether a verdict upon this request can rest on nothing that differs between leaves of a shape,
    /// beside the date.
    fn rests_on_shape(&mut self, request: &RequestState, authority: &Authority) -> bool {
        let (Some(set), Some(scope)) = (&self.set, scope(request, authority)) else { return false };
        let template = request.terms.template;
        let minds = self.minds_params.entry(template).or_insert_with(|| set.minds_params(scope));
        !set.minds_time() && !*minds
    }

    fn moment(&mut self, at: Timestamp) -> Option<&Moment> {
        let second = at.seconds();
        if self.second.as_ref().is_none_or(|(known, _)| *known != second) {
            self.second = Some((second, self.set.as_ref()?.moment(at)?));
        }
        self.second.as_ref().map(|(_, moment)| moment)
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
        if request.decided_under != authority.policy_set {
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
        self.forget(&e.request_id);
    }

    /// Forgets a request that is no longer open.
    pub(crate) fn forget(&mut self, id: &RequestId) {
        if !self.last.is_empty() {
            self.last.remove(id);
        }
        if !self.asked.is_empty() {
            self.asked.remove(id);
        }
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
            terms: &request.terms,
            attributes: &basis.attributes,
            chain: &basis.chain,
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
