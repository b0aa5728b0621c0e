//! Narrow, approve, deny, withdraw, expiry and collection in every order, one after the other and at
//! once, against a model that fits on a page.

use futures_util::future::join_all;
use grantwright_domain::{Digest, Phase, RequestId};

use super::rig::{Rig, human, id_of, word};
use crate::people::Intention;

/// What somebody does, or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Bob approves what is there now.
    Approve,
    /// Carol approves what was there first.
    ApproveFirst,
    /// Carol denies what is there now.
    Deny,
    /// Bob narrows the lifetime, and so approves.
    Narrow,
    /// Bob takes his approval back.
    Withdraw,
    /// The agent looks, and collects what is approved.
    Collect,
    /// Time runs out.
    Expire,
}

const ALL: [Step; 7] = [
    Step::Approve,
    Step::ApproveFirst,
    Step::Deny,
    Step::Narrow,
    Step::Withdraw,
    Step::Collect,
    Step::Expire,
];

/// The model: where it stands, who approves, whether it was narrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Model {
    phase: &'static str,
    bob: bool,
    carol: bool,
    narrowed: bool,
}

const FRESH: Model = Model { phase: "pending", bob: false, carol: false, narrowed: false };

impl Model {
    /// The same, where everybody acts on what they saw first: once it is narrower, that is gone.
    fn after_blind(self, step: Step) -> Self {
        let acts = matches!(step, Step::Approve | Step::Deny | Step::Narrow | Step::Withdraw);
        if acts && self.narrowed { self } else { self.after(step) }
    }

    fn after(mut self, step: Step) -> Self {
        if !matches!(self.phase, "pending" | "approved") {
            return self;
        }
        match step {
            Step::Approve => self.bob = true,
            Step::ApproveFirst if !self.narrowed => self.carol = true,
            Step::ApproveFirst => {}
            Step::Deny => self.phase = "denied",
            Step::Narrow if !self.narrowed => {
                (self.narrowed, self.bob, self.carol) = (true, true, false);
            }
            // Nothing is narrower than it is.
            Step::Narrow => {}
            Step::Withdraw => self.bob = false,
            Step::Collect if self.phase == "approved" => self.phase = "granted",
            Step::Collect => {}
            Step::Expire => self.phase = "expired",
        }
        if matches!(self.phase, "pending" | "approved") {
            self.phase = if self.bob || self.carol { "approved" } else { "pending" };
        }
        self
    }
}

struct Race {
    rig: Rig,
    serial: usize,
}

impl Race {
    async fn new() -> Self {
        let mut rig = Rig::new().await;
        let config = &mut std::sync::Arc::get_mut(&mut rig.broker).unwrap().config;
        config.limits.open_requests_per_agent = 10_000;
        Self { rig, serial: 0 }
    }

