//! Writes canonical JSON straight from a type, without a tree in between: entries of an object are
//! written as they come, each with a comma behind it, and put in order when the object ends.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt::Display;

use serde::ser::{self, Serialize};

use super::{CanonicalError, MAX_INTEGER};

impl ser::Error for CanonicalError {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

type Done = Result<(), CanonicalError>;

/// The writer.
pub(super) struct Writer {
    pub(super) out: Vec<u8>,
}

/// An object or an array that is being written.
pub(super) struct Compound<'w> {
    writer: &'w mut Writer,
    start: usize,
    entries: Vec<Entry>,
    key: Option<Cow<'static, str>>,
    close: &'static [u8],
}

struct Entry {
    key: Cow<'static, str>,
    from: usize,
    to: usize,
}

impl Writer {
    fn integer(&mut self, i: i64) -> Done {
        if !(-MAX_INTEGER..=MAX_INTEGER).contains(&i) {
            return Err(too_large(i));
        }
        // Writing to memory cannot fail.
        let _ = std::io::Write::write_fmt(&mut self.out, format_args!("{i}"));
        Ok(())
    }

    fn text(&mut self, text: &str) -> Done {
        // Most text needs no escapes: then it is copied whole. All of it is looked at, many bytes at a time.
        if text.bytes().fold(true, |all, b| all & plain(b)) {
            self.out.reserve(text.len() + 2);
            self.out.push(b'"');
            self.out.extend_from_slice(text.as_bytes());
            self.out.push(b'"');
            return Ok(());
        }
        serde_json::to_writer(&mut self.out, text).map_err(|e| CanonicalError(e.to_string()))
    }

    fn object(&mut self, close: &'static [u8]) -> Compound<'_> {
        self.out.push(b'{');
        let start = self.out.len();
        Compound { writer: self, start, entries: Vec::with_capacity(16), key: None, close }
    }

    fn array(&mut self, close: &'static [u8]) -> Compound<'_> {
        self.out.push(b'[');
        let start = self.out.len();
        Compound { writer: self, start, entries: Vec::new(), key: None, close }
    }

    /// `{"variant":` before the value of an enum's variant.
    fn variant(&mut self, variant: &str) -> Done {
        self.out.push(b'{');
        self.text(variant)?;
        self.out.push(b':');
        Ok(())
    }
}

/// A byte that stands for itself between quotes.
fn plain(b: u8) -> bool {
    b >= 0x20 && b != b'"' && b != b'\\'
}

fn too_large(n: impl Display) -> CanonicalError {
    CanonicalError(format!("`{n}` is not an integer within ±(2^53−1)"))
}

fn null<T>() -> Result<T, CanonicalError> {
    Err(CanonicalError("null has no canonical form here".into()))
}

/// RFC 8785 §3.2.3: by UTF-16 code units. That is the order of bytes, but for characters from U+E000 on:
/// there the surrogates of U+10000 and above come first.
fn in_order(a: &str, b: &str) -> Ordering {
    match a.bytes().zip(b.bytes()).find(|(x, y)| x != y) {
        Some((0xee.., 0xee..)) => a.encode_utf16().cmp(b.encode_utf16()),
        Some((x, y)) => x.cmp(&y),
        None => a.len().cmp(&b.len()),
    }
}

impl Compound<'_> {
    fn entry<T: Serialize + ?Sized>(&mut self, key: Cow<'static, str>, value: &T) -> Done {
        let from = self.writer.out.len();
        self.writer.text(&key)?;
        self.writer.out.push(b':');
        value.serialize(&mut *self.writer)?;
        self.writer.out.push(b',');
        self.entries.push(Entry { key, from, to: self.writer.out.len() });
        Ok(())
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut *self.writer)?;
        self.writer.out.push(b',');
        Ok(())
    }

    fn close(mut self) -> Done {
        let sorted = self.entries.is_sorted_by(|a, b| in_order(&a.key, &b.key).is_lt());
        if !sorted {
            self.entries.sort_by(|a, b| in_order(&a.key, &b.key));
            if self.entries.windows(2).any(|w| matches!(w, [a, b] if a.key == b.key)) {
                return Err(CanonicalError("a key is there twice".into()));
            }
            let mut ordered = Vec::with_capacity(self.writer.out.len() - self.start);
            for entry in &self.entries {
                ordered.extend_from_slice(
                    self.writer.out.get(entry.from..entry.to).unwrap_or_default(),
                );
            }
            self.writer.out.truncate(self.start);
            self.writer.out.extend_from_slice(&ordered);
        }
        if self.writer.out.len() > self.start {
            self.writer.out.pop();
        }
        self.writer.out.extend_from_slice(self.close);
        Ok(())
    }
}

