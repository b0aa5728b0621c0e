//! Random histories, most steps sensible and some hostile, applied to `State`. Whatever is accepted
//! must satisfy the judge; what is refused must have changed nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use grantwright_domain::event::{
    AgentRevoked, Answered, Cancelled, Decided, Expired, Failed, Intended, Issued, Narrowed,
    Questioned, Renewed, Requested, Revoked, Unknown, Voted, Withdrawn,
};
use grantwright_domain::request::{COLLECT_MS, LeaseState};
use grantwright_domain::{
    Decision, Digest, Event, LeaseId, ParamValue, Phase, RequestState, Rights, State, Strength,
    Timestamp, Verdict, VerdictKind,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::Map;

use crate::judge::{Judge, digest};
use crate::world::{
    AGENTS, DAY_MS, PEOPLE, agent, at, delegation, furnished, furniture, group, handing, human,
    load_policy, policy, request, set_agent, set_group, set_human, terms,
};

/// One step: what, which request, who, two numbers that bend it, and how long after the last.
#[derive(Debug, Clone, Copy)]
struct Step {
    what: What,
    r: u8,
    who: u8,
    x: u8,
    y: u8,
    after_ms: i64,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Answer,
    Cancel,
    Decide,
    Deny,
    EndLease,
    Expire,
    Fail,
    Intend,
    Issue,
    LoadPolicy,
    Lose,
    Narrow,
    Question,
    Request,
    RevokeAgent,
    SetGroup,
    SetHuman,
    SetOwner,
    Vote,
    Withdraw,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use What::*;
    let what = prop_oneof![
        30 => Just(Vote),
        16 => Just(Intend),
        12 => Just(Decide),
        8 => Just(Issue),
        6 => Just(Request),
        24 => proptest::sample::select(vec![Question, Answer, Narrow, Narrow, Withdraw]),
        6 => proptest::sample::select(vec![SetGroup, SetOwner, EndLease, EndLease, Expire]),
        2 => proptest::sample::select(vec![LoadPolicy, SetHuman, RevokeAgent]),
        1 => proptest::sample::select(vec![Fail, Lose, Cancel, Deny]),
    ];
    let after = prop_oneof![
        60 => Just(0_i64),
        20 => Just(1_000),
        10 => Just(60_000),
        3 => Just(599_999),
        1 => proptest::sample::select(vec![600_000, 1_800_000, 3_600_000, DAY_MS]),
    ];
    let step = (what, 0_u8..4, 0_u8..10, 0_u8..16, 0_u8..16, after)
        .prop_map(|(what, r, who, x, y, after_ms)| Step { what, r, who, x, y, after_ms });
    proptest::collection::vec(step, 20..70)
}

fn verdict(x: u8, set: Digest) -> Verdict {
    let text = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    let ask = |quorum, groups: &[&str], channels: &[&str]| Verdict {
        kind: VerdictKind::Ask,
        code: String::new(),
        reason: "people decide".into(),
        policies: text(&["ask"]),
        policy_set: set,
        quorum,
        strength: Strength::Chat,
        channels: text(channels),
        approvers: groups.iter().map(|g| group(g)).collect(),
        max_ttl_s: 900,
    };
    let allow =
        |max_ttl_s| Verdict { kind: VerdictKind::Allow, quorum: 0, max_ttl_s, ..ask(0, &[], &[]) };
    match x {
        0 => allow(900),
        1..=5 => ask(1, &["reviewers"], &["api", "console"]),
        6..=8 => ask(2, &["reviewers"], &["api", "console"]),
        9 => ask(1, &["reviewers", "security"], &["console"]),
        10 => ask(2, &["security"], &["console"]),
        11 => allow(60),
        12 => Verdict { strength: Strength::Passkey, ..ask(1, &["reviewers"], &["console"]) },
        13 => ask(0, &["reviewers"], &["console"]),
        14 => ask(1, &[], &["console"]),
        _ => Verdict::deny(set, "denied", "no", BTreeSet::new()),
    }
}

/// The step that makes sense in its stead, mostly: what does not exist is asked for first.
fn sensible(step: Step, state: &State) -> What {
    let phase = state.requests.get(&request(&format!("r-{}", step.r))).map(|s| s.phase);
    let early = matches!(step.what, What::Vote | What::Intend | What::Issue | What::Narrow);
    match phase {
        _ if step.y >= 12 => step.what,
        None if early || matches!(step.what, What::Decide | What::Question) => What::Request,
        Some(Phase::Recorded) if early => What::Decide,
        Some(Phase::Pending) if matches!(step.what, What::Issue | What::Intend) => What::Vote,
        Some(Phase::Approved) if matches!(step.what, What::Issue | What::Vote) && step.x < 6 => {
            What::Intend
        }
        Some(Phase::Intended) if early => What::Issue,
        _ => step.what,
    }
}

/// The event of a step in this state. Small numbers make it sensible, large ones hostile.
fn event(step: Step, now: Timestamp, state: &State, history: &[Event]) -> Option<Event> {
    let Step { r, who, x, y, .. } = step;
    let what = sensible(step, state);
    let id = request(&format!("r-{r}"));
    let ms = now.since(at(0));
    let voters = ["bob", "carol", "dave", "bob", "carol", "dave", "erin", "frank", "alice", "root"];
    let person = voters[usize::from(who)];
    let operator = if y % 3 == 0 { "erin" } else { "root" };
    let authority = &state.authority;
    let known = state.requests.get(&id);
    // What is true of the request; another request's or an older digest where it is hostile.
    let d = match known {
        Some(s) if y == 15 => s.original.as_ref().map_or(Digest([0; 32]), digest),
        Some(s) => s.digest,
        None => Digest([0; 32]),
    };
    let set = if y == 14 { policy(x % 2) } else { authority.policy_set? };
    let channel = if y == 13 { "slack" } else { "console" }.to_owned();
    let ttl_s = known.map_or(900, |s| s.terms.ttl_s);
    let lease_id = LeaseId::parse(&format!("l-{}", if y == 15 { 0 } else { r })).ok()?;
    Some(match what {
        What::Request => {
            let mut t = terms(&format!("r-{r}"), now, if x < 12 { 900 } else { 60 });
            if x % 4 == 1 {
                t.delegation = vec![agent(AGENTS[1])];
                t.delegation_id = Some(delegation("d-1"));
            }
            if x % 4 == 2 {
                t.on_behalf_of = Some(human("carol"));
            }
            if y == 15 {
                t.delegation = vec![agent("nobody")];
            }
            let digest = if y == 14 { Digest([1; 32]) } else { digest(&t) };
            Event::Requested(Requested { at: now, digest, request_id: id, renews: None, terms: t })
        }
        What::Decide => Event::Decided(Decided {
            at: now,
            digest: d,
            request_id: id,
            verdict: verdict(if y < 6 { 1 + x % 8 } else { x }, set),
            attributes: Map::new(),
            context: Map::new(),
            chain: Vec::new(),
            excluded: if y == 12 { BTreeSet::from([human("bob")]) } else { BTreeSet::new() },
            again: y == 11 || known.is_some_and(|s| s.verdict.is_some()),
            unusual: Vec::new(),
            past: None,
        }),
        What::Vote | What::Deny => {
            let who = human(person);
            let mut groups = authority.groups_of(&who, now);
            if y == 12 {
                groups.insert(group("security"));
            }
            Event::Voted(Voted {
                at: now,
                digest: d,
                request_id: id,
                human: who,
                decision: if matches!(what, What::Deny) {
                    Decision::Deny
                } else {
                    Decision::Approve
                },
                channel,
                seen: match y {
                    10 => None,
                    11 => Some(1),
                    _ => known.and_then(|s| s.last_seen),
                },
                groups,
                policies: BTreeSet::new(),
                policy_set: set,
                reason_code: String::new(),
                reason: None,
                confirmed: None,
                proof: None,
            })
        }
        What::Question => Event::Questioned(Questioned {
            at: now,
            digest: d,
            request_id: id,
            human: human(person),
            channel,
            text: Digest([6; 32]),
        }),
        What::Answer => {
            Event::Answered(Answered { at: now, digest: d, request_id: id, text: Digest([6; 32]) })
        }
        What::Narrow => {
            let mut t = known?.terms.clone();
            if let Some(ParamValue::Integer(rows)) = t.params.get("rows").cloned() {
                let rows = if y == 12 { rows * 2 } else { rows / 2 };
                t.params.insert("rows".into(), ParamValue::Integer(rows));
            }
            if x % 2 == 0 {
                t.ttl_s = t.ttl_s / 2 + 1;
            }
            Event::Narrowed(Narrowed {
                at: now,
                digest: if y == 14 { d } else { digest(&t) },
                old_digest: d,
                request_id: id,
                human: human(person),
                channel,
                terms: t,
                reason: None,
            })
        }
        What::Withdraw => Event::Withdrawn(Withdrawn {
            at: now,
            digest: d,
            request_id: id,
            human: human(person),
            channel,
        }),
        What::Intend => {
            let mut approvers =
                known.map_or_else(BTreeSet::new, |s| s.standing(Rights::Now(authority), now));
            if y == 12 {
                approvers.insert(human("dave"));
            }
            if y == 13 {
                approvers.pop_first();
            }
            let minter = if y == 14 { "sts" } else { "jwt" }.to_owned();
            Event::Intended(Intended { at: now, digest: d, request_id: id, minter, approvers })
        }
        What::Issue => {
            let life = i64::from(ttl_s) * 1000;
            Event::Issued(Issued {
                at: now,
                digest: d,
                request_id: id,
                lease_id,
                expires_at: now.plus_millis(match x {
                    13 => life + 1,
                    14 => 0,
                    15 => 1,
                    _ => life,
                }),
                revocable: true,
                facts: BTreeMap::new(),
            })
        }
        What::Fail => Event::Failed(Failed {
            at: now,
            digest: d,
            request_id: id,
            code: "refused".into(),
            detail: "refused".into(),
        }),
        What::Lose => Event::Unknown(Unknown {
            at: now,
            digest: d,
            request_id: id,
            detail: "no answer".into(),
        }),
        What::Cancel => {
            Event::Cancelled(Cancelled { at: now, digest: d, request_id: id, by: "agent".into() })
        }
        What::Expire => {
            Event::Expired(Expired { at: now, digest: d, request_id: id, lease_id: None })
        }
        What::EndLease => match x % 4 {
            0 => Event::Expired(Expired {
                at: now,
                digest: d,
                request_id: id,
                lease_id: Some(lease_id),
            }),
            1 => Event::Revoked(Revoked {
                at: now,
                digest: d,
                request_id: id,
                lease_id,
                by: "broker".into(),
                effect: "gone".into(),
                still_valid: false,
            }),
            _ => Event::Renewed(Renewed {
                at: now,
                digest: d,
                request_id: id,
                lease_id,
                expires_at: now.plus_seconds(i64::from(y) * 60),
            }),
        },
        What::SetGroup => {
            let name = if x % 2 == 0 { "reviewers" } else { "security" };
            let mut members = authority.groups.get(&group(name))?.clone();
            if !members.remove(&human(person)) {
                members.insert(human(person));
            }
            set_group(if y == 15 { "bob" } else { operator }, name, members, ms)
        }
        What::SetOwner => {
            let by = if y == 15 { "bob" } else { operator };
            set_agent(by, AGENTS[usize::from(x) % 3], person, ms)
        }
        What::SetHuman => {
            // The operators stay, or the world could not go on.
            let who = PEOPLE[usize::from(who) % 4];
            let active = authority.humans.get(&human(who)).is_some_and(|h| h.active);
            set_human(if y == 15 { who } else { "root" }, who, !active, false, ms)
        }
        What::LoadPolicy => load_policy(if y == 15 { "bob" } else { "root" }, x % 2, ms),
        What::RevokeAgent => {
            let by = human(if x == 0 && history.len() > 40 { "root" } else { "bob" });
            Event::AgentRevoked(AgentRevoked { at: now, by, agent: agent(AGENTS[0]) })
        }
    })
}

/// What a history reached, so that silence is not taken for proof.
#[derive(Debug, Default)]
struct Reached(BTreeMap<String, usize>);

impl Reached {
    fn count(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }
}

fn play(steps: &[Step], reached: &mut Reached) -> Result<(), TestCaseError> {
    let mut state = furnished();
    let mut history = furniture();
    for event in handing(2 * DAY_MS) {
        state.apply(&event).expect("the planner and the router hand on");
        history.push(event);
    }
    // A day later nobody has changed anything lately.
    let mut now = at(2 * DAY_MS);
    for step in steps {
        now = now.plus_millis(step.after_ms);
        // Sometimes time runs backwards.
        let when = if step.x == 9 && step.y == 9 { now.plus_millis(-3_600_000) } else { now };
        let Some(event) = event(*step, when, &state, &history) else { continue };
        let before = state.clone();
        match state.apply(&event) {
            Err(violation) => {
                reached.count(format!("refused: {}", violation.rule));
                unchanged(&before, &state)?;
                state = before;
            }
            Ok(()) => {
                reached.count(event.kind());
                accepted(&event, &before, &state, &history, reached)?;
                history.push(event);
            }
        }
    }
    ended(&state, &history, reached)
}

fn unchanged(before: &State, after: &State) -> Result<(), TestCaseError> {
    prop_assert_eq!(&before.requests, &after.requests, "a refused leaf changed a request");
    let (a, b) = (&before.authority, &after.authority);
    prop_assert_eq!(format!("{:?}", a.changes), format!("{:?}", b.changes));
    prop_assert_eq!((&a.humans, &a.groups, &a.agents), (&b.humans, &b.groups, &b.agents));
    prop_assert_eq!((&a.instances, a.policy_set), (&b.instances, b.policy_set));
    Ok(())
}

fn accepted(
    event: &Event,
    before: &State,
    after: &State,
    history: &[Event],
    reached: &mut Reached,
) -> Result<(), TestCaseError> {
    let leaf = event.to_leaf().expect("a leaf");
    prop_assert_eq!(&Event::from_leaf(&leaf).expect("is read back"), event);
    let judge = Judge(history);
    let fail = |why: String| TestCaseError::fail(format!("{event:?}\naccepted, but: {why}"));
    match event {
        Event::Voted(v) => {
            judge.vote(v).map_err(fail)?;
            if v.decision == Decision::Approve && v.seen.is_some() {
                reached.count("approved after words");
            }
        }
        Event::Intended(e) => {
            judge.intent(e).map_err(fail)?;
            let quorum = e.approvers.len();
            reached.count(format!("intended by {quorum}"));
            if judge.last_seen(&e.request_id).is_some() {
                reached.count("intended after words");
            }
        }
        _ => {}
    }
    let Some(id) = event.request_id() else { return Ok(()) };
    let new = &after.requests[id];
    let Some(old) = before.requests.get(id) else {
        prop_assert_eq!(event.kind(), "requested");
        prop_assert_eq!(new.phase, Phase::Recorded);
        return Ok(());
    };
    invariant_13_terminal_is_terminal(event, old, new)?;
    invariant_05_within_the_lifetime(event, old, new)?;
    // The pause: one more waiting time in all, whatever happens.
    let made = new.requested_at;
    let original = new.original.as_ref().unwrap_or(&new.terms);
    let waiting = original.decide_by.since(made);
    prop_assert_eq!(new.terms.decide_by, original.decide_by);
    prop_assert!(new.pause_left_ms >= 0 && new.pause_left_ms <= waiting);
    prop_assert_eq!(new.deadline.since(original.decide_by) + new.pause_left_ms, waiting);
    if old.phase.is_open() && !matches!(event, Event::Cancelled(_) | Event::Expired(_)) {
        let end = original.decide_by.plus_millis(waiting + COLLECT_MS);
        prop_assert!(event.at() < end, "{event:?} after the last possible end");
        if new.questions.is_empty() {
            prop_assert!(event.at() < original.decide_by.plus_millis(COLLECT_MS));
        }
    }
    prop_assert_eq!(new.digest, digest(&new.terms), "D is of the present terms");
    prop_assert!(new.questions.len() <= 5);
    prop_assert_eq!(new.version, old.version + 1);
    Ok(())
}

fn invariant_13_terminal_is_terminal(
    event: &Event,
    old: &RequestState,
    new: &RequestState,
) -> Result<(), TestCaseError> {
    match old.phase {
        Phase::Recorded | Phase::Pending | Phase::Approved => {
            prop_assert!(!matches!(new.phase, Phase::Granted | Phase::Failed | Phase::Unknown));
            if new.phase == Phase::Intended {
                prop_assert_eq!((old.phase, event.kind()), (Phase::Approved, "intended"));
            }
        }
        Phase::Intended => {
            let ends = matches!(new.phase, Phase::Granted | Phase::Failed | Phase::Unknown);
            prop_assert!(ends, "{event:?} after the intent");
        }
        terminal => {
            prop_assert_eq!(terminal, new.phase, "{:?} after the end", event);
            prop_assert_eq!(terminal, Phase::Granted, "{:?} after the end", event);
            prop_assert!(matches!(
                event,
                Event::Expired(_) | Event::Renewed(_) | Event::Revoked(_)
            ));
            let live = |s: &RequestState| s.lease.as_ref().map(|l| l.state);
            prop_assert_eq!(live(old), Some(LeaseState::Live), "{:?} of a dead lease", event);
        }
    }
    Ok(())
}

fn invariant_05_within_the_lifetime(
    event: &Event,
    old: &RequestState,
    new: &RequestState,
) -> Result<(), TestCaseError> {
    let Some(lease) = &new.lease else { return Ok(()) };
    let life = lease.expires_at.since(lease.issued_at);
    prop_assert!(life > 0 && life <= i64::from(new.terms.ttl_s) * 1000);
    if let (Event::Renewed(e), Some(was)) = (event, &old.lease) {
        prop_assert!(e.at < was.expires_at && e.expires_at > e.at, "the dead are not renewed");
    }
    Ok(())
}

fn ended(state: &State, history: &[Event], reached: &mut Reached) -> Result<(), TestCaseError> {
    prop_assert_eq!(state.size as usize, history.len());
    let leases: BTreeSet<_> = state.leases.keys().collect();
    prop_assert_eq!(leases.len(), history.iter().filter(|e| e.kind() == "issued").count());
    for (id, live) in &state.requests {
        let leaves: Vec<(u64, &Event)> = history
            .iter()
            .enumerate()
            .filter(|(_, e)| e.request_id() == Some(id))
            .map(|(n, e)| (n as u64, e))
            .collect();
        let count = |kind: &str| leaves.iter().filter(|(_, e)| e.kind() == kind).count();
        prop_assert!(count("intended") <= 1 && count("issued") <= 1, "invariant 3: one mint");
        prop_assert!(count("issued") + count("failed") + count("unknown") <= count("intended"));
        let position = |kind: &str| leaves.iter().position(|(_, e)| e.kind() == kind);
        if let Some(issued) = position("issued") {
            prop_assert!(position("intended").is_some_and(|i| i < issued));
        }
        let mut refolded = RequestState::refold(leaves)
            .map_err(|v| TestCaseError::fail(format!("refold refuses what was accepted: {v}")))?;
        if refolded.phase == Phase::Approved && live.phase == Phase::Pending {
            // Folded later, votes count as they were cast; who lost the right since is asked again.
            reached.count("refold differs: approved as cast");
            refolded.phase = Phase::Pending;
        }
        prop_assert_eq!(&refolded, live, "refold differs");
    }
    Ok(())
}

#[test]
fn invariants_03_10_11_13_hold_in_every_history() {
    let cases = 600;
    let config = ProptestConfig { cases, failure_persistence: None, ..Default::default() };
    let mut runner = TestRunner::new(config);
    let reached = RefCell::new(Reached::default());
    let run = runner.run(&steps(), |steps| play(&steps, &mut reached.borrow_mut()));
    if let Err(e) = run {
        panic!("{e}");
    }
    let reached = reached.into_inner().0;
    println!("{reached:#?}");
    for (what, least) in [
        ("intended by 0", 10),
        ("intended by 1", 40),
        ("intended by 2", 10),
        ("intended after words", 5),
        ("approved after words", 20),
        ("issued", 40),
        ("refused: delegation", 5),
        ("narrowed", 50),
        ("refused: eligible", 300),
        ("refused: digest", 100),
        ("refused: seen", 20),
        ("refused: quorum", 50),
        ("refused: approvers", 3),
        ("refused: policy-set", 20),
        ("refused: terminal", 100),
        ("refused: deadline", 100),
        ("refused: lifetime", 3),
        ("refused: time", 5),
        ("refused: passkey", 10),
        ("refused: operator", 20),
        ("refused: narrower", 2),
        ("refused: question-open", 10),
    ] {
        let seen = reached.get(what).copied().unwrap_or(0);
        assert!(seen >= least, "`{what}` was reached {seen} times only, of {least}");
    }
}
