//! Kubernetes, GitHub, OAuth, Google Cloud and Azure: what is asked of them, and a backend that is late,
//! lost, half, wide, wrong, expired, endless or out of order.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use grantwright_credential::Secret;
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{Clock, LeaseId, Params, Scope, Timestamp};
use grantwright_mint::azure::{AzureConfig, AzureMinter};
use grantwright_mint::conformance::{self, Subject, danger_grant};
use grantwright_mint::gcp::{GcpConfig, GcpMinter};
use grantwright_mint::github::{GithubConfig, GithubMinter};
use grantwright_mint::kubernetes::{KubernetesConfig, KubernetesMinter};
use grantwright_mint::oauth::{OauthConfig, OauthMinter};
use grantwright_mint::{Endpoint, MintError, Minted, Minter, SignAssertion};
use grantwright_testkit::clouds::{Clouds, Say};
use serde_json::{Value, json};

use crate::fixtures::{now, params, scope};

struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

static APP: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate(KeySize::Rsa2048).unwrap());

/// One backend: its minter, a scope, what answers it, and what can be wrong with that.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    make: fn(&str) -> Box<dyn Minter>,
    scope: fn() -> Scope,
    params: fn() -> Value,
    ttl_s: u32,
    /// Path of the call whose answer holds the credential.
    word: &'static str,
    /// What it made can be found and ended when its answer is lost.
    found: bool,
    wider: &'static [fn(&mut Value)],
    seen: fn(&Clouds) -> Value,
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint { url: url.into(), ca_file: None, timeout: crate::fixtures::patience() }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(At(now()))
}

fn signer() -> SignAssertion {
    Arc::new(|audience, more, now| {
        let mut claims = json!({ "iss": "https://b", "sub": "https://b/broker", "aud": audience });
        for (name, value) in more {
            claims[*name] = value.clone();
        }
        claims["exp"] = json!(now.seconds() + 60);
        let part = URL_SAFE_NO_PAD.encode(claims.to_string());
        Some(Secret::new(format!("e30.{part}.own-signature")))
    })
}

/// Written once: tests run side by side.
static OWN_TOKEN: LazyLock<tempfile::NamedTempFile> = LazyLock::new(|| {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "own-kubernetes-token\n").unwrap();
    file
});

fn kubernetes(url: &str) -> Box<dyn Minter> {
    let config = KubernetesConfig { endpoint: endpoint(url), token_file: OWN_TOKEN.path().into() };
    Box::new(KubernetesMinter::new(config, clock()).unwrap())
}

fn github(url: &str) -> Box<dyn Minter> {
    let der: Pkcs8V1Der<'_> = APP.as_der().unwrap();
    let pem = STANDARD.encode(der.as_ref());
    let lines: Vec<&str> = pem.as_bytes().chunks(64).map(|l| str::from_utf8(l).unwrap()).collect();
    let pem =
        format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", lines.join("\n"));
    let config =
        GithubConfig { endpoint: endpoint(url), app: "4711".into(), private_key: Secret::new(pem) };
    Box::new(GithubMinter::new(config, clock()).unwrap())
}

fn oauth(url: &str) -> Box<dyn Minter> {
    Box::new(OauthMinter::new(oauth_config(url), clock()).unwrap())
}

fn oauth_config(url: &str) -> OauthConfig {
    let at = |path: &str| endpoint(&format!("{url}/{path}"));
    OauthConfig {
        token_endpoint: at("token"),
        revocation_endpoint: at("revoke"),
        introspection_endpoint: Some(at("introspect")),
        client: ("grantwright".into(), Secret::new("client-secret".into())),
        audience: "https://login.example.com".into(),
        sign: signer(),
    }
}

const PROVIDER: &str =
    "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/b";

fn gcp(url: &str) -> Box<dyn Minter> {
    let config = GcpConfig {
        sts: endpoint(url),
        iam_credentials: endpoint(url),
        provider: PROVIDER.into(),
        sign: signer(),
    };
    Box::new(GcpMinter::new(config, clock()).unwrap())
}

fn azure(url: &str) -> Box<dyn Minter> {
    let config = AzureConfig {
        endpoint: endpoint(url),
        tenant: "66666666-7777-8888-9999-000000000000".into(),
        audience: "api://AzureADTokenExchange".into(),
        sign: signer(),
    };
    Box::new(AzureMinter::new(config, clock()).unwrap())
}

fn with(minter: &str, params: Value, template: Value, ttl: u32) -> Scope {
    scope(json!({
        "name": "cloud.use", "title": "Use it", "minter": minter, "params": params,
        "ttl": { "default_s": ttl, "max_s": ttl }, "template": template,
    }))
}

