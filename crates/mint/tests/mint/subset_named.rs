//! Whatever the parameters: the roles, policies, scopes and audiences that PostgreSQL, Vault's engines, OAuth
//! servers and Azure are asked for are those that the scope's template names, with each value standing for
//! nothing but itself. Templates, types and values are drawn, hostile ones among them.

use grantwright_domain::Params;
use grantwright_mint::vault::Engine;
use grantwright_mint::{azure, oauth, postgres};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::subset::{given, said};
use crate::subset_clouds::{asked, is_literal, narrows, words};

/// What one text may become: the template's, with the values in it.
fn is_said(got: &Value, text: &str, params: &Params) -> bool {
    got.as_str() == Some(&said(text, params))
}

/// The same of several, whatever their order.
fn are_said(got: &Value, texts: &[&str], params: &Params) -> bool {
    let mut wanted: Vec<String> = texts.iter().map(|text| said(text, params)).collect();
    let mut got: Vec<String> = words(got).into_iter().map(Into::into).collect();
    wanted.sort();
    wanted.dedup();
    got.sort();
    got.dedup();
    got == wanted
}

/// One part of a path: nothing in it leads elsewhere.
fn is_name(text: &str) -> bool {
    is_literal(text) && !text.contains(['/', ':', '@'])
}

