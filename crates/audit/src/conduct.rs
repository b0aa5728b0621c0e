//! The fold of every leaf through the rules: `domain` for who may do what when, Cedar for what
//! policy said.

mod judge;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use grantwright_domain::event::{PolicyLoaded, Requested, Voted};
use grantwright_domain::{
    Digest, Event, HumanId, Params, Phase, RequestId, RequestState, Scope, State, Timestamp,
    Violation, param,
};
use grantwright_proof::passkey::verify_vote;
use grantwright_proof::{Hash, PasskeyError, leaf_hash};
use serde_json::Value;

use crate::known::Known;
use crate::pipeline::{Catalog, Leaf, Said};
use crate::report::{Findings, OpenIntent};
use crate::settled::{Followed, Mark, Settled, mark};
use crate::shape::Like;
use crate::texts::Commitments;
use crate::{CannotVerify, Sets, Source, story};
use judge::Judge;

/// Leaves are written in order by one writer; brokers' clocks differ by less than this (5 min).
const CLOCK_BOUND_MS: i64 = 300_000;

/// Everything the leaves say so far, and what was wrong with it.
#[derive(Default)]
pub(crate) struct Conduct {
    /// Who may decide, and the requests that are not settled.
    state: State,
    settled: Settled,
    judge: Judge,
    /// Commitments to the texts beside the leaves.
    pub(crate) texts: Commitments,
    /// Requests that broke a rule: nothing that follows about them can be judged.
    broken: HashSet<RequestId>,
    /// The time of the verification, if it is to be compared.
    now: Option<Timestamp>,
    /// Time of the last leaf.
    last: Option<Timestamp>,
    /// Votes by channel that are not signed by their voters.
    votes: BTreeMap<String, u64>,
    /// Nonces of signed votes, each with its leaf.
    nonces: HashMap<Mark, u64>,
    /// Votes of people as whom another could have acted, by both: all, and those where that other had
    /// changed the agent or a group of approvers within the day.
    stood_in: BTreeMap<(HumanId, HumanId), (u64, u64)>,
    /// The leaves that a later verification folds again, if there is to be one.
    matter: Option<Matter>,
}

/// Leaves that still matter, with their hashes.
#[derive(Default)]
struct Matter {
    authority: Vec<(u64, Hash)>,
    open: HashMap<RequestId, Vec<(u64, Hash)>>,
}

impl Conduct {
    /// `keep`: a later verification goes on from this one.
    pub(crate) fn new(now: Option<Timestamp>, keep: bool, sets: Sets) -> Self {
        let judge = Judge::new(sets);
        Self { now, judge, matter: keep.then(Matter::default), ..Self::default() }
    }

    /// The state that an earlier verification left. None where its leaves are not there any more, or
    /// break a rule.
    pub(crate) fn resume(
        now: Option<Timestamp>,
        sets: Sets,
        known: &Known,
        source: &mut dyn Source,
        catalog: &Catalog,
    ) -> Result<Option<Self>, CannotVerify> {
        let mut conduct = Self::new(now, true, sets);
        let mut findings = Findings::default();
        for (index, hash) in &known.again {
            let leaf = source.leaves(*index, 1)?;
            let body = match leaf.first() {
                Some((at, body)) if at == index && leaf_hash(body) == *hash => body,
                _ => return Ok(None),
            };
            let Ok(event) = Event::from_leaf(body) else { return Ok(None) };
            conduct.state.size = *index;
            conduct.event(&event, source, catalog, &mut findings)?;
            conduct.matters(event.request_id(), *index, *hash);
        }
        if findings.count() > 0 {
            return Ok(None);
        }
        conduct.state.size = known.size();
        conduct.texts = Commitments::from_now();
        conduct.settled = known.settled.clone();
        conduct.last = known.last;
        conduct.votes = known.votes.clone();
        conduct.nonces = known.nonces.iter().copied().collect();
        conduct.stood_in = known.stood_in.clone();
        Ok(Some(conduct))
    }

