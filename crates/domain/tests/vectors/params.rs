//! Parameters by type, and lifetimes: what is taken and what is refused.

use grantwright_domain::param::{ParamSpec, check_all};
use grantwright_domain::time::parse_ttl;
use serde_json::{Value, json};

use crate::{frozen, vector};

#[test]
fn parameters() {
    let name = json!({"type": "string", "pattern": "[a-z0-9][a-z0-9._-]{0,63}"});
    let any = json!({"type": "string", "pattern": "(?s).+"});
    let either = json!({"type": "string", "pattern": "a|b"});
    let rows = json!({"type": "integer", "min": 0, "max": 1_000_000});
    let edge = json!({"type": "integer", "min": -9_007_199_254_740_991_i64, "max": 9_007_199_254_740_991_i64});
    let role = json!({"type": "choice", "values": ["admin", "viewer"]});
    let flag = json!({"type": "boolean"});
    let bucket = json!({"type": "s3-bucket"});
    let prefix = json!({"type": "s3-prefix"});
    let tables = json!({"type": "set", "pattern": "[a-z]+", "most": 3});
    let long = |n: usize| Value::from("a".repeat(n));
    let cases: Vec<(&str, &Value, Value)> = vec![
        ("name", &name, json!("orders-2026.q3")),
        ("name of 64", &name, long(64)),
        ("name of 65", &name, long(65)),
        ("name, empty", &name, json!("")),
        ("name, capital", &name, json!("Orders")),
        ("name, first a dot", &name, json!(".orders")),
        ("name, newline at the end", &name, json!("orders\n")),
        ("name, newline before", &name, json!("x\norders")),
        ("name, wildcard", &name, json!("orders*")),
        ("name, slash", &name, json!("a/b")),
        ("name, comma", &name, json!("a,b")),
        ("name, variable", &name, json!("${aws:username}")),
        ("name, Cyrillic letter", &name, json!("\u{430}rders")),
        ("name, zero-width space", &name, json!("or\u{200b}ders")),
        ("name, right-to-left override", &name, json!("\u{202e}sredro")),
        ("name, NUL", &name, json!("orders\0")),
        ("name, a number", &name, json!(7)),
        ("name, a list", &name, json!(["orders"])),
        ("name, null", &name, Value::Null),
        ("any, 1024 bytes", &any, long(1024)),
        ("any, 1025 bytes", &any, long(1025)),
        ("any, 1024 bytes of two-byte letters", &any, Value::from("é".repeat(512))),
        ("any, 1026 bytes of two-byte letters", &any, Value::from("é".repeat(513))),
        ("any, tag characters", &any, json!("a\u{e0041}")),
        ("any, variation selector", &any, json!("a\u{fe0f}")),
        ("any, soft hyphen", &any, json!("a\u{ad}b")),
        ("any, escape", &any, json!("\u{1b}[31m")),
        ("any, byte order mark", &any, json!("\u{feff}a")),
        ("alternatives are anchored, first", &either, json!("a")),
        ("alternatives are anchored, more", &either, json!("ab")),
        ("rows", &rows, json!(10_000)),
        ("rows, least", &rows, json!(0)),
        ("rows, most", &rows, json!(1_000_000)),
        ("rows, one more", &rows, json!(1_000_001)),
        ("rows, one less", &rows, json!(-1)),
        ("rows, fraction", &rows, json!(1.0)),
        ("rows, text", &rows, json!("10")),
        ("rows, true", &rows, json!(true)),
        ("rows, 2^64-1", &rows, json!(u64::MAX)),
        ("edge, largest", &edge, json!(9_007_199_254_740_991_i64)),
        ("edge, beyond", &edge, json!(9_007_199_254_740_992_i64)),
        ("edge, least", &edge, json!(-9_007_199_254_740_991_i64)),
        ("choice", &role, json!("viewer")),
        ("choice, another", &role, json!("owner")),
        ("choice, case", &role, json!("Admin")),
        ("choice, space", &role, json!("admin ")),
        ("flag", &flag, json!(false)),
        ("flag, text", &flag, json!("false")),
        ("flag, number", &flag, json!(0)),
        ("bucket", &bucket, json!("my-bucket.logs")),
        ("bucket of 63", &bucket, long(63)),
        ("bucket of 64", &bucket, long(64)),
        ("bucket of 2", &bucket, long(2)),
        ("bucket, address", &bucket, json!("192.168.5.4")),
        ("bucket, capital", &bucket, json!("My-bucket")),
        ("bucket, underscore", &bucket, json!("my_bucket")),
        ("bucket, wildcard", &bucket, json!("my-*")),
        ("bucket, slash", &bucket, json!("my/bucket")),
        ("bucket, ARN", &bucket, json!("arn:aws:s3:::b")),
        ("bucket, two dots", &bucket, json!("a..b")),
        ("bucket, dash at the end", &bucket, json!("bucket-")),
        ("bucket, access point alias", &bucket, json!("ap-1234-s3alias")),
        ("bucket, punycode", &bucket, json!("xn--bucket")),
        ("prefix", &prefix, json!("public/2026/")),
        ("prefix of 200", &prefix, Value::from("a".repeat(199) + "/")),
        ("prefix of 201", &prefix, Value::from("a".repeat(200) + "/")),
        ("prefix, three dots", &prefix, json!(".../")),
        ("prefix, empty", &prefix, json!("")),
        ("prefix, root", &prefix, json!("/")),
        ("prefix, no slash at the end", &prefix, json!("public")),
        ("prefix, first a slash", &prefix, json!("/public/")),
        ("prefix, two slashes", &prefix, json!("public//")),
        ("prefix, parent", &prefix, json!("public/../private/")),
        ("prefix, parent at the end", &prefix, json!("public/../")),
        ("prefix, self", &prefix, json!("./public/")),
        ("prefix, escaped parent", &prefix, json!("public/%2e%2e/")),
        ("prefix, star", &prefix, json!("public/*/")),
        ("prefix, star after the slash", &prefix, json!("public/*")),
        ("prefix, question mark", &prefix, json!("publi?/")),
        ("prefix, variable", &prefix, json!("${aws:userid}/")),
        ("prefix, backslash", &prefix, json!("public\\..\\/")),
        ("prefix, comma", &prefix, json!("a,b/")),
        ("prefix, space", &prefix, json!("public /")),
        ("prefix, full-width dot", &prefix, json!("\u{ff0e}\u{ff0e}/")),
        ("prefix, newline", &prefix, json!("public/\n")),
        ("set", &tables, json!(["b", "a"])),
        ("set, empty", &tables, json!([])),
        ("set, twice the same", &tables, json!(["a", "a"])),
        ("set, too many", &tables, json!(["a", "b", "c", "d"])),
        ("set, one that does not match", &tables, json!(["a", "B"])),
        ("set, a number", &tables, json!(["a", 1])),
        ("set, text", &tables, json!("a")),
        ("set, nested", &tables, json!([["a"]])),
    ];
    let vectors = cases.into_iter().map(|(name, spec, value)| {
        let read: ParamSpec = serde_json::from_value(spec.clone()).expect(name);
        assert_eq!(read.faults(), Vec::<String>::new(), "{name}");
        let outcome = match read.check("p", &value) {
            Ok(taken) => ("taken", serde_json::to_value(&taken).expect("json")),
            Err(e) => {
                assert_eq!(e.name, "p");
                ("refused", true.into())
            }
        };
        vector(name, [("spec", spec.clone()), ("value", value), outcome])
    });
    frozen("params.json", vectors.collect());
}