/// A URL whose host ends as the template's does, whatever stands in its slots.
fn keeps_its_host(got: &str, text: &str) -> bool {
    let host = |url: &str| {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default().to_owned()
    };
    let tail = host(text).rsplit('}').next().unwrap_or_default().to_owned();
    host(got).ends_with(&tail) && is_name(&host(got))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariant_05_an_account_of_postgresql_joins_the_templates_roles(
        given in given(),
        roles in subsequence(
            vec!["${a}", "${a}_readers", "${b}_${a}", "readers", "pg_${a}", "${a}*", "x\"${a}"], 0..3),
        limit in select(vec![0, 1, 5, 1000, 1001]),
    ) {
        let template = json!({ "roles": roles, "connection_limit": limit });
        let Some((params, got)) = asked(&given, postgres::BACKEND, &template) else { return Ok(()) };
        prop_assert!(are_said(&got["roles"], &roles, &params), "{}", got);
        prop_assert!(!roles.is_empty() && narrows(&params, &roles));
        for role in words(&got["roles"]) {
            prop_assert!(is_literal(role) && !role.to_lowercase().starts_with("pg_") && role.len() < 64);
        }
        prop_assert_eq!(&got["connection_limit"], limit);
        prop_assert!((1..=1000).contains(&limit));
    }

    #[test]
    fn invariant_05_vaults_engines_are_asked_for_the_templates_role(
        given in given(),
        engine in select(vec![Engine::Database, Engine::Aws, Engine::Identity]),
        mount in select(vec!["engine", "team/engine", "${a}", "..", "a//b", ""]),
        role in select(vec!["read", "${a}", "${a}-read", "${b}.${a}", "${a}/${b}", "*"]),
        connection in select(vec!["sales", "${a}", "${b}", "*"]),
    ) {
        let mut template = json!({ "mount": mount, "role": role });
        let mut texts = vec![role];
        if engine == Engine::Database {
            template["connection"] = json!(connection);
            texts.push(connection);
        }
        let Some((params, got)) = asked(&given, engine.backend(), &template) else { return Ok(()) };
        prop_assert_eq!(&got["mount"], mount);
        prop_assert!(mount.split('/').all(is_name), "{}", mount);
        prop_assert!(is_said(&got["role"], role, &params), "{}", got);
        for text in &texts {
            prop_assert!(is_name(&said(text, &params)), "{}", text);
        }
        for name in params.keys() {
            let slot = format!("${{{name}}}");
            prop_assert!(texts.iter().any(|text| text.contains(&slot)), "{} narrows nothing", name);
        }
        if engine == Engine::Database {
            prop_assert!(is_said(&got["connection"], connection, &params), "{}", got);
        }
    }

    #[test]
    fn invariant_05_a_token_of_vault_has_the_templates_policies(
        given in given(),
        policies in subsequence(
            vec!["${a}", "read-${a}", "${b}-${a}", "read", "root", "default", "${a}/${b}", "read-*"], 0..3),
        uses in select(vec![-1, 0, 3]),
    ) {
        let template = json!({ "policies": policies, "num_uses": uses });
        let Some((params, got)) = asked(&given, Engine::Token.backend(), &template) else { return Ok(()) };
        prop_assert!(are_said(&got["policies"], &policies, &params), "{}", got);
        prop_assert!(!policies.is_empty() && narrows(&params, &policies));
        for policy in words(&got["policies"]) {
            prop_assert!(is_name(policy) && policy != "root" && policy.to_lowercase() == policy, "{}", policy);
        }
        prop_assert!(uses >= 0 && got["num_uses"] == uses);
    }

    #[test]
    fn invariant_05_a_token_of_an_oauth_server_has_the_templates_audience_and_scopes(
        given in given(),
        audience in prop::option::of(select(vec![
            "https://reports.example.com", "https://${a}.example.com", "https://reports.example.com/${b}",
            "${a}", "https://*",
        ])),
        resource in prop::option::of(select(vec!["https://${b}.example.com/x", "urn:${a}:y"])),
        scopes in subsequence(
            vec!["reports:${a}:read", "${a}", "${b}.${a}", "read", "read write", "*", "a\"${a}"], 0..3),
    ) {
        let mut template = json!({ "scopes": scopes });
        let single = [("audience", audience), ("resource", resource)];
        for (key, text) in single {
            if let Some(text) = text {
                template[key] = json!(text);
            }
        }
        let Some((params, got)) = asked(&given, oauth::BACKEND, &template) else { return Ok(()) };
        prop_assert!(are_said(&got["scopes"], &scopes, &params), "{}", got);
        // Without scopes, or for nobody, it would be what the server likes.
        prop_assert!(!scopes.is_empty() && single.iter().any(|(_, text)| text.is_some()));
        prop_assert!(words(&got["scopes"]).into_iter().all(is_literal), "{}", got);
        for (key, text) in single {
            let Some(text) = text else {
                prop_assert!(got[key].is_null());
                continue;
            };
            prop_assert!(is_said(&got[key], text, &params), "{}", got);
            let url = said(text, &params);
            prop_assert!(is_literal(&url) && (!text.contains("://") || keeps_its_host(&url, text)), "{}", url);
        }
        for name in params.keys() {
            let slot = format!("${{{name}}}");
            let bound = single.iter().any(|(_, text)| text.is_some_and(|text| text.contains(&slot)));
            prop_assert!(bound || scopes.iter().all(|s| s.contains(&slot)), "{} narrows nothing", name);
        }
    }

    #[test]
    fn invariant_05_a_token_of_azure_is_of_the_templates_application_for_its_resource(
        given in given(),
        client in select(vec![
            "11111111-2222-3333-4444-555555555555", "${a}", "${b}1111111-2222-3333-4444-555555555555", "x",
        ]),
        scope in select(vec![
            "https://${a}.vault.azure.net/.default", "https://vault.azure.net/.default", "${b}/.default",
            "https://${a}.x.net/${b}/.default", "https://vault.azure.net/", "https://*.azure.net/.default",
        ]),
    ) {
        let template = json!({ "client_id": client, "scope": scope });
        let Some((params, got)) = asked(&given, azure::BACKEND, &template) else { return Ok(()) };
        prop_assert!(is_said(&got["client_id"], client, &params), "{}", got);
        prop_assert!(is_said(&got["scope"], scope, &params), "{}", got);
        let id = said(client, &params);
        prop_assert!(id.len() == 36 && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-'), "{}", id);
        let url = said(scope, &params);
        prop_assert!(is_literal(&url) && url.ends_with("/.default"), "{}", url);
        prop_assert!(!scope.contains("://") || keeps_its_host(&url, scope), "{}", url);
        for name in params.keys() {
            let slot = format!("${{{name}}}");
            prop_assert!(client.contains(&slot) || scope.contains(&slot), "{} narrows nothing", name);
        }
    }
}

/// The properties see what is asked for: of what is drawn, some is. And what would let a value say the host
/// is not loaded.
#[test]
fn what_is_drawn_is_asked_for_now_and_then() {
    let word = json!({ "type": "string", "pattern": "[a-z]{1,9}" });
    let given = [(word, json!("web")), (json!({ "type": "s3-prefix" }), json!("public/"))];
    let role = json!({ "mount": "engine", "role": "${a}-read" });
    let connection = json!({ "mount": "engine", "role": "read", "connection": "${a}" });
    let to = |host: &str| json!({ "audience": format!("https://{host}.example.com"), "scopes": ["read"] });
    for (backend, template, loads) in [
        (postgres::BACKEND, json!({ "roles": ["${a}_readers"] }), true),
        (Engine::Database.backend(), connection, true),
        (Engine::Aws.backend(), role.clone(), true),
        (Engine::Identity.backend(), role, true),
        (Engine::Token.backend(), json!({ "policies": ["read-${a}"], "num_uses": 3 }), true),
        (oauth::BACKEND, to("${a}"), true),
        (oauth::BACKEND, to("${b}"), false),
        (
            azure::BACKEND,
            json!({
                "client_id": "11111111-2222-3333-4444-555555555555",
                "scope": "https://${a}.vault.azure.net/.default",
            }),
            true,
        ),
    ] {
        assert_eq!(asked(&given, backend, &template).is_some(), loads, "{template}");
    }
}
