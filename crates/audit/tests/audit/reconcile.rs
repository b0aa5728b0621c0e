//! Issued to used: what agrees, what does not, and bad input.

use grantwright_audit::reconcile::{Backend, Known, Leases, cloudtrail, vault};
use grantwright_domain::event::Issued;
use grantwright_domain::{Event, LeaseId};
use serde_json::{Value, json};

use crate::fixture::Writer;
use crate::source::Memory;

const KEY: &str = "ASIAEXAMPLEKEY000001";
const ROLE: &str = "arn:aws:sts::123456789012:assumed-role/agents/r-sts";

/// A log with one STS lease and two of Vault's: an account, and a token.
fn leases() -> Leases {
    let mut w = Writer::new();
    for (id, facts) in [
        (
            "r-sts",
            [("access_key_id", KEY), ("role_session_name", "r-sts"), ("assumed_role_arn", ROLE)]
                .as_slice(),
        ),
        ("r-vault", &[("vault_lease_id", "database/creds/db-read/abc"), ("username", "v-1")]),
        ("r-token", &[("vault_accessor", "acc-1"), ("vault_policies", "read-sales")]),
    ] {
        w.ask(id, "demo.read", json!({"dataset": "orders"}));
        w.decide(id);
        w.intend(id);
        let at = w.now;
        let facts = facts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let state = w.of(id);
        let event = Event::Issued(Issued {
            at,
            digest: state.digest,
            request_id: state.terms.request_id.clone(),
            lease_id: LeaseId::of(&state.terms.request_id).unwrap(),
            expires_at: at.plus_seconds(900),
            revocable: false,
            facts,
        });
        w.push(event);
    }
    let mut log = Memory::of(&w.events, &w.beside);
    Leases::of(&mut log).unwrap()
}

fn record(minute: i64, more: Value) -> Value {
    let leases = leases();
    let at = leases.all().next().unwrap().from.plus_seconds(60 * minute);
    let mut record = json!({
        "eventVersion": "1.11", "eventTime": at, "eventSource": "s3.amazonaws.com",
        "eventName": "GetObject", "awsRegion": "us-east-1", "eventID": "e-1",
        "userIdentity": {"type": "AssumedRole", "arn": ROLE, "accessKeyId": KEY,
            "sessionContext": {"sourceIdentity": "demo-agent"}},
        "requestParameters": {"bucketName": "b", "key": "public/x"},
    });
    for (key, value) in more.as_object().unwrap() {
        record[key] = value.clone();
    }
    record
}

fn known(records: &[Value]) -> Known {
    let mut known = Known::new("x");
    let text = json!({ "Records": records }).to_string();
    cloudtrail::read(&text, &leases(), &mut known).unwrap();
    known
}

fn rules(records: &[Value]) -> Vec<String> {
    known(records).findings.into_iter().map(|f| f.rule).collect()
}

#[test]
fn calls_are_counted_for_their_lease() {
    let refused = json!({"errorCode": "AccessDenied"});
    let known = known(&[record(1, json!({})), record(2, json!({})), record(3, refused)]);
    assert_eq!((known.events, known.matched, known.findings.len()), (3, 3, 0));
    let views = known.leases(&leases(), Backend::CloudTrail);
    assert_eq!(views.len(), 1);
    assert_eq!((views[0].state, views[0].used.calls, views[0].used.refused), ("used", 2, 1));
    assert_eq!(views[0].used.by_call["s3:GetObject"], 3);
    assert_eq!(views[0].agent, "demo-agent");
}

#[test]
fn a_lease_that_nobody_used_is_told_where_the_files_cover_its_life() {
    let other = json!({"userIdentity": {"arn": "arn:aws:iam::1:user/x", "accessKeyId": "AKIA0"}});
    let covered = known(&[record(1, other.clone())]);
    assert_eq!(covered.unrelated, 1);
    assert_eq!(covered.leases(&leases(), Backend::CloudTrail)[0].state, "never used");
    let early = known(&[record(-600, other)]);
    assert_eq!(early.leases(&leases(), Backend::CloudTrail)[0].state, "not covered");
}

