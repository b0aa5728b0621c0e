//! Whatever the parameters: what a built-in certificate says is within what its scope's template can say.
//! Templates, types and values are drawn, hostile ones among them; certificates are read by readers that
//! are not the issuers'.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_domain::param::check_all;
use grantwright_domain::{Params, Scope};
use grantwright_mint::conformance::danger_grant;
use grantwright_mint::ssh::SshIssuer;
use grantwright_mint::x509::X509Issuer;
use grantwright_mint::{Minted, Minter, SignInput, Signer};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::fixtures::now;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
static SSH: LazyLock<SshIssuer> = LazyLock::new(|| {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    SshIssuer::new(key.as_ref(), "https://broker.example.org/issuers/ssh").unwrap()
});
static X509: LazyLock<X509Issuer> = LazyLock::new(|| {
    let (key, ca) = X509Issuer::authority("test", now()).unwrap();
    X509Issuer::new(&key, &ca, "https://broker.example.org/issuers/x509").unwrap()
});
static OWN: LazyLock<(KeyPair, String)> = LazyLock::new(|| {
    let key = KeyPair::generate().unwrap();
    let der = CertificateParams::default().serialize_request(&key).unwrap();
    let csr = STANDARD.encode(der.der());
    (key, csr)
});

/// Types of parameters, some of which no slot should take.
fn kind() -> impl Strategy<Value = Value> {
    select(vec![
        json!({ "type": "string", "pattern": "[a-z][a-z0-9-]{0,31}" }),
        json!({ "type": "string", "pattern": "[A-Za-z0-9._@-]{1,16}" }),
        json!({ "type": "string", "pattern": "[ -~]{1,40}" }),
        json!({ "type": "string", "pattern": ".+" }),
        json!({ "type": "choice", "values": ["deploy", "backup"] }),
        json!({ "type": "choice", "values": ["deploy", "*", "a b", "a,root", "-x"] }),
        json!({ "type": "integer", "min": -5, "max": 100_000 }),
        json!({ "type": "s3-prefix" }),
        json!({ "type": "boolean" }),
    ])
}

/// Values, good and hostile.
fn value() -> impl Strategy<Value = Value> {
    let texts = select(vec![
        "deploy",
        "backup",
        "web",
        "root",
        "*",
        "a,root",
        "a b",
        "-x",
        "--",
        "x;id",
        "$(id)",
        "a\nb",
        "a/../b",
        "public/",
        "${account}",
        "a.b",
        "",
        ".",
        "a@b",
        "*.example.org",
        "x#y",
        "\u{202e}a",
        "a.internal.example",
        "b\"",
        "c'",
        "d\\",
    ]);
    prop_oneof![
        texts.prop_map(Value::from),
        "[a-z][a-z0-9-]{0,12}".prop_map(Value::from),
        "[ -~]{0,24}".prop_map(Value::from),
        (-9i64..200_000).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
    ]
}

/// Two parameters: the type and the value of each.
pub type Given = [(Value, Value); 2];

/// Draws them.
pub fn given() -> impl Strategy<Value = Given> {
    [(kind(), value()), (kind(), value())]
}

/// The scope and its parameters, where the scope loads and the parameters are of their types.
fn asked(
    given: &Given,
    key: (&str, &str, &str),
    minter: &dyn Minter,
    template: &Value,
) -> Option<(Scope, Params)> {
    let [(first, a), (second, b)] = given;
    let (name, format, text) = key;
    let scope = serde_json::from_value(json!({
        "name": "own.use", "title": "Use it", "minter": "own",
        "params": { "a": first, "b": second, name: { "type": "public-key", "format": format } },
        "template": template,
    }));
    let scope: Scope = scope.ok()?;
    let params = check_all(&scope.params, &json!({ "a": a, "b": b, name: text })).ok()?;
    minter.faults(&scope).is_empty().then_some((scope, params))
}

fn signed(signer: &dyn Signer, scope: &Scope, params: &Params) -> Option<Minted> {
    let grant = danger_grant(scope, params, &["bob"], 600, now()).unwrap();
    signer.sign(&SignInput::granted(&grant, now())).ok()
}

