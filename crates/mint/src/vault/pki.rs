//! The PKI engine: an X.509 certificate of Vault's authority, for the key of who asked (`sign`) or, where the
//! template names no request, for one that Vault makes (`issue`).
//!
//! ```toml
//! [template]
//! mount = "pki"
//! role = "mesh"
//! request = "csr"                              # optional; and the rest as of the built-in issuer
//! dns = ["${service}.internal.example"]
//! ```
//!
//! What a role adds by itself is refused before anything is signed; what comes back is read, and must say
//! what was asked and nothing more, else it is revoked at once. Certificates are revoked by serial number.
//! Where the role admits it (`allowed_serial_numbers`), the subject's `serialNumber` names the lease: by that a
//! certificate whose answer was lost, or that a crash left, is found among those that Vault keeps.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use grantwright_credential::{Credential, Kind};
use grantwright_domain::param::KeyFormat;
use grantwright_domain::request::Lease;
use grantwright_domain::{Grant, LeaseId, Params, Scope, Timestamp};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_SERIALNUMBER;
use x509_parser::prelude::{AttributeTypeAndValue, FromDer as _, X509Certificate};

use super::VaultMinter;
use super::client::{Call, Connection, Envelope, Fault, is_path};
use super::lease::told;
use super::role::Bounded;
use super::ssh::with_role;
use super::token::LOOKS_AT_ONCE;
use crate::call::{wider, within};
use crate::template::{bad_template, holder_faults};
use crate::x509::{Names, Usage, faults_of, key_id, requested};
use crate::{Backend, Declaration, Ended, MintError, Minted};

/// Most certificates that are looked at to find one.
const MOST_CERTIFICATES: usize = 10_000;

