//! Invariant 14, the signature: a passkey's answer verifies for what it was given for, and for
//! nothing else, whatever bit of it is changed.
#![expect(clippy::expect_used, reason = "a test that cannot go on stops")]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_domain::passkey::PublicKey;
use grantwright_proof::passkey::{
    Assertion, Expected, PasskeyError, verify_assertion, verify_registration,
};
use grantwright_testkit::authenticator::Authenticator;
use proptest::prelude::*;

const ORIGIN: &str = "http://localhost:8080";
const CHALLENGE: [u8; 32] = [7; 32];

fn expected() -> Expected<'static> {
    Expected { challenge: &CHALLENGE, rp_id: "localhost", origin: Some(ORIGIN) }
}

fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(CHALLENGE)
}

fn bytes(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url")
}

fn registered(passkey: &Authenticator) -> Result<PublicKey, PasskeyError> {
    let (client, object) = passkey.create(&challenge());
    let made = verify_registration(&expected(), &client, &object)?.into_inner();
    assert_eq!(made.credential_id, passkey.id());
    assert_eq!(made.public_key.key, passkey.key());
    assert_eq!(made.aaguid, "0".repeat(32));
    Ok(made.public_key)
}

fn verify(
    expected: &Expected<'_>,
    key: &PublicKey,
    given: &[Vec<u8>; 3],
) -> Result<(), PasskeyError> {
    let [authenticator_data, client_data, signature] = given;
    verify_assertion(expected, key, &Assertion { authenticator_data, client_data, signature })
        .map(drop)
}

fn answer(passkey: &Authenticator) -> [Vec<u8>; 3] {
    let a = passkey.get(&challenge());
    [bytes(&a.authenticator_data), bytes(&a.client_data), bytes(&a.signature)]
}

#[test]
fn an_answer_verifies_under_its_key_and_no_other_and_no_bit_can_change() {
    for eddsa in [false, true] {
        let passkey = Authenticator::new("localhost", ORIGIN, eddsa);
        let key = registered(&passkey).expect("a new passkey");
        let good = answer(&passkey);
        verify(&expected(), &key, &good).expect("verifies");
        let other = Authenticator::new("localhost", ORIGIN, eddsa);
        let others = registered(&other).expect("a new passkey");
        assert_eq!(verify(&expected(), &others, &good), Err(PasskeyError::Signature));
        for part in 0..3 {
            for bit in 0..good[part].len() * 8 {
                let mut edited = good.clone();
                edited[part][bit / 8] ^= 1 << (bit % 8);
                verify(&expected(), &key, &edited).expect_err("one bit differs");
            }
            for cut in 0..good[part].len() {
                let mut edited = good.clone();
                edited[part].truncate(cut);
                verify(&expected(), &key, &edited).expect_err("cut short");
            }
            let mut longer = good.clone();
            longer[part].push(0);
            verify(&expected(), &key, &longer).expect_err("longer");
        }
    }
}

