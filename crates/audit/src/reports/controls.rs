//! Controls: what is promised, what is counted for it, and when a line of it is an exception.

use std::collections::BTreeMap;

use grantwright_domain::event::Decision;
use grantwright_domain::text::visible;
use grantwright_domain::time::CLOCK_BOUND_MS;
use grantwright_domain::{Event, Strength, VerdictKind};

use super::gather::{Change, Data, Row};
use super::sample::Sample;
use super::{Kind, Line, MOST_EXCEPTIONS, Section, Wanted};

/// A control: id, title, promise, and how it is tested.
pub(super) type Control = (&'static str, &'static str, &'static str, Test);

/// What a control is tested with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Alarms,
    Authenticators,
    Credentials,
    Denials,
    Dual,
    Ended,
    Enforced,
    Events,
    Kept,
    People,
    Policies,
    Registered,
    Sidecars,
    Signed,
    Times,
    Votes,
}

pub(super) const SOC2: &[Control] = &[
    (
        "CC6.1",
        "Logical access",
        "No agent holds a standing secret: every credential is minted for one request, lives no longer than was approved, and ends.",
        Test::Credentials,
    ),
    (
        "CC6.2",
        "Registration and authorisation",
        "Agents, people and sidecars are registered by an operator, or by a token that one made, before anything is issued to them.",
        Test::Registered,
    ),
    (
        "CC6.3",
        "Least privilege and segregation of duties",
        "What needs people is approved by the full number of distinct people, none of whom answers for the agent.",
        Test::People,
    ),
    (
        "CC6.3 (removal)",
        "Access ends",
        "Every credential whose time has passed has ended, and the log says how.",
        Test::Ended,
    ),
    (
        "CC7.2",
        "Monitoring for anomalies",
        "What looks wrong is recorded: copied keys, unknown outcomes, what people reported.",
        Test::Alarms,
    ),
    (
        "CC7.3",
        "Evaluation of security events",
        "Every refusal names who or which policy refused.",
        Test::Denials,
    ),
    (
        "CC8.1",
        "Change management",
        "Every change of scopes and policy is a recorded act of an operator, with the whole text by its digest.",
        Test::Policies,
    ),
];

pub(super) const FEDRAMP: &[Control] = &[
    (
        "AC-2, AC-2(1), AC-2(4)",
        "Account management",
        "Agents, people and sidecars are registered by an operator, or by a token that one made.",
        Test::Registered,
    ),
    (
        "AC-2(2), AC-2(3)",
        "Temporary access ends",
        "Every credential whose time has passed has ended, and the log says how.",
        Test::Ended,
    ),
    (
        "AC-3",
        "Access enforcement",
        "Nothing is minted before a verdict, and nothing after a deny.",
        Test::Enforced,
    ),
    (
        "AC-3(2)",
        "Dual authorization",
        "Where two or more people are demanded, so many distinct people approved.",
        Test::Dual,
    ),
    (
        "AC-5",
        "Separation of duties",
        "Nobody approves what an agent asks for that they answer for.",
        Test::People,
    ),
    (
        "AC-6, AC-6(1), AC-6(2)",
        "Least privilege",
        "Every credential is narrowed to one scope with its parameters, and lives no longer than was approved.",
        Test::Credentials,
    ),
    (
        "AC-6(9), AC-6(10)",
        "Privileged functions",
        "Who registers or changes agents, people, groups and sidecars is recorded, and is an operator or holds a token that one made.",
        Test::Registered,
    ),
    (
        "AU-2, AU-3, AU-3(1), AU-12",
        "Events and their content",
        "Every step is a leaf that says what, when, who, on what, and with what outcome.",
        Test::Events,
    ),
    (
        "AU-8",
        "Time stamps",
        "The times of the leaves do not go back by more than the bound of the clocks (30 s).",
        Test::Times,
    ),
    (
        "AU-9, AU-9(3), AU-11",
        "Protection and retention of the record",
        "Since the log began no leaf was changed or taken out: each leads to the signed checkpoint below.",
        Test::Kept,
    ),
    (
        "AU-10",
        "Non-repudiation",
        "Where a passkey is demanded, each approval carries a signature that anyone can verify.",
        Test::Signed,
    ),
    (
        "CM-3, CM-5",
        "Changes are authorised",
        "Every change of scopes and policy is a recorded act of an operator.",
        Test::Policies,
    ),
    (
        "IA-5",
        "Authenticators",
        "People's tokens live 12 hours at most, sidecars' certificates two.",
        Test::Authenticators,
    ),
    (
        "IA-9",
        "Service identification",
        "Every sidecar enrolled with a token of its own, made by an operator.",
        Test::Sidecars,
    ),
    (
        "SI-4, IR-5",
        "Monitoring and incidents",
        "What looks wrong is recorded: copied keys, unknown outcomes, what people reported.",
        Test::Alarms,
    ),
];

pub(super) const ACCESS: &[Control] = &[
    (
        "Registered",
        "Who was added or changed",
        "By an operator, or by a token that one made.",
        Test::Registered,
    ),
    ("Issued", "What was issued", "Within what was approved.", Test::Credentials),
    ("Ended", "What has ended", "Every credential whose time has passed has ended.", Test::Ended),
    (
        "Decided",
        "Who decided",
        "Distinct people, none of whom answers for the agent.",
        Test::People,
    ),
];

