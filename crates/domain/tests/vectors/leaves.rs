//! One leaf of every kind, byte for byte; every other spelling of it is refused.

use std::collections::BTreeSet;

use grantwright_domain::{Event, canonical};
use serde_json::{Map, Value, json};

use crate::{frozen, sha256, vector};

const AT: &str = "2026-11-21T01:44:50Z";

fn digest(byte: &str) -> Value {
    byte.repeat(32).into()
}

fn terms() -> Value {
    json!({
        "version": 1, "origin": "log.example.org/grantwright", "request_id": "r-0001",
        "agent": "demo-agent", "instance": "i-0001", "workload": "uid:1000", "delegation": ["planner"],
        "on_behalf_of": "erin", "scope": "demo.export", "template": digest("11"),
        "params": {"dataset": "orders", "rows": 10000, "dry": true, "tables": ["a", "b"]},
        "sealed_params": {"key": digest("33")}, "ttl_s": 900, "task": digest("44"),
        "reason": digest("22"), "decide_by": "2026-11-21T02:44:50.125Z",
    })
}

fn verdict() -> Value {
    json!({
        "verdict": "ask", "reason": "exports leave the house", "policies": ["ask-export", "base"],
        "policy_set": digest("55"), "quorum": 2, "strength": "chat", "channels": ["api", "console"],
        "approvers": ["reviewers", "security"], "max_ttl_s": 900,
    })
}

