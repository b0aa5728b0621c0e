//! Data must never become a pattern.

use grantwright_domain::param::check_all;
use grantwright_domain::{Params, Scope};
use grantwright_mint::sts::BACKEND;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixtures::{s3_read, scope};

fn with(change: impl FnOnce(&mut Value)) -> Scope {
    let mut value = serde_json::to_value(s3_read()).unwrap();
    change(&mut value);
    scope(value)
}

#[test]
fn the_reference_template_has_no_faults() {
    assert_eq!((BACKEND.faults)(&s3_read()), Vec::<String>::new());
}

#[test]
fn whatever_could_express_more_than_its_parameters_is_a_fault() {
    let resource = |text: &str| {
        let text = text.to_owned();
        with(move |v| v["template"]["policy"][0]["resources"] = json!([text]))
    };
    let action = |text: &str| {
        let text = text.to_owned();
        with(move |v| v["template"]["policy"][0]["actions"] = json!([text]))
    };
    let condition = |operator: &str, value: &str| {
        let made = json!([{ "operator": operator, "key": "s3:prefix", "values": [value] }]);
        with(move |v| v["template"]["policy"][1]["conditions"] = made)
    };
    let param = |name: &'static str, spec: Value| with(move |v| v["params"][name] = spec);
    let cases = [
        ("bare resource", resource("*")),
        ("all of s3", resource("arn:aws:s3:::*")),
        ("any bucket", resource("arn:aws:s3:::*/${bucket}/${prefix}*")),
        ("bucket unbound", resource("arn:aws:s3:::demo/${prefix}*")),
        ("prefix unbound", resource("arn:aws:s3:::${bucket}/*")),
        ("bucket as prefix", resource("arn:aws:s3:::${bucket}*/${prefix}")),
        ("wildcard first", resource("arn:aws:s3:::${bucket}/*/${prefix}*")),
        ("wildcard partition", resource("arn:aws*:s3:::${bucket}/${prefix}*")),
        ("slot as service", resource("arn:aws:${bucket}:::${bucket}/${prefix}*")),
        ("no arn", resource("${bucket}/${prefix}*")),
        ("unknown slot", resource("arn:aws:s3:::${bucket}/${prefix}${aws:username}/*")),
        ("half a slot", resource("arn:aws:s3:::${bucket}/${prefix}$")),
        ("open slot", resource("arn:aws:s3:::${bucket}/${prefix}${")),
        ("not ascii", resource("arn:aws:s3:::${bucket}/${prefix}é")),
        ("bare action", action("*")),
        ("all of a service", action("s3:*")),
        ("wildcard in an action", action("s3:*Object")),
        ("one-letter wildcard", action("s3:Get?bject")),
        ("slot in an action", action("s3:${bucket}")),
        ("vacuous operator", condition("StringLikeIfExists", "${prefix}*")),
        ("vacuous set operator", condition("ForAllValues:StringLike", "${prefix}*")),
        ("negated operator", condition("StringNotLike", "${prefix}*")),
        ("wildcard that does not work", condition("StringEquals", "${prefix}*")),
        ("everything", condition("StringLike", "*")),
        ("everything, bound", condition("StringLike", "*${prefix}")),
        ("a set", param("prefix", json!({ "type": "set", "pattern": "[a-z]+", "most": 3 }))),
        ("any string", param("prefix", json!({ "type": "string", "pattern": ".+" }))),
        ("string with slashes", param("bucket", json!({ "type": "string", "pattern": "[a-z/]+" }))),
        ("choice of everything", param("bucket", json!({ "type": "choice", "values": ["*"] }))),
        ("optional", param("prefix", json!({ "type": "s3-prefix", "optional": true }))),
        ("sensitive", param("prefix", json!({ "type": "s3-prefix", "sensitive": true }))),
        (
            "parameter that narrows nothing",
            param("rows", json!({ "type": "integer", "min": 0, "max": 9 })),
        ),
        ("no policy", with(|v| v["template"]["policy"] = json!([]))),
        ("policy missing", with(|v| drop(v["template"].as_object_mut().unwrap().remove("policy")))),
        ("no resources", with(|v| v["template"]["policy"][0]["resources"] = json!([]))),
        ("no actions", with(|v| v["template"]["policy"][0]["actions"] = json!([]))),
        ("no values", with(|v| v["template"]["policy"][1]["conditions"][0]["values"] = json!([]))),
        ("effect", with(|v| v["template"]["policy"][0]["effect"] = json!("Allow"))),
        (
            "unknown key",
            with(|v| v["template"]["policy_arns"] = json!(["arn:aws:iam::aws:policy/X"])),
        ),
        (
            "slot in the role",
            with(|v| v["template"]["role_arn"] = json!("arn:aws:iam::111122223333:role/${bucket}")),
        ),
        (
            "not a role",
            with(|v| v["template"]["role_arn"] = json!("arn:aws:iam::111122223333:user/reader")),
        ),
        ("external id", with(|v| v["template"]["external_id"] = json!("a b"))),
        ("too short a lifetime", with(|v| v["ttl"] = json!({ "default_s": 60, "max_s": 900 }))),
        ("too long a lifetime", with(|v| v["ttl"] = json!({ "default_s": 900, "max_s": 86_400 }))),
        (
            "a condition twice",
            with(|v| {
                let one = v["template"]["policy"][1]["conditions"][0].clone();
                v["template"]["policy"][1]["conditions"] = json!([one, one]);
            }),
        ),
    ];
    for (why, scope) in cases {
        assert!(!(BACKEND.faults)(&scope).is_empty(), "{why}");
    }
}

