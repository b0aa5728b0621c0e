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
    /// Of the objects that are being written, the outermost first.
    entries: Vec<Entry>,
    /// In which an object's entries are put in order.
    spare: Vec<u8>,
}

/// An object or an array that is being written.
pub(super) struct Compound<'w> {
    writer: &'w mut Writer,
    start: usize,
    /// Where its entries begin among the writer's.
    first: usize,
    in_order: bool,
    /// Where the key that waits for its value begins.
    key: Option<usize>,
    close: &'static [u8],
}

/// An entry of an object: where it and its key are in what was written.
struct Entry {
    from: usize,
    /// Behind the key's last quote.
    key: usize,
    to: usize,
    /// How the key begins: most keys differ there.
    head: Option<u64>,
}

impl Writer {
    /// With room for most of what is written.
    pub(super) fn new() -> Self {
        Self { out: Vec::with_capacity(1024), entries: Vec::with_capacity(32), spare: Vec::new() }
    }

    fn integer(&mut self, i: i64) -> Done {
        if !(-MAX_INTEGER..=MAX_INTEGER).contains(&i) {
            return Err(too_large(i));
        }
        serde_json::to_writer(&mut self.out, &i).map_err(|e| CanonicalError(e.to_string()))
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
        self.compound(close)
    }

    fn array(&mut self, close: &'static [u8]) -> Compound<'_> {
        self.out.push(b'[');
        self.compound(close)
    }

    fn compound(&mut self, close: &'static [u8]) -> Compound<'_> {
        let (start, first) = (self.out.len(), self.entries.len());
        Compound { writer: self, start, first, in_order: true, key: None, close }
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

fn no_value() -> CanonicalError {
    CanonicalError("a key has no value".into())
}

fn null<T>() -> Result<T, CanonicalError> {
    Err(CanonicalError("null has no canonical form here".into()))
}

/// The first eight bytes of a key, as a number that is in order as they are. None where it takes more to
/// tell: escapes, and characters whose order is not that of their bytes.
fn head(written: &[u8]) -> Option<u64> {
    let mut first = [0; 8];
    let inner = written.get(1..written.len().saturating_sub(1)).unwrap_or_default();
    first.iter_mut().zip(inner).for_each(|(to, from)| *to = *from);
    let tells = first.iter().fold(true, |all, b| all & (*b != b'\\') & (*b < 0xee));
    tells.then_some(u64::from_be_bytes(first))
}

/// Of entries in what was written, by their keys.
fn compare(out: &[u8], a: &Entry, b: &Entry) -> Ordering {
    if let (Some(a), Some(b)) = (a.head, b.head)
        && a != b
    {
        return a.cmp(&b);
    }
    let key_of = |entry: &Entry| key(out.get(entry.from..entry.key).unwrap_or_default());
    in_order(&key_of(a), &key_of(b))
}

/// A key without its quotes and escapes.
fn key(written: &[u8]) -> Cow<'_, [u8]> {
    let inner = written.get(1..written.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains(&b'\\') {
        return Cow::Borrowed(inner);
    }
    // It was written as JSON a moment ago.
    let text: String = serde_json::from_slice(written).unwrap_or_default();
    Cow::Owned(text.into_bytes())
}

/// RFC 8785 §3.2.3: by UTF-16 code units. That is the order of bytes, but for characters from U+E000 on:
/// there the surrogates of U+10000 and above come first.
fn in_order(a: &[u8], b: &[u8]) -> Ordering {
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((0xee.., 0xee..)) => {
            let (a, b) = (String::from_utf8_lossy(a), String::from_utf8_lossy(b));
            a.encode_utf16().cmp(b.encode_utf16())
        }
        Some((x, y)) => x.cmp(y),
        None => a.len().cmp(&b.len()),
    }
}

impl Compound<'_> {
    /// Writes an entry's value behind its key, which is what was written from `from` on.
    fn value<T: Serialize + ?Sized>(&mut self, from: usize, value: &T) -> Done {
        let key = self.writer.out.len();
        self.writer.out.push(b':');
        value.serialize(&mut *self.writer)?;
        self.writer.out.push(b',');
        let Writer { out, entries, .. } = &mut *self.writer;
        let head = head(out.get(from..key).unwrap_or_default());
        let entry = Entry { from, key, to: out.len(), head };
        if self.in_order
            && let Some(before) = entries.get(self.first..).and_then(<[_]>::last)
        {
            self.in_order = compare(out, before, &entry).is_lt();
        }
        entries.push(entry);
        Ok(())
    }

    fn entry<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Done {
        let from = self.writer.out.len();
        self.writer.text(key)?;
        self.value(from, value)
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut *self.writer)?;
        self.writer.out.push(b',');
        Ok(())
    }

    /// Puts the entries in their order. The types of routine leaves declare their fields in it, so that
    /// mostly it is an enum's tag that comes too early: what stands behind its place stays where it is.
    fn sort(&mut self) -> Done {
        let Writer { out, entries, spare } = &mut *self.writer;
        let entries = entries.get_mut(self.first..).unwrap_or_default();
        entries.sort_unstable_by(|a, b| compare(out, a, b));
        if entries.windows(2).any(|w| matches!(w, [a, b] if compare(out, a, b).is_eq())) {
            return Err(CanonicalError("a key is there twice".into()));
        }
        let mut end = out.len();
        let mut moved = entries.len();
        while let Some(entry) = moved.checked_sub(1).and_then(|last| entries.get(last))
            && entry.to == end
        {
            (moved, end) = (moved - 1, entry.from);
        }
        spare.clear();
        for entry in entries.iter().take(moved) {
            spare.extend_from_slice(out.get(entry.from..entry.to).unwrap_or_default());
        }
        match out.get_mut(self.start..end) {
            Some(place) if place.len() == spare.len() => place.copy_from_slice(spare),
            _ => return Err(CanonicalError("entries were lost while they were sorted".into())),
        }
        Ok(())
    }

    fn close(mut self) -> Done {
        if self.key.is_some() {
            return Err(no_value());
        }
        if !self.in_order {
            self.sort()?;
        }
        self.writer.entries.truncate(self.first);
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
        let from = self.writer.out.len();
        if self.key.replace(from).is_some() {
            return Err(no_value());
        }
        key.serialize(&mut *self.writer)?;
        // As serde_json has it: a key is text, or an integer as text.
        match self.writer.out.get(from) {
            Some(b'"') => {}
            Some(b'-' | b'0'..=b'9') => {
                self.writer.out.insert(from, b'"');
                self.writer.out.push(b'"');
            }
            _ => return Err(CanonicalError("a key is not text".into())),
        }
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        let from = self.key.take().ok_or_else(|| CanonicalError("a value has no key".into()))?;
        self.value(from, value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

impl ser::SerializeStruct for Compound<'_> {
    type Ok = ();
    type Error = CanonicalError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Done {
        self.entry(key, value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

impl ser::SerializeStructVariant for Compound<'_> {
    type Ok = ();
    type Error = CanonicalError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Done {
        self.entry(key, value)
    }
    fn end(self) -> Done {
        self.close()
    }
}

#[cfg(test)]
mod tests;