/// Name, kind, fields. Every optional field is present once and absent once.
fn cases() -> Vec<(&'static str, &'static str, Value)> {
    let deny = json!({
        "verdict": "deny", "code": "ttl_too_long", "reason": "900 s at most", "policies": [],
        "policy_set": digest("55"), "quorum": 0, "strength": "passkey", "channels": [],
        "approvers": [], "max_ttl_s": 0,
    });
    let plain = {
        let mut t = terms();
        let map = t.as_object_mut().expect("terms");
        for key in ["on_behalf_of", "sealed_params", "task"] {
            map.remove(key);
        }
        t
    };
    let under = {
        let mut t = plain.clone();
        t["delegation"] = json!(["planner", "router"]);
        t["delegation_id"] = "d-0001".into();
        t
    };
    vec![
        ("requested", "requested", json!({"terms": terms(), "renews": "l-0000"})),
        ("requested, least", "requested", json!({"terms": plain})),
        (
            "decided",
            "decided",
            json!({
                "verdict": verdict(), "attributes": {"team": "Sales", "owner": "alice"},
                "context": {"now": 1_795_225_490_i64, "peer": "uid:1000", "delegation": []},
                "excluded": ["bob", "carol"], "again": true, "unusual": ["first ask for this scope", "caf\u{e9} \u{1f600}"],
            }),
        ),
        ("requested, under a delegation", "requested", json!({"terms": under})),
        (
            "decided, under a delegation",
            "decided",
            json!({
                "verdict": deny.clone(), "attributes": {}, "context": {},
                "chain": [{"owner": "bob", "team": "Sales"}, {}],
            }),
        ),
        ("decided, least", "decided", json!({"verdict": deny, "attributes": {}, "context": {}})),
        (
            "questioned",
            "questioned",
            json!({"human": "bob", "channel": "console", "text": digest("66")}),
        ),
        ("answered", "answered", json!({"text": digest("66")})),
        (
            "narrowed",
            "narrowed",
            json!({"human": "bob", "channel": "api", "old_digest": digest("77"), "terms": terms()}),
        ),
        (
            "voted",
            "voted",
            json!({
                "human": "bob", "decision": "deny", "channel": "console", "seen": 3,
                "groups": ["reviewers", "security"], "policies": ["approve-export"],
                "policy_set": digest("55"), "reason_code": "looks_wrong", "reason": digest("66"),
                "proof": {"authenticator": "AAEC", "count": 7},
            }),
        ),
        (
            "voted, least",
            "voted",
            json!({
                "human": "bob", "decision": "approve", "channel": "api", "groups": [],
                "policies": [], "policy_set": digest("55"),
            }),
        ),
        (
            "decided, of a past",
            "decided",
            json!({
                "verdict": verdict(), "attributes": {}, "context": {},
                "unusual": ["first time in production"], "past": 1234,
            }),
        ),
        (
            "voted, confirmed",
            "voted",
            json!({
                "human": "bob", "decision": "approve", "channel": "api", "groups": ["reviewers"],
                "policies": [], "policy_set": digest("55"), "confirmed": "bucket",
            }),
        ),
        ("withdrawn", "withdrawn", json!({"human": "bob", "channel": "api"})),
        ("intended", "intended", json!({"minter": "jwt", "approvers": ["bob", "carol"]})),
        (
            "issued",
            "issued",
            json!({
                "lease_id": "l-0001", "expires_at": "2026-11-21T01:59:50Z", "revocable": false,
                "facts": {"jti": "0123", "kid": "k1"},
            }),
        ),
        ("failed", "failed", json!({"code": "refused", "detail": "the backend refused"})),
        ("unknown", "unknown", json!({"detail": "no answer within 10 s"})),
        ("cancelled", "cancelled", json!({"by": "agent"})),
        ("expired", "expired", json!({})),
        ("expired lease", "expired", json!({"lease_id": "l-0001"})),
        ("renewed", "renewed", json!({"lease_id": "l-0001", "expires_at": "2026-11-21T01:59:50Z"})),
        (
            "revoked",
            "revoked",
            json!({"lease_id": "l-0001", "by": "alice", "effect": "the user is gone"}),
        ),
        ("agent revoked", "agent_revoked", json!({"by": "root", "agent": "demo-agent"})),
        (
            "agent set",
            "agent_set",
            json!({
                "by": "root", "agent": "demo-agent", "owner": "alice",
                "attributes": {"team": "Sales", "environment": "production", "model": "m", "model_version": ""},
            }),
        ),
        (
            "group set",
            "group_set",
            json!({"by": "root", "group": "reviewers", "members": ["alice", "bob", "carol"]}),
        ),
        (
            "groups claimed",
            "groups_claimed",
            json!({
                "human": "bob", "issuer": "https://id.example.org", "subject": "00u1",
                "groups": ["reviewers"], "until": "2026-11-21T09:44:50Z",
            }),
        ),
        (
            "identity linked",
            "identity_set",
            json!({"by": "root", "issuer": "https://id.example.org", "subject": "00u1", "human": "bob"}),
        ),
        (
            "identity unlinked",
            "identity_set",
            json!({"by": "root", "issuer": "https://id.example.org", "subject": "00u1"}),
        ),
        (
            "human set",
            "human_set",
            json!({"by": "root", "human": "bob", "active": true, "operator": false}),
        ),
        (
            "instance enrolled",
            "instance_enrolled",
            json!({
                "join_id": "j-1", "agent": "demo-agent", "instance": "i-0001", "serial": "0a0b",
                "key": digest("88"), "seal_key": "99".repeat(32), "not_after": "2026-11-21T02:44:50Z",
            }),
        ),
        (
            "instance renewed",
            "instance_renewed",
            json!({
                "instance": "i-0001", "old_serial": "0a0b", "serial": "0a0c", "key": digest("88"),
                "not_after": "2026-11-21T03:44:50Z",
            }),
        ),
        (
            "instance revoked",
            "instance_revoked",
            json!({"by": "broker", "instance": "i-0001", "reason": "renewed twice"}),
        ),
        (
            "join created",
            "join_created",
            json!({
                "by": "root", "join_id": "j-1", "agent": "demo-agent", "token_hash": digest("aa"),
                "expires_at": "2026-11-21T02:44:50Z",
            }),
        ),
        (
            "account linked",
            "account_linked",
            json!({
                "human": "bob",
                "account": {"channel": "slack", "tenant": "T111", "account": "U111"},
            }),
        ),
        (
            "account unlinked",
            "account_unlinked",
            json!({
                "by": "root",
                "account": {"channel": "slack", "tenant": "T111", "account": "U111"},
            }),
        ),
        (
            "link created",
            "link_created",
            json!({
                "by": "root", "link_id": "k-1", "human": "bob", "code_hash": digest("bb"),
                "purpose": "login", "expires_at": "2026-11-21T02:44:50Z",
            }),
        ),
        ("link spent", "link_spent", json!({"link_id": "k-1"})),
        (
            "model set",
            "model_set",
            json!({"by": "root", "model": "m", "model_version": "1", "until": "2027-01-01T00:00:00Z"}),
        ),
        ("model ended", "model_set", json!({"by": "root", "model": "m", "model_version": "1"})),
        (
            "opened",
            "opened",
            json!({
                "version": 1, "origin": "log.example.org/grantwright", "trust_domain": "example.org",
                "vkey": "log.example.org/grantwright+00000000+AAAA",
            }),
        ),
        (
            "opened, with a recovery key",
            "opened",
            json!({
                "version": 1, "origin": "log.example.org/grantwright", "trust_domain": "example.org",
                "vkey": "log.example.org/grantwright+00000000+AAAA",
                "recovery_key": "recovery.example.org+00000000+AAAA",
            }),
        ),
        (
            "epoch started",
            "epoch_started",
            json!({
                "version": 1, "origin": "log.example.org/2", "trust_domain": "example.org",
                "vkey": "log.example.org/2+00000000+AAAA",
                "recovery_key": "recovery.example.org+00000000+AAAA",
                "old_origin": "log.example.org/grantwright",
                "old_vkey": "log.example.org/grantwright+00000000+AAAA",
                "old_checkpoint": "log.example.org/grantwright\n9\nAAAA\n\n\u{2014} x AAAA\n",
                "restored": 7, "restored_root": "AAAA", "carried": 5, "carried_root": "AAAA",
                "signature": "\u{2014} recovery.example.org AAAA\n",
            }),
        ),
        (
            "passkey enrolled",
            "passkey_enrolled",
            json!({
                "human": "bob", "link_id": "k-1", "credential_id": "AAECAwQFBgcICQoLDA0ODw",
                "public_key": {"algorithm": "ES256", "key": format!("04{}", "ab".repeat(64))},
                "rp_id": "localhost", "aaguid": "00".repeat(16), "backup_eligible": true,
            }),
        ),
        (
            "passkey revoked",
            "passkey_revoked",
            json!({"by": "bob", "credential_id": "AAECAwQFBgcICQoLDA0ODw"}),
        ),
        (
            "policy loaded",
            "policy_loaded",
            json!({
                "by": "root", "policy_set": digest("55"),
                "scopes": {"demo.export": digest("11"), "aws.s3-read": digest("12")},
            }),
        ),
        (
            "token issued",
            "token_issued",
            json!({
                "by": "bob", "token_id": "t-1", "human": "bob", "token_hash": digest("cc"),
                "expires_at": "2026-11-21T13:44:50Z",
            }),
        ),
        ("token revoked", "token_revoked", json!({"by": "root", "token_id": "t-1"})),
        (
            "delegated",
            "delegated",
            json!({
                "delegation_id": "d-0002", "from": "router", "instance": "i-0002", "to": "demo-agent",
                "parent": "d-0001", "passes": 1, "expires_at": "2026-11-21T02:44:50Z",
                "scopes": {
                    "demo.export": {
                        "template": digest("11"), "ttl_s": 300,
                        "params": {"dataset": "orders", "rows": 500, "dry": true, "tables": ["a"]},
                    },
                    "demo.read": {"template": digest("12"), "ttl_s": 900},
                },
            }),
        ),
        (
            "delegated, least",
            "delegated",
            json!({
                "delegation_id": "d-0001", "from": "planner", "instance": "i-0001", "to": "router",
                "expires_at": "2026-11-21T02:44:50Z",
                "scopes": {"demo.read": {"template": digest("12"), "ttl_s": 900}},
            }),
        ),
        (
            "delegation ended",
            "delegation_ended",
            json!({"delegation_id": "d-0001", "agent": "planner"}),
        ),
        (
            "delegation ended by a person",
            "delegation_ended",
            json!({"delegation_id": "d-0001", "human": "alice"}),
        ),
        (
            "texts erased",
            "erased",
            json!({"by": "root", "of": "r-1", "texts": ["param:ticket", "reason"]}),
        ),
    ]
}

