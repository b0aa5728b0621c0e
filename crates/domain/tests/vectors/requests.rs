//! Request digests: terms, their canonical bytes, D.

use grantwright_domain::{Digest, Terms, canonical};
use serde_json::{Value, json};

use crate::{frozen, hex, sha256, vector};

fn base() -> Value {
    json!({
        "version": 1,
        "origin": "log.example.org/grantwright",
        "request_id": "r-0001",
        "agent": "demo-agent",
        "instance": "i-0001",
        "workload": "uid:1000",
        "delegation": [],
        "scope": "demo.export",
        "template": "11".repeat(32),
        "params": {"dataset": "orders", "rows": 10000},
        "ttl_s": 900,
        "reason": "22".repeat(32),
        "decide_by": "2026-11-21T01:44:50Z",
    })
}

#[test]
fn digests() {
    let with = |key: &str, value: Value| {
        let mut out = base();
        out[key] = value;
        out
    };
    let cases = vec![
        ("plain", base()),
        ("another request", with("request_id", json!("r-0002"))),
        ("another origin", with("origin", json!("log.example.org/other"))),
        ("another agent", with("agent", json!("demo-agent-2"))),
        ("another instance", with("instance", json!("i-0002"))),
        ("another workload", with("workload", json!("uid:1001"))),
        ("workload, composed letter", with("workload", json!("caf\u{e9}"))),
        ("workload, decomposed letter", with("workload", json!("cafe\u{301}"))),
        ("workload, zero-width space", with("workload", json!("uid:1000\u{200b}"))),
        ("one delegate", with("delegation", json!(["planner"]))),
        ("two delegates", with("delegation", json!(["planner", "router"]))),
        ("two delegates, swapped", with("delegation", json!(["router", "planner"]))),
        ("on behalf of a person", with("on_behalf_of", json!("bob"))),
        ("another scope", with("scope", json!("demo.export2"))),
        ("another template", with("template", json!("12".repeat(32)))),
        ("no parameters", with("params", json!({}))),
        ("one row more", with("params", json!({"dataset": "orders", "rows": 10001}))),
        ("rows as text", with("params", json!({"dataset": "orders", "rows": "10000"}))),
        ("a boolean", with("params", json!({"dataset": "orders", "rows": true}))),
        ("a set", with("params", json!({"tables": ["a", "b"]}))),
        ("sealed parameter", with("sealed_params", json!({"key": "33".repeat(32)}))),
        ("another lifetime", with("ttl_s", json!(901))),
        ("a process, least", with("process", json!({"uid": 1000, "gid": 1000}))),
        (
            "a process, whole",
            with(
                "process",
                json!({
                    "uid": 1000, "gid": 1000, "pid": 4242, "exe": "/usr/bin/python3",
                    "exe_digest": "55".repeat(32), "cgroup": "/user.slice",
                    "container": "66".repeat(32),
                }),
            ),
        ),
        ("with a task", with("task", json!("44".repeat(32)))),
        ("another reason", with("reason", json!("23".repeat(32)))),
        ("another end, in milliseconds", with("decide_by", json!("2026-11-21T01:44:50.001Z"))),
    ];
    let mut digests = std::collections::BTreeSet::new();
    let vectors: Vec<Value> = cases
        .into_iter()
        .map(|(name, given)| {
            let terms: Terms = serde_json::from_value(given.clone()).expect(name);
            let bytes = canonical::to_bytes(&terms).expect(name);
            let digest = terms.digest().expect(name).hex();
            assert_eq!(digest, sha256("request", &bytes), "{name}");
            assert!(digests.insert(digest.clone()), "{name}: its digest is another's");
            assert_eq!(canonical::to_bytes(&given).expect(name), bytes, "{name}: nothing is lost");
            let text = String::from_utf8(bytes).expect("UTF-8");
            let fields = [
                ("terms", given),
                ("canonical", text.into()),
                ("digest", digest.into()),
                ("identity", terms.identity().expect(name).hex().into()),
                ("deny_key", terms.deny_key().expect(name).hex().into()),
            ];
            vector(name, fields)
        })
        .collect();
    let of = |name: &str, key: &str| {
        let found = vectors.iter().find(|v| v["name"] == name).expect(name);
        found[key].as_str().expect(key).to_owned()
    };
    for same in ["another request", "with a task", "another reason", "another end, in milliseconds"]
    {
        assert_eq!(of(same, "identity"), of("plain", "identity"), "{same}");
    }
    for other in ["another agent", "another instance", "one delegate", "on behalf of a person"] {
        assert_ne!(of(other, "identity"), of("plain", "identity"), "{other}");
    }
    assert_eq!(of("another instance", "deny_key"), of("plain", "deny_key"));
    assert_eq!(of("another lifetime", "deny_key"), of("plain", "deny_key"));
    assert_ne!(of("one row more", "deny_key"), of("plain", "deny_key"));
    frozen("requests.json", vectors);
}

#[test]
fn commitments() {
    let cases = [
        ("empty", [0_u8; 16], ""),
        ("words", [7; 16], "quarterly report"),
        ("other salt", [8; 16], "quarterly report"),
        ("composed", [7; 16], "caf\u{e9}"),
        ("decomposed", [7; 16], "cafe\u{301}"),
    ];
    let vectors = cases.iter().map(|(name, salt, text)| {
        let digest = Digest::commitment(salt, text).hex();
        assert_eq!(digest, sha256("commitment", &[salt, text.as_bytes()].concat()), "{name}");
        let fields =
            [("salt", hex(salt).into()), ("text", (*text).into()), ("digest", digest.into())];
        vector(name, fields)
    });
    frozen("commitments.json", vectors.collect());
}

#[test]
fn hostile_terms_are_refused() {
    let longest = "a".repeat(64);
    let with = |key: &str, value: Value| {
        let mut out = base();
        out[key] = value;
        out
    };
    for (key, value) in [
        ("version", json!(-1)),
        ("version", json!("1")),
        ("request_id", json!("r")),
        ("request_id", json!("r/1")),
        ("request_id", json!(format!("{longest}a"))),
        ("agent", json!("Demo-agent")),
        ("agent", json!("demo.agent")),
        ("agent", json!("demo-\u{430}gent")),
        ("agent", json!("")),
        ("instance", json!("i 1")),
        ("delegation", json!(["planner", "*"])),
        ("delegation", json!("planner")),
        ("on_behalf_of", json!("bob@example.org")),
        ("on_behalf_of", json!("")),
        ("on_behalf_of", json!("Bob")),
        ("on_behalf_of", json!("b\u{200b}ob")),
        ("scope", json!("demo/export")),
        ("scope", json!("-demo")),
        ("template", json!("11".repeat(31))),
        ("template", json!("AA".repeat(32))),
        ("template", json!("1".repeat(63) + "g")),
        ("params", json!({"rows": null})),
        ("params", json!({"rows": 1.5})),
        ("params", json!({"rows": {"a": 1}})),
        ("params", json!({"rows": [1]})),
        ("ttl_s", json!(-1)),
        ("ttl_s", json!(4_294_967_296_u64)),
        ("ttl_s", json!("15m")),
        ("decide_by", json!("tomorrow")),
        ("decide_by", json!(0)),
        ("approved", json!(true)),
    ] {
        let given = with(key, value);
        assert!(serde_json::from_value::<Terms>(given).is_err(), "{key}");
    }
}
