//! Vault's pki, ssh and transit engines, against a Vault that answers as it is told: what it signed must say
//! what was asked, and nothing more.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{LeaseId, Params, Scope, Timestamp};
use grantwright_mint::conformance::{self, Subject, danger_grant};
use grantwright_mint::ssh::SshIssuer;
use grantwright_mint::vault::{Engine, VaultMinter};
use grantwright_mint::{MintError, Minted, Minter, SignInput, Signer};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::fixtures::{now, params, scope};
use crate::vault::{Say, Vault};

const SIGN: &str = "/v1/pki/sign/mesh";
const ISSUE: &str = "/v1/pki/issue/mesh";
const SSH: &str = "/v1/ssh/sign/deploy";
const TRANSIT: &str = "/v1/transit/sign/tokens";
const TTL: u32 = 600;
const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";

static CA: LazyLock<Issuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Issuer::new(params, KeyPair::generate().unwrap())
});
/// The key of who asks.
static OWN: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate().unwrap());
static CSR: LazyLock<String> = LazyLock::new(|| {
    let mut params = CertificateParams::default();
    // What a careless role would take over.
    params.distinguished_name.push(DnType::CommonName, "root");
    STANDARD.encode(params.serialize_request(&*OWN).unwrap().der())
});
static TOKENS: LazyLock<Ed25519KeyPair> = LazyLock::new(|| Ed25519KeyPair::generate().unwrap());
static HOST_CA: LazyLock<Vec<u8>> = LazyLock::new(|| {
    Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec()
});

/// What a certificate says.
#[derive(Clone)]
struct Says {
    common: String,
    /// The subject's `serialNumber`.
    stamp: String,
    names: Vec<SanType>,
    usage: Vec<ExtendedKeyUsagePurpose>,
    is_ca: IsCa,
    begins: i64,
    ends: i64,
}

