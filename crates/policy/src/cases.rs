//! Expectations that stand beside scopes and policies: who asks for what, when, and what is to become of
//! it. Each case is decided as the broker decides: by the same fold, the same verdict and the same rules of
//! who may approve.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use grantwright_domain::event::{
    AgentSet, Attributes, Event, GroupSet, HumanSet, ModelSet, Opened, Requested,
};
use grantwright_domain::{
    AgentId, Authority, Digest, GroupName, HumanId, InstanceId, LocalProcess, RequestId,
    RequestState, Rights, Scope, ScopeName, Strength, Terms, Timestamp, Verdict, VerdictKind,
    eligible, param, time,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use crate::fault::{Fault, line_of};
use crate::{Approval, Asked, PolicySet, attributes};

/// How long before a case everything in it was set up: longer than who set it up must stay out of votes.
const SETTLED_MS: i64 = 48 * 3_600_000;
/// Who set it up; no person of a case may be called so.
const OPERATOR: &str = "the-operator";
/// How long the people of a case have to decide, in seconds.
const TIME_TO_DECIDE_S: u32 = 3600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// RFC 3339, for cases that name no time.
    at: Option<String>,
    /// Everybody who is named, with their groups.
    #[serde(default)]
    people: BTreeMap<HumanId, BTreeSet<GroupName>>,
    #[serde(default)]
    agents: BTreeMap<AgentId, Registered>,
    #[serde(default, rename = "case")]
    cases: Vec<Spanned<Case>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Registered {
    owner: HumanId,
    #[serde(default)]
    team: String,
    #[serde(default)]
    environment: String,
    #[serde(default)]
    model: String,
    #[serde(default)]
    model_version: String,
    /// The register has the model, and its time is not over.
    #[serde(default)]
    qualified: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    agent: AgentId,
    scope: ScopeName,
    #[serde(default)]
    params: Map<String, Value>,
    ttl: Option<String>,
    at: Option<String>,
    #[serde(default)]
    peer: String,
    /// Agents that passed the right on, first the outermost.
    #[serde(default)]
    through: Vec<AgentId>,
    on_behalf_of: Option<HumanId>,
    workload: Option<LocalProcess>,
    want: VerdictKind,
    code: Option<String>,
    policies: Option<BTreeSet<String>>,
    quorum: Option<u32>,
    strength: Option<Strength>,
    approvers: Option<BTreeSet<GroupName>>,
    channels: Option<BTreeSet<String>>,
    max_ttl: Option<String>,
    /// Where people decide; absent: on any channel that the verdict names.
    channel: Option<String>,
    #[serde(default)]
    may_approve: BTreeSet<HumanId>,
    #[serde(default)]
    may_not_approve: BTreeSet<HumanId>,
}

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The file's name, as it was given.
    pub file: String,
    /// The line on which it begins, counted from 1.
    pub line: usize,
    /// Its own name.
    pub name: String,
    /// What is otherwise than it wants, in words; empty: nothing.
    pub differences: Vec<String>,
}

impl PolicySet {
    /// Tries every case of a file.
    ///
    /// # Errors
    /// The file is not of the form that `docs/policy.md` describes.
    pub fn try_cases(&self, file: &str, text: &str) -> Result<Vec<Tried>, Fault> {
        let fault = |line, message: &str| Fault {
            file: file.to_owned(),
            line,
            message: message.to_owned(),
            suggestion: None,
        };
        let read: File = toml::from_str(text).map_err(|e| {
            fault(e.span().map_or(0, |span| line_of(text, span.start)), e.message())
        })?;
        let mut out = Vec::with_capacity(read.cases.len());
        for case in &read.cases {
            let line = line_of(text, case.span().start);
            let case = case.get_ref();
            let differences = self.differences(&read, case).map_err(|e| fault(line, &e))?;
            out.push(Tried { file: file.to_owned(), line, name: case.name.clone(), differences });
        }
        Ok(out)
    }