fn resources(policy: &Value) -> Vec<&str> {
    let statements = policy["session_policy"]["Statement"].as_array().unwrap();
    let all = |s: &'_ Value| s["Resource"].as_array().unwrap().len();
    assert!(statements.iter().all(|s| all(s) == 1 && s["Effect"] == "Allow"));
    statements.iter().map(|s| s["Resource"][0].as_str().unwrap()).collect()
}

/// Admitted by the types, or no parameters at all.
fn admitted(bucket: &str, prefix: &str) -> Option<Params> {
    check_all(&s3_read().params, &json!({ "bucket": bucket, "prefix": prefix })).ok()
}

proptest! {
    #[test]
    fn what_types_admit_narrows_to_itself(
        bucket in "[a-z0-9][a-z0-9-]{1,20}[a-z0-9]",
        prefix in "([A-Za-z0-9._-]{1,12}/){1,5}",
    ) {
        let Some(params) = admitted(&bucket, &prefix) else { return Ok(()) };
        let policy = (BACKEND.preview)(&s3_read(), &params).unwrap();
        let expected = [format!("arn:aws:s3:::{bucket}/{prefix}*"), format!("arn:aws:s3:::{bucket}")];
        prop_assert_eq!(resources(&policy), expected.to_vec());
        let condition = &policy["session_policy"]["Statement"][1]["Condition"];
        prop_assert_eq!(condition, &json!({ "StringLike": { "s3:prefix": [format!("{prefix}*")] } }));
    }

    /// Text with every character that means something to a policy, a path or JSON: either it is
    /// refused, or it stands in the policy as itself, beneath the template's literal text.
    #[test]
    fn no_metacharacter_enters(text in "[a-z0-9/.*?${}\"\\\\,: \\[\\]éA-]{1,24}") {
        let meta = |t: &str| t.contains(['*', '?', '$', '{', '}', '"', '\\', ',', ' ']);
        let by_type = scope(json!({
            "name": "t", "title": "T", "minter": "sts",
            "params": { "p": { "type": "string", "pattern": "[a-z0-9][a-z0-9._-]*" } },
            "template": { "role_arn": crate::fixtures::ROLE, "policy": [
                { "actions": ["s3:GetObject"], "resources": ["arn:aws:s3:::data/${p}/*"] },
            ]},
        }));
        prop_assert!((BACKEND.faults)(&by_type).is_empty());
        // The value reaches the minter even where no type ever admitted it.
        let forged = Params::from([("p".into(), grantwright_domain::ParamValue::Text(text.clone()))]);
        if let Ok(policy) = (BACKEND.preview)(&by_type, &forged) {
            prop_assert!(!meta(&text) && !text.contains('/'), "{text}");
            prop_assert_eq!(resources(&policy), vec![format!("arn:aws:s3:::data/{text}/*")]);
        }
        if let Some(params) = admitted("demo", &text) {
            let policy = (BACKEND.preview)(&s3_read(), &params).unwrap();
            let resource = resources(&policy)[0].to_owned();
            let inner = resource.strip_prefix("arn:aws:s3:::demo/").and_then(|r| r.strip_suffix('*'));
            prop_assert_eq!(inner, Some(text.as_str()));
            prop_assert!(!meta(&text) && !text.split('/').any(|s| s == ".." || s == "."));
        }
    }
}