    /// What a later verification goes on from.
    pub(crate) fn keep(self, known: &mut Known) {
        let matter = self.matter.unwrap_or_default();
        known.again = matter.authority;
        known.again.extend(matter.open.into_values().flatten());
        known.again.sort_by_key(|(leaf, _)| *leaf);
        known.settled = self.settled;
        known.last = self.last;
        known.votes = self.votes;
        known.nonces = self.nonces.into_iter().collect();
        known.stood_in = self.stood_in;
    }

    fn matters(&mut self, id: Option<&RequestId>, leaf: u64, hash: Hash) {
        let Some(matter) = &mut self.matter else { return };
        match id {
            None => matter.authority.push((leaf, hash)),
            Some(id) if self.state.requests.contains_key(id) => {
                matter.open.entry(id.clone()).or_default().push((leaf, hash));
            }
            Some(id) => drop(matter.open.remove(id)),
        }
    }

    /// Folds the next leaf in.
    pub(crate) fn fold(
        &mut self,
        leaf: &Leaf<'_>,
        source: &mut dyn Source,
        catalog: &Catalog,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        match leaf.said {
            Said::Unread => Ok(()),
            Said::Bad(why) => {
                self.unreadable(leaf.index, why, findings);
                Ok(())
            }
            Said::Event(event) => {
                self.event(event, source, catalog, findings)?;
                self.matters(event.request_id(), leaf.index, leaf.hash);
                Ok(())
            }
            Said::Like { read, slots, terms, fits } => {
                let like = leaf.like(*read, slots);
                let Some((like, event)) = like.and_then(|like| Some((like, like.event()?))) else {
                    return match Event::from_leaf(leaf.body) {
                        Ok(event) => {
                            self.event(&event, source, catalog, findings)?;
                            self.matters(event.request_id(), leaf.index, leaf.hash);
                            Ok(())
                        }
                        Err(why) => {
                            self.unreadable(leaf.index, &why.to_string(), findings);
                            Ok(())
                        }
                    };
                };
                let id = self.matter.as_ref().and_then(|_| event.request_id().cloned());
                let fits = (*terms).filter(|_| *fits);
                self.like(leaf.body, like, event, fits, source, findings)?;
                if id.is_some() {
                    self.matters(id.as_ref(), leaf.index, leaf.hash);
                }
                Ok(())
            }
        }
    }

    /// Folds an event in that was read strictly.
    fn event(
        &mut self,
        event: &Event,
        source: &mut dyn Source,
        catalog: &Catalog,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        let leaf = self.state.size;
        let before = self.last;
        self.time(leaf, event.at(), findings);
        if matches!(event, Event::EpochStarted(_)) {
            // What an epoch carries over is older than the leaf that begins it.
            self.last = before;
        }
        self.texts.learn(event);
        if !self.step(event, source, findings)? {
            return Ok(());
        }
        match event {
            Event::PolicyLoaded(e) => self.load(leaf, e, source, catalog, findings)?,
            Event::Requested(e) => self.params(leaf, e, findings),
            Event::Voted(e) => {
                self.signature(leaf, e, findings);
                self.stand_ins(e);
            }
            _ => {}
        }
        let authority = &self.state.authority;
        if let Some(id) = event.request_id()
            && let Some(request) = self.state.requests.get(id)
        {
            match event {
                Event::Decided(e) => self.judge.verdict(leaf, e, request, authority, findings),
                Event::Voted(e) => self.judge.vote(leaf, e, request, authority, findings),
                Event::Intended(e) => self.judge.intent(leaf, e, request, authority, findings),
                _ => {}
            }
            self.settle(id);
        }
        Ok(())
    }

