//! Whatever the parameters: what GitHub, Kubernetes and Google Cloud are asked for is within what its scope's
//! template can say. Templates, types and values are drawn, hostile ones among them. What is previewed is what
//! is asked: the conformance suite sees to that.

use std::collections::BTreeSet;

use grantwright_domain::param::check_all;
use grantwright_domain::{Params, Scope};
use grantwright_mint::{Backend, gcp, github, kubernetes};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::subset::{Given, given, said};

/// The scope with those of the two parameters that its template uses, and what it asks for; `None` where the
/// scope does not load, the parameters are not of their types, or nothing is asked for with them.
pub fn asked(given: &Given, backend: Backend, template: &Value) -> Option<(Params, Value)> {
    let text = template.to_string();
    let ttl_s = backend.declaration.ttl_floor_s.max(3600);
    let (mut types, mut values) = (json!({}), json!({}));
    for (name, (kind, value)) in ["a", "b"].into_iter().zip(given) {
        if text.contains(&format!("${{{name}}}")) {
            types[name] = kind.clone();
            values[name] = value.clone();
        }
    }
    let scope: Scope = serde_json::from_value(json!({
        "name": "cloud.use", "title": "Use it", "minter": "cloud", "params": types, "template": template,
        "ttl": { "default_s": ttl_s, "max_s": ttl_s },
    }))
    .ok()?;
    let params = check_all(&scope.params, &values).ok()?;
    if !(backend.faults)(&scope).is_empty() {
        return None;
    }
    Some((params.clone(), (backend.preview)(&scope, &params).ok()?))
}

/// Each of the parameters stands in each of the texts: another value asks for something else.
pub fn narrows(params: &Params, texts: &[&str]) -> bool {
    params.keys().all(|name| texts.iter().all(|text| text.contains(&format!("${{{name}}}"))))
}

