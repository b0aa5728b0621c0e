//! Properties over random policies and asks.

use cedar_policy::PolicySet as Cedar;
use grantwright_domain::event::Decided;
use grantwright_domain::{Digest, InstanceId, ParamValue, RequestId, Terms, VerdictKind};
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// One random policy without an id.
fn policy() -> impl Strategy<Value = String> {
    let action = prop_oneof![
        Just("action == Action::\"issue\""),
        Just("action == Action::\"issueAfterApproval\""),
        Just("action in [Action::\"issue\", Action::\"issueAfterApproval\"]"),
    ];
    let resource = prop_oneof![
        Just("resource"),
        Just("resource == Scope::\"demo.read\""),
        Just("resource == Scope::\"demo.export\""),
        Just("resource is Scope"),
        Just("resource in Scope::\"demo.read\""),
    ];
    let condition = prop_oneof![
        4 => Just(""),
        2 => Just("when { context.ttl <= 600 }"),
        2 => Just("when { context.params has rows && context.params.rows > 100 }"),
        1 => Just("when { context.time.hour < 12 }"),
        1 => Just("when { context.ttl * 9223372036854775807 > 0 && resource.risk == \"low\" }"),
    ];
    let demands = (1u32..4, 0usize..3, any::<bool>(), 0usize..3, 1u32..30);
    (0u32..8, action, resource, condition, demands).prop_map(
        |(effect, action, resource, condition, (quorum, group, strong, channel, ttl))| {
            let head = format!("(principal, {action}, {resource}) {condition};");
            if effect == 0 {
                return format!("forbid{head}");
            }
            let mut out = format!("@max_ttl(\"{ttl}m\") ");
            if action.contains("After") {
                let group = ["reviewers", "security", "reviewers,ops"][group];
                let channel = ["console,api", "console,slack", "console"][channel];
                let strength = if strong { "passkey" } else { "chat" };
                out += &format!(
                    "@quorum(\"{quorum}\") @approvers(\"{group}\") @channels(\"{channel}\") \
                     @strength(\"{strength}\") "
                );
            }
            out + "permit" + &head
        },
    )
}

fn policies() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(policy(), 0..8).prop_map(|all| {
        all.into_iter().enumerate().map(|(i, p)| format!("@id(\"p{i}\") {p}\n")).collect()
    })
}

#[derive(Debug, Clone)]
struct Ask {
    export: bool,
    rows: i64,
    ttl_s: u32,
    hour: i64,
    delegation: Vec<AgentId>,
    masked: Option<bool>,
}

impl Ask {
    fn scope(&self) -> &'static str {
        if self.export { "demo.export" } else { "demo.read" }
    }
    fn params(&self) -> Params {
        if !self.export {
            return dataset("crm");
        }
        let mut p = export(self.rows);
        p.extend(self.masked.map(|m| ("masked".to_owned(), ParamValue::Boolean(m))));
        p
    }
    fn at(&self) -> Timestamp {
        NOW.plus_seconds(self.hour * 3600)
    }
}

fn ask() -> impl Strategy<Value = Ask> {
    let delegate = "[a-z]{2,8}".prop_map(|a| AgentId::parse(&a).unwrap());
    (
        any::<bool>(),
        0i64..200,
        prop_oneof![Just(1u32), Just(600), Just(601), Just(5000)],
        0i64..48,
        prop::collection::vec(delegate, 0..3),
        any::<Option<bool>>(),
    )
        .prop_map(|(export, rows, ttl_s, hour, delegation, masked)| Ask {
            export,
            rows,
            ttl_s,
            hour,
            delegation,
            masked,
        })
}

fn decide(set: &PolicySet, ask: &Ask) -> Verdict {
    let context = set.context(ask.at(), "peer", &ask.delegation, false);
    let asked = Asked {
        agent: &agent(),
        attributes: &attributes(&authority(), &agent(), ask.at()),
        context: &context,
        scope: scope(set, ask.scope()),
        params: &ask.params(),
        ttl_s: ask.ttl_s,
    };
    set.decide_along(&asked, &ask.delegation, &chain(ask))
}