fn word() -> Value {
    json!({ "type": "string", "pattern": "[a-z][a-z0-9-]{0,20}" })
}

fn last_form(fake: &Clouds, path: &str) -> std::collections::BTreeMap<String, String> {
    fake.calls(path).last().unwrap().form()
}

fn cases() -> [Case; 5] {
    [
        Case {
            name: "kubernetes",
            make: kubernetes,
            scope: || {
                let template = json!({
                    "namespace": "${team}", "service_account": "reader",
                    "audiences": ["https://data.example.com"],
                });
                with("kubernetes", json!({ "team": word() }), template, 900)
            },
            params: || json!({ "team": "sales" }),
            ttl_s: 900,
            word: "/token",
            found: true,
            wider: &[
                |v| v["status"]["expirationTimestamp"] = json!("2027-01-01T00:00:00Z"),
                |v| v["status"]["expirationTimestamp"] = json!("2020-01-01T00:00:00Z"),
                |v| claimed(v, "/status/token", "sub", json!("system:serviceaccount:sales:admin")),
                |v| claimed(v, "/status/token", "aud", json!(["https://other"])),
                |v| claimed(v, "/status/token", "exp", json!(4_000_000_000_i64)),
                |v| claimed(v, "/status/token", "kubernetes.io", json!({})),
            ],
            seen: |fake| {
                let call = fake.calls("/token").pop().unwrap();
                let parts: Vec<&str> = call.path.split('/').collect();
                json!({
                    "namespace": parts[4], "service_account": parts[6],
                    "audiences": call.json()["spec"]["audiences"],
                })
            },
        },
        Case {
            name: "github",
            make: github,
            scope: || {
                let template = json!({
                    "installation": 12345, "repositories": ["${repo}"],
                    "permissions": { "contents": "read" },
                });
                with("github", json!({ "repo": word() }), template, 3600)
            },
            params: || json!({ "repo": "website" }),
            ttl_s: 3600,
            word: "/access_tokens",
            found: false,
            wider: &[
                |v| v["expires_at"] = json!("2027-01-01T00:00:00Z"),
                |v| v["expires_at"] = json!("2020-01-01T00:00:00Z"),
                |v| v["repository_selection"] = json!("all"),
                |v| v["repositories"] = json!([{ "name": "payroll" }]),
                |v| v["repositories"] = json!([]),
                |v| v["permissions"]["contents"] = json!("write"),
                |v| v["permissions"]["administration"] = json!("read"),
            ],
            seen: |fake| {
                let mut asked = fake.calls("/access_tokens").pop().unwrap().json();
                asked["installation"] = json!(12345);
                asked
            },
        },
        Case {
            name: "oauth",
            make: oauth,
            scope: || {
                let template = json!({
                    "audience": "https://reports.example.com", "scopes": ["reports:${dataset}:read"],
                });
                with("oauth", json!({ "dataset": word() }), template, 900)
            },
            params: || json!({ "dataset": "sales" }),
            ttl_s: 900,
            word: "/token",
            found: false,
            wider: &[
                |v| v["expires_in"] = json!(86_400),
                |v| v["expires_in"] = json!(0),
                |v| v["expires_in"] = Value::Null,
                |v| v["scope"] = json!("reports:sales:read reports:sales:write"),
                |v| v["token_type"] = json!("N_A"),
                |v| {
                    v["issued_token_type"] = json!("urn:ietf:params:oauth:token-type:refresh_token")
                },
            ],
            seen: |fake| {
                let form = last_form(fake, "/token");
                json!({
                    "audience": form.get("audience"), "resource": form.get("resource"),
                    "scopes": form["scope"].split(' ').collect::<Vec<_>>(),
                })
            },
        },
        Case {
            name: "gcp",
            make: gcp,
            scope: || {
                let template = json!({
                    "service_account": "reader@acme.iam.gserviceaccount.com",
                    "scopes": ["https://www.googleapis.com/auth/devstorage.read_only"],
                    "boundary": [{
                        "bucket": "${bucket}", "prefix": "${prefix}",
                        "roles": ["roles/storage.objectViewer"],
                    }],
                });
                let params =
                    json!({ "bucket": { "type": "s3-bucket" }, "prefix": { "type": "s3-prefix" } });
                with("gcp", params, template, 900)
            },
            params: || json!({ "bucket": "acme-exports", "prefix": "public/" }),
            ttl_s: 900,
            word: ":generateAccessToken",
            found: false,
            wider: &[
                |v| v["expireTime"] = json!("2027-01-01T00:00:00Z"),
                |v| v["expireTime"] = json!("2020-01-01T00:00:00Z"),
            ],
            seen: |fake| {
                let call = fake.calls(":generateAccessToken").pop().unwrap();
                let account = call.path.rsplit('/').next().unwrap().replace("%40", "@");
                let form = last_form(fake, "/v1/token");
                let options: Value = serde_json::from_str(&form["options"]).unwrap();
                json!({
                    "service_account": account.strip_suffix(":generateAccessToken").unwrap(),
                    "scopes": call.json()["scope"],
                    "boundary": options["accessBoundary"]["accessBoundaryRules"],
                })
            },
        },
        Case {
            name: "azure",
            make: azure,
            scope: || {
                let template = json!({
                    "client_id": "11111111-2222-3333-4444-555555555555",
                    "scope": "https://${vault}.vault.azure.net/.default",
                });
                with("azure", json!({ "vault": word() }), template, 5400)
            },
            params: || json!({ "vault": "sales" }),
            ttl_s: 5400,
            word: "/oauth2/",
            found: false,
            wider: &[
                |v| v["expires_in"] = json!(86_400),
                |v| v["expires_in"] = json!(0),
                |v| v["token_type"] = json!("pop"),
            ],
            seen: |fake| {
                let form = last_form(fake, "/oauth2/");
                json!({ "client_id": form["client_id"], "scope": form["scope"] })
            },
        },
    ]
}

