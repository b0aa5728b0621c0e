//! `webauthn-rs` as the relying party of enrolment and sign-in: it makes the options that a page hands
//! to its browser, and verifies the answers.
//!
//! Three things of it are not as the broker needs them, so it is wrapped here and nowhere else:
//! - It draws challenges itself and wants its state kept by the server. Here the challenge is the
//!   broker's own, in a ticket that is sealed and spent once ([`super::ceremony`]), so that strangers
//!   who begin thousands of ceremonies fill nothing; its state is made anew around that challenge.
//! - It knows no Ed25519, and reads over bytes that no passkey sends. What the log keeps is read by
//!   `proof`, strictly, which alone verifies Ed25519 keys; of ES256 keys, which is all that is made in
//!   practice, both must say the same.
//! - It offers RSA and P-384, which the log's form does not have.
//!
//! Decisions are not its business: they are verified by `proof`, here as offline.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_domain::passkey::{Algorithm, PublicKey};
use grantwright_proof::passkey::Registered;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use webauthn_rs::prelude::{COSEKeyType, DiscoverableAuthentication, Passkey, Url, Uuid};
use webauthn_rs::{Webauthn, WebauthnBuilder};

/// How long a browser waits for its person.
pub const TIMEOUT: Duration = Duration::from_secs(120);
/// COSE's numbers of ES256 and EdDSA: the keys whose decisions the log can hold.
const OFFERED: [i64; 2] = [-7, -8];

/// Why an answer is refused, or no options were made; for operators. People are told a word of ours.
#[derive(Debug, thiserror::Error)]
#[error("webauthn-rs: {0}")]
pub struct Fault(String);

fn fault(e: impl std::fmt::Display) -> Fault {
    Fault(e.to_string())
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Site(Webauthn);

/// Whose passkey is made.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// Their handle: tells nothing of them.
    pub handle: [u8; 16],
    /// Their name.
    pub name: &'a str,
}

/// An assertion as a page sends it, in base64url.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// The credential.
    pub id: &'a str,
    /// `authenticatorData`.
    pub data: &'a [u8],
    /// `clientDataJSON`.
    pub client: &'a [u8],
    /// `signature`.
    pub signature: &'a [u8],
}

impl Site {
    /// A site whose passkeys answer to `id`, with pages of `origin`.
    ///
    /// # Errors
    /// When the origin is not the id's.
    pub fn new(id: &str, origin: &str) -> Result<Self, Fault> {
        let origin = Url::parse(origin).map_err(fault)?;
        let builder = WebauthnBuilder::new(id, &origin).map_err(fault)?;
        builder.rp_name("Grantwright").timeout(TIMEOUT).build().map(Self).map_err(fault)
    }

    /// Options for `navigator.credentials.create`; bytes in base64url.
    ///
    /// # Errors
    /// When the library makes none.
    pub fn create_options(
        &self,
        challenge: &[u8],
        user: User<'_>,
        have: Vec<Vec<u8>>,
    ) -> Result<Value, Fault> {
        let handle = Uuid::from_bytes(user.handle);
        let (made, _) = self
            .0
            .start_passkey_registration(handle, user.name, user.name, Some(have))
            .map_err(fault)?;
        let mut options = serde_json::to_value(made.public_key).map_err(fault)?;
        let params = OFFERED.map(|alg| json!({ "type": "public-key", "alg": alg }));
        replace(&mut options, "/challenge", encoded(challenge))?;
        replace(&mut options, "/pubKeyCredParams", params.to_vec().into())?;
        // Who signs in without a name needs a passkey that the device finds by itself.
        replace(&mut options, "/authenticatorSelection/residentKey", "preferred".into())?;
        Ok(options)
    }