#[test]
fn what_was_never_minted_or_came_late_or_bore_another_name_is_found() {
    let identity = |key: &str, who: &str| {
        json!({"userIdentity": {"arn": ROLE, "accessKeyId": key,
            "sessionContext": {"sourceIdentity": who}}})
    };
    assert_eq!(rules(&[record(1, identity("ASIAUNKNOWN", "demo-agent"))]), ["never-minted"]);
    assert_eq!(rules(&[record(1, identity(KEY, "mallory"))]), ["wrong-identity"]);
    assert_eq!(rules(&[record(60, json!({}))]), ["after-end"]);
    // Some services leave the key out: then session name and source identity must both agree.
    let nameless = |who: &str| json!({"userIdentity": {"arn": ROLE, "sessionContext": {"sourceIdentity": who}}});
    assert_eq!(rules(&[record(1, nameless("demo-agent"))]), Vec::<String>::new());
    assert_eq!(rules(&[record(1, nameless("mallory"))]), ["never-minted"]);
}

#[test]
fn a_session_of_our_role_with_another_key_was_not_ours() {
    let assume = |key: &str, name: &str| {
        json!({"eventSource": "sts.amazonaws.com", "eventName": "AssumeRole",
            "requestParameters": {"roleArn": "arn:aws:iam::123456789012:role/agents",
                "roleSessionName": name, "sourceIdentity": "demo-agent"},
            "responseElements": {"credentials": {"accessKeyId": key}}})
    };
    let minted = known(&[record(0, assume(KEY, "r-sts"))]);
    assert_eq!((minted.matched, minted.findings.len()), (1, 0));
    assert!(minted.used.values().next().unwrap().minted);
    assert_eq!(rules(&[record(0, assume("ASIAOTHER", "r-sts"))]), ["never-minted"]);
    assert_eq!(rules(&[record(0, assume("ASIAOTHER", "by-hand"))]), ["never-minted"]);
}

#[test]
fn a_session_whose_tags_name_a_request_is_told_as_that_requests() {
    let assume = |tags: Value| {
        let mut asked = json!({"roleArn": "arn:aws:iam::123456789012:role/other",
            "roleSessionName": "by-hand"});
        asked.as_object_mut().unwrap().extend(tags.as_object().unwrap().clone());
        let more = json!({"eventSource": "sts.amazonaws.com", "eventName": "AssumeRole",
            "requestParameters": asked,
            "responseElements": {"credentials": {"accessKeyId": "ASIAOTHER"}}});
        known(&[record(0, more)])
    };
    let tag = json!({"key": "request", "value": "r-sts"});
    // AssumeRole's own are a list; those that came in a token are told as an object.
    for tags in [json!({"tags": [tag]}), json!({"principalTags": {"request": "r-sts"}})] {
        let found = &assume(tags).findings[0];
        let request = found.request.as_ref().map(ToString::to_string);
        assert_eq!((found.rule.as_str(), request.as_deref()), ("never-minted", Some("r-sts")));
    }
    let other = assume(json!({"tags": [{"key": "request", "value": "r-none"}]}));
    assert_eq!((other.findings.len(), other.unrelated), (0, 1));
    let odd = assume(json!({"tags": "none"}));
    assert_eq!((odd.findings.len(), odd.unrelated, odd.malformed), (0, 0, 1));
    // A call whose object cannot be read is not one within the approved prefix.
    assert_eq!(rules(&[record(1, json!({"requestParameters": {"key": 5}}))]), ["outside"]);
}