/// Another claim in the token of an answer.
fn claimed(answer: &mut Value, at: &str, name: &str, value: Value) {
    let token = answer.pointer_mut(at).unwrap();
    let mut claims = grantwright_testkit::clouds::claims(token.as_str().unwrap());
    claims[name] = value;
    *token = json!(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string())));
}

async fn fake() -> Clouds {
    let fake = Clouds::start(|| now().seconds()).await;
    fake.app_key(APP.public_key().as_ref()).lasts(600);
    fake
}

/// For the table of hostile cases.
pub async fn rows() -> Vec<crate::hostile::Row> {
    let mut rows = Vec::new();
    for case in cases() {
        let fake = fake().await;
        fake.lasts(i64::from(case.ttl_s.min(3600)));
        let scope = (case.scope)();
        let params = params(&scope, (case.params)());
        rows.push(crate::hostile::Row {
            name: case.name,
            url: fake.url.clone(),
            make: Box::new(case.make),
            asked: (scope, params),
            ttl_s: case.ttl_s,
            makes: case.word,
            _alive: Box::new(fake),
        });
    }
    rows
}

async fn mint(case: &Case, minter: &dyn Minter) -> Result<Minted, MintError> {
    let scope = (case.scope)();
    let params = params(&scope, (case.params)());
    let grant = danger_grant(&scope, &params, &["bob"], case.ttl_s, now()).unwrap();
    minter.mint(grant, now()).await
}

async fn outcome(case: &Case, say: Say) -> (MintError, Clouds) {
    let fake = fake().await;
    fake.tell(case.word, say);
    let minter = (case.make)(&fake.url);
    let error = mint(case, minter.as_ref()).await.map(drop).unwrap_err();
    assert_eq!(fake.calls(case.word).len(), 1, "{}: invariant 3: one call that makes", case.name);
    let shown = format!("{error:?}");
    for secret in fake.live().iter().map(String::as_str).chain([
        "client-secret",
        "own-kubernetes-token",
        "own-signature",
    ]) {
        assert!(!shown.contains(secret), "{}: invariant 21: {shown}", case.name);
    }
    (error, fake)
}

#[tokio::test]
async fn invariant_08_what_was_lost_is_unknown_or_found_and_ended() {
    for case in cases() {
        for (why, say) in [
            ("late", Say::Late),
            ("lost", Say::Lost),
            ("dropped", Say::Drop),
            ("half", Say::Half),
            ("a gigabyte", Say::Endless),
            ("500", Say::Status(500, "{}".into())),
            ("503", Say::Status(503, "{}".into())),
            ("408", Say::Status(408, String::new())),
            ("not json", Say::Status(200, "<html>".into())),
            ("empty", Say::Status(200, "{}".into())),
        ] {
            let (error, fake) = outcome(&case, say).await;
            if case.found {
                assert_eq!(error.code(), "backend_away", "{} {why}: {error:?}", case.name);
                assert_eq!(fake.objects(), 0, "{} {why}: an orphan is left", case.name);
            } else {
                assert_eq!(error.code(), "outcome_unknown", "{} {why}: {error:?}", case.name);
            }
        }
    }
}