pub(super) const ONE: &[Control] = &[
    (
        "Requests",
        "What was asked, and what became of it",
        "Nothing is minted before a verdict, and nothing after a deny.",
        Test::Enforced,
    ),
    (
        "Votes",
        "What people decided",
        "Nobody decides for an agent that they answer for.",
        Test::Votes,
    ),
    ("Credentials", "What was issued", "Within what was approved.", Test::Credentials),
];

/// What a test counts, in words.
fn population(test: Test) -> &'static str {
    match test {
        Test::Alarms => {
            "copied keys, unknown outcomes, failed mints, denies that say “looks wrong”"
        }
        Test::Authenticators => "tokens made, certificates made or renewed",
        Test::Credentials => "credentials issued",
        Test::Denials => "requests that policy or a person refused",
        Test::Dual => "credentials issued that two or more people had to approve",
        Test::Ended => "credentials whose time had passed at the end of the period",
        Test::Enforced => "requests",
        Test::Events | Test::Kept => "leaves",
        Test::People => "credentials issued that people had to approve",
        Test::Policies => "changes of scopes and policy",
        Test::Registered => "registrations and changes of agents, people, groups and sidecars",
        Test::Sidecars => "enrolments of sidecars",
        Test::Signed => "approvals of requests that demand a passkey",
        Test::Times => "leaves",
        Test::Votes => "votes",
    }
}

/// Collects one control's lines.
struct Tally {
    population: u64,
    exceptions: u64,
    failing: Vec<Line>,
    sample: Sample<Line>,
}

impl Tally {
    fn add(&mut self, line: Line) {
        self.population += 1;
        if line.exception.is_some() {
            self.exceptions += 1;
            if self.failing.len() < MOST_EXCEPTIONS {
                self.failing.push(line.clone());
            }
        }
        self.sample.offer(line.leaf, || line);
    }
}

/// Tests every control; `findings` is how many the verification of the log has.
pub(super) fn sections(
    controls: &[Control],
    data: &Data,
    wanted: &Wanted,
    findings: usize,
) -> Vec<Section> {
    controls
        .iter()
        .map(|(control, title, promise, test)| {
            let mut tally = Tally {
                population: 0,
                exceptions: 0,
                failing: Vec::new(),
                // Each control draws its own.
                sample: Sample::new(&format!("{}\n{control}", wanted.seed), wanted.sample),
            };
            run(*test, data, wanted, &mut tally);
            let mut sample = tally.sample.drawn();
            if matches!(test, Test::Events | Test::Kept | Test::Times) {
                sample.clone_from(&data.any);
                tally.population = data.kinds.values().sum();
            }
            if *test == Test::Kept {
                tally.exceptions = findings as u64;
            }
            Section {
                control: (*control).to_owned(),
                title: (*title).to_owned(),
                promise: (*promise).to_owned(),
                population_is: population(*test).to_owned(),
                population: tally.population,
                exceptions: tally.exceptions,
                failing: tally.failing,
                sample,
            }
        })
        .collect()
}