#[test]
fn lifetimes() {
    let cases = [
        "1s",
        "59s",
        "15m",
        "1h",
        "24h",
        "87600h",
        "87601h",
        "315360000s",
        "315360001s",
        "",
        "s",
        "m",
        "0s",
        "0m",
        "00s",
        "015m",
        "-1s",
        "+1s",
        "1",
        "15",
        "1.5h",
        "1e2s",
        "1_000s",
        "15 m",
        " 15m",
        "15m ",
        "15m\n",
        "15M",
        "15min",
        "1d",
        "1w",
        "1h30m",
        "4294967296s",
        "999999999h",
        "9999999999s",
        "\u{661}\u{665}m",
        "\u{ff11}m",
        "1\u{200b}m",
        "0x1s",
        "é",
        "1é",
        "null",
    ];
    let vectors = cases.iter().map(|text| match parse_ttl(text) {
        Ok(s) => vector(text, [("seconds", s.into())]),
        Err(why) => vector(text, [("refused", (!why.is_empty()).into())]),
    });
    frozen("ttl.json", vectors.collect());
}

#[test]
fn all_parameters_and_no_other() {
    let specs = serde_json::from_value(json!({
        "a": {"type": "integer", "min": 0, "max": 9},
        "b": {"type": "boolean", "optional": true},
    }))
    .expect("specs");
    let taken = |given: Value| check_all(&specs, &given);
    assert_eq!(taken(json!({"a": 1})).expect("without the optional one").len(), 1);
    assert_eq!(taken(json!({"a": 1, "b": true})).expect("both").len(), 2);
    for (given, blamed) in [
        (json!({}), "a"),
        (json!({"b": true}), "a"),
        (json!({"a": 1, "c": 1}), "c"),
        (json!({"a": 1, "A": 1}), "A"),
        (json!({"a": 1, "": 1}), ""),
        (json!({"a": 1, "a\u{200b}": 1}), "a⟨U+200B⟩"),
        (json!({"a": 10}), "a"),
        (json!({"a": 1, "b": null}), "b"),
        (json!([]), "params"),
        (json!("a"), "params"),
        (Value::Null, "params"),
    ] {
        assert_eq!(taken(given.clone()).expect_err("refused").name, blamed, "{given}");
    }
}