/// Whoever passes it on is registered like the agent.
fn chain(ask: &Ask) -> Vec<serde_json::Map<String, Value>> {
    let same = attributes(&authority(), &agent(), ask.at());
    ask.delegation.iter().map(|_| same.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn picking_what_can_apply_equals_evaluating_everything(
        policies in policies(),
        asks in prop::collection::vec(ask(), 1..6),
    ) {
        let set = load(&policies.concat());
        let all = Cedar::from_policies(set.index.policies.iter().cloned()).unwrap();
        for ask in asks {
            let context = set.context(ask.at(), "peer", &ask.delegation, false);
            let attributes = attributes(&authority(), &agent(), ask.at());
            let params = ask.params();
            let agent = agent();
            let asked = Asked {
                agent: &agent,
                attributes: &attributes,
                context: &context,
                scope: scope(&set, ask.scope()),
                params: &params,
                ttl_s: ask.ttl_s,
            };
            prop_assert_eq!(set.decide(&asked), set.decide_by(&asked, &|_, _| Some(&all)));
        }
    }

    #[test]
    fn the_strictest_wins_in_whatever_order_policies_stand(
        (policies, shuffled) in policies().prop_flat_map(|p| (Just(p.clone()), Just(p).prop_shuffle())),
        extra in policy(),
        ask in ask(),
    ) {
        let a = decide(&load(&policies.concat()), &ask);
        let b = decide(&load(&shuffled.concat()), &ask);
        prop_assert_eq!(Verdict { policy_set: a.policy_set, ..b }, a.clone());
        // One more policy that does not allow never makes the verdict laxer.
        if !extra.contains("Action::\"issue\"") || extra.starts_with("forbid") {
            let more = decide(&load(&format!("{}@id(\"extra\") {extra}", policies.concat())), &ask);
            if a.kind != VerdictKind::Deny {
                prop_assert!(more.kind >= a.kind);
            }
            if (a.kind, more.kind) == (VerdictKind::Ask, VerdictKind::Ask) {
                prop_assert!(more.quorum >= a.quorum && more.strength >= a.strength);
                prop_assert!(more.max_ttl_s <= a.max_ttl_s);
                prop_assert!(more.channels.is_subset(&a.channels));
                prop_assert!(more.approvers.is_superset(&a.approvers));
            }
        }
    }

    #[test]
    fn invariant_17_a_recorded_verdict_replays_and_an_edited_one_does_not(
        policies in policies(),
        ask in ask(),
        edit in 0usize..7,
    ) {
        let set = load(&policies.concat());
        let blobs = set.scopes().values().map(|s| grantwright_domain::canonical::to_bytes(s.as_ref()).unwrap());
        let offline = PolicySet::from_blobs(set.blob(), blobs).unwrap();
        let declared = scope(&offline, ask.scope());
        let terms = Terms {
            version: 1,
            origin: "log".into(),
            request_id: RequestId::parse("r-1").unwrap(),
            agent: agent(),
            instance: InstanceId::parse("i-1").unwrap(),
            workload: "w".into(),
            process: None,
            delegation: ask.delegation.clone(),
            delegation_id: None,
            on_behalf_of: None,
            scope: declared.name.clone(),
            template: declared.digest().unwrap(),
            params: ask.params(),
            sealed_params: Default::default(),
            ttl_s: ask.ttl_s,
            task: None,
            reason: Digest::of("commitment", b""),
            decide_by: ask.at().plus_seconds(60),
        };
        let decided = Decided {
            at: ask.at(),
            digest: terms.digest().unwrap(),
            request_id: terms.request_id.clone(),
            verdict: decide(&set, &ask),
            attributes: attributes(&authority(), &agent(), ask.at()),
            context: set.context_of(ask.at(), "peer", &terms),
            chain: chain(&ask),
            again: false,
            excluded: Default::default(),
            unusual: Vec::new(),
            past: None,
        };
        let leaf = Event::Decided(decided.clone()).to_leaf().unwrap();
        let Event::Decided(read_back) = Event::from_leaf(&leaf).unwrap() else { unreachable!() };
        prop_assert_eq!(offline.replay(&read_back, &terms, declared), Ok(()));

        let mut edited = decided;
        match edit {
            0 => edited.verdict.kind = match edited.verdict.kind {
                VerdictKind::Allow => VerdictKind::Ask,
                _ => VerdictKind::Allow,
            },
            1 => edited.verdict.max_ttl_s += 1,
            2 => edited.verdict.policy_set = Digest::of("policy-set", b"another"),
            3 => edited.at = edited.at.plus_seconds(3600),
            4 => drop(edited.verdict.policies.insert("another".into())),
            5 => edited.chain.push(Default::default()),
            _ => drop(edited.context.insert("delegation".into(), serde_json::json!(["x-x"]))),
        }
        prop_assert!(offline.replay(&edited, &terms, declared).is_err());
    }

    #[test]
    fn splitting_never_loses_a_policy(texts in prop::collection::vec("[a-z;/\" \n\\\\]{0,12}", 0..4)) {
        for text in &texts {
            let total: usize = crate::statement::split(text).iter().map(|s| s.text.len()).sum();
            prop_assert!(total <= text.len());
        }
        prop_assert!(load_all(&sources(&texts.concat())).is_ok() == texts.concat().lines()
            .all(|l| l.trim().is_empty() || l.trim().starts_with("//")));
    }
}

/// Remembered answers are given only to equal questions: every change of a decision is found however often
/// it was replayed before, with policies that look at the time and with policies that do not.
#[test]
fn invariant_17_a_remembered_answer_hides_no_change() {
    for hours in ["", "when { context.time.hour < 12 }"] {
        let text = format!(
            "@id(\"read\") permit (principal, action == Action::\"issue\", \
             resource == Scope::\"demo.read\") {hours};"
        );
        let set = load(&text);
        let name = ScopeName::parse("demo.read").unwrap();
        let scope = set.scopes()[&name].clone();
        let mut memory = crate::Replayed::default();
        let agent = agent();
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let morning = at("2026-11-20T09:00:00Z");
        let mut params = Params::new();
        for (name, spec) in &scope.params {
            if !spec.optional {
                params.insert(name.clone(), ParamValue::Text("sales".into()));
            }
        }
        let terms = Terms {
            version: 1,
            origin: "log".into(),
            request_id: RequestId::parse("r-1").unwrap(),
            agent: agent.clone(),
            instance: InstanceId::parse("i-1").unwrap(),
            workload: "w".into(),
            process: None,
            delegation: Vec::new(),
            delegation_id: None,
            on_behalf_of: None,
            scope: name.clone(),
            template: scope.digest().unwrap(),
            params,
            sealed_params: Default::default(),
            ttl_s: 900,
            task: None,
            reason: Digest([0; 32]),
            decide_by: morning.plus_seconds(3600),
        };
        let attributes = json!({
            "owner": "alice", "owner_groups": [], "team": "t", "environment": "e", "model": "m",
            "model_version": "1", "qualified": true,
        });
        let Value::Object(attributes) = attributes else { panic!() };
        let decided = |at: Timestamp| {
            let context = set.context(at, "peer", &[], false);
            let verdict = set.decide(&crate::Asked {
                agent: &agent,
                attributes: &attributes,
                context: &context,
                scope: &scope,
                params: &terms.params,
                ttl_s: terms.ttl_s,
            });
            Decided {
                at,
                digest: terms.digest().unwrap(),
                request_id: terms.request_id.clone(),
                verdict,
                attributes: attributes.clone(),
                context,
                chain: Vec::new(),
                excluded: Default::default(),
                again: false,
                unusual: Vec::new(),
                past: None,
            }
        };
        let evening = at("2026-11-20T20:00:00Z");
        for when in [morning, evening, morning.plus_seconds(1), evening] {
            let good = decided(when);
            let mut again = |d: &Decided| set.replay_again(&mut memory, d, &terms, &scope);
            for _ in 0..3 {
                assert_eq!(again(&good), Ok(()));
            }
            let mut bad = good.clone();
            bad.verdict.quorum += 1;
            assert!(again(&bad).is_err());
            let mut bad = good.clone();
            bad.at = when.plus_seconds(60);
            assert!(again(&bad).is_err(), "a context of another time");
            let mut bad = good.clone();
            bad.context.insert("peer".into(), "other".into());
            assert_eq!(again(&bad).is_err(), set.replay(&bad, &terms, &scope).is_err());
            let mut bad = good.clone();
            bad.context.insert("delegation_depth".into(), 7.into());
            assert!(again(&bad).is_err());
        }
        assert_ne!(hours.is_empty(), decided(morning).verdict != decided(evening).verdict);
    }
}
