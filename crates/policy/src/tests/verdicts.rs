//! Each shape of verdict, and what turns one into a deny.

use grantwright_domain::{ParamValue, Strength, Timestamp, VerdictKind};
use serde_json::{Value, json};

use super::*;

const ALLOW: &str = r#"@id("routine") permit(principal, action == Action::"issue", resource);"#;
const ASK: &str = r#"@id("ask") @quorum("1") @approvers("reviewers") @channels("console,api")
    permit(principal, action == Action::"issueAfterApproval", resource);"#;
const DENY: &str = r#"@id("never") forbid(principal, action == Action::"issue", resource);"#;

#[test]
fn nothing_allows_nothing() {
    let v = read("");
    assert_eq!((v.kind, v.code.as_str()), (VerdictKind::Deny, "denied"));
    assert_eq!(v.reason, "no policy allows it");
}

#[test]
fn an_allow_names_its_policies_and_the_least_ceiling() {
    let v = read(&format!(
        r#"{ALLOW} @id("short") @max_ttl("5m") permit(principal, action == Action::"issue", resource)
        when {{ principal.team == "nobody" }};
        @id("mid") @max_ttl("10m")
        permit(principal, action == Action::"issue", resource == Scope::"demo.read");"#
    ));
    assert_eq!(v.kind, VerdictKind::Allow);
    assert_eq!(v.max_ttl_s, 600);
    assert_eq!(v.policies, ["mid".to_owned(), "routine".to_owned()].into());
    assert_eq!(v.reason, "allowed by policies `mid`, `routine`");
    assert_eq!(read(ALLOW).max_ttl_s, 900, "the scope's own ceiling");
}

#[test]
fn an_ask_takes_the_strictest_of_all() {
    let v = read(&format!(
        r#"{ALLOW} {ASK} @id("strong") @quorum("2") @approvers("security, reviewers") @strength("passkey")
        @channels("console,slack") @max_ttl("5m") @reason("touches customers")
        permit(principal, action == Action::"issueAfterApproval", resource);"#
    ));
    assert_eq!(v.kind, VerdictKind::Ask);
    assert_eq!((v.quorum, v.strength, v.max_ttl_s), (2, Strength::Passkey, 300));
    assert_eq!(v.channels, ["console".to_owned()].into());
    assert_eq!(v.approvers, groups(&["reviewers", "security"]));
    assert_eq!(v.policies, ["ask".to_owned(), "strong".to_owned()].into());
    assert_eq!(v.reason, "touches customers");
    assert_eq!(read(ASK).reason, "needs 1 person of `reviewers` to approve, for at most 15 min");
}

#[test]
fn an_ask_that_no_channel_can_answer_is_a_deny() {
    let v = read(&format!(
        r#"{ASK} @id("slack") @quorum("1") @approvers("reviewers") @channels("slack")
        permit(principal, action == Action::"issueAfterApproval", resource);"#
    ));
    assert_eq!((v.kind, v.code.as_str()), (VerdictKind::Deny, "denied"));
    assert_eq!(v.policies, ["ask".to_owned(), "slack".to_owned()].into());
}

#[test]
fn deny_beats_ask_beats_allow() {
    assert_eq!(read(ALLOW).kind, VerdictKind::Allow);
    assert_eq!(read(&format!("{ALLOW}{ASK}")).kind, VerdictKind::Ask);
    for forbid in [DENY, &DENY.replace("issue\"", "issueAfterApproval\"")] {
        let v = read(&format!("{ALLOW}{ASK}{forbid}"));
        assert_eq!((v.kind, v.code.as_str()), (VerdictKind::Deny, "denied"));
        assert_eq!(v.reason, "forbidden by policy `never`");
        assert_eq!(v.policies, ["never".to_owned()].into());
    }
    let v = read(&DENY.replace("forbid", "@reason(\"closed for the audit\") forbid"));
    assert_eq!(v.reason, "closed for the audit");
}

#[test]
fn expired_permits_no_longer_count() {
    let policy = |date: &str| ALLOW.replace("permit", &format!("@expires(\"{date}\") permit"));
    assert_eq!(read(&policy("2026-11-22")).kind, VerdictKind::Allow);
    assert_eq!(read(&policy("2026-11-21")).kind, VerdictKind::Deny);
    // The day begins in the set's zone: it is still the 20th in Los Angeles.
    let mut s = sources(&policy("2026-11-21"));
    s.zone = "America/Los_Angeles".into();
    let set = load_all(&s).unwrap();
    let v = decide_at(&set, "demo.read", &dataset("crm"), 900, NOW);
    assert_eq!(v.kind, VerdictKind::Allow);
}

