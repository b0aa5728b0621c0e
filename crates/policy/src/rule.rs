//! A policy's head and annotations, parsed: what it applies to and what it demands.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, ResourceConstraint};
use grantwright_domain::{GroupName, Strength, text, time};

use crate::fault::{Faults, Place, did_you_mean};

/// Annotations a policy may carry.
const ANNOTATIONS: [&str; 8] =
    ["approvers", "channels", "expires", "id", "max_ttl", "quorum", "reason", "strength"];
/// Annotations that say how people must approve.
const ASKING: [&str; 4] = ["approvers", "channels", "quorum", "strength"];
/// Most people a policy may ask for.
const MAX_QUORUM: u32 = 100;
/// Longest `@reason`, in characters.
const MAX_REASON: usize = 300;

/// The actions of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Action {
    Issue,
    IssueAfterApproval,
    Approve,
}

impl Action {
    pub(crate) const ALL: [Self; 3] = [Self::Issue, Self::IssueAfterApproval, Self::Approve];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::IssueAfterApproval => "issueAfterApproval",
            Self::Approve => "approve",
        }
    }
}

/// How people must approve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) quorum: u32,
    pub(crate) strength: Strength,
    pub(crate) channels: BTreeSet<String>,
    pub(crate) approvers: BTreeSet<GroupName>,
}

/// A policy as this crate sees it.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Actions its head admits.
    pub(crate) actions: BTreeSet<Action>,
    /// The one scope its head names with `==`.
    pub(crate) scope: Option<String>,
    /// Present on every permit that admits `issueAfterApproval`.
    pub(crate) ask: Option<Ask>,
    pub(crate) max_ttl_s: Option<u32>,
    /// First day on which the permit no longer counts, `YYYY-MM-DD` in the set's zone.
    pub(crate) expires: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) place: Place,
    /// Byte offset of its first word in its file.
    pub(crate) offset: usize,
}

impl Rule {
    /// True when the permit still counts on `date`.
    pub(crate) fn counts_on(&self, date: &str) -> bool {
        self.expires.as_deref().is_none_or(|end| date < end)
    }
}

fn is(uid: &EntityUid, kind: &str) -> bool {
    uid.type_name().basename() == kind && uid.type_name().namespace().is_empty()
}

fn actions(policy: &Policy) -> BTreeSet<Action> {
    let named = |uid: &EntityUid| {
        Action::ALL.into_iter().find(|a| is(uid, "Action") && uid.id().unescaped() == a.name())
    };
    match policy.action_constraint() {
        ActionConstraint::Any => Action::ALL.into(),
        // Unknown actions are faults of the schema's own check.
        ActionConstraint::Eq(uid) => named(&uid).into_iter().collect(),
        ActionConstraint::In(uids) => uids.iter().filter_map(named).collect(),
    }
}