    /// Verifies what a browser made for `challenge`, and that it is what `proof` read of it.
    ///
    /// # Errors
    /// When it is not: nothing is then enrolled.
    pub fn verify_registration(
        &self,
        challenge: &[u8],
        user: User<'_>,
        (client, object): (&[u8], &[u8]),
        read: &Registered,
    ) -> Result<(), Fault> {
        if read.public_key.algorithm != Algorithm::Es256 {
            return Ok(());
        }
        let handle = Uuid::from_bytes(user.handle);
        let (_, state) =
            self.0.start_passkey_registration(handle, user.name, user.name, None).map_err(fault)?;
        let state = with_challenge(&state, "/rs/challenge", challenge)?;
        let answer = json!({
            "id": read.credential_id, "rawId": read.credential_id, "type": "public-key",
            "response": {
                "clientDataJSON": encoded(client), "attestationObject": encoded(object),
            },
        });
        let answer = serde_json::from_value(answer).map_err(fault)?;
        let made = self.0.finish_passkey_registration(&answer, &state).map_err(fault)?;
        let COSEKeyType::EC_EC2(point) = &made.get_public_key().key else {
            return Err(fault("another kind of key than was read"));
        };
        let key = format!("04{}{}", hex::encode(&point.x), hex::encode(&point.y));
        let same = key == read.public_key.key
            && URL_SAFE_NO_PAD.encode(made.cred_id()) == read.credential_id;
        if same { Ok(()) } else { Err(fault("another credential than was read")) }
    }

    /// Options for `navigator.credentials.get`, to sign in with any passkey of `allowed`, or of this
    /// site where that is empty; bytes in base64url.
    ///
    /// # Errors
    /// When the library makes none.
    pub fn get_options(&self, challenge: &[u8], allowed: Value) -> Result<Value, Fault> {
        let (made, _) = self.0.start_discoverable_authentication().map_err(fault)?;
        let mut options = serde_json::to_value(made.public_key).map_err(fault)?;
        replace(&mut options, "/challenge", encoded(challenge))?;
        replace(&mut options, "/allowCredentials", allowed)?;
        Ok(options)
    }

    /// Verifies an assertion over `challenge` by the passkey that was enrolled with this key.
    ///
    /// # Errors
    /// When it does not verify.
    pub fn verify_assertion(
        &self,
        challenge: &[u8],
        key: &PublicKey,
        backup_eligible: bool,
        said: Said<'_>,
    ) -> Result<(), Fault> {
        if key.algorithm != Algorithm::Es256 {
            return Ok(());
        }
        let (_, state) = self.0.start_discoverable_authentication().map_err(fault)?;
        let state: DiscoverableAuthentication =
            with_challenge(&state, "/ast/challenge", challenge)?;
        let passkey = passkey(said.id, key, backup_eligible)?;
        let answer = json!({
            "id": said.id, "rawId": said.id, "type": "public-key",
            "response": {
                "authenticatorData": encoded(said.data), "clientDataJSON": encoded(said.client),
                "signature": encoded(said.signature), "userHandle": null,
            },
        });
        let answer = serde_json::from_value(answer).map_err(fault)?;
        self.0
            .finish_discoverable_authentication_v2(&answer, state, &passkey)
            .map(drop)
            .map_err(fault)
    }
}

fn encoded(bytes: &[u8]) -> Value {
    URL_SAFE_NO_PAD.encode(bytes).into()
}

fn replace(value: &mut Value, at: &str, new: Value) -> Result<(), Fault> {
    let place = value.pointer_mut(at).ok_or_else(|| fault(format!("it has no `{at}`")))?;
    *place = new;
    Ok(())
}

/// The library's state around a challenge that is not its own.
fn with_challenge<T: Serialize + DeserializeOwned>(
    state: &T,
    at: &str,
    challenge: &[u8],
) -> Result<T, Fault> {
    let mut value = serde_json::to_value(state).map_err(fault)?;
    replace(&mut value, at, encoded(challenge))?;
    serde_json::from_value(value).map_err(fault)
}

/// A passkey of the log as the library keeps one.
fn passkey(id: &str, key: &PublicKey, backup_eligible: bool) -> Result<Passkey, Fault> {
    let point = hex::decode(&key.key).map_err(fault)?;
    let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
        return Err(fault("the key is no point"));
    };
    let value = json!({ "cred": {
        "cred_id": id,
        "cred": {
            "type_": "ES256",
            "key": { "EC_EC2": { "curve": "SECP256R1", "x": encoded(x), "y": encoded(y) } },
        },
        "counter": 0, "transports": null, "user_verified": true,
        "backup_eligible": backup_eligible, "backup_state": false,
        "registration_policy": "required", "extensions": {},
        "attestation": { "data": "None", "metadata": "None" }, "attestation_format": "none",
    } });
    serde_json::from_value(value).map_err(fault)
}

#[cfg(test)]
mod tests {
    use grantwright_proof::passkey::{Expected, verify_registration};
    use grantwright_testkit::authenticator::Authenticator;

