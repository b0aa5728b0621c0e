//! A naive judge: every answer is worked out anew from the leaves so far, in the slowest and plainest
//! way, with none of the crate's own folding.

use std::collections::{BTreeMap, BTreeSet};

use grantwright_domain::event::{Intended, Requested, Voted};
use grantwright_domain::{
    AgentId, Decision, Digest, Event, GroupName, HumanId, RequestId, Strength, Terms, Timestamp,
    Verdict, VerdictKind,
};
use serde_json::Value;

use crate::world::DAY_MS;

/// The accepted leaves, in order.
pub struct Judge<'a>(pub &'a [Event]);

/// D, with canonical bytes written once more; the world's terms are ASCII.
pub fn digest(terms: &Terms) -> Digest {
    use sha2::Digest as _;
    fn write(v: &Value, out: &mut String) {
        match v {
            Value::Object(map) => {
                let sorted: BTreeMap<_, _> = map.iter().collect();
                out.push('{');
                for (n, (k, v)) in sorted.into_iter().enumerate() {
                    out.push_str(if n > 0 { ",\"" } else { "\"" });
                    out.push_str(k);
                    out.push_str("\":");
                    write(v, out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for (n, v) in items.iter().enumerate() {
                    out.push_str(if n > 0 { "," } else { "" });
                    write(v, out);
                }
                out.push(']');
            }
            other => out.push_str(&other.to_string()),
        }
    }
    let mut text = String::from("grantwright/request/v1\0");
    write(&serde_json::to_value(terms).expect("json"), &mut text);
    Digest(sha2::Sha256::digest(text).into())
}

type Answer = Result<(), String>;

fn must(ok: bool, why: &str) -> Answer {
    if ok { Ok(()) } else { Err(why.into()) }
}

impl<'a> Judge<'a> {
    fn of(&self, id: &RequestId) -> impl Iterator<Item = &'a Event> {
        let id = id.clone();
        self.0.iter().filter(move |e| e.request_id() == Some(&id))
    }

    fn requested(&self, id: &RequestId) -> &'a Requested {
        self.of(id)
            .find_map(|e| match e {
                Event::Requested(r) => Some(r),
                _ => None,
            })
            .expect("the request was made")
    }

    /// The present terms.
    pub fn terms(&self, id: &RequestId) -> &'a Terms {
        let narrowed = self.of(id).filter_map(|e| match e {
            Event::Narrowed(n) => Some(&n.terms),
            _ => None,
        });
        narrowed.last().unwrap_or(&self.requested(id).terms)
    }

    /// The last verdict before each narrowing, and the last since; with whom it excluded.
    fn verdicts(&self, id: &RequestId) -> Option<(Vec<&'a Verdict>, BTreeSet<HumanId>)> {
        let mut eras = vec![None];
        for e in self.of(id) {
            match e {
                Event::Decided(d) => *eras.last_mut().expect("one at least") = Some(d),
                Event::Narrowed(_) => eras.push(None),
                _ => {}
            }
        }
        let last = (*eras.last().expect("one at least"))?;
        Some((eras.into_iter().flatten().map(|d| &d.verdict).collect(), last.excluded.clone()))
    }

    fn last_policy(&self) -> Option<Digest> {
        self.0.iter().rev().find_map(|e| match e {
            Event::PolicyLoaded(p) => Some(p.policy_set),
            _ => None,
        })
    }

    fn owned_since(&self, who: &HumanId, agent: &AgentId, since: Timestamp) -> bool {
        let sets: Vec<_> = self
            .0
            .iter()
            .filter_map(|e| match e {
                Event::AgentSet(s) if &s.agent == agent => Some((&s.owner, s.at)),
                _ => None,
            })
            .collect();
        let until = |n: usize| sets.iter().skip(n).find(|s| s.0 != who).map(|s| s.1);
        sets.iter()
            .enumerate()
            .any(|(n, (owner, _))| *owner == who && until(n).is_none_or(|u| u >= since))
    }

    fn active(&self, who: &HumanId) -> bool {
        self.0.iter().rev().find_map(|e| match e {
            Event::HumanSet(h) if &h.human == who => Some(h.active),
            _ => None,
        }) == Some(true)
    }

    pub fn groups(&self, who: &HumanId) -> BTreeSet<GroupName> {
        let mut members = BTreeMap::new();
        for e in self.0 {
            if let Event::GroupSet(g) = e {
                members.insert(&g.group, &g.members);
            }
        }
        members.into_iter().filter(|(_, m)| m.contains(who)).map(|(g, _)| g.clone()).collect()
    }

    fn agent_lives(&self, agent: &AgentId) -> bool {
        !self.0.iter().any(|e| matches!(e, Event::AgentRevoked(r) if &r.agent == agent))
    }

    /// DESIGN §6, SECURITY 10 and 11.
    fn eligible(&self, id: &RequestId, who: &HumanId, channel: &str, now: Timestamp) -> Answer {
        let (terms, made) = (self.terms(id), self.requested(id).at);
        let (verdicts, _) = self.verdicts(id).ok_or("nothing was decided")?;
        let asks: Vec<_> = verdicts.iter().filter(|v| v.kind == VerdictKind::Ask).collect();
        let groups: BTreeSet<_> = asks.iter().flat_map(|v| v.approvers.clone()).collect();
        must(self.active(who), "not active")?;
        must(!self.owned_since(who, &terms.agent, made), "owns the agent")?;
        must(terms.on_behalf_of.as_ref() != Some(who), "on behalf of")?;
        for delegate in &terms.delegation {
            must(!self.owned_since(who, delegate, made), "owns a delegate")?;
        }
        must(!asks.is_empty(), "nobody was asked")?;
        must(!groups.is_empty() && groups.is_subset(&self.groups(who)), "outside the groups")?;
        must(asks.iter().all(|v| v.channels.contains(channel)), "wrong channel")?;
        let theirs = |a: &AgentId| *a == terms.agent || terms.delegation.contains(a);
        let changed = self.0.iter().any(|e| match e {
            Event::AgentSet(s) => &s.by == who && theirs(&s.agent) && recent(s.at, now),
            Event::JoinCreated(j) => &j.by == who && theirs(&j.agent) && recent(j.at, now),
            Event::AgentRevoked(r) => &r.by == who && theirs(&r.agent) && recent(r.at, now),
            Event::GroupSet(g) => &g.by == who && groups.contains(&g.group) && recent(g.at, now),
            _ => false,
        });
        must(!changed, "changed agent or group lately")
    }

    /// Votes that no later question, answer, narrowing or withdrawal voided.
    fn cast(&self, id: &RequestId) -> BTreeMap<&'a HumanId, &'a Voted> {
        let mut out = BTreeMap::new();
        for e in self.of(id) {
            match e {
                Event::Questioned(_) | Event::Answered(_) | Event::Narrowed(_) => out.clear(),
                Event::Voted(v) if v.decision == Decision::Approve => {
                    out.insert(&v.human, v);
                }
                Event::Withdrawn(w) => {
                    out.remove(&w.human);
                }
                _ => {}
            }
        }
        out
    }

    fn open_question(&self, id: &RequestId) -> Option<&'a HumanId> {
        let mut open = None;
        for e in self.of(id) {
            match e {
                Event::Questioned(q) => open = Some(&q.human),
                Event::Answered(_) | Event::Narrowed(_) => open = None,
                Event::Voted(v) if open == Some(&v.human) => open = None,
                _ => {}
            }
        }
        open
    }

    /// Ordinal of the last question, answer or narrowing.
    pub fn last_seen(&self, id: &RequestId) -> Option<u64> {
        let talk =
            |e: &Event| matches!(e, Event::Questioned(_) | Event::Answered(_) | Event::Narrowed(_));
        self.of(id).enumerate().filter(|(_, e)| talk(e)).map(|(n, _)| n as u64).last()
    }

    /// May this vote be cast now?
    pub fn vote(&self, v: &Voted) -> Answer {
        let id = &v.request_id;
        must(v.digest == digest(self.terms(id)), "another digest")?;
        must(Some(v.policy_set) == self.last_policy(), "policy set not in force")?;
        must(v.groups == self.groups(&v.human), "not the voter's groups")?;
        self.eligible(id, &v.human, &v.channel, v.at)?;
        if v.decision == Decision::Deny {
            return Ok(());
        }
        let (verdicts, _) = self.verdicts(id).ok_or("nothing was decided")?;
        must(!verdicts.iter().any(|v| v.strength == Strength::Passkey), "no passkey")?;
        must(v.seen == self.last_seen(id), "has not seen the last words")?;
        must(self.open_question(id).is_none_or(|asker| asker == &v.human), "question open")?;
        must(!self.cast(id).contains_key(&v.human), "voted already")
    }

    /// May this grant be spent now?
    pub fn intent(&self, e: &Intended) -> Answer {
        let id = &e.request_id;
        let terms = self.terms(id);
        let d = digest(terms);
        must(e.digest == d, "another digest")?;
        must(self.agent_lives(&terms.agent), "the agent was revoked")?;
        must(!self.of(id).any(|x| matches!(x, Event::Intended(_))), "spent already")?;
        let refused = |x: &Event| {
            matches!(x, Event::Cancelled(_) | Event::Expired(_))
                || matches!(x, Event::Voted(v) if v.decision == Decision::Deny)
        };
        must(!self.of(id).any(refused), "ended already")?;
        let (verdicts, excluded) = self.verdicts(id).ok_or("nothing was decided")?;
        must(verdicts.last().map(|v| v.policy_set) == self.last_policy(), "stale policy")?;
        must(verdicts.iter().all(|v| v.kind != VerdictKind::Deny), "denied")?;
        must(verdicts.iter().all(|v| terms.ttl_s <= v.max_ttl_s), "lifetime")?;
        let asks: Vec<_> = verdicts.iter().filter(|v| v.kind == VerdictKind::Ask).collect();
        let stands = |v: &Voted| {
            v.digest == d
                && !excluded.contains(&v.human)
                && self.eligible(id, &v.human, &v.channel, e.at).is_ok()
                && asks.iter().all(|a| a.strength == Strength::Chat)
        };
        let standing: BTreeSet<HumanId> =
            self.cast(id).into_iter().filter(|(_, v)| stands(v)).map(|(h, _)| h.clone()).collect();
        if !asks.is_empty() {
            must(self.open_question(id).is_none(), "question open")?;
        }
        for ask in asks {
            must(ask.quorum > 0 && standing.len() >= ask.quorum as usize, "no quorum")?;
        }
        must(e.approvers == standing, "not those who approved")
    }
}

fn recent(then: Timestamp, now: Timestamp) -> bool {
    now.since(then) < DAY_MS
}