/// What a text of the template says for these parameters, by plain replacement.
pub fn said(text: &str, params: &Params) -> String {
    ["a", "b"]
        .into_iter()
        .filter(|name| params.contains_key(*name))
        .fold(text.to_owned(), |text, name| {
            text.replace(&format!("${{{name}}}"), &params[name].text())
        })
}

/// A value can stand in a name without meaning more than itself.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-@:/".contains(c))
        && !text.contains("..")
}

/// A reader of OpenSSH certificates (PROTOCOL.certkeys).
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }
    fn number(&mut self, bytes: usize) -> u64 {
        self.bytes(bytes).iter().fold(0, |n, b| n << 8 | u64::from(*b))
    }
    fn string(&mut self) -> &'a [u8] {
        let length = usize::try_from(self.number(4)).unwrap();
        self.bytes(length)
    }
    fn text(&mut self) -> String {
        String::from_utf8(self.string().to_vec()).unwrap()
    }
    fn pairs(&mut self) -> Vec<(String, String)> {
        let mut list = Reader(self.string());
        let mut out = Vec::new();
        while !list.0.is_empty() {
            let name = list.text();
            let mut inner = Reader(list.string());
            out.push((name, if inner.0.is_empty() { String::new() } else { inner.text() }));
        }
        out
    }
}