#[tokio::test]
async fn invariant_05_a_wider_wrong_or_expired_answer_is_not_delivered_and_ended() {
    for case in cases() {
        for (n, edit) in case.wider.iter().enumerate() {
            let (error, fake) = outcome(&case, Say::Edited(*edit)).await;
            assert_eq!(error.code(), "backend_wider", "{} {n}: {error:?}", case.name);
            let revocable = (case.make)(&fake.url).declaration().revocable.is_some();
            if case.found {
                assert_eq!(fake.objects(), 0, "{} {n}", case.name);
            } else if revocable {
                assert_eq!(
                    fake.live(),
                    Vec::<String>::new(),
                    "{} {n}: it is live still",
                    case.name
                );
            }
        }
    }
}

#[tokio::test]
async fn refusals_are_definite_and_once_in_storms_too() {
    for case in cases() {
        for (status, code) in [
            (429, "backend_busy"),
            (403, "backend_denied"),
            (401, "backend_denied"),
            (404, "backend_refused"),
            (400, "backend_refused"),
            (307, "backend_away"),
        ] {
            let said = json!({ "message": "no \u{202e}", "error": "refused" }).to_string();
            let (error, fake) = outcome(&case, Say::Status(status, said)).await;
            assert_eq!(error.code(), code, "{} {status}: {error:?}", case.name);
            assert!(!format!("{error:?}").contains('\u{202e}'));
            assert_eq!(fake.objects(), 0);
        }
    }
}

#[tokio::test]
async fn nobody_listening_is_refused_since_nothing_left() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    for case in cases() {
        let error = mint(&case, (case.make)(&url).as_ref()).await.map(drop).unwrap_err();
        assert_eq!(error.code(), "backend_away", "{}: {error:?}", case.name);
    }
}

#[tokio::test]
async fn what_can_be_ended_is_refused_by_its_backend_then() {
    for case in cases() {
        let fake = fake().await;
        let minter = (case.make)(&fake.url);
        let minted = mint(&case, minter.as_ref()).await.unwrap();
        let lease = |id: &str| Lease {
            id: LeaseId::parse(id).unwrap(),
            issued_at: now(),
            expires_at: minted.expires_at,
            revocable: minted.revocable,
            state: LeaseState::Live,
            effect: String::new(),
            facts: minted.facts.clone(),
        };
        if !minted.revocable {
            let ended = minter.revoke(&lease("l-1")).await;
            let when = minted.expires_at.to_string();
            assert!(!ended.ended && ended.effect.contains(&when), "{}: {ended:?}", case.name);
            continue;
        }
        let before = fake.live().len() + fake.objects();
        fake.tell("", Say::Status(503, "{}".into()));
        let still = minter.revoke(&lease("l-1")).await;
        assert!(!still.ended, "{}: SECURITY, revocation theatre: {still:?}", case.name);
        fake.well();
        assert_eq!(fake.live().len() + fake.objects(), before);
        let ended = minter.revoke(&lease("l-1")).await;
        assert!(ended.ended, "{}: {ended:?}", case.name);
        if case.found {
            assert_eq!(fake.objects(), 0);
            assert!(minter.revoke(&lease("l-1")).await.ended, "ending may be repeated");
        } else {
            assert_eq!(fake.live(), Vec::<String>::new(), "{}", case.name);
            // Another process does not have the token: it says so.
            let other = (case.make)(&fake.url).revoke(&lease("l-1")).await;
            assert!(!other.ended && other.effect.contains("started anew"), "{other:?}");
        }
    }
}

/// RFC 7009 §2.2: the server answers 200 for a token that it does not know, too.
#[tokio::test]
async fn an_end_that_nobody_can_see_says_so_before_and_after() {
    let cases = cases();
    let case = cases.iter().find(|case| case.name == "oauth").unwrap();
    for introspects in [true, false] {
        let fake = fake().await;
        let mut config = oauth_config(&fake.url);
        config.introspection_endpoint = config.introspection_endpoint.filter(|_| introspects);
        let minter = OauthMinter::new(config, clock()).unwrap();
        let declared = minter.declaration();
        assert_eq!(declared.measured.starts_with("yes: "), introspects, "{declared:?}");
        assert_eq!(declared.measured == "no, the server's word", !introspects, "{declared:?}");
        let how = minter.revocable(&(case.scope)()).unwrap();
        assert_eq!(how.contains("it offers no introspection"), !introspects, "{how}");
        let minted = mint(case, &minter).await.unwrap();
        let lease = Lease {
            id: LeaseId::parse("l-1").unwrap(),
            issued_at: now(),
            expires_at: minted.expires_at,
            revocable: minted.revocable,
            state: LeaseState::Live,
            effect: String::new(),
            facts: minted.facts,
        };
        let ended = minter.revoke(&lease).await;
        assert!(ended.ended, "{ended:?}");
        let unseen = "answered 200 (RFC 7009), as it does for any token; it offers no introspection, so that \
                      the token is refused was not seen";
        assert_eq!(ended.effect.contains(unseen), !introspects, "{ended:?}");
        assert_eq!(ended.effect.contains("says that it is inactive"), introspects, "{ended:?}");
        assert_eq!(fake.calls("/introspect").len(), usize::from(introspects));
    }
}

