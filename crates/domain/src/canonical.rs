//! Canonical JSON (RFC 8785, JCS) over strings, integers, booleans, arrays and objects.
//!
//! Reading is strict: duplicate keys, null, floats, integers beyond ±(2^53−1), unpaired surrogates,
//! deep nesting and trailing bytes are refused, so that two parsers can never disagree.

mod write;

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::digest::Digest;

/// Deepest nesting that is read.
pub const MAX_DEPTH: usize = 32;
/// Largest magnitude of an integer: beyond it JavaScript's numbers lose digits.
pub const MAX_INTEGER: i64 = 9_007_199_254_740_991;

/// The bytes are not canonical-safe JSON, or the value cannot be written canonically.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CanonicalError(pub String);

/// Reads strict JSON into a value that can be written canonically.
///
/// # Errors
/// Names what is wrong and where (line and column).
pub fn parse(bytes: &[u8]) -> Result<Value, CanonicalError> {
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth: 0 }.deserialize(&mut de).map_err(say)?;
    de.end().map_err(say)?;
    Ok(value)
}

/// Reads strict JSON into a type.
///
/// # Errors
/// As [`parse`], and when the value does not fit the type (unknown or missing fields, wrong types).
pub fn parse_as<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, CanonicalError> {
    serde_json::from_value(parse(bytes)?).map_err(say)
}

#[expect(clippy::needless_pass_by_value, reason = "used as a `map_err` function")]
fn say(e: serde_json::Error) -> CanonicalError {
    CanonicalError(e.to_string())
}

/// Writes the canonical bytes of a value.
///
/// # Errors
/// When it holds null, a float, or an integer beyond ±(2^53−1), also as a key; a key twice, or one that is
/// neither text nor an integer.
pub fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, CanonicalError> {
    let mut writer = write::Writer::new();
    value.serialize(&mut writer)?;
    Ok(writer.out)
}

/// Digest of the canonical bytes under a label.
///
/// # Errors
/// As [`to_bytes`].
pub fn digest(label: &str, value: &impl Serialize) -> Result<Digest, CanonicalError> {
    Ok(Digest::of(label, &to_bytes(value)?))
}

/// How deep objects and arrays are nested in bytes that are JSON.
pub(crate) fn depth(json: &[u8]) -> usize {
    let (mut deepest, mut depth, mut in_text, mut escaped) = (0usize, 0usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Of an object in canonical form: where an entry of its own begins whose beginning is `entry` (key, colon
/// and quote), and the entry's text. None where the bytes have no such entry.
pub(crate) fn find_text<'j>(json: &'j [u8], entry: &[u8]) -> Option<(usize, &'j [u8])> {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    let mut at = 0;
    loop {
        match json.get(at)? {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' if !in_text && depth == 1 && json.get(at..)?.starts_with(entry) => break,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
    }
    let value = json.get(at + entry.len()..)?;
    Some((at, value.get(..value.iter().position(|b| *b == b'"')?)?))
}

/// As [`find_text`]: the text, and the object without its entry.
pub(crate) fn take_text<'j>(json: &'j [u8], entry: &[u8]) -> Option<(&'j [u8], Vec<u8>)> {
    let (at, text) = find_text(json, entry)?;
    let mut after = json.get(at + entry.len() + text.len() + 1..)?;
    let mut before = json.get(..at)?;
    // One of the two commas goes with it.
    match after.strip_prefix(b",") {
        Some(rest) => after = rest,
        None => before = before.strip_suffix(b",").unwrap_or(before),
    }
    let mut rest = Vec::with_capacity(before.len() + after.len());
    rest.extend_from_slice(before);
    rest.extend_from_slice(after);
    Some((text, rest))
}

#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_DEPTH {
            return Err(E::custom(format!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, an integer, true, false, an array or an object")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        if v < -MAX_INTEGER {
            return Err(E::custom("integer beyond ±(2^53−1)"));
        }
        Ok(Value::from(v))
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        if v > MAX_INTEGER.unsigned_abs() {
            return Err(E::custom("integer beyond ±(2^53−1)"));
        }
        Ok(Value::from(v))
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
        Err(E::custom("numbers are integers here: no fraction, no exponent"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(seed)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                let shown = crate::text::shorten(&crate::text::visible(&key), 40);
                return Err(de::Error::custom(format!("the key `{shown}` is there twice")));
            }
            let value = access.next_value_seed(seed)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_what_the_strict_reader_counts() {
        for (json, deep) in [("1", 0), ("{}", 1), (r#"[{"a":"[[\"["},[[]],{}]"#, 3)] {
            assert_eq!(depth(json.as_bytes()), deep, "{json}");
        }
        for n in [MAX_DEPTH, MAX_DEPTH + 1] {
            let json = "[".repeat(n) + &"]".repeat(n);
            assert_eq!(parse(json.as_bytes()).is_ok(), depth(json.as_bytes()) <= MAX_DEPTH);
        }
    }

    #[test]
    fn an_entry_is_taken_from_the_outermost_object_only() {
        let take = |json: &str| {
            let (text, rest) = take_text(json.as_bytes(), b"\"kind\":\"")?;
            Some(format!("{} {}", str::from_utf8(text).unwrap(), str::from_utf8(&rest).unwrap()))
        };
        for (json, found) in [
            (r#"{"a":{"kind":"x"},"kind":"y","z":1}"#, Some(r#"y {"a":{"kind":"x"},"z":1}"#)),
            (r#"{"a":"\"kind\":\"x","kind":"y"}"#, Some(r#"y {"a":"\"kind\":\"x"}"#)),
            (r#"{"kind":"y"}"#, Some("y {}")),
            (r#"{"kind":"y","z":1}"#, Some(r#"y {"z":1}"#)),
            (r#"{"a":[{"kind":"x"}]}"#, None),
            (r#"{"a":1}}"#, None),
            ("", None),
        ] {
            assert_eq!(take(json).as_deref(), found, "{json}");
        }
    }

    /// Holds in a build with `preserve_order` and in one without.
    #[test]
    fn keys_are_sorted_however_they_were_inserted() {
        let mut map = Map::new();
        for key in ["b", "a", "_", "B"] {
            map.insert(key.into(), Value::from(1));
        }
        let bytes = to_bytes(&Value::Object(map)).unwrap();
        assert_eq!(bytes, br#"{"B":1,"_":1,"a":1,"b":1}"#);
        assert_eq!(parse(&bytes).and_then(|v| to_bytes(&v)).unwrap(), bytes);
    }
}
