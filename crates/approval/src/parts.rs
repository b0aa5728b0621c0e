//! The parts of the card, each from the request's typed fields.

use grantwright_domain::event::Decision;
use grantwright_domain::request::{LeaseState, Terms};
use grantwright_domain::scope::{Labels, grouped};
use grantwright_domain::time::ttl_words;
use grantwright_domain::{Digest, LocalProcess, ParamValue, Phase, Rights, VerdictKind, canonical};
use serde_json::Value;

use crate::card::{
    Answer, Because, FullView, Issues, Material, Param, ProcessFact, Progress, Question, Vote, Who,
    Words,
};
use crate::show::{code, plain, prose};

/// Most columns of a value within the headline.
const IN_HEADLINE: usize = 48;
/// Most columns of a value in the list of parameters; a longer one must be opened.
const IN_LIST: usize = 160;
/// Most members of a set that are shown; more must be opened.
const MEMBERS: usize = 12;
/// Most columns of the agent's words, each; longer ones must be opened.
const IN_WORDS: usize = 600;

/// Who speaks in part 6.
const NOTE: &str = "said by the agent, not checked";

/// The title with its slots filled in one pass: a value that looks like a slot stays a value.
pub(crate) fn headline(m: &Material<'_>) -> String {
    let mut out = String::new();
    let mut rest = m.scope.title.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(&plain(before));
        let slot = after.split_once('}').filter(|(name, _)| m.scope.params.contains_key(*name));
        if let Some((name, after)) = slot {
            out.push_str(&slot_words(&m.state.terms, name));
            rest = after;
        } else {
            out.push('{');
            rest = after;
        }
    }
    out.push_str(&plain(rest));
    out
}

/// In place of a headline whose words are not the pinned ones.
pub(crate) fn unpinned(m: &Material<'_>) -> String {
    format!("Do not approve: this request pins another declaration of `{}`", m.state.terms.scope)
}

fn slot_words(terms: &Terms, name: &str) -> String {
    match terms.params.get(name) {
        Some(ParamValue::Integer(i)) => grouped(*i),
        Some(value) => {
            let (values, _) = value_words(value, IN_HEADLINE, 3);
            values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ")
        }
        None if terms.sealed_params.contains_key(name) => "(a sensitive value)".into(),
        None => "(none)".into(),
    }
}

/// A value for code style, and whether it is whole.
fn value_words(value: &ParamValue, most: usize, members: usize) -> (Vec<String>, bool) {
    match value {
        ParamValue::Boolean(b) => (vec![b.to_string()], true),
        ParamValue::Integer(i) => (vec![grouped(*i)], true),
        ParamValue::Text(text) => {
            let shown = code(text, most);
            (vec![shown.text], shown.full)
        }
        ParamValue::Set(set) => {
            let mut full = true;
            let mut out: Vec<String> = set
                .iter()
                .map(|text| {
                    let shown = code(text, most);
                    full &= shown.full;
                    shown.text
                })
                .collect();
            if out.len() > members {
                full = false;
                let left = out.len() - members;
                let head = members.div_ceil(2);
                out.splice(head..head + left, [format!("… {} more …", grouped_count(left))]);
            }
            (out, full)
        }
    }
}

fn grouped_count(n: usize) -> String {
    grouped(i64::try_from(n).unwrap_or(i64::MAX))
}

pub(crate) fn params(m: &Material<'_>, full_view: &mut Vec<FullView>) -> Vec<Param> {
    let terms = &m.state.terms;
    let title = |name: &str| m.scope.params.get(name).map(|s| plain(&s.title)).unwrap_or_default();
    let open = terms.params.iter().map(|(name, value)| {
        let (values, full) = value_words(value, IN_LIST, MEMBERS);
        if !full {
            let text = value.text();
            full_view.push(FullView {
                name: format!("params.{}", code(name, IN_HEADLINE).text),
                length: text.chars().count(),
                digest: Some(
                    canonical::digest("parameter", value)
                        .unwrap_or_else(|_| Digest::of("parameter", text.as_bytes())),
                ),
            });
        }
        let shown = code(name, IN_HEADLINE).text;
        Param { name: shown, title: title(name), values, sensitive: false, full }
    });
    let mut out: Vec<Param> = open.collect();
    out.extend(terms.sealed_params.keys().map(|name| Param {
        name: code(name, IN_HEADLINE).text,
        title: title(name),
        values: Vec::new(),
        sensitive: true,
        full: true,
    }));
    out
}

pub(crate) fn stakes(labels: &Labels) -> Vec<String> {
    let say = |what: &str, label: &str, suffix: &str| {
        if label == "unlabelled" { format!("{what} unlabelled") } else { plain(label) + suffix }
    };
    vec![
        say("environment", &labels.environment, ""),
        say("data class", &labels.data_class, ""),
        say("risk", &labels.risk, " risk"),
        say("undo", &labels.undo, ""),
    ]
}

