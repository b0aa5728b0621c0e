//! Scopes, parameters and keys that the tests share.

use std::cell::Cell;
use std::time::Duration;

use grantwright_domain::param::check_all;
use grantwright_domain::{Params, Scope, Timestamp};
use grantwright_mint::jwt::{JwtIssuer, SigningKey};
use serde_json::{Value, json};

/// How long a client waits that is to find out that nothing comes.
const IMPATIENT: Duration = Duration::from_millis(1500);
/// How long one waits to whom an answer comes, on a machine that has much else to do.
const PATIENT: Duration = Duration::from_secs(30);

thread_local! {
    static PATIENCE: Cell<Duration> = const { Cell::new(IMPATIENT) };
}

/// How long a client that is made now waits for an answer.
pub fn patience() -> Duration {
    PATIENCE.get()
}

/// What is made here waits as long as it takes.
pub fn patient<T>(make: impl FnOnce() -> T) -> T {
    PATIENCE.set(PATIENT);
    let made = make();
    PATIENCE.set(IMPATIENT);
    made
}

pub const ROLE: &str = "arn:aws:iam::111122223333:role/agents/reader";

/// 2026-01-01T00:00:00.250Z: not a whole second, so that rounding shows.
pub fn now() -> Timestamp {
    Timestamp::from_millis(1_767_225_600_250)
}

pub fn scope(value: Value) -> Scope {
    serde_json::from_value(value).unwrap()
}

pub fn params(scope: &Scope, value: Value) -> Params {
    check_all(&scope.params, &value).unwrap()
}

pub fn export() -> Scope {
    scope(json!({
        "name": "demo.export",
        "title": "Export {rows} rows of {dataset}",
        "minter": "jwt",
        "params": {
            "dataset": { "type": "string", "pattern": "[a-z0-9][a-z0-9._-]{0,63}" },
            "rows": { "type": "integer", "min": 0, "max": 1_000_000, "order": "max" },
        },
        "template": { "audience": "https://data.example.com" },
    }))
}

pub fn s3_read() -> Scope {
    scope(json!({
        "name": "aws.s3-read",
        "title": "Read {prefix} in {bucket}",
        "minter": "sts",
        "params": {
            "bucket": { "type": "s3-bucket" },
            "prefix": { "type": "s3-prefix", "order": "prefix" },
        },
        "template": {
            "role_arn": ROLE,
            "external_id": "grantwright",
            "policy": [
                { "actions": ["s3:GetObject"], "resources": ["arn:aws:s3:::${bucket}/${prefix}*"] },
                {
                    "actions": ["s3:ListBucket"],
                    "resources": ["arn:aws:s3:::${bucket}"],
                    "conditions": [
                        { "operator": "StringLike", "key": "s3:prefix", "values": ["${prefix}*"] },
                    ],
                },
            ],
        },
    }))
}

/// Ed25519 of RFC 8037 A.1 in PKCS#8 version 1, as `openssl genpkey` writes it.
pub fn ed25519() -> SigningKey {
    let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend((0..32).map(|n| u8::from_str_radix(&seed[2 * n..2 * n + 2], 16).unwrap()));
    SigningKey::from_pkcs8(&der).unwrap()
}

pub fn es256() -> SigningKey {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
    SigningKey::from_pkcs8(der.unwrap().as_ref()).unwrap()
}

pub fn issuer(active: SigningKey) -> JwtIssuer {
    JwtIssuer::new("https://broker.example.org", active, vec![es256().public().clone()]).unwrap()
}