impl<'w> ser::Serializer for &'w mut Writer {
    type Ok = ();
    type Error = CanonicalError;
    type SerializeSeq = Compound<'w>;
    type SerializeTuple = Compound<'w>;
    type SerializeTupleStruct = Compound<'w>;
    type SerializeTupleVariant = Compound<'w>;
    type SerializeMap = Compound<'w>;
    type SerializeStruct = Compound<'w>;
    type SerializeStructVariant = Compound<'w>;

    fn serialize_bool(self, v: bool) -> Done {
        self.out.extend_from_slice(if v { b"true" } else { b"false" });
        Ok(())
    }
    fn serialize_i8(self, v: i8) -> Done {
        self.integer(v.into())
    }
    fn serialize_i16(self, v: i16) -> Done {
        self.integer(v.into())
    }
    fn serialize_i32(self, v: i32) -> Done {
        self.integer(v.into())
    }
    fn serialize_i64(self, v: i64) -> Done {
        self.integer(v)
    }
    fn serialize_u8(self, v: u8) -> Done {
        self.integer(v.into())
    }
    fn serialize_u16(self, v: u16) -> Done {
        self.integer(v.into())
    }
    fn serialize_u32(self, v: u32) -> Done {
        self.integer(v.into())
    }
    fn serialize_u64(self, v: u64) -> Done {
        self.integer(i64::try_from(v).map_err(|_| too_large(v))?)
    }
    fn serialize_f32(self, v: f32) -> Done {
        Err(too_large(v))
    }
    fn serialize_f64(self, v: f64) -> Done {
        Err(too_large(v))
    }
    fn serialize_char(self, v: char) -> Done {
        self.text(v.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, v: &str) -> Done {
        self.text(v)
    }
    fn collect_str<T: Display + ?Sized>(self, v: &T) -> Done {
        // Straight into place; what turns out to need escapes is written anew.
        let from = self.out.len();
        self.out.push(b'"');
        let _ = std::io::Write::write_fmt(&mut self.out, format_args!("{v}"));
        let written = self.out.get(from + 1..).unwrap_or_default();
        if written.iter().copied().all(plain) {
            self.out.push(b'"');
            return Ok(());
        }
        let text = String::from_utf8_lossy(written).into_owned();
        self.out.truncate(from);
        self.text(&text)
    }
    fn serialize_bytes(self, v: &[u8]) -> Done {
        v.serialize(self)
    }
    fn serialize_none(self) -> Done {
        null()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Done {
        null()
    }
    fn serialize_unit_struct(self, _: &'static str) -> Done {
        null()
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Done {
        self.text(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Done {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Done {
        self.variant(variant)?;
        value.serialize(&mut *self)?;
        self.out.push(b'}');
        Ok(())
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Compound<'w>, CanonicalError> {
        Ok(self.array(b"]"))
    }
    fn serialize_tuple(self, _: usize) -> Result<Compound<'w>, CanonicalError> {
        Ok(self.array(b"]"))
    }
    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Compound<'w>, CanonicalError> {
        Ok(self.array(b"]"))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'w>, CanonicalError> {
        self.variant(variant)?;
        Ok(self.array(b"]}"))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Compound<'w>, CanonicalError> {
        Ok(self.object(b"}"))
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Compound<'w>, CanonicalError> {
        Ok(self.object(b"}"))
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Compound<'w>, CanonicalError> {
        self.variant(variant)?;
        Ok(self.object(b"}}"))
    }
}

impl ser::SerializeSeq for Compound<'_> {
    type Ok = ();
    type Error = CanonicalError;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        self.item(value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

impl ser::SerializeTuple for Compound<'_> {
    type Ok = ();
    type Error = CanonicalError;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        self.item(value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

impl ser::SerializeTupleStruct for Compound<'_> {
    type Ok = ();
    type Error = CanonicalError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        self.item(value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

impl ser::SerializeTupleVariant for Compound<'_> {
    type Ok = ();
    type Error = CanonicalError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        self.item(value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

impl ser::SerializeMap for Compound<'_> {
    type Ok = ();
    type Error = CanonicalError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        // Keys are few and short: serde_json's own rules for them hold (text, and integers as text).
        let key = serde_json::to_value(key).map_err(|e| CanonicalError(e.to_string()))?;
        self.key = Some(match key {
            serde_json::Value::String(text) => Cow::Owned(text),
            serde_json::Value::Number(n) if !n.is_f64() => Cow::Owned(n.to_string()),
            _ => return Err(CanonicalError("a key is not text".into())),
        });
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        let key = self.key.take().ok_or_else(|| CanonicalError("a value has no key".into()))?;
        self.entry(key, value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

impl ser::SerializeStruct for Compound<'_> {
    type Ok = ();
    type Error = CanonicalError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Done {
        self.entry(Cow::Borrowed(key), value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

impl ser::SerializeStructVariant for Compound<'_> {
    type Ok = ();
    type Error = CanonicalError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Done {
        self.entry(Cow::Borrowed(key), value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{parse, to_bytes};
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
            proptest::prop_assert_eq!(super::in_order(&a, &b), x.cmp(&y));
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
}