pub fn words(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// A value that means nothing but itself, whatever reads it.
pub fn is_literal(text: &str) -> bool {
    !text.is_empty()
        && !text.contains("..")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-@:/".contains(c))
}

fn boundary() -> impl Strategy<Value = Vec<(&'static str, Option<&'static str>, &'static str)>> {
    let rule = (
        select(vec!["${a}", "acme-${b}", "${a}-${b}", "acme"]),
        prop::option::of(select(vec!["${b}", "${a}/", "${a}/${b}/", "public/", "public", "x${b}"])),
        select(vec!["roles/storage.objectViewer", "roles/owner"]),
    );
    prop::collection::vec(rule, 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariant_05_a_token_of_github_is_for_the_templates_repositories_and_permissions(
        given in given(),
        repositories in subsequence(
            vec!["${a}", "${a}-${b}", "x-${a}", "${b}.${a}", "payroll", "${a}/${b}", "${a}*"], 0..3),
        permissions in select(vec![
            json!({ "contents": "read" }), json!({ "contents": "write", "issues": "read" }), json!({}),
            json!({ "contents": "all" }),
        ]),
    ) {
        let template = json!({
            "installation": 12345, "repositories": repositories, "permissions": permissions,
        });
        let Some((params, got)) = asked(&given, github::BACKEND, &template) else { return Ok(()) };
        prop_assert_eq!(&got["installation"], 12345);
        prop_assert_eq!(&got["permissions"], &permissions);
        let levels = ["read", "write", "admin"];
        let given = permissions.as_object().unwrap();
        prop_assert!(!given.is_empty() && given.values().all(|p| levels.contains(&p.as_str().unwrap())));
        let wanted: BTreeSet<String> = repositories.iter().map(|r| said(r, &params)).collect();
        let got: BTreeSet<String> = words(&got["repositories"]).into_iter().map(Into::into).collect();
        prop_assert_eq!(&got, &wanted);
        // Without any, it would be all of the installation.
        prop_assert!(!got.is_empty() && narrows(&params, &repositories));
        prop_assert!(got.iter().all(|r| is_literal(r) && !r.contains(['/', '@', ':']) && r != "."), "{:?}", got);
    }

    #[test]
    fn invariant_05_a_token_of_kubernetes_is_for_the_templates_account_and_audiences(
        given in given(),
        namespace in select(vec!["${a}", "team-${a}", "default", "${a}-${b}", "${a}.x", "${a}/${b}"]),
        account in select(vec!["reader", "${b}", "${a}-reader", "*"]),
        audiences in subsequence(
            vec!["https://data.example.com", "https://${a}.example.com", "${b}", "https://*"], 0..3),
    ) {
        let template = json!({
            "namespace": namespace, "service_account": account, "audiences": audiences,
        });
        let Some((params, got)) = asked(&given, kubernetes::BACKEND, &template) else { return Ok(()) };
        let name = |key: &str| got[key].as_str().unwrap_or_default();
        prop_assert_eq!(name("namespace"), said(namespace, &params));
        prop_assert_eq!(name("service_account"), said(account, &params));
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        for key in ["namespace", "service_account"] {
            let name = name(key);
            prop_assert!(is_literal(name) && name.chars().all(label), "{}", name);
            prop_assert!(!name.starts_with(['-', '.']) && !name.ends_with(['-', '.']), "{}", name);
        }
        let wanted: Vec<String> = audiences.iter().map(|a| said(a, &params)).collect();
        prop_assert_eq!(words(&got["audiences"]), wanted.iter().map(String::as_str).collect::<Vec<_>>());
        // Without any, it would be good at the API server itself.
        prop_assert!(!wanted.is_empty() && wanted.iter().all(|a| is_literal(a)), "{:?}", wanted);
        for name in params.keys() {
            let slot = format!("${{{name}}}");
            let bound = namespace.contains(&slot) || account.contains(&slot);
            prop_assert!(bound || audiences.iter().all(|a| a.contains(&slot)), "{} narrows nothing", name);
        }
    }

    #[test]
    fn invariant_05_a_token_of_google_cloud_is_for_the_templates_account_and_within_its_boundary(
        given in given(),
        account in select(vec![
            "reader@acme.iam.gserviceaccount.com", "${a}@acme.iam.gserviceaccount.com",
            "${b}@${a}.iam.gserviceaccount.com", "${a}",
        ]),
        scopes in subsequence(vec![
            "https://www.googleapis.com/auth/devstorage.read_only", "https://www.googleapis.com/auth/${a}",
            "cloud",
        ], 0..3),
        boundary in boundary(),
    ) {
        let rules: Vec<Value> = boundary.iter().map(|(bucket, prefix, role)| match prefix {
            Some(prefix) => json!({ "bucket": bucket, "prefix": prefix, "roles": [role] }),
            None => json!({ "bucket": bucket, "roles": [role] }),
        }).collect();
        let template = json!({ "service_account": account, "scopes": scopes, "boundary": rules });
        let Some((params, got)) = asked(&given, gcp::BACKEND, &template) else { return Ok(()) };
        let name = got["service_account"].as_str().unwrap();
        prop_assert_eq!(name, said(account, &params));
        prop_assert!(name.ends_with(".iam.gserviceaccount.com") && name.matches('@').count() == 1);
        prop_assert!(is_literal(name) && !name.contains(['/', ':']), "{}", name);
        prop_assert_eq!(words(&got["scopes"]), scopes.clone());
        prop_assert!(scopes.iter().all(|s| s.starts_with("https://www.googleapis.com/auth/") && !s.contains('$')));
        let told = got["boundary"].as_array().map(Vec::as_slice).unwrap_or_default();
        prop_assert_eq!(told.len(), boundary.len());
        for (rule, (bucket, prefix, role)) in told.iter().zip(&boundary) {
            let bucket = said(bucket, &params);
            prop_assert!(is_literal(&bucket) && !bucket.contains('/'), "{}", bucket);
            let reach = format!("//storage.googleapis.com/projects/_/buckets/{bucket}");
            prop_assert_eq!(&rule["availableResource"], &json!(reach));
            prop_assert_eq!(words(&rule["availablePermissions"]), [format!("inRole:{role}")]);
            prop_assert!(role.starts_with("roles/storage."));
            let expression = rule.pointer("/availabilityCondition/expression").and_then(Value::as_str);
            prop_assert_eq!(expression.is_some(), prefix.is_some());
            let Some((expression, prefix)) = expression.zip(*prefix) else { continue };
            let prefix = said(prefix, &params);
            prop_assert!(is_literal(&prefix) && prefix.ends_with('/'), "{}", prefix);
            // Every second piece stands between quotes: no value ends one, and none adds a clause.
            let pieces: Vec<&str> = expression.split('\'').collect();
            let object = format!("projects/_/buckets/{bucket}/objects/{prefix}");
            prop_assert_eq!(pieces, [
                "resource.name.startsWith(", object.as_str(), ") || api.getAttribute(",
                "storage.googleapis.com/objectListPrefix", ", ", "", ").startsWith(", prefix.as_str(), ")",
            ]);
        }
        for name in params.keys() {
            let slot = format!("${{{name}}}");
            let every = !boundary.is_empty() && boundary.iter().all(|(bucket, prefix, _)| {
                bucket.contains(&slot) || prefix.is_some_and(|p| p.contains(&slot))
            });
            prop_assert!(account.contains(&slot) || every, "{} narrows nothing", name);
        }
    }
}

/// The properties see what is asked for: of what is drawn, some is.
#[test]
fn what_is_drawn_is_asked_for_now_and_then() {
    let given = [
        (json!({ "type": "string", "pattern": "[a-z]{1,9}" }), json!("web")),
        (json!({ "type": "s3-prefix" }), json!("public/")),
    ];
    for (backend, template) in [
        (
            github::BACKEND,
            json!({
                "installation": 12345, "repositories": ["${a}", "x-${a}"],
                "permissions": { "contents": "read" },
            }),
        ),
        (
            kubernetes::BACKEND,
            json!({
                "namespace": "team-${a}", "service_account": "reader",
                "audiences": ["https://data.example.com"],
            }),
        ),
        (
            gcp::BACKEND,
            json!({
                "service_account": "${a}@acme.iam.gserviceaccount.com",
                "scopes": ["https://www.googleapis.com/auth/devstorage.read_only"],
                "boundary": [
                    { "bucket": "acme-${a}", "prefix": "${b}", "roles": ["roles/storage.objectViewer"] },
                ],
            }),
        ),
    ] {
        assert!(asked(&given, backend, &template).is_some(), "{template}");
    }
}
