//! The fold of every leaf through the rules: `domain` for who may do what when, Cedar for what
//! policy said.

mod judge;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use grantwright_domain::event::{PolicyLoaded, Requested, Voted};
use grantwright_domain::{Event, HumanId, Phase, RequestId, State, Timestamp, Violation, param};
use grantwright_proof::PasskeyError;
use grantwright_proof::passkey::verify_vote;
use serde_json::Value;

use crate::report::{Findings, OpenIntent};
use crate::texts::Commitments;
use crate::{CannotVerify, Source};
use judge::Judge;

/// Leaves are written in order by one writer; brokers' clocks differ by less than this (5 min).
const CLOCK_BOUND_MS: i64 = 300_000;

/// Everything the leaves say so far, and what was wrong with it.
#[derive(Default)]
pub(crate) struct Conduct {
    state: State,
    judge: Judge,
    /// Commitments to the texts beside the leaves.
    pub(crate) texts: Commitments,
    /// Requests that broke a rule: nothing that follows about them can be judged.
    broken: HashSet<RequestId>,
    /// The time of the verification, if it is to be compared.
    pub(crate) now: Option<Timestamp>,
    /// Time of the last leaf.
    last: Option<Timestamp>,
    /// Votes by channel that are not signed by their voters.
    votes: BTreeMap<String, u64>,
    /// Nonces of signed votes, each with its leaf.
    nonces: HashMap<String, u64>,
    /// Votes of people as whom another could have acted, by both: all, and those where that other had
    /// changed the agent or a group of approvers within the day.
    stood_in: BTreeMap<(HumanId, HumanId), (u64, u64)>,
}

impl Conduct {
    /// Folds the next leaf in.
    pub(crate) fn fold(
        &mut self,
        event: &Event,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        let leaf = self.state.size;
        self.time(leaf, event.at(), findings);
        self.texts.learn(leaf, event);
        if event.request_id().is_some_and(|id| self.broken.contains(id)) {
            // Saying more about a request that broke a rule would be guessing.
            self.state.size += 1;
            return Ok(());
        }
        if let Err(violation) = self.state.apply(event) {
            self.state.size = leaf + 1;
            findings.add(leaf, violation.rule, describe(&violation));
            if let Some(id) = event.request_id() {
                self.state.requests.remove(id);
                self.judge.forget(id);
                self.broken.insert(id.clone());
            }
            return Ok(());
        }
        match event {
            Event::PolicyLoaded(e) => self.load(leaf, e, source, findings)?,
            Event::Requested(e) => self.params(leaf, e, findings),
            Event::Voted(e) => {
                self.signature(leaf, e, findings);
                self.stand_ins(e);
            }
            _ => {}
        }
        let authority = &self.state.authority;
        let Some((id, request)) = event.request_id().and_then(|id| {
            let request = self.state.requests.get(id)?;
            Some((id, request))
        }) else {
            return Ok(());
        };
        match event {
            Event::Decided(e) => self.judge.verdict(leaf, e, request, authority, findings),
            Event::Voted(e) => self.judge.vote(leaf, e, request, authority, findings),
            Event::Intended(e) => self.judge.intent(leaf, e, request, authority, findings),
            _ => {}
        }
        if !request.phase.is_open() {
            self.judge.forget(id);
        }
        Ok(())
    }

    /// Counts a leaf that is not an event.
    pub(crate) fn unreadable(&mut self, leaf: u64, why: &str, findings: &mut Findings) {
        self.state.size += 1;
        findings.add(leaf, "canonical", format!("not a leaf of a known kind: {why}"));
    }

    fn time(&mut self, leaf: u64, at: Timestamp, findings: &mut Findings) {
        if let Some(last) = self.last
            && last.since(at) > CLOCK_BOUND_MS
        {
            let detail = format!("it happened at {at}, but the leaf before it at {last}");
            findings.add(leaf, "time", detail);
        }
        if let Some(now) = self.now
            && at.since(now) > CLOCK_BOUND_MS
        {
            findings.add(leaf, "time", format!("it happened at {at}, which is after now ({now})"));
        }
        self.last = Some(at);
    }

    /// A vote that carries a proof was signed by the passkey that it names, over this very vote and
    /// once. Whose passkey it is, and that it was enrolled before and has not ended, the rules said.
    fn signature(&mut self, leaf: u64, e: &Voted, findings: &mut Findings) {
        let Some(proof) = &e.proof else {
            *self.votes.entry(e.channel.clone()).or_default() += 1;
            return;
        };
        let text = |name: &str| proof.get(name).and_then(Value::as_str).unwrap_or_default();
        let authority = &self.state.authority;
        let refused = match authority.passkeys.get(text("credential_id")) {
            Some(passkey) => verify_vote(e, passkey, &authority.origin, None).err(),
            None => Some(PasskeyError::Malformed("proof")),
        };
        if let Some(why) = refused {
            findings.add(leaf, "passkey", format!("the vote's signature: {why}"));
        }
        if let Some(first) = self.nonces.insert(text("nonce").to_owned(), leaf) {
            findings.add(leaf, "passkey-nonce", format!("the nonce was spent in leaf {first}"));
        }
    }

