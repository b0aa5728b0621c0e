use std::fmt;

use serde_json::Value;
use zeroize::Zeroize;

use crate::{CredentialError, Secret};

/// What a credential is, known by the members of its JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{"token"}`: a bearer token, such as a signed JWT.
    Jwt,
    /// `{"ssh_certificate"}`: the line of an OpenSSH certificate, for the key of who asked.
    Ssh,
    /// `{"AccessKeyId","SecretAccessKey","SessionToken","Expiration"}`, as AWS STS answers.
    Sts,
    /// `{"username","password"}`, for example of a database.
    UserPass,
    /// `{"certificate","ca"}`: an X.509 certificate for the key of who asked, and its authority; PEM.
    /// With `private_key` where whoever made the certificate made its key as well.
    X509,
}

/// The member with the private half of the key that a credential is bound to; PEM.
const PRIVATE_KEY: &str = "private_key";

impl Kind {
    /// The kind in one word, for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::Ssh => "ssh",
            Self::Sts => "sts",
            Self::UserPass => "userpass",
            Self::X509 => "x509",
        }
    }

    const ALL: [Self; 5] = [Self::Jwt, Self::Ssh, Self::Sts, Self::UserPass, Self::X509];

    const fn members(self) -> &'static [&'static str] {
        match self {
            Self::Jwt => &["token"],
            Self::Ssh => &["ssh_certificate"],
            Self::Sts => &["AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"],
            Self::UserPass => &["username", "password"],
            Self::X509 => &["certificate", "ca"],
        }
    }
}

/// The parts of an AWS session, as STS names them. It has no `Debug`.
#[derive(Clone, Copy)]
pub struct Sts<'a> {
    /// `AccessKeyId`.
    pub access_key_id: &'a str,
    /// `SecretAccessKey`.
    pub secret_access_key: &'a str,
    /// `SessionToken`.
    pub session_token: &'a str,
    /// `Expiration`, RFC 3339 UTC.
    pub expiration: &'a str,
}

/// A minted credential in the clear: the JSON object that the agent receives.
///
/// Equality is constant-time. `Debug` shows the kind only.
#[derive(PartialEq, Eq)]
pub struct Credential {
    kind: Kind,
    json: Secret<Vec<u8>>,
}

impl Credential {
    /// A bearer token.
    pub fn jwt(token: &str) -> Self {
        Self::written(Kind::Jwt, &[token])
    }

    /// A certificate's line.
    pub fn ssh(certificate: &str) -> Self {
        Self::written(Kind::Ssh, &[certificate])
    }

    /// An AWS session.
    pub fn sts(parts: Sts<'_>) -> Self {
        Self::written(
            Kind::Sts,
            &[parts.access_key_id, parts.secret_access_key, parts.session_token, parts.expiration],
        )
    }

    /// A user name and a password.
    pub fn userpass(username: &str, password: &str) -> Self {
        Self::written(Kind::UserPass, &[username, password])
    }

    /// A certificate and the one of its authority, PEM.
    pub fn x509(certificate: &str, ca: &str) -> Self {
        Self::written(Kind::X509, &[certificate, ca])
    }

    /// The same with the private half of the key that it is bound to, PEM: for the holder alone. One that
    /// has it already stays as it is.
    #[must_use]
    pub fn with_private_key(self, pem: &str) -> Self {
        let json = self.json.expose_secret();
        let has_it =
            json.windows(PRIVATE_KEY.len() + 3).any(|w| w == br#""private_key":"#.as_slice());
        let Some(body) = json.strip_suffix(b"}").filter(|_| !has_it) else { return self };
        let mut whole = Vec::with_capacity(json.len() + room(PRIVATE_KEY) + room(pem) + 2);
        whole.extend_from_slice(body);
        whole.push(b',');
        write_string(&mut whole, PRIVATE_KEY);
        whole.push(b':');
        write_string(&mut whole, pem);
        whole.push(b'}');
        Self { kind: self.kind, json: Secret::new(whole) }
    }

    /// Reads the JSON object of a credential, as it comes over the wire or out of a seal.
    ///
    /// # Errors
    /// [`CredentialError::Malformed`] unless it is one object with exactly the members of one
    /// [`Kind`], for a certificate perhaps its private key, all of them strings. The bytes are wiped in that case too.
    pub fn from_json(json: Vec<u8>) -> Result<Self, CredentialError> {
        let json = Secret::new(json);
        let kind = kind_of(json.expose_secret()).ok_or(CredentialError::Malformed)?;
        Ok(Self { kind, json })
    }

    /// What it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Lets the credential out: its JSON object, UTF-8.
    pub fn expose_json(&self) -> &[u8] {
        self.json.expose_secret()
    }

    fn written(kind: Kind, values: &[&str]) -> Self {
        let members = kind.members();
        // With this room the buffer never moves, so no unwiped copy of it stays behind.
        let most: usize = members.iter().zip(values).map(|(m, v)| room(m) + room(v) + 2).sum();
        let mut json = Vec::with_capacity(most + 1);
        for (n, (member, value)) in members.iter().zip(values).enumerate() {
            json.push(if n == 0 { b'{' } else { b',' });
            write_string(&mut json, member);
            json.push(b':');
            write_string(&mut json, value);
        }
        json.push(b'}');
        Self { kind, json: Secret::new(json) }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, redacted)", self.kind.as_str())
    }
}

