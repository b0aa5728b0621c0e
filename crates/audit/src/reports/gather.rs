//! One walk over the leaves: what reports count.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use grantwright_domain::event::Decision;
use grantwright_domain::text::visible;
use grantwright_domain::time::CLOCK_BOUND_MS;
use grantwright_domain::{
    AgentId, Digest, Event, HumanId, LeaseId, RequestId, Scope, Strength, Timestamp, VerdictKind,
};
use grantwright_proof::Vkey;

use super::prove::{Tree, newest};
use super::sample::Sample;
use super::{Kind, Line, Wanted};
use crate::texts::Said;
use crate::{CannotVerify, Source, words};

/// Leaves that are read at once.
const PAGE: usize = 4096;

/// Everything that reports count.
pub(super) struct Data {
    pub(super) origin: String,
    pub(super) vkey: String,
    pub(super) checkpoint: String,
    /// Leaves under the checkpoint.
    pub(super) size: u64,
    pub(super) tree: Tree,
    /// Requests of the window, in order.
    pub(super) requests: Vec<Row>,
    /// What decisions rest on, in the window.
    pub(super) changes: Vec<Change>,
    /// Leaves of the window, by kind.
    pub(super) kinds: BTreeMap<String, u64>,
    /// A sample of all of them.
    pub(super) any: Vec<Line>,
    /// Leaves whose time lies before that of the leaf before them, beyond the clocks' bound.
    pub(super) back: Vec<Line>,
    /// Agents at the end of the window: owner, what is registered, whether its right ended.
    pub(super) agents: BTreeMap<AgentId, (HumanId, String, bool)>,
    /// People at the end of the window: active, operator.
    pub(super) humans: BTreeMap<HumanId, (bool, bool)>,
    /// Groups at the end of the window.
    pub(super) groups: BTreeMap<String, BTreeSet<HumanId>>,
}

