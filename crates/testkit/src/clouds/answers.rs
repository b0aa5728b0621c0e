//! As these services answer.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{Call, State, claims, unsigned};

type Answer = (u16, Value);

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

pub(super) fn answer(state: &mut State, call: &Call) -> Answer {
    let path = call.path.split('?').next().unwrap_or_default().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (call.method.as_str(), parts.as_slice()) {
        ("POST", ["api", "v1", "namespaces", ns, "secrets"]) => bind(state, ns, &call.json()),
        ("DELETE", ["api", "v1", "namespaces", ns, "secrets", name]) => unbind(state, ns, name),
        ("POST", ["api", "v1", "namespaces", ns, "serviceaccounts", account, "token"]) => {
            token_request(state, ns, account, &call.json())
        }
        ("POST", ["apis", "authentication.k8s.io", "v1", "tokenreviews"]) => {
            token_review(state, &call.json())
        }
        ("POST", ["app", "installations", id, "access_tokens"]) => install(state, call, id),
        ("DELETE", ["installation", "token"]) => end_installation(state, call),
        ("GET", ["installation", "repositories"]) => repositories(state, call),
        ("POST", ["token"]) => exchange(state, call),
        ("POST", ["revoke"]) => {
            let token = call.form().remove("token").unwrap_or_default();
            state.tokens.remove(&token);
            (200, json!({}))
        }
        ("POST", ["introspect"]) => {
            let token = call.form().remove("token").unwrap_or_default();
            (200, json!({ "active": state.tokens.contains(&token) }))
        }
        ("POST", ["v1", "token"]) => google_sts(state, call),
        ("POST", ["v1", "projects", "-", "serviceAccounts", account]) => {
            google_account(state, call, account)
        }
        ("GET", [_, "v2.0", ".well-known", "openid-configuration"]) => entra(&state.url, parts[0]),
        ("POST", [_, "oauth2", "v2.0", "token"]) => entra_token(state, call),
        _ => (404, json!({ "message": "Not Found", "error": "not_found" })),
    }
}

fn serial(state: &mut State) -> u32 {
    state.serial += 1;
    state.serial
}

fn live(state: &mut State, token: String) -> String {
    state.tokens.insert(token.clone());
    token
}

fn bearer(call: &Call) -> &str {
    let (kind, token) = call.authorization.split_once(' ').unwrap_or_default();
    if kind.eq_ignore_ascii_case("bearer") || kind.eq_ignore_ascii_case("token") {
        token
    } else {
        ""
    }
}