/// The program that asks, as the sidecar saw it, is an input of policy; where a token named the
/// workload there is none, and such a permit does not apply.
#[test]
fn the_program_that_asks_is_seen() {
    let set = load(&format!(
        r#"@id("by-program") permit(principal, action == Action::"issue", resource)
        when {{ context has workload && context.workload has exe_digest
            && context.workload.exe_digest == "{}" && context.workload.uid == 1000 }};"#,
        "55".repeat(32)
    ));
    let kind = |workload: Option<Value>| {
        let (attributes, mut context) = facts(&set, NOW);
        context.extend(workload.map(|it| ("workload".to_owned(), it)));
        set.decide(&Asked {
            agent: &agent(),
            attributes: &attributes,
            context: &context,
            scope: scope(&set, "demo.read"),
            params: &dataset("crm"),
            ttl_s: 900,
        })
        .kind
    };
    let seen = |digest: &str, uid: u32| {
        Some(json!({"uid": uid, "gid": 1, "exe_digest": digest.repeat(32)}))
    };
    assert_eq!(kind(seen("55", 1000)), VerdictKind::Allow);
    assert_eq!(kind(seen("56", 1000)), VerdictKind::Deny);
    assert_eq!(kind(seen("55", 1001)), VerdictKind::Deny);
    assert_eq!(kind(None), VerdictKind::Deny);
}

#[test]
fn parameters_attributes_and_labels_are_seen() {
    let set = load(
        r#"@id("few") permit(principal, action == Action::"issue", resource)
        when { context.params has rows && context.params.rows <= 10 }
        unless { context.params has columns && context.params.columns.contains("email") };
        @id("sales") permit(principal, action == Action::"issue", resource)
        when { principal.team == "Sales" && principal.qualified && resource.risk == "low"
            && principal.owner == Human::"alice" && principal.owner in Group::"ops"
            && context.ttl <= 900 && context.delegation_depth == 0 && !context.on_behalf_of };"#,
    );
    let kind = |name: &str, p: &Params| decide_at(&set, name, p, 900, NOW).kind;
    assert_eq!(kind("demo.read", &dataset("crm")), VerdictKind::Allow);
    assert_eq!(kind("demo.export", &export(10)), VerdictKind::Allow);
    assert_eq!(kind("demo.export", &export(11)), VerdictKind::Deny);
    let mut p = export(1);
    p.insert("columns".into(), ParamValue::Set(["email".to_owned()].into()));
    assert_eq!(kind("demo.export", &p), VerdictKind::Deny);
    // The qualification of the model ends.
    let later = NOW.plus_seconds(86_400);
    let v = decide_at(&set, "demo.read", &dataset("crm"), 900, later);
    assert_eq!(v.kind, VerdictKind::Deny);
}

#[test]
fn hours_and_weekdays_are_those_of_the_zone() {
    let office = r#"permit(principal, action == Action::"issue", resource) when {
        ["monday", "tuesday", "wednesday", "thursday", "friday"].contains(context.time.weekday)
        && context.time.hour >= 9 && context.time.hour < 17 };"#;
    let at = |zone: &str, when: &str| {
        let mut s = sources(office);
        s.zone = zone.into();
        let set = load_all(&s).unwrap();
        let when = Timestamp::parse(when).unwrap();
        decide_at(&set, "demo.read", &dataset("crm"), 900, when).kind == VerdictKind::Allow
    };
    assert!(at("UTC", "2026-11-20T16:59:59Z"), "a Friday");
    assert!(!at("UTC", "2026-11-20T17:00:00Z"));
    assert!(!at("UTC", "2026-11-21T12:00:00Z"), "a Saturday");
    // Sunday evening in London is Monday noon in Auckland; summer time moves New York.
    assert!(at("Pacific/Auckland", "2026-11-22T23:30:00Z"));
    assert!(!at("Europe/London", "2026-11-22T23:30:00Z"));
    assert!(at("America/New_York", "2026-07-01T13:00:00Z"));
    assert!(!at("America/New_York", "2026-12-01T13:00:00Z"));
}