/// What Vault's PKI engine can do.
pub(super) const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "vault-pki",
        credential: Kind::X509,
        ttl_floor_s: 1,
        ttl_ceiling_s: 43_200,
        revocable: Some(
            "Vault revokes its serial number, which is seen there and enters the revocation list; a \
             server that reads the list refuses it from its next read on",
        ),
        measured: "yes: Vault shows the certificate as revoked after; that a server has read the list is not seen",
        renewable: false,
        narrowing: "names (DNS, URI) with typed parameters in their slots and client or server use, \
                    within the role at Vault that the template names",
        stamps: &["the subject's `serialNumber`, where the role admits one: the lease"],
    },
    faults: |scope| {
        let (mut out, rest) = Bounded::faults(scope);
        out.extend(faults_of(&rest, scope));
        if rest.contains_key("request") {
            out.extend(holder_faults(scope, "request", KeyFormat::Csr));
        }
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

struct Asked {
    bounded: Bounded,
    names: Names,
    /// The request, base64 of DER, and its public key; none: Vault makes the key.
    request: Option<(String, Vec<u8>)>,
    /// What the subject's `serialNumber` says; none: the role admits none.
    stamp: Option<String>,
}

impl Asked {
    fn compile(scope: &Scope, params: &Params) -> Result<Self, MintError> {
        let bounded = Bounded::of(scope)?;
        let names = Names::of(&bounded.rest, scope, params)?;
        // Vault reads lists with commas.
        if names.uri.iter().any(|uri| uri.contains(',')) {
            return Err(MintError::refused(
                "bad_parameter",
                "these parameters make a name with a comma, which Vault would read as two",
                "a URI with a comma",
            ));
        }
        let request = match bounded.rest.get("request") {
            None => None,
            Some(_) => {
                let key = requested(scope, params)?.subject_public_key_info();
                Some((crate::signing::holder(scope, params, "request")?.to_owned(), key))
            }
        };
        Ok(Self { bounded, names, request, stamp: None })
    }

    fn preview(&self) -> Value {
        let mut out = with_role(&self.bounded, self.names.preview());
        if let (Some((_, key)), Value::Object(members)) = (&self.request, &mut out) {
            members.insert("key".into(), key_id(key).into());
        }
        out
    }

    /// The common name: the first host, which stands among the names as well.
    fn common_name(&self) -> &str {
        self.names.dns.first().map(String::as_str).unwrap_or_default()
    }
}

impl VaultMinter {
    pub(super) async fn mint_certificate(
        &self,
        grant: Grant,
        now: Timestamp,
    ) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let mut asked = Asked::compile(grant.scope(), grant.params())?;
        let path = format!("{}/roles/{}", asked.bounded.mount, asked.bounded.role);
        let found = self.look(|| Call::get(path.as_str())).await?;
        check_role(&found, &asked).map_err(bad_template)?;
        let lease = grant.lease().as_str();
        asked.stamp = admits(&found, lease).then(|| lease.to_owned());
        let Bounded { mount, role, .. } = &asked.bounded;
        let mut body = json!({
            "common_name": asked.common_name(),
            "alt_names": asked.names.dns.join(","),
            "uri_sans": asked.names.uri,
            "exclude_cn_from_sans": true,
            "ttl": format!("{}s", grant.ttl_s()),
            "format": "pem",
        });
        if let (Some(stamp), Value::Object(members)) = (&asked.stamp, &mut body) {
            members.insert("serial_number".into(), stamp.as_str().into());
        }
        let mut verb = "issue";
        if let (Some((request, _)), Value::Object(members)) = (&asked.request, &mut body) {
            members.insert("csr".into(), pem("CERTIFICATE REQUEST", request).into());
            verb = "sign";
        } else if let Value::Object(members) = &mut body {
            members.insert("private_key_format".into(), "pkcs8".into());
        }
        let path = format!("{mount}/{verb}/{role}");
        let answer = match self.make(&path, Call::post(&path, body)).await {
            Ok(answer) => answer,
            Err(fault) => return Err(self.lost_certificate(fault, &asked).await),
        };
        if answer.text("certificate").is_empty() {
            return Err(MintError::unknown("the answer holds no certificate"));
        }
        match self.certificate_of(&answer, &asked, &grant, now) {
            Ok(minted) => Ok(minted),
            Err((serial, reason)) if serial.is_empty() => {
                Err(MintError::unknown(format!("{reason}; it has no serial number to revoke")))
            }
            Err((serial, reason)) => {
                let ended = self.end_certificate(mount, &serial, "it ends by itself").await;
                Err(match ended.ended {
                    true => wider(reason),
                    false => MintError::unknown(format!("{reason}; {}", ended.effect)),
                })
            }
        }
    }

    /// An error names the serial number to revoke, where it has one, and what is wrong.
    fn certificate_of(
        &self,
        answer: &Envelope,
        asked: &Asked,
        grant: &Grant,
        now: Timestamp,
    ) -> Result<Minted, (String, String)> {
        let told = answer.text("serial_number");
        let told = if is_serial(told) { told.to_owned() } else { String::new() };
        let text = answer.text("certificate");
        let no = |why: &str| (told.clone(), why.to_owned());
        let der = CertificateDer::from_pem_slice(text.as_bytes())
            .map_err(|_| no("its certificate does not parse"))?;
        let (rest, read) =
            X509Certificate::from_der(&der).map_err(|_| no("its certificate does not parse"))?;
        let serial = colons(read.raw_serial());
        let wrong = |why: String| (serial.clone(), why);
        if !rest.is_empty() || told != serial {
            return Err(wrong(format!("its serial number is {serial}, and told is another")));
        }
        let spki = read.public_key().raw;
        let private = answer.text("private_key");
        let fits = match &asked.request {
            Some((_, key)) => key == spki && private.is_empty(),
            None => KeyPair::from_pem(private).is_ok_and(|k| k.subject_public_key_info() == spki),
        };
        if !fits {
            return Err(wrong("it is for another key".into()));
        }
        names_fit(&read, asked).map_err(wrong)?;
        let validity = read.validity();
        let arrival = self.clock.now();
        if validity.not_before.timestamp() > arrival.seconds() + crate::call::CLOCK_BOUND_S {
            return Err(wrong("it begins later than now".into()));
        }
        let ends = validity.not_after.timestamp().clamp(0, i64::MAX / 2000);
        let expires_at = within(Timestamp::from_millis(ends * 1000), grant.ttl_s(), now, arrival)
            .map_err(wrong)?;
        let authority = match answer.data.get("ca_chain").and_then(Value::as_array) {
            Some(chain) if !chain.is_empty() => {
                chain.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
            }
            _ => answer.text("issuing_ca").to_owned(),
        };
        let mut credential = Credential::x509(text, &authority);
        if asked.request.is_none() {
            credential = credential.with_private_key(private);
        }
        let facts = BTreeMap::from([
            ("key".to_owned(), key_id(spki)),
            ("serial".to_owned(), serial.clone()),
            ("vault_mount".to_owned(), asked.bounded.mount.clone()),
            asked.bounded.fact(),
        ]);
        Ok(Minted { credential, expires_at, revocable: true, facts })
    }

    /// The serial number of the certificate whose subject names this, where the broker may list and read.
    async fn find_certificate(&self, mount: &str, stamp: &str) -> Result<Option<String>, Fault> {
        let listed = match self.call(Connection::Kept, Call::list(format!("{mount}/certs"))).await {
            // Vault keeps none.
            Err(Fault::Answered { status: 404, .. }) => return Ok(None),
            listed => listed?,
        };
        let serials = listed.data.get("keys").and_then(Value::as_array);
        let serials = serials.map(Vec::as_slice).unwrap_or_default();
        let looks = serials.iter().take(MOST_CERTIFICATES).filter_map(Value::as_str);
        let looks: Vec<String> = looks.map(|serial| serial.replace('-', ":")).collect();
        let looks = looks.into_iter().map(|serial| self.is_stamped(mount, serial, stamp));
        let mut looks = stream::iter(looks).buffer_unordered(LOOKS_AT_ONCE);
        while let Some(found) = looks.next().await {
            if let Some(serial) = found? {
                return Ok(Some(serial));
            }
        }
        match serials.len() {
            0..=MOST_CERTIFICATES => Ok(None),
            more => Err(Fault::NeverSent(format!("{more} certificates are too many to look at"))),
        }
    }

    /// The serial number again, if its certificate's subject names this.
    async fn is_stamped(
        &self,
        mount: &str,
        serial: String,
        stamp: &str,
    ) -> Result<Option<String>, Fault> {
        if !is_serial(&serial) {
            return Ok(None);
        }
        let call = Call::get(format!("{mount}/cert/{}", serial.replace(':', "-")));
        let found = match self.call(Connection::Kept, call).await {
            // Tidied up meanwhile.
            Err(Fault::Answered { status: 404, .. }) => return Ok(None),
            found => found?,
        };
        let text = found.text("certificate").as_bytes();
        let Ok(der) = CertificateDer::from_pem_slice(text) else { return Ok(None) };
        let Ok((_, read)) = X509Certificate::from_der(&der) else { return Ok(None) };
        Ok((stamps(&read) == [stamp]).then_some(serial))
    }

    /// What a lost answer comes to: the certificate may be there, or come to be while it is looked for.
    async fn lost_certificate(&self, fault: Fault, asked: &Asked) -> MintError {
        let Some(stamp) = asked.stamp.as_ref().filter(|_| !fault.is_definite()) else {
            return fault.into_mint_error();
        };
        let mount = &asked.bounded.mount;
        let Some(serial) = self.find_certificate(mount, stamp).await.ok().flatten() else {
            return fault.into_mint_error();
        };
        let ended = self.end_certificate(mount, &serial, "it ends by itself").await;
        match ended.ended {
            true => MintError::refused(
                "backend_away",
                "Vault's answer was lost; the certificate it had made was found and revoked",
                fault.to_string(),
            ),
            false => MintError::unknown(format!("{fault}; {}", ended.effect)),
        }
    }

    /// Ends the certificate of a mint whose outcome was never recorded. `None`: its role admits no stamp, or the
    /// broker may not look for it.
    pub(super) async fn undo_certificate(&self, lease: &LeaseId, scope: &Scope) -> Option<Ended> {
        let Bounded { mount, role, .. } = Bounded::of(scope).ok()?;
        let found = self.look(|| Call::get(format!("{mount}/roles/{role}"))).await.ok()?;
        if !admits(&found, lease.as_str()) {
            return None;
        }
        match self.find_certificate(&mount, lease.as_str()).await.ok()? {
            Some(serial) => Some(self.end_certificate(&mount, &serial, "it ends by itself").await),
            None => {
                let effect = "Vault has no certificate of it".to_owned();
                Some(Ended { ended: true, effect })
            }
        }
    }

    /// Ends the certificate of a lease.
    pub(super) async fn end_pki(&self, lease: &Lease, otherwise: &str) -> Ended {
        let fact = |name: &str| lease.facts.get(name).map(String::as_str).unwrap_or_default();
        let (mount, serial) = (fact("vault_mount"), fact("serial"));
        if !is_path(mount) || !is_serial(serial) {
            let effect = format!("not ended: its serial number at Vault is not known; {otherwise}");
            return Ended { ended: false, effect };
        }
        self.end_certificate(mount, serial, otherwise).await
    }

    /// Revokes by serial number, and looks that Vault says so of the certificate.
    async fn end_certificate(&self, mount: &str, serial: &str, otherwise: &str) -> Ended {
        let call = Call::post(format!("{mount}/revoke"), json!({ "serial_number": serial }));
        let revoked = self.call(Connection::Kept, call).await;
        let call = Call::get(format!("{mount}/cert/{}", serial.replace(':', "-")));
        let seen = self.call(Connection::Kept, call).await;
        let at = seen.as_ref().ok().and_then(|found| found.number("revocation_time"));
        match (revoked, seen, at) {
            (_, Ok(_), Some(at)) if at > 0 => Ended {
                ended: true,
                effect: format!(
                    "Vault revoked serial number {serial} and lists it at {mount}/crl: a server that reads \
                     the list refuses the certificate; open connections last"
                ),
            },
            (Err(fault), ..) => {
                Ended { ended: false, effect: format!("not ended: {}; {otherwise}", told(&fault)) }
            }
            (Ok(_), Ok(_), _) => Ended {
                ended: false,
                effect: format!(
                    "Vault said it revoked the certificate, and says of it that it is good; {otherwise}"
                ),
            },
            (Ok(_), Err(fault), _) => Ended {
                ended: false,
                effect: format!(
                    "Vault said it revoked the certificate, and a lookup to see that failed: {}; {otherwise}",
                    told(&fault)
                ),
            },
        }
    }
}