#[tokio::test]
async fn kubernetes_finds_what_a_crash_left_by_its_lease() {
    let case = cases()[0];
    let fake = fake().await;
    mint(&case, (case.make)(&fake.url).as_ref()).await.unwrap();
    assert_eq!(fake.objects(), 1);
    let scope = (case.scope)();
    let params = params(&scope, (case.params)());
    let lease = LeaseId::parse("l-1").unwrap();
    let ended = (case.make)(&fake.url).undo(&lease, &scope, &params).await.unwrap();
    assert!(ended.ended && fake.objects() == 0, "{ended:?}");
}

#[test]
fn templates_that_could_express_more_are_refused_at_load() {
    let wrong: [(usize, &str, Value, &str); 16] = [
        (0, "audiences", json!([]), "1 to 16"),
        (0, "namespace", json!("sales"), "does not narrow"),
        (0, "namespace", json!("${team}*"), "wildcard"),
        (0, "service_account", json!("${other}"), "names no parameter"),
        (1, "repositories", json!([]), "all of the installation"),
        (1, "repositories", json!(["${repo}", "payroll"]), "does not narrow"),
        (1, "permissions", json!({}), "all of the App"),
        (1, "permissions", json!({ "contents": "all" }), "read, write or admin"),
        (2, "scopes", json!([]), "what it likes"),
        (2, "scopes", json!(["reports:${dataset}:read", "admin"]), "does not narrow"),
        (2, "scopes", json!(["reports:${dataset} admin"]), "not one scope"),
        (3, "scopes", json!(["cloud"]), "googleapis"),
        (3, "boundary", json!([]), "does not narrow"),
        (
            3,
            "boundary",
            json!([{ "bucket": "${bucket}", "prefix": "${prefix}", "roles": ["roles/owner"] }]),
            "roles of Cloud",
        ),
        (4, "scope", json!("https://${vault}.vault.azure.net/"), "/.default"),
        (4, "client_id", json!("everyone"), "not an application"),
    ];
    for case in cases() {
        let faults = (case.make)("http://127.0.0.1:1").faults(&(case.scope)());
        assert_eq!(faults, Vec::<String>::new(), "{}", case.name);
    }
    for (n, key, value, part) in wrong {
        let case = cases()[n];
        let mut scope = (case.scope)();
        scope.template.insert(key.into(), value.clone());
        let found = (case.make)("http://127.0.0.1:1").faults(&scope).join("\n");
        assert!(found.contains(part), "{} {key} = {value}: {found}", case.name);
    }
}

#[test]
fn plain_http_to_another_host_stops_the_start() {
    for url in
        ["http://10.0.0.1", "http://example.com", "https://u:p@example.com", "ftp://localhost", ""]
    {
        let config = KubernetesConfig { endpoint: endpoint(url), token_file: "t".into() };
        assert!(KubernetesMinter::new(config, clock()).is_err(), "{url}");
    }
}

struct CloudSubject {
    case: Case,
    fake: Clouds,
    minter: Box<dyn Minter>,
}

impl Subject for CloudSubject {
    fn minter(&self) -> &dyn Minter {
        self.minter.as_ref()
    }
    fn scope(&self) -> Scope {
        (self.case.scope)()
    }
    fn params(&self) -> Params {
        params(&self.scope(), (self.case.params)())
    }
    fn observed(&self, _: &Minted) -> Value {
        (self.case.seen)(&self.fake)
    }
}

#[tokio::test]
async fn conform() {
    for case in cases() {
        let fake = fake().await;
        let minter = (case.make)(&fake.url);
        fake.lasts(i64::from(minter.declaration().ttl_floor_s));
        let subject = CloudSubject { case, fake, minter };
        conformance::check(&subject, now())
            .await
            .map_err(|e| format!("{}: {e}", case.name))
            .unwrap();
    }
}