    /// What is otherwise than the case wants.
    ///
    /// # Errors
    /// What the case says cannot be asked.
    fn differences(&self, file: &File, case: &Case) -> Result<Vec<String>, String> {
        let at = case.at.as_ref().or(file.at.as_ref());
        let at = at.ok_or("no time: say `at`, here or at the top of the file")?;
        let at = Timestamp::parse(at)?;
        let authority = authority(file, at)?;
        let scope = self
            .scopes()
            .get(&case.scope)
            .ok_or_else(|| format!("there is no scope `{}`", case.scope))?;
        let terms = terms(case, scope, &authority, at)?;
        let theirs = |agent: &AgentId| attributes(&authority, agent, at);
        let (own, chain) = (theirs(&case.agent), case.through.iter().map(theirs));
        let chain: Vec<Map<String, Value>> = chain.collect();
        let asked = Asked {
            agent: &case.agent,
            attributes: &own,
            context: &self.context_of(at, &case.peer, &terms),
            scope,
            params: &terms.params,
            ttl_s: terms.ttl_s,
        };
        let verdict = self.decide_along(&asked, &case.through, &chain);
        let verdict = match verdict.kind {
            VerdictKind::Deny => verdict,
            _ if verdict.admits_ttl(terms.ttl_s) => verdict,
            _ => {
                let most = time::ttl_words(verdict.max_ttl_s);
                let why = format!("at most {most} may be asked for");
                Verdict::deny(verdict.policy_set, "ttl_too_long", why, verdict.policies)
            }
        };
        let mut out = case.compare(&verdict)?;
        let requested = Requested {
            at,
            digest: terms.digest().map_err(|e| e.to_string())?,
            renews: None,
            request_id: terms.request_id.clone(),
            terms,
        };
        let mut state =
            RequestState::begin(0, &requested, Rights::Past).map_err(|e| e.to_string())?;
        state.verdict = Some(verdict);
        for (people, wanted) in [(&case.may_approve, true), (&case.may_not_approve, false)] {
            for human in people {
                named(&authority, human)?;
                let refusal = self.refusal(case, &state, scope, &authority, human, (&own, &chain));
                match (wanted, refusal) {
                    (true, Some(why)) => out.push(format!("`{human}` may not approve: {why}")),
                    (false, None) => out.push(format!("`{human}` may approve")),
                    _ => {}
                }
            }
        }
        Ok(out)
    }

    /// Why this person may approve through no channel of the case; none: they may.
    fn refusal(
        &self,
        case: &Case,
        state: &RequestState,
        scope: &Scope,
        authority: &Authority,
        human: &HumanId,
        (attributes, chain): (&Map<String, Value>, &[Map<String, Value>]),
    ) -> Option<String> {
        let at = state.requested_at;
        let named = state.verdict.as_ref().map(|v| v.channels.clone()).unwrap_or_default();
        let channels = case.channel.as_ref().map_or(named, |one| [one.clone()].into());
        let mut why = "no vote is asked for".to_owned();
        for channel in &channels {
            let refused = match eligible::check(state, authority, human, channel, at) {
                Err(ineligible) => ineligible.to_string(),
                Ok(()) => {
                    let vote = Approval {
                        human,
                        groups: &authority.groups_of(human, at),
                        scope,
                        terms: &state.terms,
                        attributes,
                        chain,
                        channel,
                        at,
                    };
                    match self.may_approve(&vote) {
                        Ok(_) => return None,
                        Err(refusal) => refusal.to_string(),
                    }
                }
            };
            why = refused;
        }
        Some(why)
    }
}

impl Case {
    fn compare(&self, verdict: &Verdict) -> Result<Vec<String>, String> {
        let mut out = Vec::new();
        if self.want != verdict.kind {
            let (want, got) = (word(self.want), word(verdict.kind));
            out.push(format!("want {want}, got {got}: {}", verdict.reason));
        }
        let max_ttl = self.max_ttl.as_deref().map(time::parse_ttl).transpose()?;
        differ(&mut out, "code", self.code.as_ref(), &verdict.code, Clone::clone);
        differ(&mut out, "policies", self.policies.as_ref(), &verdict.policies, joined);
        differ(&mut out, "quorum", self.quorum.as_ref(), &verdict.quorum, u32::to_string);
        differ(&mut out, "strength", self.strength.as_ref(), &verdict.strength, |s| {
            String::from(if *s == Strength::Chat { "chat" } else { "passkey" })
        });
        differ(&mut out, "approvers", self.approvers.as_ref(), &verdict.approvers, joined);
        differ(&mut out, "channels", self.channels.as_ref(), &verdict.channels, joined);
        differ(&mut out, "max_ttl", max_ttl.as_ref(), &verdict.max_ttl_s, |s| time::ttl_words(*s));
        Ok(out)
    }
}

fn differ<T: PartialEq>(
    out: &mut Vec<String>,
    what: &str,
    want: Option<&T>,
    got: &T,
    shown: impl Fn(&T) -> String,
) {
    if let Some(want) = want.filter(|want| *want != got) {
        out.push(format!("want {what} `{}`, got `{}`", shown(want), shown(got)));
    }
}

