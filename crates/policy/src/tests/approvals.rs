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
    along(name, of, channel, rows, &[])
}

/// A vote on what `chain` passed on: agents, and who owns them.
fn along(
    name: &str,
    of: &[&str],
    channel: &str,
    rows: i64,
    chain: &[(&str, &str)],
) -> Result<BTreeSet<String>, Refusal> {
    let set = load(POLICY);
    let (attributes, _) = facts(&set, NOW);
    let scope = scope(&set, "demo.export");
    let mut terms = terms(scope, export(rows), 600);
    terms.delegation = chain.iter().map(|(a, _)| AgentId::parse(a).unwrap()).collect();
    let owned = |(_, owner): &(&str, &str)| {
        let mut theirs = attributes.clone();
        theirs.insert("owner".into(), (*owner).into());
        theirs
    };
    let chain: Vec<_> = chain.iter().map(owned).collect();
    set.may_approve(&Approval {
        human: &human(name),
        groups: &groups(of),
        scope,
        terms: &terms,
        attributes: &attributes,
        chain: &chain,
        channel,
        at: NOW,
    })
}

#[test]
fn invariant_10_policy_is_asked_about_every_agent_that_passed_the_right_on() {
    let of = ["reviewers", "seniors"];
    let chain = [("router", "frank"), ("planner", "bob")];
    for owner in ["alice", "bob", "frank"] {
        let refusal = along(owner, &of, "console", 10, &chain).unwrap_err();
        assert_eq!(refusal.code(), "approve_forbidden", "{owner}");
    }
    let refusal = along("bob", &of, "console", 10, &chain).unwrap_err();
    assert_eq!(refusal.to_string(), "through `planner`: nobody approves for their own agent");
    // What a vote names is what lets its voter approve for the agent that asks.
    let named = along("carol", &of, "console", 10, &chain);
    assert_eq!(named, Ok(["reviewers".to_owned()].into()));
    assert!(vote("bob", &of, "console", 10).is_ok(), "by its own right");
}

#[test]
fn invariant_16_attributes_that_are_not_those_of_the_chain_refuse_an_approval() {
    let set = load(POLICY);
    let (attributes, _) = facts(&set, NOW);
    let scope = scope(&set, "demo.export");
    let own = terms(scope, export(10), 600);
    let through = Terms { delegation: vec![AgentId::parse("planner").unwrap()], ..own.clone() };
    let same = [attributes.clone(), attributes.clone()];
    for (terms, chain, fine) in [
        (&own, &same[..0], true),
        (&own, &same[..1], false),
        (&through, &same[..0], false),
        (&through, &same[..1], true),
        (&through, &same[..], false),
        (&through, &[Map::new()], false),
    ] {
        let said = set.may_approve(&Approval {
            human: &human("bob"),
            groups: &groups(&["reviewers"]),
            scope,
            terms,
            attributes: &attributes,
            chain,
            channel: "console",
            at: NOW,
        });
        match said {
            Ok(_) => assert!(fine, "{} {}", terms.delegation.len(), chain.len()),
            Err(refusal) => assert!(!fine && refusal.code() == "policy_error", "{refusal}"),
        }
    }
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
                terms: &terms(scope, dataset("crm"), 600),
                attributes,
                chain: &[],
                channel: "console",
                at: NOW,
            })
            .unwrap_err();
        assert_eq!(refusal.code(), "policy_error");
    }
}