    /// A new request, and its digest.
    async fn ask(&mut self) -> (String, Digest) {
        self.serial += 1;
        let name: String =
            format!("{:05}", self.serial).bytes().map(|b| char::from(b - b'0' + b'a')).collect();
        let params = format!(r#"{{"dataset":"{name}","rows":7}}"#);
        let asked = self.rig.issue(self.rig.ask("export", &params, "")).await.unwrap();
        let id = id_of(&asked);
        let request = RequestId::parse(&id).unwrap();
        let digest = self.rig.broker.store.load(&request).await.unwrap().unwrap().state.digest;
        (id, digest)
    }

    /// Everybody acts on the digest that they saw first.
    async fn blind(&self, id: &str, first: Digest, step: Step) {
        let request = RequestId::parse(id).unwrap();
        let (who, what) = match step {
            Step::Approve => {
                ("bob", Intention::Approve { reason: None, seen: Some(0), confirm: None })
            }
            Step::Deny => {
                ("carol", Intention::Deny { reason: None, reason_code: "not_now".into() })
            }
            Step::Narrow => {
                ("bob", Intention::Narrow { ttl_s: Some(60), params: None, confirm: None })
            }
            Step::Withdraw => ("bob", Intention::Withdraw),
            Step::ApproveFirst | Step::Collect | Step::Expire => {
                return self.step(id, first, step).await;
            }
        };
        drop(self.rig.act_on(who, &request, first, what).await);
    }

    /// Everybody looks, and acts on what is there now.
    async fn step(&self, id: &str, first: Digest, step: Step) {
        let approve = || Intention::Approve { reason: None, seen: None, confirm: None };
        let request = RequestId::parse(id).unwrap();
        // Refusals are the model's business: it says where things stand afterwards.
        match step {
            Step::Approve => drop(self.rig.act("bob", id, approve()).await),
            Step::ApproveFirst => {
                let what = Intention::Approve { reason: None, seen: Some(0), confirm: None };
                drop(self.rig.act_on("carol", &request, first, what).await);
            }
            Step::Deny => {
                let deny = Intention::Deny { reason: None, reason_code: "not_now".into() };
                drop(self.rig.act("carol", id, deny).await);
            }
            Step::Narrow => {
                let narrow = Intention::Narrow { ttl_s: Some(60), params: None, confirm: None };
                drop(self.rig.act("bob", id, narrow).await);
            }
            Step::Withdraw => drop(self.rig.act("bob", id, Intention::Withdraw).await),
            Step::Collect => drop(self.rig.collect(id).await),
            Step::Expire => {
                self.rig.clock.advance(3_600_001);
                for _ in 0..4 {
                    crate::end::sweep::once(&self.rig.broker).await.unwrap();
                }
            }
        }
    }

    async fn stands(&self, id: &str) -> Model {
        let request = RequestId::parse(id).unwrap();
        let state = self.rig.broker.store.load(&request).await.unwrap().unwrap().state;
        let approves = |who: &str| {
            state.votes.iter().any(|v| v.live && v.human == human(who) && v.digest == state.digest)
        };
        let phase = match state.phase {
            Phase::Granted => "granted",
            phase => phase.word(),
        };
        if phase == "granted" {
            let lease = state.lease.as_ref().unwrap();
            let life = lease.expires_at.since(lease.issued_at) / 1000;
            assert_eq!(state.terms.ttl_s == 60, state.original.is_some());
            assert!(life <= i64::from(state.terms.ttl_s) + 60, "{life} s");
        }
        Model {
            phase,
            bob: approves("bob"),
            carol: approves("carol"),
            narrowed: state.original.is_some(),
        }
    }
}

/// Votes stay as they were once it ended: only where it stands, and what it was, is compared then.
fn same(seen: Model, model: Model) -> bool {
    let open = matches!(model.phase, "pending" | "approved");
    seen.phase == model.phase
        && seen.narrowed == model.narrowed
        && (!open || (seen.bob, seen.carol) == (model.bob, model.carol))
}

#[tokio::test]
async fn invariant_13_every_order_of_four_steps_ends_as_the_rules_say() {
    let mut race = Race::new().await;
    let mut orders = 0;
    for n in 0..ALL.len().pow(4) {
        let steps: Vec<Step> =
            (0..4u32).map(|place| ALL[n / ALL.len().pow(place) % ALL.len()]).collect();
        // What an end is followed by is tried once.
        let mut model = FRESH;
        let ended_at = steps.iter().position(|step| {
            model = model.after(*step);
            !matches!(model.phase, "pending" | "approved")
        });
        if ended_at.is_some_and(|at| at + 2 < steps.len()) {
            continue;
        }
        let (id, first) = race.ask().await;
        let mut model = FRESH;
        for step in &steps {
            race.step(&id, first, *step).await;
            model = model.after(*step);
        }
        let seen = race.stands(&id).await;
        assert!(same(seen, model), "{steps:?}: {seen:?}, not {model:?}");
        orders += 1;
    }
    assert!(orders > 300, "{orders}");
    race.rig.fold().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn invariant_13_steps_at_once_end_as_in_some_order() {
    let mut race = Race::new().await;
    let expires = |steps: &[Step]| steps.contains(&Step::Expire);
    for n in 0..ALL.len().pow(3) {
        let steps: Vec<Step> =
            (0..3u32).map(|place| ALL[n / ALL.len().pow(place) % ALL.len()]).collect();
        // Time moves for everybody: it is one of the steps at most once.
        if expires(&steps[..2]) {
            continue;
        }
        let (id, first) = race.ask().await;
        join_all(steps.iter().map(|step| race.blind(&id, first, *step))).await;
        let seen = race.stands(&id).await;
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        let some = orders.iter().any(|order| {
            let model = order.iter().fold(FRESH, |model, at| model.after_blind(steps[*at]));
            same(seen, model)
        });
        assert!(some, "{steps:?} at once: {seen:?}");
    }
    race.rig.fold().await;
}

/// Five people press the same card twice, at once: one vote each, from who may.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_card_pressed_twice_by_five_people_at_once_has_one_vote_of_each_who_may() {
    let mut race = Race::new().await;
    for _ in 0..20 {
        let (id, first) = race.ask().await;
        let people = ["alice", "bob", "carol", "dave", "olivia"];
        let presses = people.iter().chain(&people).map(|who| {
            let what = Intention::Approve { reason: None, seen: Some(0), confirm: None };
            let request = RequestId::parse(&id).unwrap();
            let race = &race;
            async move { race.rig.act_on(who, &request, first, what).await.map(drop) }
        });
        let said = join_all(presses).await;
        for (who, answer) in people.iter().chain(&people).zip(&said) {
            let code = answer.as_ref().err().map_or("done", |e| e.code.as_ref());
            let want = match *who {
                "alice" => "self_approval",
                "bob" | "carol" => "done",
                _ => "not_in_group",
            };
            assert_eq!(code, want, "{who}");
        }
        let request = RequestId::parse(&id).unwrap();
        let state = race.rig.broker.store.load(&request).await.unwrap().unwrap().state;
        let mut voters: Vec<&str> = state.votes.iter().map(|v| v.human.as_str()).collect();
        voters.sort_unstable();
        assert_eq!(voters, ["bob", "carol"]);
        assert_eq!(word(&race.rig.collect(&id).await.unwrap()), "granted");
    }
    race.rig.fold().await;
}