fn joined<T: Display>(all: &BTreeSet<T>) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn word(kind: VerdictKind) -> &'static str {
    match kind {
        VerdictKind::Allow => "allow",
        VerdictKind::Ask => "ask",
        VerdictKind::Deny => "deny",
    }
}

fn named(authority: &Authority, human: &HumanId) -> Result<(), String> {
    match authority.humans.contains_key(human) {
        true => Ok(()),
        false => Err(format!("`{human}` is not among `[people]`")),
    }
}

/// The people and agents of a file, as the log would have them at `now`.
fn authority(file: &File, now: Timestamp) -> Result<Authority, String> {
    let at = now.plus_millis(-SETTLED_MS);
    let by = HumanId::parse(OPERATOR).map_err(|e| e.to_string())?;
    if file.people.contains_key(&by) {
        return Err(format!("nobody may be called `{by}` here"));
    }
    let person = |human: &HumanId, operator| {
        let (by, human) = (by.clone(), human.clone());
        Event::HumanSet(HumanSet { at, by, human, active: true, operator })
    };
    let opened = Opened {
        at,
        version: 1,
        origin: "cases".into(),
        vkey: "cases".into(),
        trust_domain: "cases".into(),
        recovery_key: None,
    };
    let mut events = vec![Event::Opened(opened), person(&by, true)];
    events.extend(file.people.keys().map(|human| person(human, false)));
    let groups: BTreeSet<&GroupName> = file.people.values().flatten().collect();
    for group in groups {
        let members = file.people.iter().filter(|(_, of)| of.contains(group));
        let members = members.map(|(human, _)| human.clone()).collect();
        events.push(Event::GroupSet(GroupSet {
            at,
            by: by.clone(),
            group: group.clone(),
            members,
        }));
    }
    for (agent, it) in &file.agents {
        let attributes = Attributes {
            team: it.team.clone(),
            environment: it.environment.clone(),
            model: it.model.clone(),
            model_version: it.model_version.clone(),
        };
        if it.qualified {
            events.push(Event::ModelSet(ModelSet {
                at,
                by: by.clone(),
                model: it.model.clone(),
                model_version: it.model_version.clone(),
                until: Some(now.plus_millis(SETTLED_MS)),
            }));
        }
        let (by, agent, owner) = (by.clone(), agent.clone(), it.owner.clone());
        events.push(Event::AgentSet(AgentSet { at, by, agent, owner, attributes }));
    }
    let mut authority = Authority::default();
    for (index, event) in (0..).zip(&events) {
        authority.apply(index, event).map_err(|e| e.to_string())?;
    }
    Ok(authority)
}

fn terms(
    case: &Case,
    scope: &Scope,
    authority: &Authority,
    at: Timestamp,
) -> Result<Terms, String> {
    for agent in std::iter::once(&case.agent).chain(&case.through) {
        if !authority.agents.contains_key(agent) {
            return Err(format!("`{agent}` is not among `[agents]`"));
        }
    }
    case.on_behalf_of.iter().try_for_each(|human| named(authority, human))?;
    if let Some(fault) = case.workload.as_ref().and_then(LocalProcess::fault) {
        return Err(fault.to_owned());
    }
    let given = Value::Object(case.params.clone());
    let mut params = param::check_all(&scope.params, &given).map_err(|e| e.to_string())?;
    params.retain(|name, _| scope.params.get(name).is_some_and(|spec| !spec.sensitive));
    let ttl_s = case.ttl.as_deref().map(time::parse_ttl).transpose()?;
    let unsaid = Digest::of("commitment", b"");
    Ok(Terms {
        agent: case.agent.clone(),
        decide_by: at.plus_seconds(TIME_TO_DECIDE_S.into()),
        delegation: case.through.clone(),
        delegation_id: None,
        instance: InstanceId::parse("case").map_err(|e| e.to_string())?,
        on_behalf_of: case.on_behalf_of.clone(),
        origin: authority.origin.clone(),
        params,
        process: case.workload.clone(),
        reason: unsaid,
        request_id: RequestId::parse("case").map_err(|e| e.to_string())?,
        scope: case.scope.clone(),
        sealed_params: BTreeMap::new(),
        task: None,
        template: scope.digest().map_err(|e| e.to_string())?,
        ttl_s: ttl_s.unwrap_or(scope.ttl.default_s),
        version: 1,
        workload: String::new(),
    })
}