/// What the role would do by itself.
fn check_role(role: &Envelope, asked: &Asked) -> Result<(), String> {
    let is = |key: &str| role.data.get(key).and_then(Value::as_bool);
    if asked.request.is_some() {
        for key in ["use_csr_common_name", "use_csr_sans"] {
            if is(key) != Some(false) {
                return Err(format!(
                    "the role at Vault takes names from the request: want {key} = false"
                ));
            }
        }
    }
    if is("no_store") == Some(true) {
        return Err(
            "the role at Vault keeps no certificates, so none could be revoked: want no_store \
                    = false"
                .into(),
        );
    }
    for (key, allowed) in [
        ("client_flag", asked.names.usage.contains(&Usage::Client)),
        ("server_flag", asked.names.usage.contains(&Usage::Server)),
        ("code_signing_flag", false),
        ("email_protection_flag", false),
    ] {
        if is(key) == Some(true) && !allowed {
            return Err(format!(
                "the role at Vault gives a use that the template does not name: want {key} = false"
            ));
        }
    }
    Ok(())
}

/// Whether the role admits this as the subject's `serialNumber`.
fn admits(role: &Envelope, stamp: &str) -> bool {
    let admitted = role.data.get("allowed_serial_numbers").and_then(Value::as_array);
    let fits = |pattern: &str| match pattern.strip_suffix('*') {
        Some(begin) => !begin.contains('*') && stamp.starts_with(begin),
        None => pattern == stamp,
    };
    admitted.into_iter().flatten().filter_map(Value::as_str).any(fits)
}

