//! SSH certificates as OpenSSH's own `ssh-keygen` reads them.

use std::collections::BTreeMap;
use std::process::Command;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use grantwright_domain::{LeaseId, Params, Scope};
use grantwright_mint::conformance::{self, Subject, danger_grant};
use grantwright_mint::ssh::{SshIssuer, SshPublicKey};
use grantwright_mint::{EndedLease, Minted, Minter, Publisher, SignInput, Signer};
use serde_json::{Value, json};

use crate::fixtures::{now, params, scope};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";

fn issuer() -> SshIssuer {
    let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    SshIssuer::new(key.as_ref(), "https://broker.example.org/issuers/ssh").unwrap()
}

fn login() -> Scope {
    scope(json!({
        "name": "ssh.rotate-logs",
        "title": "Rotate the logs of {service} as {account}",
        "minter": "ssh",
        "params": {
            "public_key": { "type": "public-key", "format": "ssh" },
            "account": { "type": "choice", "values": ["backup", "deploy"] },
            "service": { "type": "string", "pattern": "[a-z][a-z0-9-]{0,31}" },
        },
        "template": {
            "public_key": "public_key",
            "principals": ["${account}"],
            "force_command": "/usr/local/bin/rotate ${service} now",
            "source_address": ["127.0.0.0/8", "10.1.0.0/16"],
            "extensions": ["permit-pty"],
        },
    }))
}

fn asked(scope: &Scope) -> Params {
    params(scope, json!({ "public_key": KEY, "account": "deploy", "service": "web" }))
}

fn line(minted: &Minted) -> String {
    let json: Value = serde_json::from_slice(minted.credential.expose_json()).unwrap();
    json["ssh_certificate"].as_str().unwrap().to_owned()
}

/// What `ssh-keygen -L` says of a certificate, by its headings.
fn read(line: &str) -> BTreeMap<String, Vec<String>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cert.pub");
    std::fs::write(&path, line).unwrap();
    let said = Command::new("ssh-keygen").arg("-L").arg("-f").arg(&path).env("TZ", "UTC").output();
    let said = said.expect("ssh-keygen is needed: install openssh-client");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut heading = String::new();
    for line in String::from_utf8(said.stdout).unwrap().lines().skip(1) {
        match line.trim().split_once(": ").or_else(|| Some((line.trim().strip_suffix(':')?, ""))) {
            Some((name, value)) if !line.starts_with("                ") => {
                heading = name.trim_end_matches(':').to_owned();
                let values = out.entry(heading.clone()).or_default();
                values.extend((!value.is_empty()).then(|| value.trim().to_owned()));
            }
            _ => out.entry(heading.clone()).or_default().push(line.trim().to_owned()),
        }
    }
    out
}

struct Ssh(SshIssuer);

impl Subject for Ssh {
    fn minter(&self) -> &dyn Minter {
        &self.0
    }
    fn scope(&self) -> Scope {
        login()
    }
    fn params(&self) -> Params {
        asked(&login())
    }
    fn observed(&self, minted: &Minted) -> Value {
        let said = read(&line(minted));
        let option = |name: &str| {
            said["Critical Options"].iter().find_map(|l| l.strip_prefix(name)).unwrap().trim()
        };
        json!({
            "principals": said["Principals"],
            "force_command": option("force-command"),
            "source_address": option("source-address").split(',').collect::<Vec<_>>(),
            "extensions": said["Extensions"],
            "key": said["Public key"][0].rsplit(' ').next().unwrap(),
        })
    }
}

#[tokio::test]
async fn conforms() {
    conformance::check(&Ssh(issuer()), now()).await.unwrap();
}

#[test]
fn openssh_reads_what_was_granted_and_signs_again_alike() {
    let (issuer, scope) = (issuer(), login());
    let grant = danger_grant(&scope, &asked(&scope), &["bob", "carol"], 900, now()).unwrap();
    let minted = issuer.sign(&SignInput::granted(&grant, now())).unwrap();
    let said = read(&line(&minted));
    assert_eq!(said["Key ID"], ["\"agent=demo-agent request=r-1 approvers=bob,carol\""]);
    assert_eq!(said["Valid"], ["from 2025-12-31T23:59:00 to 2026-01-01T00:15:00"]);
    assert_eq!(said["Serial"], [minted.facts["serial"].as_str()]);
    assert!(said["Type"][0].contains("user certificate"));
    assert_eq!(minted.expires_at, now().whole_second().plus_seconds(900));
    let again = issuer.sign(&SignInput::granted(&grant, now())).unwrap();
    assert_eq!(line(&minted), line(&again), "the same input gives the same certificate");
}

