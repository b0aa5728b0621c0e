//! X.509 certificates as `openssl verify` and a rustls server take them, and refuse them when they
//! ended early.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_domain::{LeaseId, Params, Scope};
use grantwright_mint::conformance::{self, Subject, danger_grant};
use grantwright_mint::x509::X509Issuer;
use grantwright_mint::{EndedLease, Minted, Minter, Publisher, SignInput, Signer};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use serde_json::{Value, json};

use crate::fixtures::{params, scope};

/// The time as TLS libraries see it: they take no other.
fn now() -> grantwright_domain::Timestamp {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    grantwright_domain::Timestamp::from_millis(since.as_millis().try_into().unwrap())
}

fn issuer() -> X509Issuer {
    let (key, ca) = X509Issuer::authority("Test authority", now()).unwrap();
    X509Issuer::new(&key, &ca, "http://localhost/issuers/x509").unwrap()
}

fn mesh() -> Scope {
    scope(json!({
        "name": "mesh.call",
        "title": "Call as {service}",
        "minter": "x509",
        "params": {
            "csr": { "type": "public-key", "format": "csr" },
            "service": { "type": "string", "pattern": "[a-z][a-z0-9-]{0,31}" },
        },
        "template": {
            "request": "csr",
            "dns": ["${service}.internal.example"],
            "uri": ["spiffe://example.org/svc/${service}"],
            "usage": ["client", "server"],
        },
    }))
}

/// A request that asks for more than anybody gets: only its key counts.
fn csr(key: &KeyPair) -> String {
    let mut asked = CertificateParams::new(vec!["root.internal.example".into()]).unwrap();
    asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    asked.distinguished_name.push(rcgen::DnType::CommonName, "root");
    STANDARD.encode(asked.serialize_request(key).unwrap().der())
}

fn asked(key: &KeyPair) -> Params {
    params(&mesh(), json!({ "csr": csr(key), "service": "billing" }))
}

fn members(minted: &Minted) -> (String, String) {
    let json: Value = serde_json::from_slice(minted.credential.expose_json()).unwrap();
    let text = |name: &str| json[name].as_str().unwrap().to_owned();
    (text("certificate"), text("ca"))
}

struct X509(X509Issuer, KeyPair);

impl Subject for X509 {
    fn minter(&self) -> &dyn Minter {
        &self.0
    }
    fn scope(&self) -> Scope {
        mesh()
    }
    fn params(&self) -> Params {
        asked(&self.1)
    }
    fn observed(&self, minted: &Minted) -> Value {
        use x509_parser::prelude::GeneralName;
        let (pem, _) = members(minted);
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let cert = pem.parse_x509().unwrap();
        let names = cert.subject_alternative_name().unwrap().unwrap();
        let (mut dns, mut uri) = (Vec::new(), Vec::new());
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => dns.push(*name),
                GeneralName::URI(name) => uri.push(*name),
                other => panic!("a name nobody asked for: {other}"),
            }
        }
        assert!(!cert.is_ca());
        let usage = cert.extended_key_usage().unwrap().unwrap().value;
        let usages = [("client", usage.client_auth), ("server", usage.server_auth)];
        let spki = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, cert.public_key().raw);
        json!({
            "dns": dns,
            "uri": uri,
            "usage": usages.iter().filter(|u| u.1).map(|u| u.0).collect::<Vec<_>>(),
            "key": format!("SHA256:{}", STANDARD.encode(spki).trim_end_matches('=')),
        })
    }
}

#[tokio::test]
async fn conforms() {
    for kind in
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
    {
        let key = KeyPair::generate_for(kind).unwrap();
        conformance::check(&X509(issuer(), key), now()).await.unwrap();
    }
}

fn minted(issuer: &X509Issuer, key: &KeyPair) -> Minted {
    let scope = mesh();
    let grant = danger_grant(&scope, &asked(key), &["bob"], 900, now()).unwrap();
    issuer.sign(&SignInput::granted(&grant, now())).unwrap()
}

fn document(issuer: &X509Issuer, name: &str, leases: &[&str]) -> Vec<u8> {
    let one = |id: &&str| {
        let lease =
            EndedLease { at: now(), expires_at: now().plus_seconds(900), facts: BTreeMap::new() };
        (LeaseId::parse(id).unwrap(), lease)
    };
    issuer.document(name, &leases.iter().map(one).collect(), now()).unwrap().unwrap().bytes
}

#[test]
fn openssl_takes_it_until_the_list_names_it() {
    let (issuer, key) = (issuer(), KeyPair::generate().unwrap());
    let (certificate, ca) = members(&minted(&issuer, &key));
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let (leaf, roots) = (file("leaf.pem", certificate.as_bytes()), file("ca.pem", ca.as_bytes()));
    let verify = |leases: &[&str]| {
        let list = file("crl.pem", &document(&issuer, "crl.pem", leases));
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-crl_check", "-purpose", "sslclient", "-CAfile"]).arg(&roots);
        let said =
            openssl.arg("-CRLfile").arg(list).arg(&leaf).output().expect("openssl is needed");
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        (said.status.success(), text)
    };
    assert_eq!(verify(&[]), (true, String::new()), "an empty list");
    assert_eq!(verify(&["l-2", "l-3"]), (true, String::new()), "others");
    let (ok, said) = verify(&["l-0", "l-1"]);
    assert!(!ok && said.contains("certificate revoked"), "{said}");
}

