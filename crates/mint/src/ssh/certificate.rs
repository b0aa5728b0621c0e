//! Reading a certificate that somebody else signed (OpenSSH's PROTOCOL.certkeys), to see what it says.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::SshPublicKey;
use super::packet::take;

/// The type of a certificate for users.
const USER: u32 = 1;

/// What a user's certificate says. Who signed it is for `sshd` to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) serial: u64,
    pub(crate) key_id: String,
    pub(crate) principals: Vec<String>,
    /// Seconds since 1970, as all times here.
    pub(crate) valid_after: u64,
    pub(crate) valid_before: u64,
    pub(crate) critical: BTreeMap<String, String>,
    pub(crate) extensions: BTreeMap<String, String>,
    /// The authority's key, as SSH sends it.
    pub(crate) authority: Vec<u8>,
}

impl Certificate {
    /// Reads a line `…-cert-v01@openssh.com AAAA…` for `key`. `None`: it is none, or for another key, or
    /// for a host.
    pub(crate) fn read(line: &str, key: &SshPublicKey) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (algorithm, text) = (words.next()?, words.next()?);
        let blob = STANDARD.decode(text).ok()?;
        let mut rest = blob.as_slice();
        let kind = take(&mut rest)?;
        if algorithm != key.certificate_algorithm() || kind != algorithm.as_bytes() {
            return None;
        }
        let _nonce = take(&mut rest)?;
        rest = rest.strip_prefix(key.fields())?;
        let serial = number::<8>(&mut rest).map(u64::from_be_bytes)?;
        if number::<4>(&mut rest).map(u32::from_be_bytes)? != USER {
            return None;
        }
        let key_id = text_of(take(&mut rest)?)?;
        let mut names = take(&mut rest)?;
        let mut principals = Vec::new();
        while !names.is_empty() {
            principals.push(text_of(take(&mut names)?)?);
        }
        let valid_after = number::<8>(&mut rest).map(u64::from_be_bytes)?;
        let valid_before = number::<8>(&mut rest).map(u64::from_be_bytes)?;
        let critical = options(take(&mut rest)?)?;
        let extensions = options(take(&mut rest)?)?;
        let _reserved = take(&mut rest)?;
        let authority = take(&mut rest)?.to_vec();
        let _signature = take(&mut rest)?;
        rest.is_empty().then_some(Self {
            serial,
            key_id,
            principals,
            valid_after,
            valid_before,
            critical,
            extensions,
            authority,
        })
    }
}

fn number<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (number, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*number)
}

fn text_of(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// Each option once; an empty value is that of a flag, another is a string within a string.
fn options(mut list: &[u8]) -> Option<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    while !list.is_empty() {
        let name = text_of(take(&mut list)?)?;
        let mut value = take(&mut list)?;
        let value = if value.is_empty() { String::new() } else { text_of(take(&mut value)?)? };
        if out.insert(name, value).is_some() {
            return None;
        }
    }
    Some(out)
}