impl Says {
    /// What was asked.
    fn asked(body: &Value) -> Self {
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let seconds: i64 = text("ttl").trim_end_matches('s').parse().unwrap();
        let dns = text("alt_names");
        let dns = dns.split(',').filter(|n| !n.is_empty());
        let uris = body["uri_sans"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<_> =
            dns.map(|name| SanType::DnsName(name.try_into().unwrap())).collect();
        names.extend(uris.iter().map(|u| SanType::URI(u.as_str().unwrap().try_into().unwrap())));
        Self {
            common: text("common_name"),
            stamp: text("serial_number"),
            names,
            usage: vec![ExtendedKeyUsagePurpose::ClientAuth],
            is_ca: IsCa::ExplicitNoCa,
            begins: -30,
            ends: seconds,
        }
    }

    fn signed(&self, key: &impl PublicKeyData) -> String {
        let moment =
            |after: i64| OffsetDateTime::from_unix_timestamp(now().seconds() + after).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !self.common.is_empty() {
            params.distinguished_name.push(DnType::CommonName, &self.common);
        }
        if !self.stamp.is_empty() {
            let serial_number = DnType::CustomDnType(vec![2, 5, 4, 5]);
            params.distinguished_name.push(serial_number, &self.stamp);
        }
        params.subject_alt_names.clone_from(&self.names);
        params.extended_key_usages.clone_from(&self.usage);
        params.is_ca = self.is_ca;
        params.serial_number = Some(SerialNumber::from_slice(&[0x0a, 0xbc, 0x01]));
        (params.not_before, params.not_after) = (moment(self.begins), moment(self.ends));
        params.signed_by(key, &CA).unwrap().pem()
    }
}

const SERIAL: &str = "0a:bc:01";

fn certified(pem: &str) -> Value {
    json!({ "data": {
        "certificate": pem, "issuing_ca": "CA", "ca_chain": ["CA"], "serial_number": SERIAL,
        "expiration": 0,
    } })
}

fn role(usage: &str) -> Value {
    json!({ "data": {
        "use_csr_common_name": false, "use_csr_sans": false, "no_store": false,
        "client_flag": usage == "client", "server_flag": usage == "server",
        "code_signing_flag": false, "email_protection_flag": false,
    } })
}

/// A role that admits these in the subject.
fn stamping(serials: Value) -> Value {
    let mut role = role("client");
    role["data"]["allowed_serial_numbers"] = serials;
    role
}

/// What Vault says of a certificate that it keeps.
fn kept(stamp: &str, revoked: bool) -> Value {
    let says = Says::asked(&json!({ "ttl": "600s", "serial_number": stamp }));
    json!({ "data": { "certificate": says.signed(&*OWN), "revocation_time": i64::from(revoked) } })
}

fn host_role() -> Value {
    json!({ "data": {
        "key_type": "ca", "allow_user_certificates": true, "allow_user_key_ids": true,
        "default_extensions": {}, "default_critical_options": {},
    } })
}

fn key_of_transit() -> Value {
    let point = STANDARD.encode(TOKENS.public_key());
    json!({ "data": {
        "type": "ed25519", "latest_version": 2, "keys": { "1": {}, "2": { "public_key": point } },
    } })
}

/// As a good Vault answers for these engines; certificates live in `leases` by their serial numbers.
pub fn good(path: &str, body: &Value, leases: &mut BTreeMap<String, i64>) -> Say {
    match path {
        "/v1/pki/roles/mesh" => Say::Json(200, role("client")),
        SIGN => {
            let csr = body["csr"].as_str().unwrap();
            let csr = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).unwrap();
            let key = CertificateSigningRequestParams::from_der(&csr).unwrap().public_key;
            leases.insert(SERIAL.into(), 1);
            Say::Json(200, certified(&Says::asked(body).signed(&key)))
        }
        ISSUE => {
            leases.insert(SERIAL.into(), 1);
            let key = KeyPair::generate().unwrap();
            let mut made = certified(&Says::asked(body).signed(&key));
            made["data"]["private_key"] = key.serialize_pem().into();
            Say::Json(200, made)
        }
        "/v1/pki/revoke" => {
            leases.remove(body["serial_number"].as_str().unwrap());
            Say::Json(200, json!({ "data": { "revocation_time": 1 } }))
        }
        "/v1/pki/cert/0a-bc-01" => Say::Json(200, kept("l-1", !leases.contains_key(SERIAL))),
        "/v1/pki/cert/0a-bc-02" => Say::Json(200, kept("l-2", false)),
        "/v1/pki/certs" => Say::Json(200, json!({ "data": { "keys": ["0a:bc:02", SERIAL] } })),
        "/v1/ssh/roles/deploy" => Say::Json(200, host_role()),
        SSH => {
            let ttl = body["ttl"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
            let by =
                body["key_id"].as_str().unwrap().split_once("approvers=").map_or("", |it| it.1);
            let by: Vec<&str> = by.split(',').filter(|name| !name.is_empty()).collect();
            Say::Json(200, signed_by(&asked_for(&HOST).0, &by, ttl, now()))
        }
        "/v1/transit/keys/tokens" => Say::Json(200, key_of_transit()),
        TRANSIT => {
            let input = STANDARD.decode(body["input"].as_str().unwrap()).unwrap();
            Say::Json(200, signature(&TOKENS, &input))
        }
        _ => Say::Json(404, json!({ "errors": [] })),
    }
}

fn signature(key: &Ed25519KeyPair, input: &[u8]) -> Value {
    json!({ "data": { "signature": format!("vault:v2:{}", STANDARD.encode(key.sign(input))) } })
}

/// What Vault would sign for this scope, with the key id that the broker asks for.
fn signed(scope: &Scope, ttl_s: u32) -> Value {
    signed_at(scope, ttl_s, now())
}

fn signed_at(scope: &Scope, ttl_s: u32, at: Timestamp) -> Value {
    signed_by(scope, &["bob"], ttl_s, at)
}

fn signed_by(scope: &Scope, approvers: &[&str], ttl_s: u32, at: Timestamp) -> Value {
    let mut scope = scope.clone();
    for key in ["mount", "role"] {
        scope.template.remove(key);
    }
    let given: Value = match scope.params.contains_key("account") {
        true => json!({ "key": SSH_KEY, "account": "deploy" }),
        false => json!({ "key": SSH_KEY }),
    };
    let asked = params(&scope, given);
    let grant = danger_grant(&scope, &asked, approvers, ttl_s, at).unwrap();
    let issuer = SshIssuer::new(&HOST_CA, "https://ca.example.org").unwrap();
    let minted = issuer.sign(&SignInput::granted(&grant, at)).unwrap();
    let json: Value = serde_json::from_slice(minted.credential.expose_json()).unwrap();
    json!({ "data": { "signed_key": format!("{}\n", json["ssh_certificate"].as_str().unwrap()),
                      "serial_number": "1" } })
}

#[derive(Clone, Copy)]
struct Case {
    engine: Engine,
    makes: &'static str,
    declared: fn() -> Value,
    params: fn() -> Value,
    template: fn() -> Value,
}

const MESH: Case = Case {
    engine: Engine::Pki,
    makes: SIGN,
    declared: || {
        json!({ "csr": { "type": "public-key", "format": "csr" },
                       "service": { "type": "string", "pattern": "[a-z]{1,20}" } })
    },
    params: || json!({ "csr": *CSR, "service": "web" }),
    template: || {
        json!({
            "mount": "pki", "role": "mesh", "request": "csr", "dns": ["${service}.internal.example"],
            "uri": ["spiffe://example.org/svc/${service}"],
        })
    },
};
const MADE: Case = Case {
    makes: ISSUE,
    declared: || json!({ "service": { "type": "string", "pattern": "[a-z]{1,20}" } }),
    params: || json!({ "service": "web" }),
    template: || json!({ "mount": "pki", "role": "mesh", "dns": ["${service}.internal.example"] }),
    ..MESH
};
const HOST: Case = Case {
    engine: Engine::Ssh,
    makes: SSH,
    declared: || {
        json!({ "key": { "type": "public-key", "format": "ssh" },
                       "account": { "type": "choice", "values": ["backup", "deploy"] } })
    },
    params: || json!({ "key": SSH_KEY, "account": "deploy" }),
    template: || {
        json!({
            "mount": "ssh", "role": "deploy", "public_key": "key", "principals": ["${account}"],
            "force_command": "/bin/run ${account}", "source_address": ["10.0.0.0/8"],
            "extensions": ["permit-pty"],
        })
    },
};
const TOKEN: Case = Case {
    engine: Engine::Transit,
    makes: TRANSIT,
    declared: || json!({ "dataset": { "type": "string", "pattern": "[a-z]{1,20}" } }),
    params: || json!({ "dataset": "sales" }),
    template: || {
        json!({ "mount": "transit", "key": "tokens", "issuer": "https://tokens.example.com",
                       "audience": "https://data.example.com" })
    },
};
const CASES: [Case; 4] = [MESH, MADE, HOST, TOKEN];

fn asked_for(case: &Case) -> (Scope, Params) {
    let scope = scope(json!({
        "name": "vault.use", "title": "Use it", "minter": "vault",
        "ttl": { "default_s": TTL, "max_s": TTL },
        "params": (case.declared)(), "template": (case.template)(),
    }));
    let params = params(&scope, (case.params)());
    (scope, params)
}

/// For the table of hostile cases.
pub async fn rows() -> Vec<crate::hostile::Row> {
    let mut rows = Vec::new();
    for case in [MESH, HOST, TOKEN] {
        let vault = Vault::start().await;
        let (url, engine) = (vault.url.clone(), vault.engines());
        rows.push(crate::hostile::Row {
            name: case.engine.backend().declaration.name,
            url,
            make: Box::new(move |url| Box::new(engine(url, case.engine))),
            asked: asked_for(&case),
            ttl_s: TTL,
            makes: case.makes,
            _alive: Box::new(vault),
        });
    }
    rows
}

async fn mint(case: &Case, minter: &VaultMinter) -> Result<Minted, MintError> {
    let (scope, params) = asked_for(case);
    let grant = danger_grant(&scope, &params, &["bob"], TTL, now()).unwrap();
    minter.mint(grant, now()).await
}

async fn told(case: &Case, path: &str, say: Say) -> (MintError, Vault) {
    let vault = Vault::start().await;
    vault.tell(path, say);
    let error = mint(case, &vault.engine(case.engine, false)).await.map(drop).unwrap_err();
    assert!(vault.calls(case.makes).len() <= 1, "invariant 3: one call that makes");
    (error, vault)
}

/// Where the role admits it, the subject names the lease, and by that what nobody heard of is found.
#[tokio::test]
async fn invariant_08_a_certificate_whose_answer_was_lost_is_found_by_its_subject_and_revoked() {
    let lease = LeaseId::parse("l-1").unwrap();
    let (scope, params) = asked_for(&MESH);
    let role_path = "/v1/pki/roles/mesh";
    for (why, serials, certs, code, live) in [
        ("found", json!(["*"]), None, "backend_away", 0),
        ("found by the beginning", json!(["r*", "l-*"]), None, "backend_away", 0),
        ("not stamped", json!(["x-*"]), None, "outcome_unknown", 1),
        ("not stamped", Value::Null, None, "outcome_unknown", 1),
        ("may not look", json!(["*"]), Some(Say::Json(403, json!({}))), "outcome_unknown", 1),
        (
            "not there yet",
            json!(["*"]),
            Some(Say::Json(200, json!({ "data": { "keys": ["0a:bc:02"] } }))),
            "outcome_unknown",
            1,
        ),
    ] {
        let vault = Vault::start().await;
        vault.tell(role_path, Say::Json(200, stamping(serials))).tell(SIGN, Say::Drop);
        if let Some(say) = certs {
            vault.tell("/v1/pki/certs", say);
        }
        let error = mint(&MESH, &vault.engine(Engine::Pki, false)).await.map(drop).unwrap_err();
        assert_eq!((error.code(), vault.live()), (code, live), "{why}: {error:?}");
    }
    // The same after a crash between the intent and its outcome.
    let vault = Vault::start().await;
    vault.holds(SERIAL);
    let minter = vault.engine(Engine::Pki, false);
    assert_eq!(minter.undo(&lease, &scope, &params).await, None, "this role admits no stamp");
    vault.tell(role_path, Say::Json(200, stamping(json!(["*"]))));
    let ended = minter.undo(&lease, &scope, &params).await.unwrap();
    assert!(ended.ended && vault.live() == 0, "{ended:?}");
    let other = LeaseId::parse("l-3").unwrap();
    let ended = minter.undo(&other, &scope, &params).await.unwrap();
    assert!(ended.effect.contains("no certificate"), "{ended:?}");
}

#[tokio::test]
async fn inv_04_the_stamp_is_the_leases_or_the_certificate_is_refused() {
    let vault = Vault::start().await;
    vault.tell("/v1/pki/roles/mesh", Say::Json(200, stamping(json!(["*"]))));
    let minter = vault.engine(Engine::Pki, false);
    mint(&MESH, &minter).await.unwrap();
    assert_eq!(vault.calls(SIGN)[0]["serial_number"], "l-1");
    let mut says = Says::asked(&vault.calls(SIGN)[0]);
    for stamp in ["", "l-2"] {
        says.stamp = stamp.into();
        vault.tell(SIGN, Say::Json(200, certified(&says.signed(&*OWN))));
        let error = mint(&MESH, &minter).await.map(drop).unwrap_err();
        assert_eq!((error.code(), vault.live()), ("backend_wider", 0), "{stamp}: {error:?}");
    }
}

#[tokio::test]
async fn invariant_08_what_was_lost_is_unknown_what_was_refused_is_not() {
    for case in CASES {
        let errors = json!({ "errors": ["no"] });
        for (why, say, code) in [
            ("late", Say::Late, "outcome_unknown"),
            ("never", Say::Drop, "outcome_unknown"),
            ("half", Say::Half(errors.to_string()), "outcome_unknown"),
            ("a gigabyte", Say::Endless, "outcome_unknown"),
            ("nothing in it", Say::Json(200, json!({})), "outcome_unknown"),
            ("500", Say::Json(500, errors.clone()), "outcome_unknown"),
            ("503", Say::Json(503, errors.clone()), "outcome_unknown"),
            ("sealed", Say::Json(503, json!({ "errors": ["Vault is sealed"] })), "backend_away"),
            ("429", Say::Json(429, errors.clone()), "backend_busy"),
            ("403", Say::Json(403, errors.clone()), "backend_denied"),
            ("400", Say::Json(400, errors.clone()), "backend_refused"),
            ("a redirect", Say::Redirect("http://127.0.0.1:1/".into()), "backend_away"),
        ] {
            let (error, _) = told(&case, case.makes, say).await;
            assert_eq!(error.code(), code, "{} {why}: {error:?}", case.makes);
        }
    }
}

#[tokio::test]
async fn invariant_05_a_wider_certificate_is_revoked_and_not_delivered() {
    let asked = json!({
        "common_name": "web.internal.example", "alt_names": "web.internal.example",
        "uri_sans": ["spiffe://example.org/svc/web"], "ttl": "600s",
    });
    let well = Says::asked(&asked);
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let with = |edit: fn(&mut Says)| {
        let mut says = well.clone();
        edit(&mut says);
        says
    };
    let more = |name: SanType| {
        let mut says = well.clone();
        says.names.push(name);
        says
    };
    let mut cases = vec![
        ("another name", {
            let mut says = well.clone();
            says.names[0] = dns("db.internal.example");
            says
        }),
        ("one name more", more(dns("db.internal.example"))),
        ("a wildcard", more(dns("*.internal.example"))),
        ("an address", more(SanType::IpAddress("10.0.0.1".parse().unwrap()))),
        ("a mail address", more(SanType::Rfc822Name("a@example.org".try_into().unwrap()))),
        ("no name", with(|s| s.names.clear())),
        ("another principal", with(|s| s.common = "root".into())),
        ("no common name", with(|s| s.common.clear())),
        ("an authority", with(|s| s.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("every use", with(|s| s.usage.clear())),
        ("any use", with(|s| s.usage.push(ExtendedKeyUsagePurpose::Any))),
        ("a server's use", with(|s| s.usage.push(ExtendedKeyUsagePurpose::ServerAuth))),
        ("code signing", with(|s| s.usage.push(ExtendedKeyUsagePurpose::CodeSigning))),
        ("a longer life", with(|s| s.ends = 3600)),
        ("expired", with(|s| s.ends = -1)),
        ("not yet", with(|s| s.begins = 3000)),
    ];
    assert_eq!(mint_with(&MESH, certified(&well.signed(&*OWN))).await.0, Ok(()));
    for (why, says) in cases.drain(..) {
        let (got, vault) = mint_with(&MESH, certified(&says.signed(&*OWN))).await;
        assert_eq!(got, Err("backend_wider"), "{why}");
        assert_eq!(vault.calls("/v1/pki/revoke"), [json!({ "serial_number": SERIAL })], "{why}");
    }
    let other = KeyPair::generate().unwrap();
    let (got, _) = mint_with(&MESH, certified(&well.signed(&other))).await;
    assert_eq!(got, Err("backend_wider"), "another key");
    let mut keyed = certified(&well.signed(&other));
    keyed["data"]["private_key"] = OWN.serialize_pem().into();
    let (got, _) = mint_with(&MADE, keyed).await;
    assert_eq!(got, Err("backend_wider"), "a private key of another certificate");
    for (why, serial) in [("none told", json!("")), ("another told", json!("0a:bc:02"))] {
        let mut answer = certified(&well.signed(&*OWN));
        answer["data"]["serial_number"] = serial;
        assert_eq!(mint_with(&MESH, answer).await.0, Err("backend_wider"), "{why}");
    }
    // A revocation that says yes and does nothing: seen, so the outcome is unknown.
    let vault = Vault::start().await;
    let wide = with(|s| s.ends = 3600).signed(&*OWN);
    vault.tell(SIGN, Say::Json(200, certified(&wide)));
    vault
        .tell("/v1/pki/cert/0a-bc-01", Say::Json(200, json!({ "data": { "revocation_time": 0 } })));
    let error = mint(&MESH, &vault.engine(Engine::Pki, false)).await.map(drop).unwrap_err();
    assert_eq!(error.code(), "outcome_unknown", "{error:?}");
}

async fn mint_with(case: &Case, answer: Value) -> (Result<(), &'static str>, Vault) {
    let vault = Vault::start().await;
    vault.tell(case.makes, Say::Json(200, answer));
    let minter = vault.engine(case.engine, false);
    let got = mint(case, &minter).await.map(drop).map_err(|e| e.code());
    (got, vault)
}

#[tokio::test]
async fn invariant_05_a_wider_ssh_certificate_or_signature_is_not_delivered() {
    let (host, _) = asked_for(&HOST);
    let edited = |key: &str, value: Value| {
        let mut scope = host.clone();
        scope.template.insert(key.into(), value);
        scope
    };
    let without = |key: &str| {
        let mut scope = host.clone();
        scope.template.remove(key);
        scope
    };
    assert_eq!(mint_with(&HOST, signed(&host, TTL)).await.0, Ok(()));
    for (why, answer) in [
        ("another principal", signed(&edited("principals", json!(["root"])), TTL)),
        ("one principal more", signed(&edited("principals", json!(["${account}", "root"])), TTL)),
        ("any command", signed(&without("force_command"), TTL)),
        ("another command", signed(&edited("force_command", json!("/bin/sh")), TTL)),
        ("any address", signed(&without("source_address"), TTL)),
        ("another address", signed(&edited("source_address", json!(["0.0.0.0/0"])), TTL)),
        (
            "one extension more",
            signed(&edited("extensions", json!(["permit-pty", "permit-port-forwarding"])), TTL),
        ),
        ("a longer life", signed(&host, 3600)),
        ("expired", signed_at(&host, 60, now().plus_seconds(-3600))),
        ("not yet", signed_at(&host, 60, now().plus_seconds(500))),
        ("junk", json!({ "data": { "signed_key": "ssh-ed25519-cert-v01@openssh.com AAAA" } })),
    ] {
        assert_eq!(mint_with(&HOST, answer).await.0, Err("backend_wider"), "{why}");
    }
    let other = Ed25519KeyPair::generate().unwrap();
    let mut early = signature(&TOKENS, b"x");
    early["data"]["signature"] = "vault:v1:AAAA".into();
    for (why, answer) in [
        ("another token's", signature(&TOKENS, b"another")),
        ("another key's", signature(&other, b"x")),
        ("an older version's", early),
    ] {
        assert_eq!(mint_with(&TOKEN, answer).await.0, Err("backend_wider"), "{why}");
    }
}

#[tokio::test]
async fn invariant_05_a_role_that_adds_something_is_refused_before_anything_is_made() {
    let edit = |mut role: Value, key: &str, value: Value| {
        role["data"][key] = value;
        role
    };
    let mesh = role("client");
    for (case, path, answer) in [
        (MESH, "/v1/pki/roles/mesh", edit(mesh.clone(), "use_csr_sans", json!(true))),
        (MESH, "/v1/pki/roles/mesh", edit(mesh.clone(), "use_csr_common_name", Value::Null)),
        (MESH, "/v1/pki/roles/mesh", edit(mesh.clone(), "no_store", json!(true))),
        (MESH, "/v1/pki/roles/mesh", edit(mesh.clone(), "server_flag", json!(true))),
        (MADE, "/v1/pki/roles/mesh", edit(mesh, "code_signing_flag", json!(true))),
        (HOST, "/v1/ssh/roles/deploy", edit(host_role(), "key_type", json!("otp"))),
        (HOST, "/v1/ssh/roles/deploy", edit(host_role(), "allow_user_certificates", json!(false))),
        (TOKEN, "/v1/transit/keys/tokens", edit(key_of_transit(), "type", json!("aes256-gcm96"))),
    ] {
        let (error, vault) = told(&case, path, Say::Json(200, answer.clone())).await;
        assert_eq!(error.code(), "bad_template", "{path} {answer}: {error:?}");
        assert_eq!(vault.calls(case.makes).len(), 0, "it was made all the same");
    }
    // Extensions of the role's own count where the template names none.
    let mut bare = asked_for(&HOST).0;
    bare.template.remove("extensions");
    let vault = Vault::start().await;
    let added = edit(host_role(), "default_extensions", json!({ "permit-pty": "" }));
    vault.tell("/v1/ssh/roles/deploy", Say::Json(200, added));
    let grant = danger_grant(&bare, &asked_for(&HOST).1, &[], TTL, now()).unwrap();
    let refused = vault.engine(Engine::Ssh, false).mint(grant, now()).await.map(drop);
    assert_eq!(refused.unwrap_err().code(), "bad_template");
}

#[tokio::test]
async fn a_lease_says_before_and_after_what_ending_does() {
    for case in CASES {
        let vault = Vault::start().await;
        let minter = vault.engine(case.engine, false);
        let minted = mint(&case, &minter).await.unwrap();
        assert_eq!(minted.revocable, minter.declaration().revocable.is_some(), "{}", case.makes);
        let lease = |facts| Lease {
            id: LeaseId::parse("l-1").unwrap(),
            issued_at: now(),
            expires_at: minted.expires_at,
            revocable: minted.revocable,
            state: LeaseState::Live,
            effect: String::new(),
            facts,
        };
        let ended = minter.revoke(&lease(minted.facts.clone())).await;
        assert_eq!(ended.ended, minted.revocable, "{}", ended.effect);
        if case.engine != Engine::Pki {
            assert!(ended.effect.contains("cannot be recalled"), "{}", ended.effect);
            continue;
        }
        // It may be repeated; what is not known is said.
        assert!(minter.revoke(&lease(minted.facts.clone())).await.ended);
        let mut facts = minted.facts.clone();
        facts.insert("vault_mount".into(), "../sys".into());
        assert!(minter.revoke(&lease(facts)).await.effect.contains("is not known"));
        vault.tell("/v1/pki/revoke", Say::Json(403, json!({ "errors": ["permission denied"] })));
        vault.tell("/v1/pki/cert/0a-bc-01", Say::Json(404, json!({ "errors": [] })));
        let ended = minter.revoke(&lease(minted.facts.clone())).await;
        assert!(!ended.ended && ended.effect.contains("may not end"), "{}", ended.effect);
    }
}

#[test]
fn templates_that_could_express_more_are_refused_at_load() {
    for (case, key, value, part) in [
        (MESH, "role", json!("${service}"), "one role"),
        (MESH, "mount", json!("pki/../sys"), "one engine"),
        (MESH, "dns", json!(["*.example"]), "wildcard"),
        (MESH, "dns", json!(["fixed.example.org"]), "does not narrow"),
        (MESH, "request", json!("service"), "public-key"),
        (MESH, "usage", json!(["root"]), "unknown variant"),
        (MESH, "ttl", json!("1h"), "unknown key"),
        (HOST, "principals", json!([]), "1 to 16"),
        (HOST, "force_command", json!("/bin/run ${other}"), "names no parameter"),
        (HOST, "extensions", json!(["permit-agent-forwarding"]), "not one of"),
        (HOST, "public_key", json!("account"), "public-key"),
        (TOKEN, "key", json!("a/b"), "one name"),
        (TOKEN, "issuer", json!("ftp://x"), "http"),
        (TOKEN, "audience", json!("*"), "audience"),
        (TOKEN, "holder", json!("dataset"), "unknown key"),
    ] {
        let (mut scope, _) = asked_for(&case);
        let faults = |scope: &Scope| (case.engine.backend().faults)(scope).join("\n");
        assert_eq!(faults(&scope), "");
        scope.template.insert(key.into(), value.clone());
        assert!(faults(&scope).contains(part), "{key} = {value}: {}", faults(&scope));
    }
}

struct AuthoritySubject {
    case: Case,
    vault: Vault,
    minter: VaultMinter,
}

impl Subject for AuthoritySubject {
    fn minter(&self) -> &dyn Minter {
        &self.minter
    }
    fn scope(&self) -> Scope {
        let mut scope = asked_for(&self.case).0;
        scope.ttl.max_s = 43_200;
        scope
    }
    fn params(&self) -> Params {
        asked_for(&self.case).1
    }
    fn observed(&self, _: &Minted) -> Value {
        let asked = self.vault.calls(self.case.makes).pop().unwrap();
        let (scope, params) = asked_for(&self.case);
        let preview = self.minter.preview(&scope, &params).unwrap();
        let mut out = preview.clone();
        // What was asked of Vault, in the words of the preview.
        match self.case.engine {
            Engine::Pki => {
                out["dns"] = json!([asked["alt_names"]]);
                out["uri"] = asked["uri_sans"].clone();
            }
            Engine::Ssh => {
                out["principals"] = json!([asked["valid_principals"]]);
                out["force_command"] = asked["critical_options"]["force-command"].clone();
                out["source_address"] = json!([asked["critical_options"]["source-address"]]);
            }
            _ => {
                let input = STANDARD.decode(asked["input"].as_str().unwrap()).unwrap();
                let input = String::from_utf8(input).unwrap();
                let claims = grantwright_testkit::clouds::claims(&format!("{input}.x"));
                out["audience"] = claims["aud"].clone();
                out["issuer"] = claims["iss"].clone();
                out["params"] = claims["params"].clone();
            }
        }
        out
    }
}

#[tokio::test]
async fn conform() {
    for case in CASES {
        let vault = Vault::start().await;
        let minter = vault.engine(case.engine, false);
        let subject = AuthoritySubject { case, vault, minter };
        let held = conformance::check(&subject, now()).await;
        held.map_err(|e| format!("{}: {e}", case.makes)).unwrap();
    }
}