/// A request.
pub(super) struct Row {
    pub(super) id: RequestId,
    pub(super) agent: AgentId,
    /// Agents that passed the right on.
    pub(super) chain: Vec<AgentId>,
    pub(super) owners: BTreeSet<HumanId>,
    pub(super) scope: String,
    pub(super) risk: String,
    pub(super) params: String,
    pub(super) ttl_s: u32,
    pub(super) asked: (u64, Timestamp),
    pub(super) verdict: Option<(u64, VerdictKind)>,
    pub(super) quorum: u32,
    pub(super) strength: Strength,
    pub(super) votes: Vec<Vote>,
    pub(super) approvers: BTreeSet<HumanId>,
    pub(super) intended: Option<u64>,
    pub(super) lease: Option<Lease>,
    /// Leaf, time and word of what ended it: `granted`, `denied`, `expired`, …
    pub(super) outcome: Option<(u64, Timestamp, &'static str)>,
}

/// A vote.
pub(super) struct Vote {
    pub(super) leaf: u64,
    pub(super) at: Timestamp,
    pub(super) human: HumanId,
    pub(super) decision: Decision,
    pub(super) channel: String,
    pub(super) signed: bool,
    pub(super) looks_wrong: bool,
}

/// A credential's life.
pub(super) struct Lease {
    pub(super) id: LeaseId,
    pub(super) leaf: u64,
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    /// Leaf and time of its end, where it is in the log.
    pub(super) ended: Option<(u64, Timestamp)>,
}

impl Lease {
    /// When it could no longer be used.
    pub(super) fn end(&self) -> Timestamp {
        self.ended.map_or(self.until, |(_, at)| at.min(self.until))
    }
}

/// A change of what decisions rest on.
pub(super) struct Change {
    pub(super) leaf: u64,
    pub(super) at: Timestamp,
    pub(super) event: Event,
    pub(super) words: String,
    /// It rests on something that is not in the log before it.
    pub(super) fault: Option<String>,
}

/// Reads the log up to its newest checkpoint.
pub(super) fn gather(
    source: &mut dyn Source,
    vkey: Option<&Vkey>,
    wanted: &Wanted,
) -> Result<Data, CannotVerify> {
    let count = source.count()?.unwrap_or(u64::MAX);
    let own;
    let vkey = match vkey {
        Some(vkey) => vkey,
        None => {
            own = first_key(source)?;
            &own
        }
    };
    let (checkpoint, opened) = newest(source, vkey, count)?;
    let mut walk = Walk {
        wanted,
        rows: HashMap::new(),
        owners: BTreeMap::new(),
        joins: BTreeSet::new(),
        scopes: HashMap::new(),
        last: None,
        any: Sample::new(&wanted.seed, wanted.sample),
        data: Data {
            origin: opened.origin().to_owned(),
            vkey: vkey.to_string(),
            checkpoint,
            size: opened.size(),
            tree: Tree::default(),
            requests: Vec::new(),
            changes: Vec::new(),
            kinds: BTreeMap::new(),
            any: Vec::new(),
            back: Vec::new(),
            agents: BTreeMap::new(),
            humans: BTreeMap::new(),
            groups: BTreeMap::new(),
        },
    };
    let mut next = 0;
    while next < opened.size() {
        let page = source.leaves(next, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        let after = last.saturating_add(1);
        if after <= next {
            break;
        }
        next = after;
        for (index, leaf) in page {
            if index < opened.size() {
                walk.leaf(index, &leaf, source)?;
            }
        }
    }
    let mut data = walk.data;
    data.any = walk.any.drawn();
    Ok(data)
}

/// The key that the log itself names.
fn first_key(source: &mut dyn Source) -> Result<Vkey, CannotVerify> {
    let first = source.leaves(0, 1)?;
    let Some((0, leaf)) = first.first() else { return Err(CannotVerify::NothingToVerify) };
    let event = Event::from_leaf(leaf).map_err(|_| CannotVerify::NoKey)?;
    let (_, vkey, _) = event.begins().ok_or(CannotVerify::NoKey)?;
    Vkey::parse(vkey).map_err(|_| CannotVerify::NoKey)
}

struct Walk<'w> {
    wanted: &'w Wanted,
    /// Where each request of the window is in `data.requests`.
    rows: HashMap<RequestId, usize>,
    owners: BTreeMap<AgentId, HumanId>,
    joins: BTreeSet<String>,
    scopes: HashMap<Digest, String>,
    last: Option<Timestamp>,
    any: Sample<Line>,
    data: Data,
}

impl Walk<'_> {
    fn leaf(
        &mut self,
        index: u64,
        leaf: &[u8],
        source: &mut dyn Source,
    ) -> Result<(), CannotVerify> {
        self.data.tree.append(grantwright_proof::leaf_hash(leaf));
        let event = Event::from_leaf(leaf)
            .map_err(|e| CannotVerify::BadLeaf { leaf: index, why: e.to_string() })?;
        let at = event.at();
        let inside = at >= self.wanted.from && at < self.wanted.until;
        if inside && self.concerns(&event) {
            *self.data.kinds.entry(event.kind().to_owned()).or_default() += 1;
            self.any.offer(index, || line(index, &event));
        }
        if inside && self.last.is_some_and(|last| last.since(at) > CLOCK_BOUND_MS) {
            let mut back = line(index, &event);
            back.exception = Some("its time lies before that of the leaf before it".into());
            self.data.back.push(back);
        }
        self.last = Some(at);
        match event.request_id() {
            Some(_) => self.request(index, &event, inside, source)?,
            None => self.authority(index, event, inside),
        }
        Ok(())
    }

    /// Whether a report on one agent or one person counts this event.
    fn concerns(&self, event: &Event) -> bool {
        match &self.wanted.kind {
            Kind::Agent(agent) => match event {
                Event::Requested(e) => &e.terms.agent == agent,
                Event::AgentSet(e) => &e.agent == agent,
                Event::AgentRevoked(e) => &e.agent == agent,
                Event::Delegated(e) => &e.from == agent || &e.to == agent,
                Event::InstanceEnrolled(e) => &e.agent == agent,
                other => other.request_id().is_some_and(|id| self.rows.contains_key(id)),
            },
            Kind::Reviewer(human) => match event {
                Event::Voted(e) => &e.human == human,
                Event::Questioned(e) => &e.human == human,
                Event::Narrowed(e) => &e.human == human,
                Event::Withdrawn(e) => &e.human == human,
                _ => false,
            },
            Kind::AccessReview | Kind::FedRamp | Kind::Soc2 => true,
        }
    }