    fn params(&self, leaf: u64, e: &Requested, findings: &mut Findings) {
        let Some(scope) = self.state.authority.catalog.get(&e.terms.template) else { return };
        let open: Cow<'_, BTreeMap<_, _>> = match scope.params.values().any(|s| s.sensitive) {
            false => Cow::Borrowed(&scope.params),
            true => {
                let open = scope.params.iter().filter(|(_, spec)| !spec.sensitive);
                Cow::Owned(open.map(|(name, spec)| (name.clone(), spec.clone())).collect())
            }
        };
        let given = serde_json::to_value(&e.terms.params).unwrap_or(Value::Null);
        if let Err(why) = param::check_all(&open, &given) {
            findings.add(leaf, "params", why.to_string());
        }
        let sealed = &e.terms.sealed_params;
        let sensitive = |name: &String| scope.params.get(name).is_some_and(|s| s.sensitive);
        let missing =
            scope.params.iter().any(|(n, s)| s.sensitive && !s.optional && !sealed.contains_key(n));
        if missing || !sealed.keys().all(sensitive) {
            findings.add(leaf, "params", "the sensitive parameters are not those of the scope");
        }
    }

    /// An operator who makes tokens and links for others could vote as them. That the agent's owner did
    /// is refused; what remains is named.
    fn stand_ins(&mut self, e: &Voted) {
        let State { authority, requests, .. } = &self.state;
        let Some(request) = requests.get(&e.request_id) else { return };
        let approvers = request.verdict.as_ref().map(|v| &v.approvers);
        let others: BTreeSet<&HumanId> = authority.stand_ins(&e.human, e.at).collect();
        for other in others {
            let changed = approvers.is_some_and(|groups| {
                authority.changed_recently(other, &request.terms.agent, groups, e.at)
            });
            let key = (e.human.clone(), other.clone());
            let (all, recent) = self.stood_in.entry(key).or_default();
            *all += 1;
            *recent += u64::from(changed);
        }
    }

    /// Reads what `policy_loaded` put in force. Blobs prove themselves by their digests.
    fn load(
        &mut self,
        leaf: u64,
        e: &PolicyLoaded,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        let loaded = self.judge.load(e, source)?;
        match loaded {
            Ok(scopes) => {
                for scope in scopes {
                    if let Err(why) = self.state.authority.learn(scope) {
                        findings.add(leaf, "blob", why.to_string());
                    }
                }
            }
            Err(why) => findings.add(leaf, "blob", why),
        }
        Ok(())
    }

    /// Requests that were told of.
    pub(crate) fn requests(&self) -> u64 {
        (self.state.requests.len() + self.broken.len()) as u64
    }

    /// Intents without an outcome.
    pub(crate) fn open_intents(&self) -> Vec<OpenIntent> {
        let mut out: Vec<OpenIntent> = self
            .state
            .requests
            .iter()
            .filter(|(_, r)| r.phase == Phase::Intended)
            .map(|(id, r)| OpenIntent { leaf: r.last_index, request_id: id.clone() })
            .collect();
        out.sort_by_key(|o| o.leaf);
        out
    }

    /// What rests on the broker's word.
    pub(crate) fn undetectable(&self) -> Vec<String> {
        let mut out = Vec::new();
        if !self.votes.is_empty() {
            let list: Vec<String> = self
                .votes
                .iter()
                .map(|(channel, n)| {
                    format!("{n} through `{}`", grantwright_domain::text::visible(channel))
                })
                .collect();
            out.push(format!(
                "votes that no passkey signed ({}) rest on the broker's word: whoever holds the \
                 log's key could have written them",
                list.join(", ")
            ));
        }
        if !self.nonces.is_empty() {
            out.push(
                "a passkey's signature shows that its holder signed this very decision, not what \
                 the page showed them; that the passkey is the person's, the operator who made its \
                 enrolment link vouches"
                    .into(),
            );
        }
        for ((human, other), (all, recent)) in &self.stood_in {
            out.push(format!(
                "{all} votes of `{human}` were cast while `{other}`, who made a token, a link or a \
                 passkey for them or could say which account is theirs, could have cast them \
                 ({recent} of them within 24 h of a change by `{other}` of the agent or of a group \
                 of approvers)"
            ));
        }
        out.push(
            "who stood behind each connection, when things happened, and what a backend minted are \
             as the broker recorded them"
                .into(),
        );
        out
    }
}

fn describe(violation: &Violation) -> String {
    if violation.code == violation.rule {
        violation.detail.clone()
    } else {
        format!("{} ({})", violation.detail, violation.code)
    }
}
