//! The data types of SSH (RFC 4251 §5), and public keys in them (RFC 8709, RFC 5656).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const ED25519: &str = "ssh-ed25519";
const P256: &str = "ecdsa-sha2-nistp256";
const P256_CURVE: &str = "nistp256";

/// Bytes that grow by RFC 4251's types.
#[derive(Default)]
pub(super) struct Packet(Vec<u8>);

impl Packet {
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn u32(&mut self, n: u32) {
        self.raw(&n.to_be_bytes());
    }

    pub(super) fn u64(&mut self, n: u64) {
        self.raw(&n.to_be_bytes());
    }

    /// Every length here is that of a bounded document, far below 4 GB.
    pub(super) fn string(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.raw(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.string(text.as_bytes());
    }

    /// A certificate's option with a value: the value is a string within a string.
    pub(super) fn option(&mut self, name: &str, value: &str) {
        let mut inner = Self::default();
        inner.text(value);
        self.text(name);
        self.string(inner.bytes());
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A public key of a kind that a certificate can hold: Ed25519 or ECDSA on P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPublicKey {
    algorithm: &'static str,
    blob: Vec<u8>,
    /// Where the key's own fields begin in the blob.
    fields_at: usize,
}

impl SshPublicKey {
    /// Of 32 raw bytes.
    #[must_use]
    pub fn ed25519(point: &[u8]) -> Self {
        let mut blob = Packet::default();
        blob.text(ED25519);
        let fields_at = blob.bytes().len();
        blob.string(point);
        Self { algorithm: ED25519, blob: blob.into_bytes(), fields_at }
    }

    /// Reads a line `ssh-ed25519 AAAA…` or `ecdsa-sha2-nistp256 AAAA…`, without a comment. `None`: it
    /// is no such line, byte for byte.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (algorithm, text) = line.split_once(' ')?;
        let blob = STANDARD.decode(text).ok()?;
        let mut rest = blob.as_slice();
        if take(&mut rest)? != algorithm.as_bytes() {
            return None;
        }
        let fields_at = blob.len() - rest.len();
        let algorithm = match algorithm {
            ED25519 if take(&mut rest)?.len() == 32 => ED25519,
            P256 => {
                let curve = take(&mut rest)? == P256_CURVE.as_bytes();
                let point = take(&mut rest)?;
                (curve && point.len() == 65 && point.first() == Some(&4)).then_some(P256)?
            }
            _ => return None,
        };
        rest.is_empty().then_some(Self { algorithm, blob, fields_at })
    }

    /// `ssh-ed25519` or `ecdsa-sha2-nistp256`.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    pub(super) fn certificate_algorithm(&self) -> &'static str {
        match self.algorithm {
            ED25519 => "ssh-ed25519-cert-v01@openssh.com",
            _ => "ecdsa-sha2-nistp256-cert-v01@openssh.com",
        }
    }

    /// The key as SSH sends it.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Its fields, without the name of its algorithm.
    pub(super) fn fields(&self) -> &[u8] {
        self.blob.get(self.fields_at..).unwrap_or_default()
    }
}

pub(super) fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (taken, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(taken)
}