    fn request(
        &mut self,
        index: u64,
        event: &Event,
        inside: bool,
        source: &mut dyn Source,
    ) -> Result<(), CannotVerify> {
        if let Event::Requested(e) = event {
            if inside && !matches!(&self.wanted.kind, Kind::Agent(a) if a != &e.terms.agent) {
                let risk = self.risk(&e.terms.template, source)?;
                let params = e.terms.params.iter();
                let params: Vec<String> =
                    params.map(|(name, v)| format!("{name}={}", visible(&v.text()))).collect();
                self.rows.insert(e.request_id.clone(), self.data.requests.len());
                self.data.requests.push(Row {
                    id: e.request_id.clone(),
                    agent: e.terms.agent.clone(),
                    chain: e.terms.delegation.clone(),
                    owners: std::iter::once(&e.terms.agent)
                        .chain(&e.terms.delegation)
                        .filter_map(|agent| self.owners.get(agent).cloned())
                        .collect(),
                    scope: e.terms.scope.to_string(),
                    risk,
                    params: params.join(" "),
                    ttl_s: e.terms.ttl_s,
                    asked: (index, e.at),
                    verdict: None,
                    quorum: 0,
                    strength: Strength::Chat,
                    votes: Vec::new(),
                    approvers: BTreeSet::new(),
                    intended: None,
                    lease: None,
                    outcome: None,
                });
            }
            return Ok(());
        }
        let row = event.request_id().and_then(|id| self.rows.get(id));
        if let Some(row) = row.and_then(|at| self.data.requests.get_mut(*at)) {
            row.learn(index, event);
        }
        Ok(())
    }

    /// The risk label of a scope as it was declared then.
    fn risk(&mut self, template: &Digest, source: &mut dyn Source) -> Result<String, CannotVerify> {
        if let Some(known) = self.scopes.get(template) {
            return Ok(known.clone());
        }
        let blob = source.blob(template)?;
        let scope = blob.and_then(|blob| serde_json::from_slice::<Scope>(&blob).ok());
        let risk = scope.map_or_else(|| "unknown".to_owned(), |s| visible(&s.labels.risk));
        self.scopes.insert(*template, risk.clone());
        Ok(risk)
    }

    fn authority(&mut self, index: u64, event: Event, inside: bool) {
        let before_end = event.at() < self.wanted.until;
        let mut fault = None;
        match &event {
            Event::AgentSet(e) => {
                let of = |r: &&mut Row| r.agent == e.agent || r.chain.contains(&e.agent);
                for row in self.data.requests.iter_mut().filter(of) {
                    // Whoever owned it at any time since the ask decides nothing of it.
                    if row.outcome.is_none() {
                        row.owners.insert(e.owner.clone());
                    }
                }
                self.owners.insert(e.agent.clone(), e.owner.clone());
                let a = &e.attributes;
                let told = [&a.team, &a.environment, &a.model, &a.model_version];
                let told: Vec<&str> =
                    told.into_iter().map(String::as_str).filter(|t| !t.is_empty()).collect();
                if before_end {
                    let told = visible(&told.join(" · "));
                    self.data.agents.insert(e.agent.clone(), (e.owner.clone(), told, false));
                }
            }
            Event::AgentRevoked(e) if before_end => {
                if let Some(agent) = self.data.agents.get_mut(&e.agent) {
                    agent.2 = true;
                }
            }
            Event::HumanSet(e) if before_end => {
                self.data.humans.insert(e.human.clone(), (e.active, e.operator));
            }
            Event::GroupSet(e) if before_end => {
                self.data.groups.insert(e.group.to_string(), e.members.clone());
            }
            Event::JoinCreated(e) => {
                self.joins.insert(e.join_id.clone());
            }
            Event::InstanceEnrolled(e) if !self.joins.contains(&e.join_id) => {
                fault = Some(format!("no operator made the join token `{}`", visible(&e.join_id)));
            }
            _ => {}
        }
        if inside && self.concerns(&event) {
            let (at, words) = (event.at(), words(&event, &Said::default()));
            self.data.changes.push(Change { leaf: index, at, event, words, fault });
        }
    }
}

