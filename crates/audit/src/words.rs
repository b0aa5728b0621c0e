//! Events in plain words. Everything that a program or a person wrote is made visible and, where it
//! is an agent's, marked as such.

use std::collections::BTreeSet;
use std::fmt::Display;

use grantwright_domain::event::{Decided, Decision, Delegated, Intended, Issued, Requested, Voted};
use grantwright_domain::text::{shorten, visible};
use grantwright_domain::time::ttl_words;
use grantwright_domain::{Digest, Event, LocalProcess, Params, Strength, VerdictKind};

use crate::texts::Said;

/// Longest text that is shown, in characters.
const MOST: usize = 500;

/// What happened: who asked for what and why, what policy said and which policy, who decided and
/// through what, what was minted, how it ended. One line, safe to show.
#[must_use]
pub fn words(event: &Event, said: &Said) -> String {
    match event {
        Event::Requested(e) => requested(e, said),
        Event::Decided(e) => decided(e),
        Event::Questioned(e) => {
            let text = quote(said.get(&e.text));
            format!("{} asked the agent through {}: {text}", tick(&e.human), tick(&e.channel))
        }
        Event::Answered(e) => {
            format!("the agent answered, in its words: {}", quote(said.get(&e.text)))
        }
        Event::Narrowed(e) => format!(
            "{} narrowed the request through {} to {} for {}; earlier approvals are void",
            tick(&e.human),
            tick(&e.channel),
            params(&e.terms.params),
            ttl_words(e.terms.ttl_s)
        ),
        Event::Voted(e) => voted(e, said),
        Event::Withdrawn(e) => {
            format!("{} took the approval back through {}", tick(&e.human), tick(&e.channel))
        }
        Event::Intended(e) => intended(e),
        Event::Issued(e) => issued(e),
        Event::Failed(e) => {
            format!("the backend refused ({}): {}", tick(&e.code), visible(&e.detail))
        }
        Event::Unknown(e) => {
            format!(
                "the backend's answer was lost, so the outcome is unknown: {}",
                visible(&e.detail)
            )
        }
        Event::Cancelled(e) => match e.by.as_str() {
            "agent" => "the agent cancelled the request".into(),
            _ => format!("the request was cancelled by {}", tick(&e.by)),
        },
        Event::Expired(e) => match &e.lease_id {
            None => "time ran out; no credential was issued".into(),
            Some(lease) => format!("the credential of lease {} ended by itself", tick(lease)),
        },
        Event::Renewed(e) => {
            format!("lease {} was extended until {}", tick(&e.lease_id), e.expires_at)
        }
        Event::Revoked(e) => format!(
            "{} ended lease {} early; effect seen: {}",
            tick(&e.by),
            tick(&e.lease_id),
            visible(&e.effect)
        ),
        _ => authority(event),
    }
}

fn requested(e: &Requested, said: &Said) -> String {
    let t = &e.terms;
    let mut out = format!(
        "agent {} (instance {}, workload {}) asked for {} with {} for {}",
        tick(&t.agent),
        tick(&t.instance),
        tick(&t.workload),
        tick(&t.scope),
        params(&t.params),
        ttl_words(t.ttl_s)
    );
    if let Some(seen) = &t.process {
        out.push_str(&process(seen));
    }
    if !t.sealed_params.is_empty() {
        out.push_str(&format!(" and, not shown, {}", ticks(t.sealed_params.keys())));
    }
    if let Some(human) = &t.on_behalf_of {
        out.push_str(&format!(" on behalf of {}", tick(human)));
    }
    if !t.delegation.is_empty() {
        out.push_str(&format!(", passed on by {}", ticks(&t.delegation)));
    }
    if let Some(id) = &t.delegation_id {
        out.push_str(&format!(" (delegation {})", tick(id)));
    }
    if let Some(lease) = &e.renews {
        out.push_str(&format!(", to replace lease {}", tick(lease)));
    }
    out.push_str(&format!("; its reason, in its words: {}", quote(said.get(&t.reason))));
    if let Some(task) = &t.task {
        out.push_str(&format!("; its task: {}", quote(said.get(task))));
    }
    out
}

/// What the sidecar saw of the process that asked.
fn process(seen: &LocalProcess) -> String {
    let mut parts = vec![format!("uid {}, gid {}", seen.uid, seen.gid)];
    parts.extend(seen.pid.map(|pid| format!("pid {pid}")));
    parts.extend(seen.exe.as_ref().map(|exe| format!("program {}", tick(exe))));
    parts.extend(seen.exe_digest.map(|digest| format!("its SHA-256 {digest}")));
    parts.extend(seen.cgroup.as_ref().map(|it| format!("cgroup {}", tick(it))));
    parts.extend(seen.container.as_ref().map(|it| format!("container {}", tick(it))));
    format!(" from a process that its sidecar saw ({})", parts.join(", "))
}