pub(crate) fn who(m: &Material<'_>) -> Who {
    let terms = &m.state.terms;
    let agent = m.authority.agents.get(&terms.agent);
    let attributes = agent.map(|a| a.attributes.clone()).unwrap_or_default();
    let qualified = m.authority.qualified(&attributes, m.now);
    let key = (attributes.model.clone(), attributes.model_version.clone());
    let instance = m.authority.instances.get(&terms.instance);
    Who {
        agent: terms.agent.to_string(),
        owner: agent.and_then(|a| a.owner()).map(ToString::to_string).unwrap_or_default(),
        team: plain(&attributes.team),
        model: plain(&attributes.model),
        model_version: plain(&attributes.model_version),
        qualified,
        qualified_until: m.authority.models.get(&key).copied().filter(|_| qualified),
        revoked: agent.is_some_and(|a| a.revoked) || instance.is_some_and(|i| i.revoked),
        instance: terms.instance.to_string(),
        workload: code(&terms.workload, IN_HEADLINE).text,
        process: terms.process.as_ref().map(process).unwrap_or_default(),
        delegation: terms.delegation.iter().map(ToString::to_string).collect(),
        on_behalf_of: terms.on_behalf_of.as_ref().map(ToString::to_string),
    }
}

/// The program first, since that is what people know; numbers and digests after it.
fn process(seen: &LocalProcess) -> Vec<ProcessFact> {
    let digest = seen.exe_digest.map(|it| it.hex());
    let facts = [
        ("program", seen.exe.clone()),
        ("uid", Some(seen.uid.to_string())),
        ("gid", Some(seen.gid.to_string())),
        ("pid", seen.pid.map(|it| it.to_string())),
        ("container", seen.container.clone()),
        ("cgroup", seen.cgroup.clone()),
        ("sha-256", digest),
    ];
    facts
        .into_iter()
        .filter_map(|(name, value)| Some(ProcessFact { name, value: code(&value?, IN_LIST).text }))
        .collect()
}

pub(crate) fn because(m: &Material<'_>) -> Because {
    match &m.state.verdict {
        Some(verdict) => Because {
            reason: plain(&verdict.reason),
            policies: verdict.policies.iter().map(|p| code(p, IN_LIST).text).collect(),
        },
        None => Because { reason: String::new(), policies: Vec::new() },
    }
}

pub(crate) fn words(m: &Material<'_>, full_view: &mut Vec<FullView>) -> Words {
    let mut say = |name: String, text: &str, digest: Option<Digest>| {
        let shown = prose(text, IN_WORDS);
        if !shown.full {
            full_view.push(FullView { name, length: shown.chars, digest });
        }
        shown.text
    };
    Words {
        reason: m.reason.map(|text| say("reason".into(), text, Some(m.state.terms.reason))),
        task: m.task.map(|text| say("task".into(), text, m.state.terms.task)),
        answers: m
            .state
            .questions
            .iter()
            .filter_map(|q| q.answered.map(|(ordinal, _)| (q.ordinal, ordinal)))
            .map(|(question, ordinal)| Answer {
                question,
                text: m.texts.get(&ordinal).map(|t| say(format!("answer {ordinal}"), t, None)),
            })
            .collect(),
        note: NOTE,
    }
}

pub(crate) fn issues(m: &Material<'_>) -> Issues {
    let (state, terms) = (m.state, &m.state.terms);
    let minter = code(&m.scope.minter, IN_HEADLINE).text;
    let lease = state.lease.as_ref();
    let live = state.phase.is_open() || state.phase == Phase::Intended;
    let ends = match (m.revocable, lease.map(|l| l.revocable)) {
        (_, Some(false)) | (None, None) => "cannot be recalled".to_owned(),
        (Some(how), _) => format!("can be ended early: {}", plain(how)),
        (None, Some(true)) => "can be ended early".into(),
    };
    Issues {
        summary: format!("one credential for `{}`, made by `{minter}`", terms.scope),
        what: escaped(&m.preview),
        ttl: ttl_words(terms.ttl_s),
        ends,
        ends_at: match lease {
            Some(lease) if lease.state == LeaseState::Revoked => None,
            Some(lease) => Some(lease.expires_at),
            None => live.then(|| m.now.plus_seconds(i64::from(terms.ttl_s))),
        },
        issued: lease.is_some(),
        renews: state.renews.as_ref().map(ToString::to_string),
    }
}

/// The same JSON with every text and key for code style, whole.
fn escaped(value: &Value) -> Value {
    let whole = |text: &str| code(text, usize::MAX).text;
    match value {
        Value::String(text) => Value::String(whole(text)),
        Value::Array(items) => items.iter().map(escaped).collect(),
        Value::Object(map) => map.iter().map(|(k, v)| (whole(k), escaped(v))).collect(),
        other => other.clone(),
    }
}