impl Row {
    fn learn(&mut self, index: u64, event: &Event) {
        let at = event.at();
        match event {
            Event::Decided(e) => {
                self.verdict = Some((index, e.verdict.kind));
                self.quorum = e.verdict.quorum;
                self.strength = e.verdict.strength;
                if e.verdict.kind == VerdictKind::Deny {
                    self.outcome = Some((index, at, "denied"));
                }
            }
            Event::Narrowed(e) => self.ttl_s = e.terms.ttl_s,
            Event::Voted(e) => {
                self.votes.push(Vote {
                    leaf: index,
                    at,
                    human: e.human.clone(),
                    decision: e.decision,
                    channel: visible(&e.channel),
                    signed: e.proof.is_some(),
                    looks_wrong: e.reason_code == "looks_wrong",
                });
                if e.decision == Decision::Deny {
                    self.outcome = Some((index, at, "denied"));
                }
            }
            Event::Intended(e) => {
                self.intended = Some(index);
                self.approvers.clone_from(&e.approvers);
            }
            Event::Issued(e) => {
                self.outcome = Some((index, at, "granted"));
                let (id, until) = (e.lease_id.clone(), e.expires_at);
                self.lease = Some(Lease { id, leaf: index, from: at, until, ended: None });
            }
            Event::Failed(_) => self.outcome = Some((index, at, "failed")),
            Event::Unknown(_) => self.outcome = Some((index, at, "unknown")),
            Event::Cancelled(_) => self.outcome = Some((index, at, "cancelled")),
            Event::Renewed(e) => {
                if let Some(lease) = &mut self.lease {
                    lease.until = e.expires_at;
                }
            }
            Event::Expired(e) => match (&e.lease_id, &mut self.lease) {
                (Some(_), Some(lease)) => lease.ended = lease.ended.or(Some((index, at))),
                _ => self.outcome = Some((index, at, "expired")),
            },
            Event::Revoked(e) if !e.still_valid => {
                if let Some(lease) = &mut self.lease {
                    lease.ended = Some((index, at));
                }
            }
            _ => {}
        }
    }

    /// The request in one line.
    pub(super) fn words(&self) -> String {
        let mut out = format!("{} asked for {}", self.agent, self.scope);
        if !self.params.is_empty() {
            out.push_str(&format!(" ({})", self.params));
        }
        for vote in &self.votes {
            let word = match vote.decision {
                Decision::Approve => "approved",
                Decision::Deny => "denied",
            };
            let signed = if vote.signed { ", signed" } else { "" };
            out.push_str(&format!("; {} {word} through {}{signed}", vote.human, vote.channel));
        }
        match (&self.lease, &self.outcome) {
            (Some(lease), _) => {
                let end = lease.end();
                out.push_str(&format!("; issued {}, ended {end}, lease {}", lease.from, lease.id));
            }
            (None, Some((_, _, word))) => out.push_str(&format!("; {word}")),
            (None, None) => out.push_str("; open"),
        }
        out
    }

    /// Time from the ask to what people decided, in milliseconds; none where people were not asked.
    pub(super) fn decided_ms(&self) -> Option<i64> {
        let last = match self.outcome {
            Some((_, at, "denied")) => at,
            _ => self.votes.last()?.at,
        };
        (!self.votes.is_empty()).then(|| last.since(self.asked.1))
    }
}

/// A leaf as a line.
pub(super) fn line(index: u64, event: &Event) -> Line {
    Line {
        leaf: index,
        at: event.at(),
        request: event.request_id().cloned(),
        words: words(event, &Said::default()).replace("(erased)", "(held beside the log)"),
        exception: None,
        receipt: None,
    }
}
