use super::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const BODY: &[u8] = br#"{"test": 2432232314}"#;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn vector() -> Headers {
    Headers {
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(),
        timestamp: "1614265330".into(),
        signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=".into(),
    }
}

#[test]
fn the_published_vector() {
    let endpoint = Endpoint::parse([SECRET]).unwrap();
    let signed = endpoint.sign(&vector().id, at(1_614_265_330), BODY).unwrap();
    assert_eq!(signed, vector());
    assert_eq!(endpoint.verify(&signed, BODY, at(1_614_265_330)), Ok(()));
}

#[test]
fn what_is_not_authentic_and_fresh_is_refused() {
    let endpoint = Endpoint::parse([SECRET]).unwrap();
    let now = at(1_614_265_330);
    let verify = |h: &Headers, body: &[u8], now| endpoint.verify(h, body, now);
    assert_eq!(verify(&vector(), b"{}", now), Err(WebhookError::Forged));
    for away in [-301, 301, 1 << 40] {
        let late = at(1_614_265_330 + away);
        assert_eq!(verify(&vector(), BODY, late), Err(WebhookError::Stale), "{away}");
    }
    assert_eq!(verify(&vector(), BODY, at(1_614_265_330 + 300)), Ok(()));
    let edit = |f: fn(&mut Headers)| {
        let mut h = vector();
        f(&mut h);
        verify(&h, BODY, now)
    };
    assert_eq!(edit(|h| h.id = "msg_other".into()), Err(WebhookError::Forged));
    assert_eq!(edit(|h| h.id = "a.b".into()), Err(WebhookError::Id));
    assert_eq!(edit(|h| h.timestamp = "1614265331".into()), Err(WebhookError::Forged));
    assert_eq!(edit(|h| h.timestamp = String::new()), Err(WebhookError::Stale));
    assert_eq!(edit(|h| h.signature = String::new()), Err(WebhookError::Forged));
    assert_eq!(edit(|h| h.signature = "v1,".into()), Err(WebhookError::Forged));
    // The same bytes under another version's name prove nothing.
    assert_eq!(
        edit(|h| h.signature = h.signature.replacen("v1", "v1a", 1)),
        Err(WebhookError::Forged)
    );
    // Any of several may match, and only so many are looked at.
    assert_eq!(edit(|h| h.signature = format!("v1,AAAA v2,x {}", h.signature)), Ok(()));
    let flood = |h: &mut Headers| h.signature = format!("{}{}", "v1,AAAA ".repeat(8), h.signature);
    assert_eq!(edit(flood), Err(WebhookError::Forged));
}

#[test]
fn a_rotation_satisfies_both_sides() {
    let next = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let both = Endpoint::parse([next, SECRET]).unwrap();
    let signed = both.sign("m1", at(1), BODY).unwrap();
    for one in [next, SECRET] {
        assert_eq!(Endpoint::parse([one]).unwrap().verify(&signed, BODY, at(1)), Ok(()));
    }
}

#[test]
fn asymmetric_signatures_verify_with_the_public_key_alone() {
    let seed = format!("whsk_{}", STANDARD.encode([7u8; 32]));
    let WebhookKey(Key::Private(pair)) = WebhookKey::parse(&seed).unwrap() else { panic!() };
    let public = STANDARD.encode(signature::KeyPair::public_key(&pair));
    let signed = Endpoint::parse([seed.as_str()]).unwrap().sign("m1", at(1), BODY).unwrap();
    assert!(signed.signature.starts_with("v1a,"));
    let receiver = Endpoint::parse([format!("whpk_{public}").as_str()]).unwrap();
    assert_eq!(receiver.verify(&signed, BODY, at(1)), Ok(()));
    assert_eq!(receiver.verify(&signed, b"{}", at(1)), Err(WebhookError::Forged));
    assert_eq!(receiver.sign("m1", at(1), BODY), Err(WebhookError::Count));
}

#[test]
fn no_secret_is_no_endpoint_and_none_is_shown() {
    assert_eq!(Endpoint::parse([]).err(), Some(WebhookError::Count));
    assert_eq!(Endpoint::parse([SECRET; 5]).err(), Some(WebhookError::Count));
    for bad in
        ["", "whsec_", "whsec_AAAA", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsk_AAAA", "whpk_"]
    {
        assert_eq!(WebhookKey::parse(bad).err(), Some(WebhookError::Secret), "{bad}");
    }
    let shown = format!("{:?}", Endpoint::parse([SECRET]).unwrap());
    assert!(!shown.contains("MfKQ"), "{shown}");
}