#[test]
fn invariant_16_an_erring_policy_denies_whatever_the_others_say() {
    // Overflow is the one error that strict validation cannot rule out.
    for (effect, action) in
        [("permit", "issue"), ("forbid", "issue"), ("forbid", "issueAfterApproval")]
    {
        let v = read(&format!(
            r#"{ALLOW}{ASK} @id("erring") {effect}(principal, action == Action::"{action}", resource)
            when {{ context.ttl * 9223372036854775807 > 0 }};"#
        ));
        assert_eq!((v.kind, v.code.as_str()), (VerdictKind::Deny, "policy_error"));
        assert_eq!(v.policies, ["erring".to_owned()].into());
        assert!(!v.reason.contains("overflow"), "an inner error's words are not for the agent");
    }
    let set = load(
        r#"@id("erring") permit(principal, action == Action::"issue", resource)
        when { context.ttl * 9223372036854775807 > 0 };"#,
    );
    let (attributes, context) = facts(&set, NOW);
    let errors = set.errors(&Asked {
        agent: &agent(),
        attributes: &attributes,
        context: &context,
        scope: scope(&set, "demo.read"),
        params: &dataset("crm"),
        ttl_s: 900,
    });
    assert!(errors.len() == 1 && errors[0].contains("overflow"), "{errors:?}");
}

#[test]
fn invariant_16_every_mismatch_of_the_recorded_facts_denies() {
    let set = load(ALLOW);
    let (attributes, context) = facts(&set, NOW);
    let decide = |a: &Map<String, Value>, c: &Map<String, Value>, p: &Params| {
        let v = set.decide(&Asked {
            agent: &agent(),
            attributes: a,
            context: c,
            scope: scope(&set, "demo.read"),
            params: p,
            ttl_s: 900,
        });
        (v.kind, v.code)
    };
    let good = dataset("crm");
    let error = (VerdictKind::Deny, "policy_error".to_owned());
    assert_eq!(decide(&attributes, &context, &good), (VerdictKind::Allow, String::new()));
    for key in attributes.keys() {
        let mut less = attributes.clone();
        less.remove(key);
        assert_eq!(decide(&less, &context, &good), error, "without {key}");
        let mut wrong = attributes.clone();
        wrong.insert(key.clone(), json!({}));
        assert_eq!(decide(&wrong, &context, &good), error, "wrong {key}");
    }
    for key in context.keys() {
        let mut less = context.clone();
        less.remove(key);
        assert_eq!(decide(&attributes, &less, &good), error, "without {key}");
        let mut wrong = context.clone();
        wrong.insert(key.clone(), json!([7]));
        assert_eq!(decide(&attributes, &wrong, &good), error, "wrong {key}");
    }
    for key in ["epoch", "hour", "minute", "weekday", "date"] {
        let mut wrong = context.clone();
        wrong["time"].as_object_mut().unwrap().insert(key.into(), json!(true));
        assert_eq!(decide(&attributes, &wrong, &good), error, "wrong {key}");
    }
    let mut more = context.clone();
    more.insert("reason".into(), json!("please"));
    assert_eq!(decide(&attributes, &more, &good), error);
    for bad in [Params::new(), [("dataset".to_owned(), ParamValue::Integer(1))].into(), export(1)] {
        assert_eq!(decide(&attributes, &context, &bad), error, "{bad:?}");
    }
}

#[test]
fn invariant_16_unknown_agents_and_scopes_deny() {
    let set = load(ALLOW);
    let (_, context) = facts(&set, NOW);
    let stranger = AgentId::parse("stranger").unwrap();
    let nothing = attributes(&authority(), &stranger, NOW);
    assert!(nothing.is_empty());
    let mut unknown = scope(&set, "demo.read").clone();
    unknown.name = ScopeName::parse("demo.unknown").unwrap();
    let (known, _) = facts(&set, NOW);
    for (attributes, scope) in [(&nothing, scope(&set, "demo.read")), (&known, &unknown)] {
        let v = set.decide(&Asked {
            agent: &stranger,
            attributes,
            context: &context,
            scope,
            params: &dataset("crm"),
            ttl_s: 900,
        });
        assert_eq!((v.kind, v.code.as_str()), (VerdictKind::Deny, "policy_error"));
    }
}

#[test]
fn a_scope_that_changed_since_denies() {
    let set = load(ALLOW);
    let (attributes, context) = facts(&set, NOW);
    let mut old = scope(&set, "demo.read").clone();
    old.template.insert("role".into(), json!("wider"));
    let v = set.decide(&Asked {
        agent: &agent(),
        attributes: &attributes,
        context: &context,
        scope: &old,
        params: &dataset("crm"),
        ttl_s: 900,
    });
    assert_eq!((v.kind, v.code.as_str()), (VerdictKind::Deny, "scope_changed"));
}
