use rcgen::{CertificateSigningRequestParams, PublicKeyData as _};
use rustls_pki_types::CertificateSigningRequestDer;
use serde_json::json;

use super::*;

const FORMATS: [KeyFormat; 3] = [KeyFormat::Csr, KeyFormat::Jkt, KeyFormat::Ssh];

fn seal(byte: u8) -> SealKeyPair {
    SealKeyPair::from_secret_bytes(&Secret::new([byte; 32])).unwrap()
}

fn derive(seal: &SealKeyPair, instance: &str, scope: &str, format: KeyFormat) -> Holder {
    let folder = tempfile::tempdir().unwrap();
    Holder::derive(seal, instance, scope, format, folder.path()).unwrap()
}

#[test]
fn a_key_is_a_function_of_seal_key_instance_scope_and_format() {
    let own = seal(7);
    for format in FORMATS {
        let first = derive(&own, "i-1", "s.one", format);
        let again = derive(&own, "i-1", "s.one", format);
        assert_eq!(first.private, again.private, "{format:?}");
        assert!(first.is(&again.public, format), "a request signed anew is of the same key");
        for other in [
            derive(&seal(8), "i-1", "s.one", format),
            derive(&own, "i-2", "s.one", format),
            derive(&own, "i-1", "s.two", format),
            derive(&own, "i-1s", ".one", format),
        ] {
            assert_ne!(first.point, other.point, "{format:?}");
            assert!(!first.is(&other.public, format), "{format:?}");
        }
    }
    let points = FORMATS.map(|format| derive(&own, "i-1", "s.one", format).point);
    assert!(points[0] != points[1] && points[1] != points[2]);
}

#[test]
fn the_parameter_is_what_its_type_wants_and_the_private_half_fits_it() {
    for format in FORMATS {
        let made = derive(&seal(7), "i-1", "s.one", format);
        let declared = json!({"type": "public-key", "format": format.word()});
        let spec: grantwright_domain::param::ParamSpec = serde_json::from_value(declared).unwrap();
        assert!(spec.check("key", &made.public.clone().into()).is_ok(), "{}", made.public);
        assert!(!made.private.expose_secret().contains(&made.public));
        if format == KeyFormat::Ssh {
            continue;
        }
        let pair = KeyPair::from_pem(made.private.expose_secret()).unwrap();
        assert_eq!(pair.public_key_raw(), made.point);
        if format == KeyFormat::Csr {
            let der = STANDARD.decode(&made.public).unwrap();
            let der = CertificateSigningRequestDer::from(der);
            let read = CertificateSigningRequestParams::from_der(&der).unwrap();
            assert_eq!(read.public_key.der_bytes(), made.point, "its signature is good");
            assert!(read.params.subject_alt_names.is_empty(), "it names nobody");
            assert_eq!(read.params.distinguished_name.iter().count(), 0);
        }
    }
}

#[test]
fn the_ssh_key_is_read_as_openssh_writes_it() {
    let made = derive(&seal(7), "i-1", "s.one", KeyFormat::Ssh);
    let text = made.private.expose_secret();
    assert!(text.lines().all(|line| line.len() <= 70));
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let blob = STANDARD.decode(body).unwrap();
    assert!(blob.starts_with(b"openssh-key-v1\0"));
    // The last string: two equal numbers, kind, public half, seed with public half, comment, padding.
    let at = 15 + 8 + 8 + 4 + 4 + 4 + 51;
    let inner = &blob[at + 4..];
    assert_eq!(inner.len(), u32::from_be_bytes(blob[at..at + 4].try_into().unwrap()) as usize);
    assert!(inner.len().is_multiple_of(8) && inner[..4] == inner[4..8]);
    let seed = &inner[8 + 51 + 4..][..32];
    let pair = Ed25519KeyPair::from_seed_and_public_key(seed, &made.point).unwrap();
    assert_eq!(pair.public_key().as_ref(), made.point);
}

#[test]
fn a_request_is_kept_so_that_an_ask_that_repeats_is_identical() {
    let folder = tempfile::tempdir().unwrap();
    let make = |byte| {
        Holder::derive(&seal(byte), "i-1", "s.one", KeyFormat::Csr, folder.path()).unwrap().public
    };
    let first = make(7);
    assert_eq!(first, make(7));
    assert_ne!(first, make(8), "of another key it is made anew");
}

#[test]
fn only_parameters_that_must_hold_a_key_are_filled() {
    let declared = json!({"name": "s", "params": {
        "a": {"type": "public-key", "format": "ssh"},
        "b": {"type": "public-key", "format": "csr", "optional": true},
        "c": {"type": "string", "pattern": "x"},
        "d": {"type": "public-key", "format": "later"},
    }});
    assert_eq!(holders(declared.as_object().unwrap()), [("a".to_owned(), KeyFormat::Ssh)]);
}