/// RFC 3339 of seconds since 1970 (civil from days, Howard Hinnant).
pub(super) fn rfc3339(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

fn status(code: u16, reason: &str) -> Answer {
    (
        code,
        json!({ "kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": reason }),
    )
}

fn bind(state: &mut State, ns: &str, body: &Value) -> Answer {
    let name =
        body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let at = (ns.to_owned(), name.clone());
    if state.objects.contains_key(&at) {
        return status(409, "AlreadyExists");
    }
    let uid = format!("uid-{}", serial(state));
    state.objects.insert(at, uid.clone());
    let made = json!({
        "kind": "Secret", "apiVersion": "v1", "type": "Opaque",
        "metadata": { "name": name, "namespace": ns, "uid": uid },
    });
    (201, made)
}

fn unbind(state: &mut State, ns: &str, name: &str) -> Answer {
    match state.objects.remove(&(ns.to_owned(), name.to_owned())) {
        Some(_) => (200, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" })),
        None => status(404, "NotFound"),
    }
}

fn token_request(state: &mut State, ns: &str, account: &str, body: &Value) -> Answer {
    let spec = body.get("spec").cloned().unwrap_or_default();
    let of = |path: &str| spec.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (name, uid) = (of("/boundObjectRef/name"), of("/boundObjectRef/uid"));
    let bound = !name.is_empty();
    if bound && state.objects.get(&(ns.to_owned(), name.clone())) != Some(&uid) {
        return status(404, "NotFound");
    }
    let seconds = spec.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
    if seconds < 600 {
        return status(422, "Invalid");
    }
    let now = (state.now)();
    let mut inside =
        json!({ "namespace": ns, "serviceaccount": { "name": account, "uid": "sa-1" } });
    if bound {
        inside["secret"] = json!({ "name": name, "uid": uid });
    }
    let token = unsigned(&json!({
        "iss": "https://kubernetes.default.svc", "sub": format!("system:serviceaccount:{ns}:{account}"),
        "aud": spec.get("audiences"), "iat": now, "nbf": now, "exp": now + seconds,
        "kubernetes.io": inside, "jti": serial(state),
    }));
    let made = json!({
        "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": { "name": account, "namespace": ns }, "spec": spec,
        "status": { "token": live(state, token), "expirationTimestamp": rfc3339(now + seconds) },
    });
    (201, made)
}

fn token_review(state: &State, body: &Value) -> Answer {
    let token = body.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    let claims = claims(token);
    let of =
        |path: &str| claims.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let at = (of("/kubernetes.io/namespace"), of("/kubernetes.io/secret/name"));
    let good = state.tokens.contains(token)
        && state.objects.get(&at) == Some(&of("/kubernetes.io/secret/uid"))
        && claims.get("exp").and_then(Value::as_i64).is_some_and(|exp| exp > (state.now)());
    let status = match good {
        true => json!({
            "authenticated": true, "user": { "username": claims.get("sub") }, "audiences": claims.get("aud"),
        }),
        false => json!({ "authenticated": false, "error": "the token is not accepted" }),
    };
    let kind = "TokenReview";
    (201, json!({ "kind": kind, "apiVersion": "authentication.k8s.io/v1", "status": status }))
}

/// The App's own token, verified as GitHub does.
fn is_app(state: &State, token: &str) -> bool {
    let Some((signed, signature)) = token.rsplit_once('.') else { return false };
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &state.app_key);
    let claims = claims(token);
    let at = |name: &str| claims.get(name).and_then(Value::as_i64).unwrap_or_default();
    let now = (state.now)();
    key.verify(signed.as_bytes(), &signature).is_ok()
        && at("iat") <= now
        && at("exp") > now
        && at("exp") <= now + 600
        && claims.get("iss").is_some()
}

fn install(state: &mut State, call: &Call, id: &str) -> Answer {
    if !is_app(state, bearer(call)) {
        return (401, json!({ "message": "A JSON web token could not be decoded" }));
    }
    if id != "12345" {
        return (404, json!({ "message": "Not Found" }));
    }
    let asked = call.json();
    let names: Vec<Value> = asked["repositories"].as_array().cloned().unwrap_or_default();
    let mut permissions = asked["permissions"].as_object().cloned().unwrap_or_default();
    permissions.insert("metadata".into(), "read".into());
    let token = format!("ghs_12345_{}", "x".repeat(480));
    let token = format!("{token}{}", serial(state));
    let repositories: Vec<Value> = names
        .iter()
        .map(|name| json!({ "id": 1, "name": name, "full_name": format!("acme/{}", name.as_str().unwrap_or_default()) }))
        .collect();
    let made = json!({
        "token": live(state, token), "expires_at": rfc3339((state.now)() + 3600),
        "permissions": permissions, "repository_selection": "selected", "repositories": repositories,
    });
    (201, made)
}

fn end_installation(state: &mut State, call: &Call) -> Answer {
    match state.tokens.remove(bearer(call)) {
        true => (204, Value::Null),
        false => (401, json!({ "message": "Bad credentials" })),
    }
}

fn repositories(state: &State, call: &Call) -> Answer {
    match state.tokens.contains(bearer(call)) {
        true => (200, json!({ "total_count": 1, "repositories": [] })),
        false => (401, json!({ "message": "Bad credentials" })),
    }
}

fn exchange(state: &mut State, call: &Call) -> Answer {
    let form = call.form();
    let of = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let client = call.authorization.strip_prefix("Basic ").and_then(|b| STANDARD.decode(b).ok());
    if client.as_deref() != Some(b"grantwright:client-secret") {
        return (401, json!({ "error": "invalid_client" }));
    }
    if of("grant_type") != EXCHANGE || claims(of("subject_token")).get("sub").is_none() {
        return (400, json!({ "error": "invalid_request" }));
    }
    let token = format!("at-{}-{}", serial(state), "y".repeat(40));
    let made = json!({
        "access_token": live(state, token), "issued_token_type": ACCESS_TOKEN, "token_type": "Bearer",
        "expires_in": state.lasts, "scope": of("scope"),
    });
    (200, made)
}

fn google_sts(state: &mut State, call: &Call) -> Answer {
    let form: BTreeMap<String, String> = match call.form() {
        // Google takes a form or JSON.
        form if form.contains_key("grant_type") || form.contains_key("grantType") => form,
        _ => return (400, json!({ "error": "invalid_request" })),
    };
    let of = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    if of("grant_type") != EXCHANGE {
        return (400, json!({ "error": "unsupported_grant_type" }));
    }
    let subject = of("subject_token");
    let token = if form.contains_key("options") {
        if !state.tokens.contains(subject) {
            return (400, json!({ "error": "invalid_grant", "error_description": subject }));
        }
        format!("narrow-{}", serial(state))
    } else {
        let audience = of("audience");
        let claims = claims(subject);
        let meant = claims.get("aud").and_then(Value::as_str).unwrap_or_default();
        if !audience.starts_with("//iam.googleapis.com/") || meant != format!("https:{audience}") {
            return (400, json!({ "error": "invalid_grant", "error_description": "audience" }));
        }
        format!("federated-{}", serial(state))
    };
    let made = json!({
        "access_token": live(state, token), "issued_token_type": ACCESS_TOKEN, "token_type": "Bearer",
        "expires_in": 3600,
    });
    (200, made)
}

fn google_account(state: &mut State, call: &Call, account: &str) -> Answer {
    let account = account.replace("%40", "@").replace("%3A", ":");
    let federated = bearer(call).starts_with("federated-") && state.tokens.contains(bearer(call));
    if !account.ends_with(":generateAccessToken") || !federated {
        return (
            403,
            json!({ "error": { "code": 403, "status": "PERMISSION_DENIED", "message": "no" } }),
        );
    }
    let lifetime =
        call.json()["lifetime"].as_str().unwrap_or("3600s").trim_end_matches('s').parse();
    let lifetime: i64 = lifetime.unwrap_or(3600);
    let token = format!("account-{}", serial(state));
    let ends = rfc3339((state.now)() + lifetime);
    (200, json!({ "accessToken": live(state, token), "expireTime": ends }))
}

fn entra(url: &str, tenant: &str) -> Answer {
    let url = url.replace("http:", "https:");
    (
        200,
        json!({
            "issuer": format!("{url}/{tenant}/v2.0"),
            "authorization_endpoint": format!("{url}/{tenant}/oauth2/v2.0/authorize"),
            "token_endpoint": format!("{url}/{tenant}/oauth2/v2.0/token"),
            "jwks_uri": format!("{url}/{tenant}/discovery/v2.0/keys"),
        }),
    )
}

fn entra_token(state: &mut State, call: &Call) -> Answer {
    let form = call.form();
    let of = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let assertion = claims(of("client_assertion"));
    if of("grant_type") != "client_credentials"
        || of("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        || assertion.get("aud").and_then(Value::as_str) != Some("api://AzureADTokenExchange")
        || !of("scope").contains("/.default")
    {
        let description = "AADSTS700213: No matching federated identity record found";
        return (401, json!({ "error": "invalid_client", "error_description": description }));
    }
    let token = unsigned(&json!({ "appid": of("client_id"), "n": serial(state) }));
    let made = json!({
        "token_type": "Bearer", "expires_in": state.lasts, "ext_expires_in": state.lasts,
        "access_token": live(state, token),
    });
    (200, made)
}