fn decided(e: &Decided) -> String {
    let v = &e.verdict;
    let again = if e.again { " when the agent collected" } else { "" };
    let what = match v.kind {
        VerdictKind::Allow => format!("allows it for at most {}", ttl_words(v.max_ttl_s)),
        VerdictKind::Ask => format!(
            "asks {} of {} through {}{}, for at most {}",
            match v.quorum {
                1 => "one person".to_owned(),
                n => format!("{n} different people"),
            },
            ticks(&v.approvers),
            ticks(&v.channels),
            match v.strength {
                Strength::Chat => "",
                Strength::Passkey => ", each signing with a passkey",
            },
            ttl_words(v.max_ttl_s)
        ),
        VerdictKind::Deny => format!("refuses it ({})", tick(&v.code)),
    };
    let mut out = format!("policy{again} {what}: {}", visible(&v.reason));
    out.push_str(&format!(" [{}, set {}]", policies(&v.policies), short(&v.policy_set)));
    if !e.unusual.is_empty() {
        out.push_str(&format!("; unusual: {}", visible(&e.unusual.join(", "))));
    }
    out
}

fn voted(e: &Voted, said: &Said) -> String {
    let mut out = format!(
        "{} {} through {}{} [{}]",
        tick(&e.human),
        match e.decision {
            Decision::Approve => "approved",
            Decision::Deny => "denied",
        },
        tick(&e.channel),
        if e.proof.is_some() { ", signed with a passkey" } else { "" },
        policies(&e.policies)
    );
    if !e.reason_code.is_empty() {
        out.push_str(&format!(" because {}", tick(&e.reason_code)));
    }
    if let Some(reason) = &e.reason {
        out.push_str(&format!(", saying {}", quote(said.get(reason))));
    }
    out
}

fn intended(e: &Intended) -> String {
    let who = match e.approvers.is_empty() {
        true => "as policy allows".to_owned(),
        false => format!("approved by {}", ticks(&e.approvers)),
    };
    format!("the grant was spent, {who}; minter {} may now be called", tick(&e.minter))
}

fn issued(e: &Issued) -> String {
    let facts: Vec<String> =
        e.facts.iter().map(|(k, v)| format!("{}={}", visible(k), tick(v))).collect();
    format!(
        "a credential was minted: lease {}, until {}, {}{}{}",
        tick(&e.lease_id),
        e.expires_at,
        if e.revocable { "can be ended early" } else { "cannot be ended early" },
        if facts.is_empty() { "" } else { "; " },
        facts.join(", ")
    )
}