#[test]
fn what_was_signed_for_another_purpose_is_refused_with_the_reason() {
    type Change = fn(&mut Authenticator);
    let cases: [(Change, PasskeyError); 11] = [
        (|p| p.rp_id = "localhos".into(), PasskeyError::RelyingParty),
        (|p| p.rp_id = "evil.example".into(), PasskeyError::RelyingParty),
        (|p| p.origin = "http://localhost:8081".into(), PasskeyError::Origin),
        (|p| p.origin = "https://localhost:8080".into(), PasskeyError::Origin),
        (|p| p.more = ",\"crossOrigin\":true".into(), PasskeyError::Origin),
        (|p| p.more = ",\"topOrigin\":\"https://evil.example\"".into(), PasskeyError::Origin),
        (|p| p.flags = 0x01, PasskeyError::Unverified),
        (|p| p.flags = 0x04, PasskeyError::Unverified),
        (|p| p.flags = 0x15, PasskeyError::Backup),
        (|p| p.flags = 0x85, PasskeyError::Malformed("authenticator data")),
        (
            |p| p.more = ",\"origin\":\"http://localhost:8080\"".into(),
            PasskeyError::Malformed("client data"),
        ),
    ];
    for (n, (change, why)) in cases.into_iter().enumerate() {
        let mut passkey = Authenticator::new("localhost", ORIGIN, n % 2 == 0);
        let key = registered(&passkey).expect("a new passkey");
        change(&mut passkey);
        assert_eq!(verify(&expected(), &key, &answer(&passkey)), Err(why), "case {n}");
        assert_eq!(registered(&passkey), Err(why), "case {n}, new");
    }
    let passkey = Authenticator::new("localhost", ORIGIN, true);
    let key = registered(&passkey).expect("a new passkey");
    let other = Expected { challenge: &[8; 32], ..expected() };
    assert_eq!(verify(&other, &key, &answer(&passkey)), Err(PasskeyError::Challenge));
    // An answer to `create` where one to `get` is wanted, and the reverse.
    let data = bytes(&passkey.get(&challenge()).authenticator_data);
    let twisted = passkey.sign(data, passkey.client_data("webauthn.create", &challenge()));
    let twisted =
        [&twisted.authenticator_data, &twisted.client_data, &twisted.signature].map(|t| bytes(t));
    assert_eq!(verify(&expected(), &key, &twisted), Err(PasskeyError::WrongCeremony));
    let (_, object) = passkey.create(&challenge());
    let client = passkey.client_data("webauthn.get", &challenge());
    let refused = verify_registration(&expected(), &client, &object).expect_err("another use");
    assert_eq!(refused, PasskeyError::WrongCeremony);
}

#[test]
fn without_a_known_port_the_host_and_the_scheme_still_count() {
    let later = Expected { origin: None, ..expected() };
    for (origin, rp_id, fine) in [
        ("http://localhost:8080", "localhost", true),
        ("http://localhost", "localhost", true),
        ("https://gw.example.org", "gw.example.org", true),
        ("https://gw.example.org:8443", "gw.example.org", true),
        ("http://gw.example.org", "gw.example.org", false),
        ("https://evil.example", "gw.example.org", false),
        ("https://gw.example.org.evil.example", "gw.example.org", false),
        ("https://x.gw.example.org", "gw.example.org", false),
        ("https://gw.example.org:x", "gw.example.org", false),
        ("https://gw.example.org@evil.example", "gw.example.org", false),
        ("null", "gw.example.org", false),
    ] {
        let passkey = Authenticator::new(rp_id, origin, false);
        let key = PublicKey {
            algorithm: grantwright_domain::passkey::Algorithm::Es256,
            key: passkey.key(),
        };
        let got = verify(&Expected { rp_id, ..later }, &key, &answer(&passkey));
        assert_eq!(got.is_ok(), fine, "{origin}: {got:?}");
    }
}