/// A client with this certificate calls a server that reads this list.
fn handshake(
    issuer: &X509Issuer,
    key: &KeyPair,
    leaf: &str,
    ca: &str,
    ended: &[&str],
) -> Result<(), String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let private = || PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(der(ca)).unwrap();
    let roots = Arc::new(roots);
    let list = CertificateRevocationListDer::from(document(issuer, "crl", ended));
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider.clone())
            .with_crls([list])
            .build()
            .map_err(|e| e.to_string())?;
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![der(leaf)], private())
        .map_err(|e| e.to_string())?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![der(leaf)], private())
        .map_err(|e| e.to_string())?;
    let name = ServerName::try_from("billing.internal.example").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).map_err(|e| e.to_string())?;
    let mut server = ServerConnection::new(Arc::new(server)).map_err(|e| e.to_string())?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|e| e.to_string())?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(|e| e.to_string())?;
    }
    client.writer().write_all(b"hello").unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    server.read_tls(&mut wire.as_slice()).unwrap();
    server.process_new_packets().map_err(|e| e.to_string())?;
    let mut said = [0; 5];
    server.reader().read_exact(&mut said).map_err(|e| e.to_string())?;
    assert_eq!(&said, b"hello");
    Ok(())
}

#[test]
fn a_rustls_server_takes_it_until_the_list_names_it() {
    for kind in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
        let (issuer, key) = (issuer(), KeyPair::generate_for(kind).unwrap());
        let (leaf, ca) = members(&minted(&issuer, &key));
        handshake(&issuer, &key, &leaf, &ca, &["l-2"]).unwrap();
        let refused = handshake(&issuer, &key, &leaf, &ca, &["l-1", "l-2"]).unwrap_err();
        assert!(refused.contains("Revoked"), "{refused}");
    }
}

#[test]
fn a_template_that_could_say_more_is_refused_at_load() {
    let issuer = issuer();
    assert_eq!(issuer.faults(&mesh()), Vec::<String>::new());
    for (why, key, value) in [
        ("no name", "dns", json!([])),
        ("a wildcard", "dns", json!(["*.${service}.internal.example"])),
        ("unbound", "dns", json!(["${service}.internal.example", "root.internal.example"])),
        ("the domain is the asker's", "dns", json!(["internal.${service}"])),
        ("glued", "dns", json!(["${service}internal.example"])),
        ("the authority is the asker's", "uri", json!(["https://${service}/x"])),
        ("no path", "uri", json!(["spiffe://${service}"])),
        ("no usage", "usage", json!([])),
        ("another usage", "usage", json!(["code-signing"])),
        ("another parameter", "request", json!("service")),
        ("an unknown key", "is_ca", json!(true)),
    ] {
        let mut scope = mesh();
        scope.template.insert(key.into(), value);
        if why == "no name" {
            scope.template.remove("uri");
        }
        assert!(!issuer.faults(&scope).is_empty(), "{why}");
    }
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let (issuer, key) = (issuer(), KeyPair::generate().unwrap());
    let good = csr(&key);
    let with = |csr: &str| params(&mesh(), json!({ "csr": csr, "service": "billing" }));
    let der = STANDARD.decode(&good).unwrap();
    let middle = der.len() / 2;
    for flip in [middle, der.len() - 3] {
        let mut altered = der.clone();
        altered[flip] ^= 1;
        let altered = with(&STANDARD.encode(altered));
        // That another was good says nothing of it.
        issuer.preview(&mesh(), &with(&good)).unwrap();
        let refused = issuer.preview(&mesh(), &altered).map_err(|e| e.code());
        assert_eq!(refused, Err("bad_parameter"), "byte {flip}");
        let mesh = mesh();
        let grant = danger_grant(&mesh, &altered, &["bob"], 900, now()).unwrap();
        let refused = issuer.sign(&SignInput::granted(&grant, now()));
        assert_eq!(refused.err().map(|e| e.code()), Some("bad_parameter"), "byte {flip}");
    }
}

/// Its signature is checked once where it can be, and whether it was is not seen.
#[test]
fn a_request_is_signed_alike_whether_it_was_looked_at_or_not() {
    let (issuer, key) = (issuer(), KeyPair::generate().unwrap());
    let asked = asked(&key);
    let mesh = mesh();
    let signed = || {
        let grant = danger_grant(&mesh, &asked, &["bob"], 900, now()).unwrap();
        let minted = issuer.sign(&SignInput::granted(&grant, now())).unwrap();
        minted.facts["key"].clone()
    };
    let unseen = signed();
    issuer.preview(&mesh, &asked).unwrap();
    assert_eq!([signed(), signed()], [unseen.clone(), unseen]);
}