/// What the subject says as `serialNumber` (RFC 4519).
fn stamps<'a>(read: &'a X509Certificate<'_>) -> Vec<&'a str> {
    let is = |name: &AttributeTypeAndValue<'_>| *name.attr_type() == OID_X509_SERIALNUMBER;
    let said = read.subject().iter_attributes().filter(|name| is(name));
    said.map(|name| name.as_str().unwrap_or_default()).collect()
}

/// Names, usage and kind are those that were asked for, and no more.
fn names_fit(read: &X509Certificate<'_>, asked: &Asked) -> Result<(), String> {
    let common: Vec<&str> =
        read.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect();
    let wanted: Vec<&str> =
        Some(asked.common_name()).into_iter().filter(|name| !name.is_empty()).collect();
    if common != wanted || read.subject().iter_common_name().count() != wanted.len() {
        return Err(format!("its common name is {common:?}"));
    }
    if stamps(read) != asked.stamp.as_deref().into_iter().collect::<Vec<_>>() {
        return Err("its subject has another serialNumber".into());
    }
    let names = match read.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.as_slice(),
        Ok(None) => &[],
        Err(_) => return Err("its names stand there twice".into()),
    };
    let mut dns = BTreeSet::new();
    let mut uri = BTreeSet::new();
    for name in names {
        match name {
            GeneralName::DNSName(name) => dns.insert(*name),
            GeneralName::URI(name) => uri.insert(*name),
            other => return Err(format!("it names {other:?}")),
        };
    }
    if dns != asked.names.dns.iter().map(String::as_str).collect()
        || uri != asked.names.uri.iter().map(String::as_str).collect()
    {
        return Err(format!("its names are {dns:?} and {uri:?}"));
    }
    if read.is_ca() {
        return Err("it is one of an authority".into());
    }
    // Without the extension it is good for everything.
    let usage = match read.extended_key_usage() {
        Ok(Some(usage)) => usage.value,
        _ => return Err("it says no usage, which means all".into()),
    };
    let has = |wanted: Usage| asked.names.usage.contains(&wanted);
    let more = usage.any
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty()
        || usage.client_auth && !has(Usage::Client)
        || usage.server_auth && !has(Usage::Server);
    if more || !(usage.client_auth || usage.server_auth) {
        return Err("its usages are not those of the template".into());
    }
    Ok(())
}

/// As Vault writes serial numbers, without the zero that keeps one positive in DER.
fn colons(serial: &[u8]) -> String {
    let serial = match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        whole => whole,
    };
    serial.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn is_serial(text: &str) -> bool {
    (2..=64).contains(&text.len())
        && text.split(':').all(|byte| {
            byte.len() == 2
                && byte.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
}

/// PEM (RFC 7468) of what is base64 already.
fn pem(label: &str, body: &str) -> String {
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).unwrap_or_default());
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