fn authority(event: &Event) -> String {
    match event {
        Event::AgentRevoked(e) => {
            format!("operator {} ended the right of agent {}", tick(&e.by), tick(&e.agent))
        }
        Event::AgentSet(e) => format!(
            "operator {} registered agent {} with the owner {}",
            tick(&e.by),
            tick(&e.agent),
            tick(&e.owner)
        ),
        Event::Delegated(e) => delegated(e),
        Event::DelegationEnded(e) => format!(
            "{} ended delegation {}, and what was passed on from it",
            match (&e.agent, &e.human) {
                (Some(agent), _) => format!("agent {}", tick(agent)),
                (None, Some(human)) => tick(human),
                (None, None) => "nobody".into(),
            },
            tick(&e.delegation_id)
        ),
        Event::EpochStarted(e) => format!(
            "the log {} began, going on from {} leaves of {}, of which {} were carried over",
            tick(&e.origin),
            e.restored,
            tick(&e.old_origin),
            e.carried
        ),
        Event::Erased(e) => format!(
            "operator {} erased what was said beside request {}: {}",
            tick(&e.by),
            tick(&e.of),
            ticks(&e.texts)
        ),
        Event::GroupSet(e) => format!(
            "operator {} set the members of {} to {}",
            tick(&e.by),
            tick(&e.group),
            ticks(&e.members)
        ),
        Event::HumanSet(e) => format!(
            "operator {} registered {}: {}, {}",
            tick(&e.by),
            tick(&e.human),
            if e.active { "active" } else { "not active" },
            if e.operator { "an operator" } else { "no operator" }
        ),
        Event::InstanceEnrolled(e) => {
            format!("sidecar {} of agent {} enrolled", tick(&e.instance), tick(&e.agent))
        }
        Event::InstanceRenewed(e) => {
            format!("sidecar {} renewed its certificate", tick(&e.instance))
        }
        Event::InstanceRevoked(e) => {
            format!("{} ended sidecar {}: {}", tick(&e.by), tick(&e.instance), visible(&e.reason))
        }
        Event::GroupsClaimed(e) => format!(
            "the identity provider {} says that {} belongs to {}; this counts until {}",
            tick(&e.issuer),
            tick(&e.human),
            if e.groups.is_empty() { "no group".into() } else { ticks(&e.groups) },
            e.until
        ),
        Event::IdentitySet(e) => format!(
            "operator {} {} account {} of {}",
            tick(&e.by),
            match &e.human {
                Some(human) => format!("linked {} to", tick(human)),
                None => "unlinked".into(),
            },
            tick(&e.subject),
            tick(&e.issuer)
        ),
        Event::JoinCreated(e) => {
            format!("operator {} made a join token for agent {}", tick(&e.by), tick(&e.agent))
        }
        Event::LinkCreated(e) => format!(
            "operator {} made a one-time link ({}) for {}",
            tick(&e.by),
            visible(&e.purpose),
            tick(&e.human)
        ),
        Event::LinkSpent(e) => format!("one-time link {} was used", tick(&e.link_id)),
        Event::ModelSet(e) => format!(
            "operator {} {} model {} version {}",
            tick(&e.by),
            match e.until {
                Some(until) => format!("approved, until {until},"),
                None => "no longer approves".into(),
            },
            tick(&e.model),
            tick(&e.model_version)
        ),
        Event::Opened(e) => {
            format!("the log {} of trust domain {} began", tick(&e.origin), tick(&e.trust_domain))
        }
        Event::PasskeyEnrolled(e) => format!(
            "{} enrolled passkey {} for {}, by link {}",
            tick(&e.human),
            passkey(&e.credential_id),
            tick(&e.rp_id),
            tick(&e.link_id)
        ),
        Event::PasskeyRevoked(e) => {
            format!("{} ended passkey {}", tick(&e.by), passkey(&e.credential_id))
        }
        Event::PolicyLoaded(e) => format!(
            "operator {} put policy set {} with {} scopes in force",
            tick(&e.by),
            short(&e.policy_set),
            e.scopes.len()
        ),
        Event::AccountLinked(e) => format!(
            "{} took the {} account {} of {} as theirs",
            tick(&e.human),
            tick(&e.account.channel),
            tick(&e.account.account),
            tick(&e.account.tenant)
        ),
        Event::AccountUnlinked(e) => format!(
            "{} unlinked the {} account {} of {}",
            tick(&e.by),
            tick(&e.account.channel),
            tick(&e.account.account),
            tick(&e.account.tenant)
        ),
        Event::TokenIssued(e) => {
            format!("{} made an API token for {}", tick(&e.by), tick(&e.human))
        }
        Event::TokenRevoked(e) => format!("{} ended token {}", tick(&e.by), tick(&e.token_id)),
        other => other.kind().replace('_', " "),
    }
}

fn delegated(e: &Delegated) -> String {
    let scopes = e.scopes.iter().map(|(name, bounds)| {
        let within = match bounds.params.is_empty() {
            true => String::new(),
            false => format!(" within {}", params(&bounds.params)),
        };
        format!("{}{within} for at most {}", tick(name), ttl_words(bounds.ttl_s))
    });
    format!(
        "agent {} handed {} to agent {}, as delegation {}{}, until {}; it may be passed on {} times",
        tick(&e.from),
        scopes.collect::<Vec<_>>().join(", "),
        tick(&e.to),
        tick(&e.delegation_id),
        match &e.parent {
            Some(parent) => format!(", passed on from {}", tick(parent)),
            None => String::new(),
        },
        e.expires_at,
        e.passes
    )
}

fn tick(text: &(impl Display + ?Sized)) -> String {
    format!("`{}`", shorten(&visible(&text.to_string()), MOST))
}

fn ticks<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let list: Vec<String> = items.into_iter().map(|item| tick(&item)).collect();
    if list.is_empty() { "nobody".into() } else { list.join(", ") }
}

fn policies(ids: &BTreeSet<String>) -> String {
    if ids.is_empty() { "no policy".into() } else { format!("policies {}", ticks(ids)) }
}

fn params(params: &Params) -> String {
    let list: Vec<String> = params
        .iter()
        .map(|(name, value)| format!("{}={}", visible(name), tick(&value.text())))
        .collect();
    if list.is_empty() { "no parameters".into() } else { list.join(", ") }
}

fn quote(text: Option<&str>) -> String {
    match text {
        Some(text) => format!("“{}”", shorten(&visible(text), MOST)),
        None => "(erased)".into(),
    }
}

/// Enough of a credential id to know it by.
fn passkey(credential_id: &str) -> String {
    tick(&credential_id.chars().take(12).collect::<String>())
}

fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}
