//! Query strings, read strictly: two readers can never see different parameters.

use grantwright_wire::Refusal;

use crate::ask::malformed;

/// Most parameters in one address.
const MOST: usize = 32;

/// Name and value of each parameter, percent-decoded; `+` is a plus sign.
///
/// # Errors
/// 400 `malformed` for a part without `=`, an empty or repeated name, a broken escape, or bytes that
/// are no UTF-8.
pub fn query(text: Option<&str>) -> Result<Vec<(String, String)>, Box<Refusal>> {
    let mut params: Vec<(String, String)> = Vec::new();
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(params) };
    for part in text.split('&') {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| malformed("the query wants name=value, joined by `&`"))?;
        let (name, value) = (decode(name)?, decode(value)?);
        if name.is_empty() || params.iter().any(|it| it.0 == name) || params.len() >= MOST {
            return Err(malformed("a name in the query is empty, repeated, or one too many"));
        }
        params.push((name, value));
    }
    Ok(params)
}

/// `wait=30s`, 0s to 60s, in milliseconds; absent: 0.
///
/// # Errors
/// 400 `malformed`.
pub fn wait(text: Option<&str>) -> Result<u32, Box<Refusal>> {
    let wrong = || malformed("the query wants nothing but `wait`, 0s to 60s");
    match query(text)?.as_slice() {
        [] => Ok(0),
        [(name, value)] if name == "wait" => {
            let seconds = value.strip_suffix('s').ok_or_else(wrong)?;
            let plain = (1..=2).contains(&seconds.len())
                && seconds.bytes().all(|b| b.is_ascii_digit())
                && (seconds.len() == 1 || !seconds.starts_with('0'));
            let seconds: u32 = seconds.parse().ok().filter(|_| plain).ok_or_else(wrong)?;
            if seconds > 60 { Err(wrong()) } else { Ok(seconds * 1000) }
        }
        _ => Err(wrong()),
    }
}

fn decode(text: &str) -> Result<String, Box<Refusal>> {
    let wrong = || malformed("the query holds a broken percent escape");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
        out.push(high << 4 | low);
    }
    String::from_utf8(out).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let read = |text: &str| query(Some(text)).ok();
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(
            read("bucket=demo&prefix=public%2Fa/"),
            Some(vec![pair("bucket", "demo"), pair("prefix", "public/a/")])
        );
        assert_eq!(read("a=b+c%20=d"), Some(vec![pair("a", "b+c =d")]));
        assert_eq!(read(""), Some(vec![]));
        for bad in ["a", "a=1&a=2", "a=1&%61=2", "=1", "a=%", "a=%2", "a=%zz", "a=%ff", "a=1&", "&"]
        {
            assert!(read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn waits() {
        for (text, ms) in [("wait=0s", 0), ("wait=30s", 30_000), ("wait=60s", 60_000)] {
            assert_eq!(wait(Some(text)).ok(), Some(ms));
        }
        assert_eq!(wait(None).ok(), Some(0));
        for bad in [
            "wait=61s",
            "wait=1m",
            "wait=30",
            "wait=-1s",
            "wait=+1s",
            "wait=00s",
            "wait=1.5s",
            "wait=s",
            "wait=",
            "x=1s",
            "wait=1s&wait=1s",
            "wait=1s&x=1",
        ] {
            assert!(wait(Some(bad)).is_err(), "{bad}");
        }
    }
}
