//! Canonical JSON: what is read, how it is written, and what is refused.

use grantwright_domain::Digest;
use grantwright_domain::canonical::{parse, to_bytes};
use serde_json::Value;

use crate::{frozen, hex, sha256, vector};

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[test]
fn accepted_in_one_spelling_only() {
    let deepest = nested(32);
    let rfc = r#"{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}"#;
    let cases: &[(&str, &str)] = &[
        ("empty object", "{}"),
        ("empty array", " [ ] "),
        ("empty string", "\"\""),
        ("empty key", r#"{"a":1,"":2}"#),
        ("booleans", "[true,false]"),
        ("zero", "0"),
        ("largest integer", "9007199254740991"),
        ("least integer", "-9007199254740991"),
        ("white space", "\t{ \"b\" : 1 ,\r\n \"a\" : [ 2 , 3 ] } "),
        ("keys in byte order", r#"{"b":1,"a":2,"B":3,"_":4,"aa":5}"#),
        ("nested objects are sorted too", r#"{"b":{"z":1,"y":[{"d":1,"c":2}]},"a":0}"#),
        ("RFC 8785 section 3.2.3", rfc),
        ("keys by UTF-16, not by code point", r#"{"\uff21":1,"\ud83d\ude00":2}"#),
        ("arrays keep their order", "[3,1,2]"),
        ("escapes of plain letters", r#""\u0061\/\u005c""#),
        ("short escapes", r#""\u0008\u0009\u000a\u000c\u000d\"\\""#),
        ("other control characters", r#""\u0000\u001F\u007f""#),
        ("a pair of surrogates", r#""\ud83d\ude00""#),
        ("composed letter", "\"\u{e9}\""),
        ("decomposed letter", "\"e\u{301}\""),
        ("zero-width characters stay", "\"a\u{200b}b\u{feff}\""),
        ("bidirectional characters stay", "\"a\u{202e}b\u{2066}\""),
        ("line separators stay", "\"\u{2028}\u{2029}\""),
        ("noncharacters stay", "\"\u{ffff}\u{10ffff}\""),
        ("deepest nesting", &deepest),
    ];
    let vectors = cases.iter().map(|(name, input)| {
        let value = parse(input.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = to_bytes(&value).unwrap_or_else(|e| panic!("{name}: {e}"));
        let again = parse(&bytes).and_then(|v| to_bytes(&v)).expect("canonical bytes are read");
        assert_eq!(again, bytes, "{name}: writing is idempotent");
        let digest = Digest::of("vector", &bytes).hex();
        assert_eq!(digest, sha256("vector", &bytes), "{name}");
        let text = String::from_utf8(bytes).expect("canonical bytes are UTF-8");
        let fields = [
            ("input_hex", hex(input.as_bytes()).into()),
            ("canonical", text.into()),
            ("digest", digest.into()),
        ];
        vector(name, fields)
    });
    frozen("canonical.json", vectors.collect());
}

#[test]
fn composed_and_decomposed_letters_are_different() {
    let digest = |s: &str| Digest::of("vector", &to_bytes(&Value::from(s)).expect("a string"));
    assert_ne!(digest("\u{e9}"), digest("e\u{301}"));
    assert_ne!(digest("ab"), digest("a\u{200b}b"));
    assert_ne!(digest("a"), digest("\u{430}"));
}

#[test]
fn hostile_bytes_are_refused() {
    let deep = nested(33);
    let deeper = "{\"a\":".repeat(33) + "1" + &"}".repeat(33);
    let abyss = nested(100_000);
    // Name, bytes, why; the last word is what our own message says, where it is ours.
    let cases: &[(&str, &[u8], &str, &str)] = &[
        ("nothing", b"", "no value", ""),
        ("white space only", b" \n", "no value", ""),
        ("duplicate key", br#"{"a":1,"a":1}"#, "duplicate key", "there twice"),
        ("duplicate key, nested", br#"[{"x":{"a":1,"b":2,"a":3}}]"#, "duplicate key", "twice"),
        ("duplicate key, escaped", br#"{"a":1,"\u0061":2}"#, "duplicate key", "there twice"),
        ("duplicate empty key", br#"{"":1,"":2}"#, "duplicate key", "there twice"),
        (
            "duplicate key outside the basic plane",
            "{\"\u{1f600}\":1,\"\\ud83d\\ude00\":2}".as_bytes(),
            "duplicate key",
            "there twice",
        ),
        ("fraction", b"1.5", "not an integer", "integers"),
        ("fraction of nothing", b"1.0", "not an integer", "integers"),
        ("exponent", b"1e2", "not an integer", "integers"),
        ("capital exponent", b"[1E0]", "not an integer", "integers"),
        ("minus zero", b"-0", "not an integer", "integers"),
        ("minus zero with a fraction", b"-0.0", "not an integer", "integers"),
        ("one more than the largest", b"9007199254740992", "beyond 2^53-1", "beyond"),
        ("one less than the least", b"-9007199254740992", "beyond 2^53-1", "beyond"),
        ("2^63", b"9223372036854775808", "beyond 2^53-1", "beyond"),
        ("2^64", b"18446744073709551616", "beyond 2^53-1", "integers"),
        ("a number of forty digits", &[b'9'; 40], "beyond 2^53-1", "integers"),
        ("overflowing exponent", b"1e999", "not an integer", ""),
        ("leading zero", b"01", "not JSON", ""),
        ("leading plus", b"+1", "not JSON", ""),
        ("hexadecimal", b"0x10", "not JSON", ""),
        ("NaN", b"NaN", "not JSON", ""),
        ("Infinity", b"[Infinity]", "not JSON", ""),
        ("null", b"null", "null", ""),
        ("null inside", br#"{"a":[null]}"#, "null", ""),
        ("lone high surrogate", br#""\ud83d""#, "unpaired surrogate", ""),
        ("lone low surrogate", br#""\ude00""#, "unpaired surrogate", ""),
        ("high surrogate and a letter", br#""\ud83dx""#, "unpaired surrogate", ""),
        ("two high surrogates", br#""\ud83d\ud83d""#, "unpaired surrogate", ""),
        ("surrogates in the wrong order", br#""\ude00\ud83d""#, "unpaired surrogate", ""),
        ("lone surrogate in a key", br#"{"\udead":1}"#, "unpaired surrogate", ""),
        ("surrogate in UTF-8", b"\"\xed\xa0\x80\"", "not UTF-8", ""),
        ("stray continuation byte", b"\"\x80\"", "not UTF-8", ""),
        ("overlong slash", b"\"\xc0\xaf\"", "not UTF-8", ""),
        ("beyond U+10FFFF", b"\"\xf4\x90\x80\x80\"", "not UTF-8", ""),
        ("cut-off character", b"\"\xe2\x82\"", "not UTF-8", ""),
        ("byte order mark", b"\xef\xbb\xbf{}", "byte order mark", ""),
        ("UTF-16", b"\xff\xfe{\0}\0", "not UTF-8", ""),
        ("raw line feed in a string", b"\"a\nb\"", "raw control character", ""),
        ("raw NUL in a string", b"\"a\0b\"", "raw control character", ""),
        ("raw tab in a key", b"{\"a\tb\":1}", "raw control character", ""),
        ("unknown escape", br#""\x41""#, "not JSON", ""),
        ("short escape", br#""\u41""#, "not JSON", ""),
        ("single quotes", b"'a'", "not JSON", ""),
        ("bare key", b"{a:1}", "not JSON", ""),
        ("line comment", b"{} // more", "not JSON", ""),
        ("block comment", b"/* */ {}", "not JSON", ""),
        ("trailing comma in an array", b"[1,]", "not JSON", ""),
        ("trailing comma in an object", br#"{"a":1,}"#, "not JSON", ""),
        ("trailing bytes", b"{}x", "trailing bytes", ""),
        ("a second value", b"{} {}", "trailing bytes", ""),
        ("trailing NUL", b"{}\0", "trailing bytes", ""),
        ("form feed as white space", b"\x0c{}", "not JSON", ""),
        ("no-break space as white space", b"\xc2\xa0{}", "not JSON", ""),
        ("unclosed", br#"{"a":[1"#, "not JSON", ""),
        ("arrays nested too deeply", deep.as_bytes(), "too deep", "nested deeper"),
        ("objects nested too deeply", deeper.as_bytes(), "too deep", "nested deeper"),
        ("capital True", b"True", "not JSON", ""),
    ];
    let vectors = cases.iter().map(|(name, input, why, says)| {
        let refusal = parse(input).expect_err(name).to_string();
        assert!(refusal.contains(says), "{name}: {refusal}");
        vector(name, [("input_hex", hex(input).into()), ("refused", (*why).into())])
    });
    frozen("refused.json", vectors.collect());
    // No vector: too long to write down.
    assert!(parse(abyss.as_bytes()).is_err());
}

#[test]
fn what_cannot_be_canonical_is_not_written() {
    for value in [
        Value::Null,
        serde_json::json!({"a": [1.5]}),
        serde_json::json!(1.0),
        serde_json::json!(9_007_199_254_740_992_u64),
        serde_json::json!(-9_007_199_254_740_992_i64),
        serde_json::json!(u64::MAX),
        serde_json::json!({"a": {"b": null}}),
    ] {
        assert!(to_bytes(&value).is_err(), "{value}");
    }
}

#[test]
fn refusals_show_no_deceptive_characters() {
    let input = "{\"\u{202e}x\u{200b}\":1,\"\u{202e}x\u{200b}\":2}";
    let refusal = parse(input.as_bytes()).expect_err("twice").to_string();
    assert!(refusal.contains("⟨U+202E⟩") && !refusal.contains('\u{202e}'), "{refusal}");
}