#[test]
fn a_key_that_is_none_is_refused_when_it_is_enrolled() {
    let passkey = Authenticator::new("localhost", ORIGIN, false);
    let (client, object) = passkey.create(&challenge());
    let key = bytes_of(&passkey.key());
    let at = object.windows(32).position(|w| w == &key[1..33]).expect("the key is in it");
    // Off the curve; of RS256; of another curve; a short coordinate.
    for (place, byte) in [(at, object[at] ^ 1), (at - 6, 0x38), (at - 4, 2), (at - 1, 31)] {
        let mut edited = object.clone();
        edited[place] = byte;
        verify_registration(&expected(), &client, &edited).expect_err("no key of ours");
    }
    for cut in 0..object.len() {
        verify_registration(&expected(), &client, &object[..cut]).expect_err("cut short");
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex"))
        .collect()
}

/// Test vector `packed-self.ES256` of Web Authentication Level 3, §16: its registration verifies its
/// person and is taken; its assertion does not, and is refused.
#[test]
fn the_vector_of_the_standard() {
    let hex = |text: &str| bytes_of(text);
    let challenge = hex("7869c2b772d4b58eba9378cf8f29e26cf935aa77df0da89fa99c0bdc0a76f7e5");
    let party = Expected {
        challenge: &challenge,
        rp_id: "example.org",
        origin: Some("https://example.org"),
    };
    let client = hex(
        "7b2274797065223a22776562617574686e2e637265617465222c226368616c6c656e6765223a2265476e4374334c55\
         745936366b336a506a796e6962506b31716e666644616966715a774c33417032392d55222c226f726967696e223a22\
         68747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73652c226578747261\
         44617461223a22636c69656e74446174614a534f4e206d617920626520657874656e6465642077697468206164646974\
         696f6e616c206669656c647320696e20746865206675747572652c207375636820617320746869733a205539685458\
         764b453255526b4d6e625f307859485667227d",
    );
    let object = hex(
        "a363666d74667061636b65646761747453746d74a263616c672663736967584630440220067a20754ab925005dbf37\
         8097c92120031581c73228d1fb4f5b881bcd7da98302207fc7b147558c7c0eba3af18bd9d121fa3d3a26d17fe3f220\
         272178f473b6006d68617574684461746158a4bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f014\
         52b2e4b55d00000000df850e09db6afbdfab51697791506cfc0020455ef34e2043a87db3d4afeb39bbcb6cc32df934\
         7c789a865ecdca129cbef58ca5010203262001215820eb151c8176b225cc651559fecf07af450fd85802046656b34c\
         18f6cf193843c5225820927b8aa427a2be1b8834d233a2d34f61f13bfd44119c325d5896e183fee484f2",
    );
    let made = verify_registration(&party, &client, &object).expect("the vector").into_inner();
    let id = hex("455ef34e2043a87db3d4afeb39bbcb6cc32df9347c789a865ecdca129cbef58c");
    assert_eq!(made.credential_id, URL_SAFE_NO_PAD.encode(id));
    assert_eq!(made.aaguid, "df850e09db6afbdfab51697791506cfc");
    assert!(made.backup_eligible && made.public_key.key.ends_with("83fee484f2"));
    let challenge = hex("4478a10b1352348dd160c1353b0d469b5db19eb91c27f7dfa6fed39fe26af20b");
    let get = [
        hex("bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b50900000000"),
        hex("7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a22524869684378\
             4e534e493352594d45314f7731476d3132786e726b634a5f6666707637546e2d4a71386773222c226f7269\
             67696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a6661\
             6c73652c22657874726144617461223a22636c69656e74446174614a534f4e206d61792062652065787465\
             6e6465642077697468206164646974696f6e616c206669656c647320696e20746865206675747572652c20\
             7375636820617320746869733a206754623533727a36456853576f6d58477a696d433151227d"),
        hex("304402203310b9431903c401f1be2bdc8d23a4007682dbbddcf846994947b7f465daf84002204e94dd00\
             047b316061b3b99772b7efd95994a83ef584b3b6b825ea3550251b66"),
    ];
    let refused = verify(&Expected { challenge: &challenge, ..party }, &made.public_key, &get);
    assert_eq!(refused, Err(PasskeyError::Unverified));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_read_without_a_panic(
        data in prop::collection::vec(any::<u8>(), 0..200),
        client in "\\PC{0,80}",
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let passkey = Authenticator::new("localhost", ORIGIN, true);
        let key = PublicKey {
            algorithm: grantwright_domain::passkey::Algorithm::EdDsa,
            key: passkey.key(),
        };
        let given = [data.clone(), client.clone().into_bytes(), data.clone()];
        prop_assert!(verify(&expected(), &key, &given).is_err());
        prop_assert!(verify_registration(&expected(), client.as_bytes(), &data).is_err());
        let (client, mut object) = passkey.create(&challenge());
        for (place, byte) in places {
            *place.get_mut(&mut object) = byte;
        }
        // Whatever it says, it says it without a panic.
        let _ = verify_registration(&expected(), &client, &object);
    }
}
