use super::in_order;
use crate::canonical::{parse, to_bytes};
use serde_json::json;

#[test]
fn objects_are_ordered_by_utf_16_and_arrays_are_not() {
    let value =
        json!({ "\u{fb33}": 1, "\u{1f600}": 2, "b": [3, 1, "\"\\\u{1}é"], "a": {}, "c": [] });
    let bytes = to_bytes(&value).unwrap();
    assert_eq!(
        String::from_utf8(bytes.clone()).unwrap(),
        "{\"a\":{},\"b\":[3,1,\"\\\"\\\\\\u0001é\"],\"c\":[],\"\u{1f600}\":2,\"\u{fb33}\":1}"
    );
    assert_eq!(parse(&bytes).unwrap(), value);
}

proptest::proptest! {
    /// Characters of all lengths, from both sides of the surrogates, in texts that begin alike.
    #[test]
    fn the_order_is_that_of_utf_16(
        a in "[a-c\u{7f}\u{80}\u{7ff}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}]{0,4}",
        b in "[a-c\u{7f}\u{80}\u{7ff}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}]{0,4}",
    ) {
        let (x, y): (Vec<u16>, Vec<u16>) = (a.encode_utf16().collect(), b.encode_utf16().collect());
        proptest::prop_assert_eq!(in_order(a.as_bytes(), b.as_bytes()), x.cmp(&y));
    }

    /// Keys that differ in their first bytes and behind them, with escapes and without.
    #[test]
    fn objects_of_any_keys_are_in_that_order(
        keys in proptest::collection::hash_set(
            "(|abcdef|abcdefgh)[ab\"\\\\\n\u{1}\u{7f}\u{d7ff}\u{e000}\u{ffff}\u{10000}]{0,3}", 0..12),
    ) {
        let mut expected: Vec<&String> = keys.iter().collect();
        expected.sort_by_key(|key| key.encode_utf16().collect::<Vec<_>>());
        // As long as their keys, so that an entry that stands elsewhere shows.
        let text = |key: &&String| serde_json::to_string(key).unwrap();
        let each = expected.iter().map(|key| format!("{0}:{0}", text(key)));
        let expected = format!("{{{}}}", each.collect::<Vec<_>>().join(","));
        let object: std::collections::HashMap<_, _> = keys.iter().map(|key| (key, key)).collect();
        proptest::prop_assert_eq!(String::from_utf8(to_bytes(&object).unwrap()).unwrap(), expected);
    }
}

#[test]
fn keys_are_texts_and_integers_as_texts() {
    use std::collections::BTreeMap;
    let written = |bytes: Result<Vec<u8>, _>| bytes.map(|b| String::from_utf8(b).unwrap());
    let numbers = BTreeMap::from([(-3, 1), (2, 2), (10, 3)]);
    assert_eq!(written(to_bytes(&numbers)).unwrap(), r#"{"-3":1,"10":3,"2":2}"#);
    // Their order is that of what they say, not of their escapes: `"` is below `a`, `\\` above `Z`.
    let escaped = BTreeMap::from([("\"b", 1), ("\\", 2), ("Z", 3), ("a", 4), ("\n", 5)]);
    let inner = BTreeMap::from([("x\\", escaped.clone()), ("x", escaped)]);
    let one = r#"{"\n":5,"\"b":1,"Z":3,"\\":2,"a":4}"#;
    assert_eq!(written(to_bytes(&inner)).unwrap(), format!(r#"{{"x":{one},"x\\":{one}}}"#));
    assert!(to_bytes(&BTreeMap::from([(true, 1)])).is_err());
    assert!(to_bytes(&BTreeMap::from([(9_007_199_254_740_992_i64, 1)])).is_err());
    assert!(to_bytes(&BTreeMap::from([(vec![1], 1)])).is_err());
}

/// A type whose fields may bear one name.
struct Pairs(Vec<(&'static str, u8)>);
impl serde::Serialize for Pairs {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    for pairs in [vec![("a", 1), ("a", 1)], vec![("b", 1), ("a", 2), ("b", 3)]] {
        assert!(to_bytes(&[Pairs(pairs)]).is_err());
    }
    let sorted = to_bytes(&[Pairs(vec![("b", 1), ("a", 2)]), Pairs(vec![("a", 3)])]).unwrap();
    assert_eq!(sorted, br#"[{"a":2,"b":1},{"a":3}]"#);
}

/// A type that writes keys (`k`) and values (`v`) as it likes.
struct Loose(&'static str);
impl serde::Serialize for Loose {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap as _;
        let mut map = serializer.serialize_map(None)?;
        for (n, part) in self.0.chars().enumerate() {
            match part {
                'k' => map.serialize_key(&n)?,
                _ => map.serialize_value(&n)?,
            }
        }
        map.end()
    }
}

#[test]
fn keys_and_values_take_turns() {
    assert_eq!(to_bytes(&Loose("kvkv")).unwrap(), br#"{"0":1,"2":3}"#);
    for loose in ["k", "kvk", "kkv", "v", "kvv"] {
        assert!(to_bytes(&Loose(loose)).is_err(), "{loose}");
    }
}

#[test]
fn what_has_no_canonical_form_is_refused() {
    for bad in [
        json!(null),
        json!(1.5),
        json!({ "a": [null] }),
        json!(9_007_199_254_740_992_i64),
        json!(u64::MAX),
    ] {
        assert!(to_bytes(&bad).is_err(), "{bad}");
    }
}