/// Reads head and annotations; `line` finds the line of an annotation.
pub(crate) fn read(
    policy: &Policy,
    place: &Place,
    line: &dyn Fn(&str) -> usize,
    faults: &mut Faults,
) -> Rule {
    let permit = policy.effect() == Effect::Permit;
    let actions = actions(policy);
    let asks = permit && actions.contains(&Action::IssueAfterApproval);
    let issues = permit && (asks || actions.contains(&Action::Issue));
    let at = |name: &str| Place { file: place.file.clone(), line: line(name) };
    for (name, _) in policy.annotations() {
        if !ANNOTATIONS.contains(&name) {
            let known = ANNOTATIONS.map(|a| format!("@{a}")).join(", ");
            let hint =
                did_you_mean(name, ANNOTATIONS).unwrap_or_else(|| format!("there are {known}"));
            let shown = text::shorten(&text::visible(name), 40);
            faults.suggest(&at(name), format!("unknown annotation `@{shown}`"), Some(hint));
        } else if ASKING.contains(&name) && !asks {
            faults.suggest(
                &at(name),
                format!(
                    "`@{name}` means nothing here: no request is asked of people by this policy"
                ),
                Some("it belongs on a permit for `issueAfterApproval`".into()),
            );
        } else if name == "max_ttl" && !issues {
            faults.suggest(
                &at(name),
                "`@max_ttl` means nothing here",
                Some("it belongs on a permit for `issue` or `issueAfterApproval`".into()),
            );
        } else if name == "expires" && !permit {
            // A forbid that silently stopped would open a door on its own.
            faults.suggest(
                &at(name),
                "a forbid does not expire",
                Some("remove it when its time is over, or test `context.time.date`".into()),
            );
        }
    }
    let mut value = |name: &str, parse: &dyn Fn(&str) -> Result<(), String>| {
        let text = policy.annotation(name)?;
        match parse(text) {
            Ok(()) => Some(text.to_owned()),
            Err(want) => {
                let shown = text::shorten(&text::visible(text), 60);
                faults.suggest(&at(name), format!("`@{name}(\"{shown}\")`"), Some(want));
                None
            }
        }
    };
    let quorum = value("quorum", &|t| quorum(t).map(drop));
    let strength = value("strength", &|t| strength(t).map(drop));
    let channels = value("channels", &|t| channels(t).map(drop));
    let approvers = value("approvers", &|t| approvers(t).map(drop));
    let max_ttl = value("max_ttl", &|t| time::parse_ttl(t).map(drop));
    let expires = value("expires", &date);
    let reason = value("reason", &sentence);
    if asks {
        for name in ["quorum", "approvers", "channels"] {
            if policy.annotation(name).is_none() {
                faults.suggest(
                    place,
                    format!("a permit for `issueAfterApproval` must say `@{name}`"),
                    Some(match name {
                        "quorum" => "for example @quorum(\"1\")".into(),
                        "approvers" => "for example @approvers(\"reviewers\")".into(),
                        _ => "for example @channels(\"console,api\")".into(),
                    }),
                );
            }
        }
    }
    let ask = asks.then(|| Ask {
        quorum: quorum.and_then(|t| self::quorum(&t).ok()).unwrap_or(0),
        strength: strength.and_then(|t| self::strength(&t).ok()).unwrap_or(Strength::Chat),
        channels: channels.and_then(|t| self::channels(&t).ok()).unwrap_or_default(),
        approvers: approvers.and_then(|t| self::approvers(&t).ok()).unwrap_or_default(),
    });
    let scope = match policy.resource_constraint() {
        ResourceConstraint::Eq(uid) if is(&uid, "Scope") => Some(uid.id().unescaped().to_owned()),
        _ => None,
    };
    Rule {
        actions,
        scope,
        ask,
        max_ttl_s: max_ttl.and_then(|t| time::parse_ttl(&t).ok()),
        expires,
        reason,
        place: place.clone(),
        offset: 0,
    }
}

fn quorum(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(n) if (1..=MAX_QUORUM).contains(&n) && n.to_string() == text => Ok(n),
        _ => Err(format!("want the number of people, 1 to {MAX_QUORUM}")),
    }
}

fn strength(text: &str) -> Result<Strength, String> {
    match text {
        "chat" => Ok(Strength::Chat),
        "passkey" => Ok(Strength::Passkey),
        _ => Err("want `chat` or `passkey`".into()),
    }
}

fn channels(text: &str) -> Result<BTreeSet<String>, String> {
    let ok = |c: &str| {
        (1..=32).contains(&c.len())
            && c.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let all: Vec<&str> = text.split(',').map(str::trim).collect();
    if all.iter().all(|c| ok(c)) {
        Ok(all.into_iter().map(str::to_owned).collect())
    } else {
        Err("want channels with commas between, for example `console,api`".into())
    }
}

fn approvers(text: &str) -> Result<BTreeSet<GroupName>, String> {
    text.split(',')
        .map(|g| GroupName::parse(g.trim()))
        .collect::<Result<_, _>>()
        .map_err(|_| "want groups with commas between, for example `reviewers`".into())
}

fn date(text: &str) -> Result<(), String> {
    match text.parse::<jiff::civil::Date>() {
        Ok(d) if d.to_string() == text && d.year() >= 1970 => Ok(()),
        _ => Err("want a date, for example `2027-01-01`".into()),
    }
}

fn sentence(t: &str) -> Result<(), String> {
    let fits = !t.trim().is_empty()
        && t.chars().count() <= MAX_REASON
        && !t.chars().any(text::is_deceptive);
    if fits { Ok(()) } else { Err(format!("want 1 to {MAX_REASON} plain characters")) }
}

/// True for a name that may be given with `@id`.
pub(crate) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
