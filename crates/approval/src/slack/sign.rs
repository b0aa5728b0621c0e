//! Slack's request signature, version 0: HMAC-SHA256 over `v0:timestamp:body`, the body's very bytes
//! (docs.slack.dev, "Verifying requests from Slack").

use aws_lc_rs::hmac;
use grantwright_domain::Timestamp;

use crate::channel::{Delivery, Rejected};

/// How far a delivery's time may be from now, both ways, in seconds.
pub const SIGNATURE_AGE_S: i64 = 300;

/// The value of `X-Slack-Signature`.
#[must_use]
pub fn sign(secret: &[u8], timestamp: &str, body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &base(timestamp, body));
    tag.as_ref().iter().fold("v0=".to_owned(), |mut out, b| {
        out.push_str(&format!("{b:02x}"));
        out
    })
}

fn base(timestamp: &str, body: &[u8]) -> Vec<u8> {
    [b"v0:", timestamp.as_bytes(), b":", body].concat()
}

/// Checks signature, then time: a stranger learns nothing of our clock.
pub(super) fn check(secret: &[u8], delivery: &Delivery, now: Timestamp) -> Result<(), Rejected> {
    let header = |name: &str| delivery.headers.get(name).map(String::as_str);
    let given = header("x-slack-signature").ok_or(Rejected::Forged)?;
    let timestamp = header("x-slack-request-timestamp").ok_or(Rejected::Forged)?;
    let digits = given.strip_prefix("v0=").ok_or(Rejected::Forged)?;
    let tag = unhex(digits).ok_or(Rejected::Forged)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::verify(&key, &base(timestamp, &delivery.body), &tag).map_err(|_| Rejected::Forged)?;
    let plain =
        (1..=12).contains(&timestamp.len()) && timestamp.bytes().all(|b| b.is_ascii_digit());
    let sent: i64 = timestamp.parse().ok().filter(|_| plain).ok_or(Rejected::Stale)?;
    if now.seconds().abs_diff(sent) > SIGNATURE_AGE_S.unsigned_abs() {
        return Err(Rejected::Stale);
    }
    Ok(())
}

/// 64 lower-case hexadecimal digits.
fn unhex(digits: &str) -> Option<[u8; 32]> {
    grantwright_domain::Digest::parse(digits).ok().map(|d| d.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"8f742231b10e8888abcd99yyyzzz85a5";
    const BODY: &str = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const AT: &str = "1531420618";
    const SIGNED: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";

    fn given(at: &str, signed: &str, body: &str, now_s: i64) -> Result<(), Rejected> {
        let headers = [("x-slack-request-timestamp", at), ("x-slack-signature", signed)];
        let delivery = Delivery {
            headers: headers.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            body: body.as_bytes().to_vec(),
        };
        check(SECRET, &delivery, Timestamp::from_millis(now_s * 1000))
    }

    #[test]
    fn invariant_12_slacks_own_vector_and_every_way_to_be_wrong() {
        assert_eq!(sign(SECRET, AT, BODY.as_bytes()), SIGNED);
        let at: i64 = AT.parse().unwrap();
        assert_eq!(given(AT, SIGNED, BODY, at), Ok(()));
        assert_eq!(given(AT, SIGNED, BODY, at + 300), Ok(()));
        assert_eq!(given(AT, SIGNED, BODY, at - 300), Ok(()));
        assert_eq!(given(AT, SIGNED, BODY, at + 301), Err(Rejected::Stale));
        assert_eq!(given(AT, SIGNED, BODY, at - 301), Err(Rejected::Stale));
        assert_eq!(given(AT, SIGNED, &BODY.replace("foobar", "foobaz"), at), Err(Rejected::Forged));
        assert_eq!(given("1531420619", SIGNED, BODY, at), Err(Rejected::Forged));
        for odd in
            ["", "v0=", "v1=00", &SIGNED.to_uppercase(), &SIGNED.replace("v0", "v1"), &SIGNED[..66]]
        {
            assert_eq!(given(AT, odd, BODY, at), Err(Rejected::Forged), "{odd}");
        }
        let unsigned = Delivery { headers: Default::default(), body: BODY.into() };
        assert_eq!(check(SECRET, &unsigned, Timestamp::default()), Err(Rejected::Forged));
        // A time that is signed and is none.
        for odd in ["", "-1", "+1531420618", "1531420618 ", "99999999999999"] {
            let signed = sign(SECRET, odd, BODY.as_bytes());
            assert_eq!(given(odd, &signed, BODY, at), Err(Rejected::Stale), "{odd}");
        }
    }
}