#[test]
fn openssh_finds_what_ended_early_in_the_revocation_list_and_nothing_else() {
    let (issuer, scope) = (issuer(), login());
    let grant = danger_grant(&scope, &asked(&scope), &[], 900, now()).unwrap();
    let minted = issuer.sign(&SignInput::granted(&grant, now())).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (krl, cert) = (dir.path().join("krl"), dir.path().join("cert.pub"));
    std::fs::write(&cert, line(&minted)).unwrap();
    let is_revoked = |leases: &[&str]| {
        let one = |id: &&str| {
            let lease = EndedLease {
                at: now(),
                expires_at: now().plus_seconds(900),
                facts: BTreeMap::new(),
            };
            (LeaseId::parse(id).unwrap(), lease)
        };
        let ended: BTreeMap<_, _> = leases.iter().map(one).collect();
        let document = issuer.document("krl", &ended, now()).unwrap().unwrap();
        std::fs::write(&krl, document.bytes).unwrap();
        let said = Command::new("ssh-keygen").arg("-Q").arg("-f").arg(&krl).arg(&cert).output();
        let said = said.unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert_eq!(said.status.success(), text.contains(": ok"), "{text}{said:?}");
        !said.status.success()
    };
    assert!(!is_revoked(&[]), "an empty list");
    assert!(!is_revoked(&["l-2", "l-3"]), "others");
    assert!(is_revoked(&["l-1"]), "itself");
    assert!(is_revoked(&["l-0", "l-1", "l-2"]), "among others");
}

#[test]
fn a_template_that_could_say_more_is_refused_at_load() {
    let issuer = issuer();
    assert_eq!(issuer.faults(&login()), Vec::<String>::new());
    type Change = fn(&mut Scope);
    let changes: [(&str, Change); 13] = [
        ("no principal", |s| drop(s.template.insert("principals".into(), json!([])))),
        ("a wildcard", |s| drop(s.template.insert("principals".into(), json!(["${account}*"])))),
        ("two in one", |s| {
            drop(s.template.insert("principals".into(), json!(["${account},root"])))
        }),
        ("unbound", |s| {
            drop(s.template.insert("principals".into(), json!(["${account}", "root"])))
        }),
        ("a slot that is the key", |s| {
            s.template.insert("principals".into(), json!(["${account}", "${public_key}"]));
        }),
        ("a shell variable", |s| {
            s.template.insert("force_command".into(), json!("run $HOME ${service}"));
        }),
        ("an option", |s| {
            let text = json!({ "type": "string", "pattern": "[a-z-]+" });
            s.params.insert("service".into(), serde_json::from_value(text).unwrap());
        }),
        ("host bits", |s| drop(s.template.insert("source_address".into(), json!(["10.0.0.1/8"])))),
        ("no block", |s| drop(s.template.insert("source_address".into(), json!(["10.0.0.1"])))),
        ("agent forwarding", |s| {
            s.template.insert("extensions".into(), json!(["permit-agent-forwarding"]));
        }),
        ("an unknown key", |s| drop(s.template.insert("valid_for".into(), json!("1h")))),
        ("another kind of key", |s| {
            let text = json!({ "type": "public-key", "format": "jkt" });
            s.params.insert("public_key".into(), serde_json::from_value(text).unwrap());
        }),
        ("too long a life", |s| s.ttl.max_s = 43_201),
    ];
    for (why, change) in changes {
        let mut scope = login();
        change(&mut scope);
        assert!(!issuer.faults(&scope).is_empty(), "{why}");
    }
}

#[test]
fn no_value_becomes_a_character_of_the_shell() {
    let (issuer, mut scope) = (issuer(), login());
    let text = json!({ "type": "string", "pattern": "[a-z;&|<>()`'!#~]+" });
    scope.params.insert("service".into(), serde_json::from_value(text).unwrap());
    for c in ";&|<>()`'!#~".chars() {
        let mut asked = asked(&scope);
        let value = grantwright_domain::ParamValue::Text(format!("a{c}b"));
        asked.insert("service".into(), value);
        assert_eq!(issuer.preview(&scope, &asked).map_err(|e| e.code()), Err("bad_parameter"));
    }
}

#[test]
fn a_key_of_another_form_is_refused_before_anybody_is_asked() {
    let (issuer, scope) = (issuer(), login());
    assert_eq!(SshPublicKey::parse(KEY).unwrap().algorithm(), "ssh-ed25519");
    let cut = format!("{}A", &KEY[..KEY.len() - 1]);
    for key in [
        KEY.replace("ssh-ed25519 ", "ssh-rsa "),
        KEY.replace("AAAAC3NzaC1lZDI1NTE5", "AAAAC3NzaC1lZDI1NTE6"),
        KEY.replace("AAAAIN", "AAAAHN"),
        format!("{KEY} me@host"),
    ] {
        assert!(SshPublicKey::parse(&key).is_none(), "{key}");
        let mut asked = asked(&scope);
        asked.insert("public_key".into(), grantwright_domain::ParamValue::Text(key.clone()));
        assert_eq!(
            issuer.preview(&scope, &asked).map_err(|e| e.code()),
            Err("bad_parameter"),
            "{key}"
        );
    }
    assert!(SshPublicKey::parse(&cut).is_some(), "any 32 bytes are a key's");
}