fn run(test: Test, data: &Data, wanted: &Wanted, tally: &mut Tally) {
    match test {
        Test::Alarms => alarms(data, tally),
        Test::Authenticators => {
            each_change(data, tally, |c| match &c.event {
                Event::TokenIssued(e) => Some(within(e.expires_at.since(c.at), 12 * 3_600_000)),
                Event::InstanceEnrolled(e) => Some(within(e.not_after.since(c.at), 7_200_000)),
                Event::InstanceRenewed(e) => Some(within(e.not_after.since(c.at), 7_200_000)),
                _ => None,
            });
        }
        Test::Credentials => each_row(data, tally, |row| {
            let lease = row.lease.as_ref()?;
            let life = lease.until.since(lease.from);
            let most = i64::from(row.ttl_s) * 1000;
            Some((lease.leaf, within(life, most + CLOCK_BOUND_MS)))
        }),
        Test::Denials => each_row(data, tally, |row| match row.outcome {
            Some((leaf, _, "denied")) => Some((leaf, None)),
            _ => None,
        }),
        Test::Dual => each_row(data, tally, |row| {
            let lease = row.lease.as_ref().filter(|_| row.quorum >= 2)?;
            Some((lease.leaf, too_few(row)))
        }),
        Test::Ended => each_row(data, tally, |row| {
            let lease = row.lease.as_ref().filter(|l| l.until < wanted.until)?;
            let (leaf, fault) = match lease.ended {
                Some((leaf, at)) if at.since(lease.until) > 300_000 => {
                    (leaf, Some("its end was recorded more than five minutes late".to_owned()))
                }
                Some((leaf, _)) => (leaf, None),
                None => (lease.leaf, Some("the log does not say that it ended".to_owned())),
            };
            Some((leaf, fault))
        }),
        Test::Enforced => each_row(data, tally, |row| {
            let leaf = row.outcome.map_or(row.asked.0, |(leaf, _, _)| leaf);
            let fault = match (&row.verdict, row.intended) {
                (None, Some(_)) => Some("it was minted without a verdict".to_owned()),
                (Some((decided, VerdictKind::Deny)), Some(intended)) if intended > *decided => {
                    Some("it was minted after a deny".to_owned())
                }
                _ => None,
            };
            Some((leaf, fault))
        }),
        Test::Events | Test::Kept => {}
        Test::People => each_row(data, tally, |row| {
            let lease = row.lease.as_ref().filter(|_| row.quorum >= 1)?;
            let own = row.approvers.intersection(&row.owners).next();
            let own = own.map(|h| format!("{h} answers for the agent and approved"));
            Some((lease.leaf, own.or_else(|| too_few(row))))
        }),
        Test::Policies => {
            each_change(data, tally, |c| matches!(c.event, Event::PolicyLoaded(_)).then_some(None))
        }
        Test::Registered => each_change(data, tally, |c| {
            let counts = matches!(
                c.event,
                Event::AgentSet(_)
                    | Event::AgentRevoked(_)
                    | Event::GroupSet(_)
                    | Event::HumanSet(_)
                    | Event::IdentitySet(_)
                    | Event::InstanceEnrolled(_)
                    | Event::InstanceRevoked(_)
                    | Event::ModelSet(_)
                    | Event::PasskeyEnrolled(_)
                    | Event::PasskeyRevoked(_)
            );
            counts.then(|| c.fault.clone())
        }),
        Test::Sidecars => each_change(data, tally, |c| {
            matches!(c.event, Event::InstanceEnrolled(_)).then(|| c.fault.clone())
        }),
        Test::Signed => {
            for row in data.requests.iter().filter(|r| r.strength == Strength::Passkey) {
                for vote in row.votes.iter().filter(|v| v.decision == Decision::Approve) {
                    let mut line = of(row, vote.leaf);
                    line.at = vote.at;
                    let unsigned = "it carries no signature".to_owned();
                    line.exception = (!vote.signed).then_some(unsigned);
                    tally.add(line);
                }
            }
        }
        Test::Times => {
            for line in &data.back {
                tally.add(line.clone());
            }
        }
        Test::Votes => votes(data, wanted, tally),
    }
}

fn votes(data: &Data, wanted: &Wanted, tally: &mut Tally) {
    for row in &data.requests {
        for vote in &row.votes {
            if matches!(&wanted.kind, Kind::Reviewer(h) if h != &vote.human) {
                continue;
            }
            let mut line = of(row, vote.leaf);
            line.at = vote.at;
            let own = row.owners.contains(&vote.human) && vote.decision == Decision::Approve;
            line.exception = own.then(|| format!("{} answers for the agent", vote.human));
            tally.add(line);
        }
    }
}

fn alarms(data: &Data, tally: &mut Tally) {
    for row in &data.requests {
        for vote in row.votes.iter().filter(|v| v.looks_wrong) {
            let mut line = of(row, vote.leaf);
            line.at = vote.at;
            tally.add(line);
        }
        let (leaf, at, word) = match row.outcome {
            Some((leaf, at, word @ ("unknown" | "failed"))) => (leaf, at, word),
            _ => continue,
        };
        let mut line = of(row, leaf);
        line.at = at;
        let open = "whether a credential exists is not known: look at the backend".to_owned();
        line.exception = (word == "unknown").then_some(open);
        tally.add(line);
    }
    each_change(data, tally, |c| match &c.event {
        Event::InstanceRevoked(e) if e.by == "broker" => Some(None),
        _ => None,
    });
}

fn each_row(data: &Data, tally: &mut Tally, test: impl Fn(&Row) -> Option<(u64, Option<String>)>) {
    for row in &data.requests {
        let Some((leaf, exception)) = test(row) else { continue };
        let mut line = of(row, leaf);
        line.exception = exception;
        tally.add(line);
    }
}

fn each_change(data: &Data, tally: &mut Tally, test: impl Fn(&Change) -> Option<Option<String>>) {
    for change in &data.changes {
        let Some(exception) = test(change) else { continue };
        tally.add(Line {
            leaf: change.leaf,
            at: change.at,
            request: None,
            words: change.words.clone(),
            exception: exception.map(|e| visible(&e)),
            receipt: None,
        });
    }
}

/// A request at one of its leaves.
fn of(row: &Row, leaf: u64) -> Line {
    Line {
        leaf,
        at: row.asked.1,
        request: Some(row.id.clone()),
        words: row.words(),
        exception: None,
        receipt: None,
    }
}

fn within(life_ms: i64, most_ms: i64) -> Option<String> {
    (life_ms > most_ms)
        .then(|| format!("it lives {} s, at most {} s", life_ms / 1000, most_ms / 1000))
}

fn too_few(row: &Row) -> Option<String> {
    let (have, want) = (row.approvers.len(), row.quorum);
    let few = u32::try_from(have).is_ok_and(|have| have < want);
    few.then(|| format!("{have} of {want} people approved"))
}

/// Leaves by kind, for people.
pub(super) fn kinds(data: &Data) -> &BTreeMap<String, u64> {
    &data.kinds
}