const REQUEST_KINDS: [&str; 15] = [
    "requested",
    "decided",
    "questioned",
    "answered",
    "narrowed",
    "voted",
    "withdrawn",
    "intended",
    "issued",
    "failed",
    "unknown",
    "cancelled",
    "expired",
    "renewed",
    "revoked",
];

fn whole(kind: &str, fields: Value) -> Value {
    let Value::Object(mut map) = fields else { panic!("fields") };
    map.insert("kind".into(), kind.into());
    map.insert("at".into(), AT.into());
    if REQUEST_KINDS.contains(&kind) {
        map.insert("request_id".into(), "r-0001".into());
        map.insert("digest".into(), digest("dd"));
    }
    Value::Object(map)
}

/// A kind that is added without a vector does not compile here.
fn must_have_vectors(event: &Event) {
    match event {
        Event::Requested(_) | Event::Decided(_) | Event::Questioned(_) | Event::Answered(_) => {}
        Event::Narrowed(_) | Event::Voted(_) | Event::Withdrawn(_) | Event::Intended(_) => {}
        Event::Issued(_) | Event::Failed(_) | Event::Unknown(_) | Event::Cancelled(_) => {}
        Event::Expired(_) | Event::Renewed(_) | Event::Revoked(_) => {}
        Event::AccountLinked(_) | Event::AccountUnlinked(_) => {}
        Event::AgentRevoked(_) | Event::AgentSet(_) | Event::GroupSet(_) | Event::HumanSet(_) => {}
        Event::GroupsClaimed(_) | Event::IdentitySet(_) => {}
        Event::InstanceEnrolled(_) | Event::InstanceRenewed(_) | Event::InstanceRevoked(_) => {}
        Event::JoinCreated(_) | Event::LinkCreated(_) | Event::LinkSpent(_) => {}
        Event::Delegated(_) | Event::DelegationEnded(_) => {}
        Event::EpochStarted(_) | Event::Erased(_) | Event::ModelSet(_) => {}
        Event::Opened(_) | Event::PolicyLoaded(_) => {}
        Event::PasskeyEnrolled(_) | Event::PasskeyRevoked(_) => {}
        Event::TokenIssued(_) | Event::TokenRevoked(_) => {}
    }
}