#[test]
fn vaults_tokens_are_matched_by_their_accessor_or_by_the_lease_in_their_metadata() {
    let leases = leases();
    let lease = leases.all().find(|l| l.id.as_str() == "l-token").unwrap();
    let token = |accessor: &str| json!({"accessor": accessor, "metadata": {"lease": "l-token", "agent": "demo-agent"}});
    let read = |known: &mut Known, second: i64, with: Value, made: Value, error: &str| {
        let entry = json!({"time": lease.from.plus_seconds(second), "type": "response", "auth": with,
            "request": {"id": "q", "operation": "read", "path": "kv/data/sales"},
            "response": {"auth": made}, "error": error});
        vault::read(&entry.to_string(), &leases, known);
    };
    let view = |known: &Known| {
        let views = known.leases(&leases, Backend::Vault);
        let view = views.into_iter().find(|v| v.lease_id == lease.id).unwrap();
        (view.state, view.used.minted, view.used.calls, view.used.refused)
    };
    // As it is where the audit device says so, else hashed.
    for accessor in ["acc-1", "hmac-sha256:00ff"] {
        let mut known = Known::new("x");
        read(&mut known, 0, json!({"accessor": "hmac-sha256:11"}), token(accessor), "");
        assert_eq!(view(&known), ("never used", true, 0, 0), "{accessor}");
        read(&mut known, 1, token(accessor), Value::Null, "");
        read(&mut known, 2, token(accessor), Value::Null, "permission denied");
        assert_eq!(view(&known), ("used", true, 1, 1), "{accessor}");
        assert_eq!((known.matched, known.findings.len(), known.unrelated), (3, 0, 0));
        read(&mut known, 3600, token(accessor), Value::Null, "");
        assert_eq!(known.findings[0].rule, "after-end");
    }
    // Whoever makes a token may write what the broker does.
    let mut known = Known::new("x");
    read(&mut known, 0, json!({}), token("acc-2"), "");
    read(&mut known, 1, token("acc-2"), Value::Null, "");
    let rules: Vec<&str> = known.findings.iter().map(|f| f.rule.as_str()).collect();
    assert_eq!((rules, known.matched), (vec!["never-minted", "never-minted"], 0));
    // A lease that has no token has none that names it.
    let strange = json!({"accessor": "hmac-sha256:22", "metadata": {"lease": "l-sts"}});
    read(&mut known, 2, strange, Value::Null, "");
    assert_eq!((known.unrelated, known.matched), (1, 0));
}

#[test]
fn vaults_leases_are_matched_by_their_id() {
    let leases = leases();
    let at = leases.all().next().unwrap().from;
    let entry = |lease: &str| {
        json!({"time": at, "type": "response", "request": {"id": "q", "operation": "read",
            "path": "database/creds/db-read"}, "response": {"secret": {"lease_id": lease}}})
        .to_string()
    };
    let mut known = Known::new("x");
    vault::read(&entry("database/creds/db-read/abc"), &leases, &mut known);
    assert_eq!((known.matched, known.findings.len()), (1, 0));
    vault::read(&entry("database/creds/db-read/other"), &leases, &mut known);
    vault::read(&entry("pki/issue/web/1"), &leases, &mut known);
    let rules: Vec<&str> = known.findings.iter().map(|f| f.rule.as_str()).collect();
    assert_eq!((rules, known.unrelated), (vec!["never-minted"], 1));
}

#[test]
fn bad_input_is_counted_or_refused_and_never_agrees_by_default() {
    let leases = leases();
    let mut known = Known::new("x");
    for bad in ["", "[", "{\"Records\":", "{\"Records\": 1}", "nonsense"] {
        assert!(cloudtrail::read(bad, &leases, &mut known).is_err(), "{bad}");
    }
    for odd in ["{}", "{\"Records\":[{}, 1, null]}", "{\"eventTime\":\"yesterday\"}"] {
        cloudtrail::read(odd, &leases, &mut known).unwrap();
    }
    vault::read("nonsense", &leases, &mut known);
    vault::read("{\"time\":1}", &leases, &mut known);
    assert_eq!((known.malformed, known.matched, known.events), (7, 0, 0));
}
