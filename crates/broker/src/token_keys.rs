//! The keys of the built-in token issuer, and their rotation with overlap.
//!
//! A next key is published before it signs, and a former one after, so that services which keep the
//! key set for a while verify throughout. Three steps: `prepare`, `switch`, `retire`.

use std::time::{Duration, SystemTime};

use grantwright_credential::Secret;
use grantwright_domain::Timestamp;
use grantwright_mint::jwt::{BACKEND, JwtIssuer, PublicKey, SigningKey};

use crate::app::CaStep;
use crate::error::StartError;
use crate::keys::{KeyDir, replace};

const EDDSA: &str = "jwt-eddsa";
const ES256: &str = "jwt-es256";

/// Makes the first keys, one of each algorithm.
///
/// # Errors
/// When they exist or cannot be written.
pub fn create(keys: &KeyDir) -> Result<(), StartError> {
    for name in [EDDSA, ES256] {
        keys.create(&format!("{name}.key"), &fresh(name)?)?;
    }
    Ok(())
}

fn fresh(name: &str) -> Result<String, StartError> {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
    let rng = aws_lc_rs::rand::SystemRandom::new();
    let made = match name {
        ES256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng),
        _ => Ed25519KeyPair::generate_pkcs8(&rng),
    };
    let made = made.map_err(|_| StartError::new("the token issuer's keys could not be made"))?;
    Ok(hex::encode(made.as_ref()))
}

fn stem(algorithm: &str) -> &'static str {
    if algorithm == "ES256" { ES256 } else { EDDSA }
}

fn read(text: &Secret<String>, name: &str) -> Result<SigningKey, StartError> {
    let der = hex::decode(text.expose_secret().trim())
        .map_err(|e| StartError::new(format!("the key `{name}` is damaged: {e}")))?;
    SigningKey::from_pkcs8(&der).map_err(|e| StartError::new(format!("the key `{name}`: {e}")))
}

/// The key that signs, and those that are published beside it.
///
/// # Errors
/// When one is missing, damaged, or readable by others.
pub fn ring(keys: &KeyDir, algorithm: &str) -> Result<(SigningKey, Vec<PublicKey>), StartError> {
    let stem = stem(algorithm);
    let name = format!("{stem}.key");
    let active = read(&keys.read(&name)?, &name)?;
    let mut others = Vec::new();
    for name in [format!("{stem}-next.key"), format!("{stem}-former.key")] {
        if keys.path(&name).exists() {
            others.push(read(&keys.read(&name)?, &name)?.public().clone());
        }
    }
    Ok((active, others))
}

/// The issuer of this algorithm.
///
/// # Errors
/// As [`ring`]; or the address is not one.
pub fn issuer(keys: &KeyDir, url: &str, algorithm: &str) -> Result<JwtIssuer, StartError> {
    let (active, others) = ring(keys, algorithm)?;
    JwtIssuer::new(url, active, others).map_err(|e| StartError::new(e.to_string()))
}

/// Takes one step with the keys of every algorithm.
///
/// # Errors
/// When it does not follow from the last one, comes too early, or the keys cannot be written.
pub fn step(keys: &KeyDir, step: CaStep, now: Timestamp) -> Result<(), StartError> {
    for name in [EDDSA, ES256] {
        if !keys.path(&format!("{name}.key")).exists() {
            continue;
        }
        let file = |what: &str| format!("{name}-{what}.key");
        match step {
            CaStep::Prepare => {
                if keys.path(&file("former")).exists() {
                    return Err(StartError::new(
                        "a former key is published still; retire it before the next is prepared",
                    ));
                }
                keys.create(&file("next"), &fresh(name)?)?;
            }
            CaStep::Switch => {
                let (next, old) = (keys.read(&file("next"))?, keys.read(&format!("{name}.key"))?);
                // The former first: whatever a crash leaves, what was signed still verifies.
                replace(&keys.path(&file("former")), old.expose_secret())?;
                replace(&keys.path(&format!("{name}.key")), next.expose_secret())?;
                std::fs::remove_file(keys.path(&file("next"))).map_err(|e| {
                    StartError::new(format!("the file of the next key cannot be removed: {e}"))
                })?;
            }
            CaStep::Retire => retire(keys, &file("former"), now)?,
        }
    }
    Ok(())
}

/// Everything that the former key signed has expired: the longest life has passed since its file was
/// written.
fn retire(keys: &KeyDir, former: &str, now: Timestamp) -> Result<(), StartError> {
    let path = keys.path(former);
    let failed = |e: std::io::Error| StartError::new(format!("`{}`: {e}", path.display()));
    let written = std::fs::metadata(&path).and_then(|m| m.modified()).map_err(failed)?;
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now.millis().max(0).unsigned_abs());
    let longest = Duration::from_secs(BACKEND.declaration.ttl_ceiling_s.into());
    let past = now.duration_since(written).unwrap_or_default();
    if past < longest {
        let left = (longest - past).as_secs().div_ceil(60);
        return Err(StartError::new(format!(
            "tokens that the former key signed may live for another {left} min; retire it then"
        )));
    }
    std::fs::remove_file(&path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn now() -> Timestamp {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        Timestamp::from_millis(since.as_millis().try_into().unwrap())
    }

    fn published(keys: &KeyDir, algorithm: &str) -> Vec<String> {
        let issuer = issuer(keys, "https://broker.example.org", algorithm).unwrap();
        issuer.keys().iter().map(|k| k.kid().to_owned()).collect()
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_after_until_nothing_it_signed_lives() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(dir.path().to_owned());
        create(&keys).unwrap();
        for algorithm in ["EdDSA", "ES256"] {
            assert_eq!(published(&keys, algorithm).len(), 1);
        }
        let first = published(&keys, "EdDSA");
        assert!(step(&keys, CaStep::Switch, now()).is_err(), "nothing is prepared");
        step(&keys, CaStep::Prepare, now()).unwrap();
        assert!(step(&keys, CaStep::Prepare, now()).is_err(), "one is prepared already");
        let ahead = published(&keys, "EdDSA");
        assert_eq!((ahead.len(), &ahead[0]), (2, &first[0]), "published, and the first signs");
        step(&keys, CaStep::Switch, now()).unwrap();
        let after = published(&keys, "EdDSA");
        assert_eq!(
            after,
            [ahead[1].clone(), first[0].clone()],
            "the next signs, the first verifies"
        );
        assert!(step(&keys, CaStep::Prepare, now()).is_err(), "the first is published still");
        let early = step(&keys, CaStep::Retire, now().plus_millis(11 * HOUR_MS)).unwrap_err();
        assert!(early.to_string().contains("another 60 min"), "{early}");
        step(&keys, CaStep::Retire, now().plus_millis(12 * HOUR_MS + 1000)).unwrap();
        assert_eq!(published(&keys, "EdDSA"), [ahead[1].clone()]);
        assert_eq!(published(&keys, "ES256").len(), 1);
    }
}