#[test]
fn every_kind_has_one_spelling() {
    let mut kinds = BTreeSet::new();
    let vectors = cases().into_iter().map(|(name, kind, fields)| {
        let leaf = canonical::to_bytes(&whole(kind, fields)).expect(name);
        let event = Event::from_leaf(&leaf).unwrap_or_else(|e| panic!("{name}: {e}"));
        must_have_vectors(&event);
        assert_eq!(event.to_leaf().expect(name), leaf, "{name}");
        assert_eq!(event.kind(), kind);
        assert_eq!(Event::kind_of(&leaf), Some(kind));
        assert_eq!(event.at().to_string(), AT, "{name}");
        let of_a_request = REQUEST_KINDS.contains(&kind);
        assert_eq!(event.request_id().is_some(), of_a_request, "{name}");
        kinds.insert(kind);
        other_spellings(name, &leaf);
        let digest = sha256("vector", &leaf);
        let text = String::from_utf8(leaf).expect("UTF-8");
        vector(name, [("kind", kind.into()), ("leaf", text.into()), ("digest", digest.into())])
    });
    frozen("leaves.json", vectors.collect());
    assert_eq!(kinds.len(), 40, "{kinds:?}");
}

fn refused(name: &str, how: &str, bytes: &[u8]) {
    assert!(Event::from_leaf(bytes).is_err(), "{name}, {how}: {}", String::from_utf8_lossy(bytes));
}