/// A byte that stands for itself between quotes.
fn plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// Bytes that [`write_string`] takes at most: of a byte that is escaped six (`\u001f`).
fn room(text: &str) -> usize {
    text.len() + 5 * text.bytes().filter(|b| !plain(*b)).count() + 2
}

/// RFC 8259 §7, the shortest escapes.
fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    // Hardly any credential needs escapes: then it is copied whole. All of it is looked at, many bytes at
    // a time, also where it has some: how long it takes says nothing of where.
    if text.bytes().fold(true, |all, b| all & plain(b)) {
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b'\n' => out.extend(*b"\\n"),
            b'\r' => out.extend(*b"\\r"),
            b'\t' => out.extend(*b"\\t"),
            0x08 => out.extend(*b"\\b"),
            0x0c => out.extend(*b"\\f"),
            0x00..0x20 => {
                let digit = HEX.get(usize::from(byte & 0x0f)).copied().unwrap_or(b'0');
                out.extend([b'\\', b'u', b'0', b'0', b'0' + (byte >> 4), digit]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn kind_of(json: &[u8]) -> Option<Kind> {
    let mut value: Value = serde_json::from_slice(json).ok()?;
    let kind = value.as_object().and_then(|object| {
        Kind::ALL.into_iter().find(|kind| {
            let keyed = usize::from(*kind == Kind::X509 && object.contains_key(PRIVATE_KEY));
            object.len() == kind.members().len() + keyed
                && kind.members().iter().all(|m| object.contains_key(*m))
                && object.values().all(Value::is_string)
        })
    });
    wipe(&mut value);
    kind
}

fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_the_object_the_contract_names() {
        assert_eq!(Credential::jwt("a.b.c").expose_json(), br#"{"token":"a.b.c"}"#);
        assert_eq!(
            Credential::userpass("u", "p").expose_json(),
            br#"{"username":"u","password":"p"}"#
        );
        let sts = Credential::sts(Sts {
            access_key_id: "A",
            secret_access_key: "S",
            session_token: "T",
            expiration: "2026-01-01T00:00:00Z",
        });
        assert_eq!(
            sts.expose_json(),
            br#"{"AccessKeyId":"A","SecretAccessKey":"S","SessionToken":"T","Expiration":"2026-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn a_private_key_joins_once_and_comes_over_the_wire_with_a_certificate_only() {
        let made = Credential::x509("c", "a").with_private_key("k\n");
        assert_eq!(
            made.expose_json(),
            br#"{"certificate":"c","ca":"a","private_key":"k\n"}"#.as_slice()
        );
        let again = made.with_private_key("other");
        assert!(!again.expose_json().windows(5).any(|w| w == b"other"));
        let read = Credential::from_json(again.expose_json().to_vec()).unwrap();
        assert_eq!((read.kind(), &read), (Kind::X509, &again));
        let bound = Credential::ssh("c").with_private_key("k");
        assert_eq!(bound.expose_json(), br#"{"ssh_certificate":"c","private_key":"k"}"#.as_slice());
        assert!(Credential::from_json(bound.expose_json().to_vec()).is_err());
    }

    #[test]
    fn every_character_survives_json_without_moving_the_buffer() {
        let password: String =
            (0..0x250u32).filter_map(char::from_u32).chain("🦀\u{202e}".chars()).collect();
        let made = Credential::userpass("u", &password);
        let read: Value = serde_json::from_slice(made.expose_json()).unwrap();
        assert_eq!(read["password"], password.as_str());
        let again = Credential::from_json(made.expose_json().to_vec()).unwrap();
        assert_eq!((again.kind(), &again), (Kind::UserPass, &made));
        let control = "\u{1f}".repeat(1000);
        let made = Credential::userpass(&control, &control);
        let json = made.json.expose_secret();
        assert_eq!(json.len(), r#"{"username":"","password":""}"#.len() + 6 * 2000);
        assert_eq!(json.capacity(), json.len(), "it grew");
    }

    #[test]
    fn other_objects_are_refused() {
        for json in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"token":1}"#,
            r#"{"token":"t","more":"x"}"#,
            r#"{"username":"u"}"#,
            r#"{"certificate":"c","private_key":"k"}"#,
            r#"{"certificate":"c","ca":"a","private_key":1}"#,
            r#"{"token":"t"} {}"#,
            r#""token""#,
        ] {
            assert_eq!(
                Credential::from_json(json.into()).unwrap_err(),
                CredentialError::Malformed,
                "{json}"
            );
        }
    }

    #[test]
    fn debug_shows_the_kind_only() {
        let shown = format!("{:?}", Credential::jwt("hunter2"));
        assert_eq!(shown, "Credential(jwt, redacted)");
    }
}