    use super::*;

    const ORIGIN: &str = "http://localhost:1";
    const CHALLENGE: [u8; 32] = [7; 32];
    const USER: User<'_> = User { handle: [3; 16], name: "bob" };

    fn site() -> Site {
        Site::new("localhost", ORIGIN).unwrap()
    }

    fn registered(key: &Authenticator) -> (Vec<u8>, Vec<u8>, Registered) {
        let (client, object) = key.create(&URL_SAFE_NO_PAD.encode(CHALLENGE));
        let expected = Expected { challenge: &CHALLENGE, rp_id: "localhost", origin: Some(ORIGIN) };
        let read = verify_registration(&expected, &client, &object).unwrap().into_inner();
        (client, object, read)
    }

    #[test]
    fn options_are_for_keys_that_the_log_can_hold() {
        let made = site().create_options(&CHALLENGE, USER, vec![vec![1; 16]]).unwrap();
        assert_eq!(made["challenge"], encoded(&CHALLENGE));
        assert_eq!(made["rp"], json!({ "name": "Grantwright", "id": "localhost" }));
        let params: Vec<_> = made["pubKeyCredParams"].as_array().unwrap().iter().collect();
        assert_eq!(params.iter().map(|p| p["alg"].as_i64().unwrap()).collect::<Vec<_>>(), OFFERED);
        let selection = &made["authenticatorSelection"];
        assert_eq!(selection["userVerification"], "required");
        assert_eq!(selection["residentKey"], "preferred");
        assert_eq!(made["attestation"], "none");
        assert_eq!(made["excludeCredentials"][0]["id"], encoded(&[1; 16]));
        let asked = site().get_options(&CHALLENGE, json!([])).unwrap();
        assert_eq!(
            (&asked["rpId"], &asked["userVerification"]),
            (&json!("localhost"), &json!("required"))
        );
        assert_eq!(asked["challenge"], encoded(&CHALLENGE));
    }

    #[test]
    fn both_verifiers_must_say_the_same_of_a_new_passkey() {
        let key = Authenticator::new("localhost", ORIGIN, false);
        let (client, object, read) = registered(&key);
        let verify = |challenge: &[u8], read: &Registered| {
            site().verify_registration(challenge, USER, (&client, &object), read)
        };
        verify(&CHALLENGE, &read).unwrap();
        verify(&[8; 32], &read).unwrap_err();
        let (_, _, other) = registered(&Authenticator::new("localhost", ORIGIN, false));
        let swapped = Registered { public_key: other.public_key.clone(), ..read.clone() };
        verify(&CHALLENGE, &swapped).unwrap_err();
        let renamed = Registered { credential_id: other.credential_id, ..read.clone() };
        verify(&CHALLENGE, &renamed).unwrap_err();
        let elsewhere = Site::new("localhost", "http://localhost:2").unwrap();
        elsewhere.verify_registration(&CHALLENGE, USER, (&client, &object), &read).unwrap_err();
    }

    #[test]
    fn the_library_verifies_a_passkey_of_the_log() {
        let key = Authenticator::new("localhost", ORIGIN, false);
        let (_, _, read) = registered(&key);
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let signed = key.get(&URL_SAFE_NO_PAD.encode(CHALLENGE));
        let (data, client) = (bytes(&signed.authenticator_data), bytes(&signed.client_data));
        let signature = bytes(&signed.signature);
        let verify = |challenge: &[u8], key: &PublicKey, copies, signature: &[u8]| {
            let said = Said { id: &signed.id, data: &data, client: &client, signature };
            site().verify_assertion(challenge, key, copies, said)
        };
        let copies = read.backup_eligible;
        verify(&CHALLENGE, &read.public_key, copies, &signature).unwrap();
        verify(&[8; 32], &read.public_key, copies, &signature).unwrap_err();
        verify(&CHALLENGE, &read.public_key, !copies, &signature).unwrap_err();
        let mut forged = signature.clone();
        *forged.last_mut().unwrap() ^= 1;
        verify(&CHALLENGE, &read.public_key, copies, &forged).unwrap_err();
        let (_, _, other) = registered(&Authenticator::new("localhost", ORIGIN, false));
        verify(&CHALLENGE, &other.public_key, copies, &signature).unwrap_err();
    }
}