    /// Folds an event in that is like one which was read. `fits`: the digest of its terms, when its
    /// parameters are known to be of their types.
    fn like(
        &mut self,
        body: &[u8],
        like: Like<'_>,
        event: Event,
        fits: Option<Digest>,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        let leaf = self.state.size;
        self.time(leaf, event.at(), findings);
        self.texts.learn(&event);
        let event = match (event, fits) {
            (Event::Requested(e), Some(digest)) => {
                let id = e.request_id.clone();
                if !self.skips(&id) {
                    let done = match self.settled.knows(&id) {
                        true => Err(exists(&id)),
                        false => self.state.begin(e, digest),
                    };
                    match done {
                        Ok(()) => self.judge.asked(id, like.read.id),
                        Err(violation) => self.refuse(leaf, Some(&id), &violation, findings),
                    }
                }
                self.state.size = leaf + 1;
                return Ok(());
            }
            (event, _) => event,
        };
        if !self.step(&event, source, findings)? {
            return Ok(());
        }
        if let Event::Requested(e) = &event {
            self.params(leaf, e, findings);
        }
        let authority = &self.state.authority;
        if let Some(id) = event.request_id()
            && let Some(request) = self.state.requests.get(id)
        {
            match &event {
                Event::Decided(_) => {
                    self.judge.verdict_like(leaf, body, like, request, authority, findings);
                }
                Event::Intended(e) => self.judge.intent(leaf, e, request, authority, findings),
                _ => {}
            }
            self.settle(id);
        }
        Ok(())
    }

    /// Lets the rules judge an event; true when they allow it.
    fn step(
        &mut self,
        event: &Event,
        source: &mut dyn Source,
        findings: &mut Findings,
    ) -> Result<bool, CannotVerify> {
        let leaf = self.state.size;
        let id = event.request_id();
        if id.is_some_and(|id| self.skips(id)) {
            self.state.size = leaf + 1;
            return Ok(false);
        }
        let done = match id {
            Some(id) if !self.state.requests.contains_key(id) => {
                match (event, self.settled.follow(id, leaf, event, &self.state.authority)) {
                    (_, Followed::Unknown) => self.state.apply(event),
                    (Event::Requested(_), _) => Err(exists(id)),
                    (_, Followed::Folded) => Ok(()),
                    (_, Followed::Refused) => {
                        self.recall(id, leaf, source)?;
                        self.apply(event)
                    }
                }
            }
            _ => self.apply(event),
        };
        self.state.size = leaf + 1;
        if let Err(violation) = &done {
            self.refuse(leaf, id, violation, findings);
        }
        Ok(done.is_ok())
    }

    fn apply(&mut self, event: &Event) -> Result<(), Violation> {
        let Event::Issued(e) = event else { return self.state.apply(event) };
        if self.settled.knows_lease(&e.lease_id) {
            return Err(Violation::rule("lease-once", format!("lease `{}` exists", e.lease_id)));
        }
        let done = self.state.apply(event);
        // Settled requests know their leases.
        self.state.leases.clear();
        done
    }

    /// True for what is told of a request that broke a rule: saying more would be guessing.
    fn skips(&self, id: &RequestId) -> bool {
        !self.broken.is_empty() && self.broken.contains(id)
    }

    fn refuse(
        &mut self,
        leaf: u64,
        id: Option<&RequestId>,
        violation: &Violation,
        findings: &mut Findings,
    ) {
        findings.add(leaf, violation.rule, describe(violation));
        if let Some(id) = id {
            self.state.requests.remove(id);
            self.settled.forget(id);
            self.judge.forget(id);
            self.broken.insert(id.clone());
        }
    }

    fn settle(&mut self, id: &RequestId) {
        let State { authority, requests, .. } = &mut self.state;
        if requests.get(id).is_some_and(|request| self.settled.take(id, request, authority)) {
            requests.remove(id);
            self.judge.forget(id);
        }
    }