fn member(minted: &Minted, name: &str) -> String {
    let json: Value = serde_json::from_slice(minted.credential.expose_json()).unwrap();
    json[name].as_str().unwrap().to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariant_05_an_ssh_certificate_is_within_its_template(
        given in given(),
        principals in subsequence(
            vec!["${a}", "${b}", "${a}-${b}", "x-${a}", "root", "${a}.${b}@host"], 1..3),
        command in prop::option::of(select(vec![
            "/bin/run", "/bin/run ${a}", "/bin/run --to=${b}", "/bin/run x${a} ${b}", "${a}",
        ])),
        sources in subsequence(vec!["10.0.0.0/8", "127.0.0.1/32", "2001:db8::/32", "10.1.1.1/8"], 0..3),
        extensions in subsequence(
            vec!["permit-pty", "permit-port-forwarding", "permit-user-rc", "permit-agent-forwarding"], 0..3),
    ) {
        let mut template = json!({
            "public_key": "key", "principals": principals, "source_address": sources,
            "extensions": extensions,
        });
        if let Some(command) = command {
            template["force_command"] = json!(command);
        }
        let Some((scope, params)) = asked(&given, ("key", "ssh", KEY), &*SSH, &template) else {
            return Ok(());
        };
        let Some(minted) = signed(&*SSH, &scope, &params) else { return Ok(()) };
        let line = member(&minted, "ssh_certificate");
        let blob = STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap();
        let mut read = Reader(&blob);
        prop_assert_eq!(read.text(), "ssh-ed25519-cert-v01@openssh.com");
        read.string();
        let key = STANDARD.decode(KEY.split(' ').nth(1).unwrap()).unwrap();
        prop_assert_eq!(read.string(), &key[key.len() - 32..]);
        read.number(8);
        prop_assert_eq!(read.number(4), 1, "for users");
        read.text();
        let mut names = Reader(read.string());
        let mut got = BTreeSet::new();
        while !names.0.is_empty() {
            got.insert(names.text());
        }
        let wanted: BTreeSet<String> = principals.iter().map(|p| said(p, &params)).collect();
        prop_assert_eq!(&got, &wanted);
        prop_assert!(!got.is_empty() && got.iter().all(|name| is_plain(name) && !name.contains('/')));
        let (from, to) = (read.number(8), read.number(8));
        let begins = now().seconds().unsigned_abs();
        prop_assert!(from <= begins && to <= begins + 600);
        let mut options = Vec::new();
        if let Some(command) = command {
            options.push(("force-command".to_owned(), said(command, &params)));
            // One value stays one word, and no option where the template has none.
            let words = |text: &str| text.split(' ').count();
            let filled = said(command, &params);
            prop_assert_eq!(words(&filled), words(command));
            prop_assert!(!filled.split(' ').skip(1).any(|word| word.starts_with('-'))
                || command.contains(" --to="));
            prop_assert!(filled.chars().all(|c| c.is_ascii_graphic() || c == ' '));
            prop_assert!(!filled.contains([';', '$', '`', '|', '&', '<', '>', '"', '\'', '\\', '*', '?']));
        }
        if !sources.is_empty() {
            options.push(("source-address".to_owned(), sources.join(",")));
        }
        prop_assert_eq!(read.pairs(), options);
        let got: Vec<String> = read.pairs().into_iter().map(|(name, _)| name).collect();
        let mut wanted: Vec<&str> = extensions.clone();
        wanted.sort_unstable();
        prop_assert_eq!(&got, &wanted);
        prop_assert!(!got.iter().any(|e| e == "permit-agent-forwarding"));
    }

    #[test]
    fn invariant_05_an_x509_certificate_is_within_its_template(
        given in given(),
        dns in subsequence(vec![
            "${a}.internal.example", "${b}.${a}.internal.example", "fixed.internal.example", "*.example",
            "${a}", "internal.${a}",
        ], 0..3),
        uri in subsequence(vec![
            "spiffe://example.org/svc/${a}", "spiffe://example.org/${a}/${b}", "https://${a}/x", "spiffe://*/x",
        ], 0..3),
        usage in subsequence(vec!["client", "server"], 0..=2),
    ) {
        let template = json!({ "request": "csr", "dns": dns, "uri": uri, "usage": usage });
        let (own, csr) = &*OWN;
        let Some((scope, params)) = asked(&given, ("csr", "csr", csr), &*X509, &template) else {
            return Ok(());
        };
        let Some(minted) = signed(&*X509, &scope, &params) else { return Ok(()) };
        let der = CertificateDer::from_pem_slice(member(&minted, "certificate").as_bytes()).unwrap();
        let (_, read) = X509Certificate::from_der(&der).unwrap();
        prop_assert_eq!(read.public_key().raw, own.subject_public_key_info());
        prop_assert!(!read.is_ca());
        let begins = now().seconds();
        let validity = read.validity();
        prop_assert!(validity.not_before.timestamp() <= begins);
        prop_assert!(validity.not_after.timestamp() <= begins + 600);
        let wanted = |texts: &[&str]| -> BTreeSet<String> {
            texts.iter().map(|text| said(text, &params)).collect()
        };
        let (mut got_dns, mut got_uri) = (BTreeSet::new(), BTreeSet::new());
        let names = read.subject_alternative_name().unwrap().unwrap();
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => got_dns.insert((*name).to_owned()),
                GeneralName::URI(name) => got_uri.insert((*name).to_owned()),
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
        }
        prop_assert_eq!(&got_dns, &wanted(&dns));
        prop_assert_eq!(&got_uri, &wanted(&uri));
        // In the domain and at the authority that the template names, and nothing that is a pattern.
        prop_assert!(got_dns.iter().all(|n| n.ends_with(".internal.example") && is_plain(n)));
        prop_assert!(got_uri.iter().all(|n| n.starts_with("spiffe://example.org/") && is_plain(n)));
        let usages = read.extended_key_usage().unwrap().unwrap().value;
        prop_assert_eq!(usages.client_auth, usage.contains(&"client"));
        prop_assert_eq!(usages.server_auth, usage.contains(&"server"));
        prop_assert!(!usages.any && !usages.code_signing && usages.other.is_empty());
        let common: Vec<&str> = read.subject().iter_common_name().map(|n| n.as_str().unwrap()).collect();
        prop_assert_eq!(common, ["demo-agent"], "the subject is the agent");
    }
}

/// The properties see certificates: of what is drawn, some are issued.
#[test]
fn what_is_drawn_is_issued_now_and_then() {
    let given = [
        (json!({ "type": "string", "pattern": "[a-z]{1,9}" }), json!("web")),
        (json!({ "type": "choice", "values": ["x", "y"] }), json!("x")),
    ];
    let ssh = json!({ "public_key": "key", "principals": ["${a}-${b}"] });
    let (scope, params) = asked(&given, ("key", "ssh", KEY), &*SSH, &ssh).unwrap();
    assert!(signed(&*SSH, &scope, &params).is_some());
    let x509 = json!({ "request": "csr", "dns": ["${b}.${a}.internal.example"] });
    let (scope, params) = asked(&given, ("csr", "csr", &OWN.1), &*X509, &x509).unwrap();
    assert!(signed(&*X509, &scope, &params).is_some());
}
