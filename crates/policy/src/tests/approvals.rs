//! Who may approve, by policy.

use super::*;
use crate::{Approval, Refusal};

const POLICY: &str = r#"
@id("reviewers") permit(principal in Group::"reviewers", action == Action::"approve", resource)
    when { context.channel == "console" || context.channel == "api" };
@id("own") @reason("nobody approves for their own agent")
forbid(principal, action == Action::"approve", resource) when { principal == context.agent.owner };
@id("bulk") forbid(principal, action == Action::"approve", resource)
    when { context.params has rows && context.params.rows > 1000 }
    unless { principal in Group::"seniors" };
@id("old") @expires("2026-01-01") permit(principal, action == Action::"approve", resource);
"#;

fn vote(name: &str, of: &[&str], channel: &str, rows: i64) -> Result<BTreeSet<String>, Refusal> {
    let set = load(POLICY);
    let (attributes, _) = facts(&set, NOW);
    set.may_approve(&Approval {
        human: &human(name),
        groups: &groups(of),
        scope: scope(&set, "demo.export"),
        params: &export(rows),
        agent: &agent(),
        attributes: &attributes,
        ttl_s: 600,
        channel,
        at: NOW,
    })
}

#[test]
fn group_channel_owner_and_parameters_count() {
    assert_eq!(vote("bob", &["reviewers"], "console", 10), Ok(["reviewers".to_owned()].into()));
    assert!(vote("bob", &["reviewers", "seniors"], "api", 5000).is_ok());
    for (name, of, channel, rows) in [
        ("bob", &["security"][..], "console", 10),
        ("bob", &[][..], "console", 10),
        ("bob", &["reviewers"][..], "slack", 10),
        ("alice", &["reviewers"][..], "console", 10),
        ("bob", &["reviewers"][..], "console", 5000),
    ] {
        let refusal = vote(name, of, channel, rows).unwrap_err();
        assert_eq!(refusal.code(), "approve_forbidden", "{name} {of:?} {channel} {rows}");
    }
    let refusal = vote("alice", &["reviewers"], "console", 10).unwrap_err();
    assert_eq!(refusal.to_string(), "nobody approves for their own agent");
}

#[test]
fn invariant_16_errors_and_mismatches_refuse_an_approval() {
    let set = load(
        r#"permit(principal, action == Action::"approve", resource);
        @id("erring") forbid(principal, action == Action::"approve", resource)
        when { context.ttl * 9223372036854775807 < 0 };"#,
    );
    let (attributes, _) = facts(&set, NOW);
    let nothing = Map::new();
    let mut changed = scope(&set, "demo.read").clone();
    changed.title = "Another".into();
    for (attributes, scope) in [
        (&attributes, scope(&set, "demo.read")),
        (&nothing, scope(&set, "demo.read")),
        (&attributes, &changed),
    ] {
        let refusal = set
            .may_approve(&Approval {
                human: &human("bob"),
                groups: &groups(&["reviewers"]),
                scope,
                params: &dataset("crm"),
                agent: &agent(),
                attributes,
                ttl_s: 600,
                channel: "console",
                at: NOW,
            })
            .unwrap_err();
        assert_eq!(refusal.code(), "policy_error");
    }
}