#[test]
fn declarations_with_faults() {
    let cases = [
        (json!({"type": "integer", "min": i64::MIN, "max": 0}), "beyond"),
        (json!({"type": "integer", "min": 0, "max": i64::MAX}), "beyond"),
        (json!({"type": "integer", "min": 1, "max": 0}), "above"),
        (json!({"type": "choice", "values": []}), "no values"),
        (json!({"type": "string", "pattern": "("}), "does not parse"),
        (json!({"type": "string", "pattern": "a*"}), "empty"),
        (json!({"type": "string", "pattern": "a)|(?:.+"}), "does not parse"),
        (json!({"type": "set", "pattern": "a", "most": 0}), "most"),
        (json!({"type": "set", "pattern": "a", "most": 101}), "most"),
        (json!({"type": "boolean", "order": "max"}), "order"),
        (json!({"type": "string", "pattern": "a", "order": "prefix"}), "order"),
        (json!({"type": "integer", "min": 0, "max": 1, "order": "subset"}), "order"),
    ];
    for (spec, says) in cases {
        let read: ParamSpec = serde_json::from_value(spec.clone()).expect("reads");
        let faults = read.faults().join("; ");
        assert!(faults.contains(says), "{spec}: {faults:?}");
    }
}

#[test]
fn a_misspelt_key_of_a_declaration_is_refused() {
    for spec in [
        json!({"type": "boolean", "sensitve": true}),
        json!({"type": "s3-prefix", "sensitve": true}),
        json!({"type": "s3-bucket", "pattern": "a"}),
        json!({"type": "integer", "min": 0, "max": 1, "sensitve": true}),
        json!({"type": "string", "pattern": "a", "min": 1}),
        json!({"type": "choice", "values": ["a"], "most": 1}),
    ] {
        assert!(serde_json::from_value::<ParamSpec>(spec.clone()).is_err(), "{spec}");
    }
}