pub(crate) fn progress(m: &Material<'_>) -> Progress {
    let state = m.state;
    let standing = state.standing(Rights::Now(m.authority), m.now);
    let counts = |v: &grantwright_domain::request::Vote| match v.decision {
        Decision::Approve => v.live && v.digest == state.digest && standing.contains(&v.human),
        Decision::Deny => v.live,
    };
    let verdict = state.verdict.as_ref();
    let asks = verdict.filter(|v| v.kind == VerdictKind::Ask);
    Progress {
        phase: state.phase,
        sentence: sentence(m, standing.len()),
        have: standing.len(),
        needed: verdict.map_or(0, |v| v.quorum),
        strength: asks.map(|v| v.strength),
        groups: asks.into_iter().flat_map(|v| &v.approvers).map(ToString::to_string).collect(),
        channels: asks.into_iter().flat_map(|v| &v.channels).map(|c| plain(c)).collect(),
        confirm: m.scope.confirm.clone().filter(|_| state.phase.is_open()),
        expires_at: state.phase.is_open().then(|| state.expires_at()),
        votes: state
            .votes
            .iter()
            .map(|v| Vote {
                human: v.human.to_string(),
                decision: v.decision,
                at: v.at,
                channel: plain(&v.channel),
                standing: counts(v),
            })
            .collect(),
        questions: state
            .questions
            .iter()
            .map(|q| Question {
                id: q.ordinal,
                by: q.human.to_string(),
                text: m.texts.get(&q.ordinal).map(|t| prose(t, IN_WORDS).text),
                at: q.at,
                answered_at: q.answered.map(|(_, at)| at),
                open: q.answered.is_none() && !q.closed,
            })
            .collect(),
        narrowed: state.original.as_ref().map_or_else(Vec::new, |old| narrowed(old, &state.terms)),
    }
}

fn narrowed(old: &Terms, new: &Terms) -> Vec<String> {
    let mut out = Vec::new();
    if old.ttl_s != new.ttl_s {
        out.push(format!("lifetime: {} → {}", ttl_words(old.ttl_s), ttl_words(new.ttl_s)));
    }
    for name in old.params.keys().filter(|name| new.params.get(*name) != old.params.get(*name)) {
        let shown = code(name, IN_HEADLINE).text;
        out.push(format!("{shown}: {} → {}", slot_words(old, name), slot_words(new, name)));
    }
    out
}

/// Where the request stands; after its end, what happened.
fn sentence(m: &Material<'_>, have: usize) -> String {
    let state = m.state;
    match state.phase {
        Phase::Recorded => "recorded, not decided yet".into(),
        Phase::Pending => match (state.open_question(), &state.verdict) {
            (Some(q), _) => format!("waits for the agent to answer {}", q.human),
            (None, Some(v)) => match (v.quorum as usize).saturating_sub(have) {
                1 => "waits for one person".into(),
                n => format!("waits for {n} people"),
            },
            (None, None) => "waits".into(),
        },
        Phase::Approved => "approved; the agent has not collected it yet".into(),
        Phase::Intended => "the grant is spent; the credential is being made".into(),
        Phase::Granted => match &state.lease {
            Some(lease) => match lease.state {
                LeaseState::Live => format!("issued as lease `{}`", lease.id),
                LeaseState::Withdrawn => format!(
                    "no longer served, lease `{}`, but valid until its end: {}",
                    lease.id,
                    plain(&lease.effect)
                ),
                LeaseState::Revoked => {
                    format!("ended early, lease `{}`: {}", lease.id, plain(&lease.effect))
                }
                LeaseState::Expired => format!("lease `{}` ended by itself", lease.id),
            },
            None => "issued".into(),
        },
        Phase::Denied => match state.votes.iter().find(|v| v.decision == Decision::Deny) {
            Some(vote) => format!("denied by {}; nothing was issued", vote.human),
            None => format!("refused by policy ({}); nothing was issued", plain(&state.end_code)),
        },
        Phase::Expired => "time ran out; nothing was issued".into(),
        Phase::Cancelled => "cancelled; nothing was issued".into(),
        Phase::Failed => {
            format!("the backend refused ({}); nothing was issued", plain(&state.end_code))
        }
        Phase::Unknown => {
            "the backend's answer was lost: whether a credential exists is unknown".into()
        }
    }
}

/// A value that was too long for the card, in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// Which: as in [`FullView::name`].
    pub name: String,
    /// Safe to show.
    pub text: String,
}

/// The long values of a card in full, each as safe to show as on the card.
#[must_use]
pub fn whole(m: &Material<'_>, views: &[FullView]) -> Vec<Whole> {
    let terms = &m.state.terms;
    let of = |view: &FullView| -> Option<String> {
        let words = |text: &str| prose(text, usize::MAX).text;
        match view.name.as_str() {
            "reason" => m.reason.map(words),
            "task" => m.task.map(words),
            name => match (name.strip_prefix("params."), name.strip_prefix("answer ")) {
                (Some(param), _) => terms
                    .params
                    .iter()
                    .find(|(name, _)| code(name, IN_HEADLINE).text == param)
                    .map(|(_, value)| value_words(value, usize::MAX, usize::MAX).0.join("\n")),
                (_, Some(ordinal)) => m.texts.get(&ordinal.parse().ok()?).map(|t| words(t)),
                _ => None,
            },
        }
    };
    let gone = || "(erased)".to_owned();
    let whole =
        |view: &FullView| Whole { name: view.name.clone(), text: of(view).unwrap_or_else(gone) };
    views.iter().map(whole).collect()
}
