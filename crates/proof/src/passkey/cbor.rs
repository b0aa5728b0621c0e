//! As much of CBOR (RFC 8949) as WebAuthn needs: definite lengths, no tags, no floats, bounded depth.

/// Deepest nesting that is read.
const MAX_DEPTH: u8 = 8;

/// A value that borrows from what was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cbor<'a> {
    Array(Vec<Cbor<'a>>),
    Bytes(&'a [u8]),
    Int(i64),
    Map(Vec<(Cbor<'a>, Cbor<'a>)>),
    /// `false`, `true`, `null`, `undefined`: 20 to 23.
    Simple(u8),
    Text(&'a str),
}

impl<'a> Cbor<'a> {
    /// Reads one value; gives back what follows it.
    pub(super) fn read(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        value(bytes, 0)
    }

    /// The value of a key that is there once.
    pub(super) fn get(&self, key: &Cbor<'_>) -> Option<&Cbor<'a>> {
        let Self::Map(entries) = self else { return None };
        let mut found = entries.iter().filter(|(k, _)| k == key);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    pub(super) fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
}

fn value(bytes: &[u8], depth: u8) -> Option<(Cbor<'_>, &[u8])> {
    if depth > MAX_DEPTH {
        return None;
    }
    let (first, rest) = bytes.split_first()?;
    let (major, info) = (first >> 5, first & 0x1f);
    let width = match info {
        0..=23 => 0,
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return None,
    };
    let (argument, mut rest) = rest.split_at_checked(width)?;
    let mut n = u64::from(info);
    if width > 0 {
        n = argument.iter().fold(0, |n, b| n << 8 | u64::from(*b));
    }
    let length = usize::try_from(n).ok();
    let read = match major {
        0 => Cbor::Int(i64::try_from(n).ok()?),
        1 => Cbor::Int(-1 - i64::try_from(n).ok()?),
        2 | 3 => {
            let (text, after) = rest.split_at_checked(length?)?;
            rest = after;
            match major {
                2 => Cbor::Bytes(text),
                _ => Cbor::Text(std::str::from_utf8(text).ok()?),
            }
        }
        4 => {
            let mut items = Vec::new();
            for _ in 0..n {
                let (item, after) = value(rest, depth + 1)?;
                items.push(item);
                rest = after;
            }
            Cbor::Array(items)
        }
        5 => {
            let mut entries = Vec::new();
            for _ in 0..n {
                let (key, after) = value(rest, depth + 1)?;
                let (item, after) = value(after, depth + 1)?;
                entries.push((key, item));
                rest = after;
            }
            Cbor::Map(entries)
        }
        7 if (20..=23).contains(&info) => Cbor::Simple(info),
        _ => return None,
    };
    Some((read, rest))
}
