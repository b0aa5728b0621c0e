//! What a set answered before changes no answer.

use serde_json::json;

use super::*;

/// A question that owns its parts.
#[derive(Clone)]
struct Question {
    agent: AgentId,
    attributes: Map<String, Value>,
    context: Map<String, Value>,
    scope: Scope,
    params: Params,
    ttl_s: u32,
}

impl Question {
    fn asked(&self) -> Asked<'_> {
        Asked {
            agent: &self.agent,
            attributes: &self.attributes,
            context: &self.context,
            scope: &self.scope,
            params: &self.params,
            ttl_s: self.ttl_s,
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut other = self.clone();
        change(&mut other);
        other
    }
}

fn plain(set: &PolicySet) -> Question {
    let (attributes, context) = facts(set, NOW);
    let scope = scope(set, "demo.export").clone();
    Question { agent: agent(), attributes, context, scope, params: export(5), ttl_s: 600 }
}

/// Each differs from the first in one thing, some so that there is no answer but a deny.
fn questions(set: &PolicySet) -> Vec<Question> {
    let first = plain(set);
    let in_context =
        |key: &str, value: Value| first.with(|q| drop(q.context.insert(key.into(), value.clone())));
    let as_agent = |key: &str, value: Value| {
        first.with(|q| drop(q.attributes.insert(key.into(), value.clone())))
    };
    let at = |seconds| in_context("time", facts(set, NOW.plus_seconds(seconds)).1["time"].clone());
    let text = ParamValue::Text("many".into());
    vec![
        first.clone(),
        first.with(|q| q.ttl_s = 601),
        first.with(|q| q.params = export(500)),
        first.with(|q| drop(q.params.insert("rows".into(), text.clone()))),
        first.with(|q| drop(q.params.insert("more".into(), text.clone()))),
        first.with(|q| drop(q.params.remove("rows"))),
        first.with(|q| (q.scope, q.params) = (scope(set, "demo.read").clone(), dataset("crm"))),
        first.with(|q| q.scope.ttl.max_s += 1),
        first.with(|q| q.agent = AgentId::parse("other").unwrap()),
        first.with(|q| q.attributes.clear()),
        as_agent("qualified", json!(false)),
        as_agent("team", json!("Ops")),
        as_agent("owner_groups", json!([])),
        in_context("peer", json!("10.0.0.8")),
        in_context("on_behalf_of", json!(true)),
        in_context("delegation_depth", json!(1)),
        first.with(|q| {
            q.context.insert("delegation".into(), json!(["other"]));
            q.context.insert("delegation_depth".into(), json!(1));
        }),
        in_context("workload", json!({"uid": 0, "gid": 0})),
        in_context("more", json!(1)),
        at(12 * 3600),
        at(86_400),
        first.with(|q| drop(q.context.remove("time"))),
        in_context("time", json!({"epoch": 1, "date": "2026-11-21"})),
    ]
}

/// Whatever a policy looks at, and whatever was asked before.
#[test]
fn an_answer_never_depends_on_what_was_asked_before() {
    for seen in [
        "",
        "when { context.ttl <= 600 }",
        "when { context.params has rows && context.params.rows > 100 }",
        r#"when { context has "par\u{61}ms" && context["par\u{61}ms"] has rows }"#,
        "when { context.time.hour < 12 }",
        r#"when { context["t\u{69}me"].hour < 12 }"#,
        "when { context.peer == \"10.0.0.7\" }",
        "when { context.delegation_depth == 0 }",
        "when { context.on_behalf_of }",
        "when { context has workload }",
        "when { principal.qualified }",
        "when { principal.team == \"Sales\" }",
        "when { principal.owner in Group::\"ops\" }",
        "when { principal == Agent::\"demo-agent\" }",
        "when { resource == Scope::\"demo.read\" }",
    ] {
        for expiry in ["", "@expires(\"2026-11-22\") "] {
            let permit = format!(
                "@id(\"a\") {expiry}permit (principal, action == Action::\"issue\", resource) {seen};"
            );
            let set = load(&permit);
            let questions = questions(&set);
            for before in &questions {
                for question in &questions {
                    let _ = set.decide_again(&before.asked());
                    let (again, fresh) =
                        (set.decide_again(&question.asked()), set.decide(&question.asked()));
                    assert_eq!(again, fresh, "{permit}: {:?}", question.asked());
                }
            }
        }
    }
}

#[test]
fn what_no_policy_sees_is_not_evaluated_again_and_not_much_is_kept() {
    let set = load("@id(\"a\") permit (principal, action == Action::\"issue\", resource);");
    let first = plain(&set);
    let kept = || set.remembered.of(&first.agent, &first.scope.name).unwrap();
    let _ = set.decide_again(&first.asked());
    let answered = kept();
    let later = first.with(|q| {
        q.params = export(7);
        q.context = facts(&set, NOW.plus_seconds(60)).1;
    });
    let _ = set.decide_again(&later.asked());
    assert!(std::sync::Arc::ptr_eq(&answered, &kept()));
    let _ = set.decide_again(&first.with(|q| q.ttl_s = 1).asked());
    assert!(!std::sync::Arc::ptr_eq(&answered, &kept()));
    for n in 0..=crate::remembered::MOST_KEPT {
        let other = first.with(|q| q.agent = AgentId::parse(&format!("agent-{n}")).unwrap());
        let _ = set.decide_again(&other.asked());
    }
    assert!(set.remembered.len() <= crate::remembered::MOST_KEPT);
}