fn other_spellings(name: &str, leaf: &[u8]) {
    let text = std::str::from_utf8(leaf).expect("UTF-8");
    let Ok(Value::Object(map)) = canonical::parse(leaf) else { panic!("{name}") };
    let spelled = |m: &Map<String, Value>| canonical::to_bytes(m).expect(name);
    refused(name, "line feed at the end", format!("{text}\n").as_bytes());
    refused(name, "space before", format!(" {text}").as_bytes());
    refused(name, "space inside", text.replacen("{\"", "{ \"", 1).as_bytes());
    refused(name, "byte order mark", format!("\u{feff}{text}").as_bytes());
    refused(name, "cut short", &leaf[..leaf.len() - 1]);
    refused(name, "twice", [leaf, leaf].concat().as_slice());
    refused(name, "escaped letter", text.replacen("\"kind\"", "\"k\\u0069nd\"", 1).as_bytes());
    refused(name, "escaped slash", text.replacen("-21T", "\\u002d21T", 1).as_bytes());
    refused(name, "kind twice", format!("{{\"kind\":\"x\",{}", &text[1..]).as_bytes());
    refused(name, "at twice", text.replacen("{\"", &format!("{{\"at\":\"{AT}\",\""), 1).as_bytes());
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort();
    keys.reverse();
    let backwards: Vec<String> = keys
        .into_iter()
        .map(|k| {
            let value = String::from_utf8(canonical::to_bytes(&map[k]).expect(name)).expect(name);
            format!("\"{k}\":{value}")
        })
        .collect();
    refused(name, "keys backwards", format!("{{{}}}", backwards.join(",")).as_bytes());
    for at in [
        "2026-11-21T01:44:50.000Z",
        "2026-11-21T01:44:50+00:00",
        "2026-11-21t01:44:50z",
        "2026-11-21 01:44:50Z",
        "2026-11-21T02:44:50+01:00",
        "2026-11-21T01:44:50.0001Z",
        "2026-11-21",
        "",
    ] {
        let mut other = map.clone();
        other.insert("at".into(), at.into());
        refused(name, at, &spelled(&other));
    }
    for extra in [json!(1), json!("x"), json!([]), json!({})] {
        let mut other = map.clone();
        other.insert("zz".into(), extra);
        refused(name, "unknown field", &spelled(&other));
    }
    for key in map.keys() {
        let mut other = map.clone();
        other.insert(key.clone(), Value::Null);
        let null = serde_json::to_vec(&other).expect(name);
        refused(name, "null", &null);
        let mut other = map.clone();
        let old = other.remove(key).expect(name);
        let optional = [
            "renews",
            "again",
            "chain",
            "confirmed",
            "excluded",
            "parent",
            "passes",
            "past",
            "unusual",
            "seen",
            "reason",
            "reason_code",
            "proof",
        ]
        .contains(&key.as_str())
            || (key == "human" && map["kind"] == "identity_set")
            || (["agent", "human"].contains(&key.as_str()) && map["kind"] == "delegation_ended")
            || (key == "lease_id" && map["kind"] == "expired")
            || (key == "recovery_key" && map["kind"] == "opened")
            || (key == "signature" && map["kind"] == "epoch_started")
            || (key == "until" && map["kind"] == "model_set");
        let required = !optional || map["kind"] == "instance_revoked";
        if required {
            refused(name, &format!("without {key}"), &spelled(&other));
        }
        if let Value::String(s) = old {
            // Hexadecimal digits are lower-case, words are snake case.
            if key == "digest" || key == "kind" {
                other.insert(key.clone(), s.to_uppercase().into());
                refused(name, &format!("capital {key}"), &spelled(&other));
            }
        }
    }
    // Defaults are never written out.
    let mut other = map;
    for (kind, key, value) in [
        ("decided", "again", json!(false)),
        ("decided", "chain", json!([])),
        ("decided", "unusual", json!([])),
        ("decided", "excluded", json!([])),
        ("delegated", "passes", json!(0)),
        ("voted", "reason_code", json!("")),
    ] {
        if other["kind"] == kind {
            let old = other.insert(key.into(), value);
            refused(name, &format!("default {key}"), &spelled(&other));
            match old {
                Some(old) => other.insert(key.into(), old),
                None => other.remove(key),
            };
        }
    }
}