    /// Folds a settled request's leaves again, so that the rule that a further leaf breaks is named as
    /// if all of it had been kept. Reads the log from its first leaf: only findings need this.
    fn recall(
        &mut self,
        id: &RequestId,
        before: u64,
        source: &mut dyn Source,
    ) -> Result<(), CannotVerify> {
        let leaves = story::leaves_of(id, before, source)?;
        let events = leaves.iter().filter_map(|(leaf, event)| Some((*leaf, event.as_ref().ok()?)));
        let folded = RequestState::refold(events);
        if let Ok(request) = folded {
            self.state.requests.insert(id.clone(), request);
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
        // As the request names it: one that was carried over is of an older log.
        let request = self.state.requests.get(&e.request_id);
        let origin = request.map_or(&authority.origin, |r| &r.terms.origin);
        let refused = match authority.passkeys.get(text("credential_id")) {
            Some(passkey) => verify_vote(e, passkey, origin, None).err(),
            None => Some(PasskeyError::Malformed("proof")),
        };
        if let Some(why) = refused {
            findings.add(leaf, "passkey", format!("the vote's signature: {why}"));
        }
        if let Some(first) = self.nonces.insert(mark(text("nonce")), leaf) {
            findings.add(leaf, "passkey-nonce", format!("the nonce was spent in leaf {first}"));
        }
    }

    fn params(&self, leaf: u64, e: &Requested, findings: &mut Findings) {
        let Some(scope) = self.state.authority.catalog.get(&e.terms.template) else { return };
        if let Err(why) = check_params(scope, &e.terms.params, &e.terms.sealed_params) {
            findings.add(leaf, "params", why);
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
                let terms = &request.terms;
                std::iter::once(&terms.agent)
                    .chain(&terms.delegation)
                    .any(|agent| authority.changed_recently(other, agent, groups, e.at))
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
        catalog: &Catalog,
        findings: &mut Findings,
    ) -> Result<(), CannotVerify> {
        let loaded = self.judge.load(e, source)?;
        match loaded {
            Ok(scopes) => {
                let mut catalog = catalog.write().unwrap_or_else(PoisonError::into_inner);
                for scope in scopes {
                    match self.state.authority.learn(scope.clone()) {
                        Ok(digest) => drop(catalog.insert(digest, scope)),
                        Err(why) => findings.add(leaf, "blob", why.to_string()),
                    }
                }
            }
            Err(why) => findings.add(leaf, "blob", why),
        }
        Ok(())
    }

    /// Requests that were told of.
    pub(crate) fn requests(&self) -> u64 {
        (self.settled.len() + self.state.requests.len() + self.broken.len()) as u64
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

fn exists(id: &RequestId) -> Violation {
    Violation::rule("request-once", format!("request `{id}` exists"))
}

/// Whether parameters are of the types that their scope declares, sensitive ones sealed.
fn check_params(
    scope: &Scope,
    params: &Params,
    sealed: &BTreeMap<String, Digest>,
) -> Result<(), String> {
    let open: Cow<'_, BTreeMap<_, _>> = match scope.params.values().any(|s| s.sensitive) {
        false => Cow::Borrowed(&scope.params),
        true => {
            let open = scope.params.iter().filter(|(_, spec)| !spec.sensitive);
            Cow::Owned(open.map(|(name, spec)| (name.clone(), spec.clone())).collect())
        }
    };
    let given = serde_json::to_value(params).unwrap_or(Value::Null);
    param::check_all(&open, &given).map_err(|why| why.to_string())?;
    let sensitive = |name: &String| scope.params.get(name).is_some_and(|s| s.sensitive);
    let missing =
        scope.params.iter().any(|(n, s)| s.sensitive && !s.optional && !sealed.contains_key(n));
    if missing || !sealed.keys().all(sensitive) {
        return Err("the sensitive parameters are not those of the scope".into());
    }
    Ok(())
}

/// Whether the parameters of a request are of their types, when its scope is known already.
pub(crate) fn fits(like: Like<'_>, catalog: &HashMap<Digest, Arc<Scope>>) -> bool {
    let Event::Requested(e) = &like.read.event else { return false };
    let Some(scope) = catalog.get(&e.terms.template) else { return false };
    let params = like.params(&e.terms.params);
    params.is_some_and(|params| check_params(scope, &params, &e.terms.sealed_params).is_ok())
}

fn describe(violation: &Violation) -> String {
    if violation.code == violation.rule {
        violation.detail.clone()
    } else {
        format!("{} ({})", violation.detail, violation.code)
    }
}