/// The types of a routine grant's leaves declare their fields in canonical order: but for the tag, which an
/// enum writes first, nothing needs to be put in order.
#[test]
fn routine_leaves_are_declared_in_their_order() {
    let routine = ["requested", "decided", "intended", "issued"];
    let mut seen = BTreeSet::new();
    let mut local = terms();
    local["process"] = json!({
        "uid": 1000, "gid": 100, "pid": 7, "exe": "/bin/x", "exe_digest": digest("66"),
        "cgroup": "/user.slice", "container": "a".repeat(64),
    });
    let local = [("requested, by a process", "requested", json!({"terms": local}))];
    let cases = cases().into_iter().chain(local);
    for (name, kind, fields) in cases.filter(|(_, kind, _)| routine.contains(kind)) {
        let leaf = canonical::to_bytes(&whole(kind, fields)).expect(name);
        let event = Event::from_leaf(&leaf).unwrap_or_else(|e| panic!("{name}: {e}"));
        let untagged = |text: String| text.replacen(&format!(r#""kind":"{kind}","#), "", 1);
        let declared = untagged(serde_json::to_string(&event).expect(name));
        assert_eq!(declared, untagged(String::from_utf8(leaf).expect(name)), "{name}");
        seen.insert(kind);
    }
    assert_eq!(seen.len(), routine.len());
}

#[test]
fn sets_in_another_order_are_refused() {
    for (find, replace) in [
        (r#"["api","console"]"#, r#"["console","api"]"#),
        (r#"["reviewers","security"]"#, r#"["security","reviewers"]"#),
        (r#"["alice","bob","carol"]"#, r#"["alice","carol","bob"]"#),
        (r#"["alice","bob","carol"]"#, r#"["alice","bob","bob","carol"]"#),
        (r#"["bob","carol"]"#, r#"["carol","bob"]"#),
        (r#""tables":["a","b"]"#, r#""tables":["b","a"]"#),
        (r#""tables":["a","b"]"#, r#""tables":["a","a","b"]"#),
        (r#""quorum":2"#, r#""quorum":2.0"#),
        (r#""quorum":2"#, r#""quorum":02"#),
        (r#""quorum":2"#, r#""quorum":-2"#),
        (r#""quorum":2"#, r#""quorum":4294967296"#),
        (r#""verdict":"ask""#, r#""code":"","verdict":"ask""#),
        (r#""verdict":"ask""#, r#""verdict":"ask","zz":1"#),
        (r#""kind":"expired""#, r#""kind":"lapsed""#),
    ] {
        let mut found = false;
        for (name, kind, fields) in cases() {
            let leaf = canonical::to_bytes(&whole(kind, fields)).expect(name);
            let text = String::from_utf8(leaf).expect("UTF-8");
            if text.contains(find) {
                found = true;
                refused(name, replace, text.replacen(find, replace, 1).as_bytes());
            }
        }
        assert!(found, "{find} is in no leaf");
    }
}
