//! Leaves of a busy log differ in a few values only: times, digests, ids, texts of parameters. Where
//! only such values differ from a leaf that was read strictly, reading them is enough.
//!
//! Why that is the same: what is left of a leaf when these values are taken out is compared byte by
//! byte, keys and order included, so that each value stands at the same place of the same kind; and a
//! value is taken out only if it is of the very form in which it would be written again.

use std::ops::Range;
use std::sync::Arc;

use grantwright_domain::event::{Decided, Expired, Intended, Issued, Requested};
use grantwright_domain::{
    Digest, Event, FoldMap, LeaseId, ParamValue, Params, RequestId, Timestamp,
};

/// Most shapes that one thread remembers.
const MOST_SHAPES: usize = 8192;
/// Most values that are taken out of one leaf.
const MOST_SLOTS: usize = 64;

/// Which value was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Field {
    At,
    DecideBy,
    Digest,
    Ends,
    Fact,
    Lease,
    Param,
    Pid,
    Reason,
    Request,
    Sealed,
    Task,
    TermsRequest,
    Time,
    Workload,
}

/// A value that was taken out: where it and its key stand in the page.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    field: Field,
    key: (u32, u32),
    value: (u32, u32),
}

/// A leaf that was read strictly.
#[derive(Debug)]
pub(crate) struct Read {
    /// Unlike that of every other shape.
    pub(crate) id: u64,
    pub(crate) event: Event,
}

/// The shapes that one thread read.
pub(crate) struct Shapes {
    known: FoldMap<Box<[u8]>, Arc<Read>>,
    next: u64,
    shape: Vec<u8>,
}

/// The object in which a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Context,
    Facts,
    Other,
    Params,
    Process,
    Sealed,
    Terms,
    Top,
}

impl Place {
    fn inner(self, key: &[u8]) -> Self {
        match (self, key) {
            (Self::Top, b"context") => Self::Context,
            (Self::Top, b"facts") => Self::Facts,
            (Self::Top, b"terms") => Self::Terms,
            (Self::Terms, b"params") => Self::Params,
            (Self::Terms, b"process") => Self::Process,
            (Self::Terms, b"sealed_params") => Self::Sealed,
            _ => Self::Other,
        }
    }

    fn field(self, key: &[u8]) -> Option<Field> {
        Some(match (self, key) {
            (Self::Top, b"at") => Field::At,
            (Self::Top, b"digest") => Field::Digest,
            (Self::Top, b"expires_at") => Field::Ends,
            (Self::Top, b"lease_id") => Field::Lease,
            (Self::Top, b"request_id") => Field::Request,
            (Self::Terms, b"decide_by") => Field::DecideBy,
            (Self::Terms, b"reason") => Field::Reason,
            (Self::Terms, b"request_id") => Field::TermsRequest,
            (Self::Terms, b"task") => Field::Task,
            (Self::Terms, b"workload") => Field::Workload,
            (Self::Facts, _) => Field::Fact,
            (Self::Params, _) => Field::Param,
            (Self::Sealed, _) => Field::Sealed,
            _ => return None,
        })
    }
}

impl Field {
    /// Whether a text is of the form in which this value would be written again.
    fn admits(self, text: &[u8]) -> bool {
        match self {
            Self::At | Self::DecideBy | Self::Ends => Timestamp::parse_written(text).is_some(),
            Self::Digest | Self::Reason | Self::Sealed | Self::Task => {
                text.len() == 64 && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            }
            Self::Lease | Self::Request | Self::TermsRequest => {
                let fine = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
                (2..=64).contains(&text.len()) && text.iter().all(fine)
            }
            Self::Fact | Self::Param | Self::Workload => {
                text.iter().all(|b| (0x20..0x7f).contains(b) && *b != b'\\')
            }
            Self::Pid | Self::Time => true,
        }
    }
}

/// What was taken out of a leaf, and where its terms stand.
struct Scan {
    slots: Range<usize>,
    terms: Option<Range<usize>>,
}

impl Shapes {
    /// `thread` is unlike that of every other thread.
    pub(crate) fn new(thread: u64) -> Self {
        Self { known: FoldMap::default(), next: thread << 48, shape: Vec::new() }
    }

    /// The leaf of the same shape that was read before; slots are added to `slots`. With the digest of
    /// its terms, if it has any.
    pub(crate) fn find(
        &mut self,
        page: &[u8],
        leaf: Range<usize>,
        slots: &mut Vec<Slot>,
    ) -> Option<(Arc<Read>, Range<usize>, Option<Digest>)> {
        let before = slots.len();
        let Some(scan) = scan(page, leaf, &mut self.shape, slots) else {
            slots.truncate(before);
            self.shape.clear();
            return None;
        };
        let Some(read) = self.known.get(self.shape.as_slice()) else {
            slots.truncate(before);
            return None;
        };
        let terms = scan.terms.and_then(|terms| page.get(terms));
        Some((Arc::clone(read), scan.slots, terms.map(|terms| Digest::of("request", terms))))
    }

    /// Remembers the shape that was looked for last, now that its leaf was read.
    pub(crate) fn remember(&mut self, event: &Event) {
        use Event::{Decided, Expired, Intended, Issued, Requested};
        let fills_a_log =
            matches!(event, Decided(_) | Expired(_) | Intended(_) | Issued(_) | Requested(_));
        if !fills_a_log || self.shape.is_empty() {
            return;
        }
        if self.known.len() >= MOST_SHAPES {
            self.known.clear();
        }
        let read = Read { id: self.next, event: event.clone() };
        self.next += 1;
        self.known.insert(self.shape.as_slice().into(), Arc::new(read));
    }
}

/// Takes the values out. None: not a leaf that could be written so, or with too many of them; that is
/// for the strict reader to say.
fn scan(
    page: &[u8],
    leaf: Range<usize>,
    shape: &mut Vec<u8>,
    slots: &mut Vec<Slot>,
) -> Option<Scan> {
    shape.clear();
    let first = slots.len();
    let body = page.get(..leaf.end)?;
    // Of each object or array that is open: where it stands, and whether it is an object.
    let mut open = [(Place::Other, false); 8];
    let (mut depth, mut wants_key) = (0usize, false);
    let mut key = 0..0;
    let mut terms = None;
    let (mut at, mut copied) = (leaf.start, leaf.start);
    while at < leaf.end {
        let byte = *body.get(at)?;
        match byte {
            b'{' | b'[' => {
                let (outer, in_object) = *open.get(depth)?;
                let name = body.get(key.clone()).unwrap_or_default();
                let place = match (depth, byte) {
                    (_, b'[') => Place::Other,
                    (0, _) => Place::Top,
                    _ if !in_object => Place::Other,
                    _ => outer.inner(name),
                };
                if place == Place::Terms {
                    terms = Some(at..at);
                }
                if outer == Place::Context && name == b"time" && byte == b'{' {
                    let end = at + time_record(body.get(at..)?)?;
                    take(body, shape, slots, &mut copied, (Field::Time, &key, at..end))?;
                    at = end;
                    continue;
                }
                depth += 1;
                *open.get_mut(depth)? = (place, byte == b'{');
                wants_key = byte == b'{';
            }
            b'}' | b']' => {
                let (place, _) = *open.get(depth)?;
                if place == Place::Terms
                    && let Some(terms) = &mut terms
                {
                    terms.end = at + 1;
                }
                depth = depth.checked_sub(1)?;
            }
            b',' => wants_key = open.get(depth)?.1,
            b'"' => {
                let text = at + 1..text_end(body, at + 1)?;
                at = text.end;
                let (place, in_object) = *open.get(depth)?;
                if wants_key {
                    key = text;
                    wants_key = false;
                } else if in_object
                    && let Some(field) = place.field(body.get(key.clone())?)
                    && field.admits(body.get(text.clone())?)
                {
                    take(body, shape, slots, &mut copied, (field, &key, text))?;
                }
            }
            b'0'..=b'9'
                if *open.get(depth)? == (Place::Process, true) && is_pid(body, &key, at) =>
            {
                let rest = number(body.get(at..)?)?;
                let end = body.len() - rest.len();
                take(body, shape, slots, &mut copied, (Field::Pid, &key, at..end))?;
                at = end;
                continue;
            }
            // Values between quotes are done: what is left are signs, digits, `true` and `false`.
            b':' | b'0'..=b'9' | b'-' | b'a'..=b'z' => {}
            _ => return None,
        }
        at += 1;
    }
    shape.extend_from_slice(body.get(copied..)?);
    (slots.len() - first <= MOST_SLOTS).then_some(Scan { slots: first..slots.len(), terms })
}

/// Copies what stands before a value, and a mark of the value that no JSON could hold.
fn take(
    body: &[u8],
    shape: &mut Vec<u8>,
    slots: &mut Vec<Slot>,
    copied: &mut usize,
    (field, key, value): (Field, &Range<usize>, Range<usize>),
) -> Option<()> {
    shape.extend_from_slice(body.get(*copied..value.start)?);
    shape.push(field as u8);
    *copied = value.end;
    let place = |n: usize| u32::try_from(n).ok();
    slots.push(Slot {
        field,
        key: (place(key.start)?, place(key.end)?),
        value: (place(value.start)?, place(value.end)?),
    });
    Some(())
}

/// Whether the number that begins here is a process's.
fn is_pid(body: &[u8], key: &Range<usize>, at: usize) -> bool {
    let begins = at.checked_sub(1).and_then(|before| body.get(before)) == Some(&b':');
    begins && body.get(key.clone()) == Some(b"pid".as_slice())
}

/// The place of the quote that ends a text.
fn text_end(body: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match body.get(at)? {
            b'"' => return Some(at),
            // No mark in a shape may be mistaken for one of these.
            0..0x20 => return None,
            b'\\' if body.get(at + 1).is_some_and(|b| *b >= 0x20) => at += 2,
            b'\\' => return None,
            _ => at += 1,
        }
    }
}

/// The length of a context's time, if it is of its form.
fn time_record(json: &[u8]) -> Option<usize> {
    let rest = json.strip_prefix(br#"{"date":""#)?;
    let (date, rest) = rest.split_at_checked(10)?;
    let digit =
        |(n, b): (usize, &u8)| if n == 4 || n == 7 { *b == b'-' } else { b.is_ascii_digit() };
    if !date.iter().enumerate().all(digit) {
        return None;
    }
    let rest = number(rest.strip_prefix(br#"","epoch":"#)?)?;
    let rest = number(rest.strip_prefix(br#","hour":"#)?)?;
    let rest = number(rest.strip_prefix(br#","minute":"#)?)?;
    let rest = rest.strip_prefix(br#","weekday":""#)?;
    let letters = rest.iter().take_while(|b| b.is_ascii_lowercase()).count();
    let rest = rest.get(letters..)?.strip_prefix(br#""}"#)?;
    Some(json.len() - rest.len())
}

/// What follows an integer, as it is written: no sign, no leading zero, at most 15 digits.
fn number(json: &[u8]) -> Option<&[u8]> {
    let digits = json.iter().take_while(|b| b.is_ascii_digit()).count();
    let fine = (1..=15).contains(&digits) && (digits == 1 || json.first() != Some(&b'0'));
    if fine { json.get(digits..) } else { None }
}

/// A leaf, as the one of its shape that was read and the values in which it differs.
#[derive(Clone, Copy)]
pub(crate) struct Like<'p> {
    pub(crate) read: &'p Read,
    pub(crate) page: &'p [u8],
    pub(crate) slots: &'p [Slot],
}

impl<'p> Like<'p> {
    fn text(self, slot: &Slot) -> &'p str {
        let (from, to) = slot.value;
        let text = self.page.get(from as usize..to as usize).unwrap_or_default();
        // Only printable ASCII is ever taken out.
        str::from_utf8(text).unwrap_or_default()
    }

    fn key(self, slot: &Slot) -> &'p str {
        let text = self.page.get(slot.key.0 as usize..slot.key.1 as usize).unwrap_or_default();
        str::from_utf8(text).unwrap_or_default()
    }

    /// The recorded time of a decision's context, as it is written.
    pub(crate) fn time(self) -> &'p [u8] {
        let slot = self.slots.iter().find(|slot| slot.field == Field::Time);
        slot.map_or(b"", |slot| self.text(slot).as_bytes())
    }

    /// These parameters, with its own values.
    pub(crate) fn params(self, like: &Params) -> Option<Params> {
        let mut params = like.clone();
        for slot in self.slots.iter().filter(|slot| slot.field == Field::Param) {
            *params.get_mut(self.key(slot))? = ParamValue::Text(self.text(slot).to_owned());
        }
        Some(params)
    }

    /// The event. Of a decision everything but its attributes and its context, which no rule asks for.
    ///
    /// None where a value is not of its form after all, which the strict reader then says.
    pub(crate) fn event(self) -> Option<Event> {
        Some(match &self.read.event {
            Event::Requested(e) => Event::Requested(self.requested(e)?),
            Event::Decided(e) => Event::Decided(self.decided(e)?),
            Event::Intended(e) => Event::Intended(self.intended(e)?),
            Event::Issued(e) => Event::Issued(self.issued(e)?),
            Event::Expired(e) => Event::Expired(self.expired(e)?),
            _ => return None,
        })
    }

    fn requested(self, like: &Requested) -> Option<Requested> {
        let mut e = like.clone();
        for slot in self.slots {
            let text = self.text(slot);
            match slot.field {
                Field::At => e.at = time(text)?,
                Field::DecideBy => e.terms.decide_by = time(text)?,
                Field::Digest => e.digest = digest(text)?,
                Field::Param => {
                    *e.terms.params.get_mut(self.key(slot))? = ParamValue::Text(text.to_owned());
                }
                Field::Pid => e.terms.process.as_mut()?.pid = Some(text.parse().ok()?),
                Field::Reason => e.terms.reason = digest(text)?,
                Field::Request => e.request_id = RequestId::parse(text).ok()?,
                Field::Sealed => *e.terms.sealed_params.get_mut(self.key(slot))? = digest(text)?,
                Field::Task => e.terms.task = Some(digest(text)?),
                // One id for both, unless they differ.
                Field::TermsRequest if text == e.request_id.as_str() => {
                    e.terms.request_id = e.request_id.clone();
                }
                Field::TermsRequest => e.terms.request_id = RequestId::parse(text).ok()?,
                Field::Workload => text.clone_into(&mut e.terms.workload),
                Field::Ends | Field::Fact | Field::Lease | Field::Time => return None,
            }
        }
        Some(e)
    }

    fn decided(self, like: &Decided) -> Option<Decided> {
        let mut e = Decided {
            at: like.at,
            digest: like.digest,
            request_id: like.request_id.clone(),
            verdict: like.verdict.clone(),
            attributes: serde_json::Map::new(),
            context: serde_json::Map::new(),
            chain: like.chain.clone(),
            excluded: like.excluded.clone(),
            again: like.again,
            unusual: like.unusual.clone(),
            past: like.past,
        };
        for slot in self.slots {
            let text = self.text(slot);
            match slot.field {
                Field::At => e.at = time(text)?,
                Field::Digest => e.digest = digest(text)?,
                Field::Request => e.request_id = RequestId::parse(text).ok()?,
                Field::Time => {}
                _ => return None,
            }
        }
        Some(e)
    }

    fn intended(self, like: &Intended) -> Option<Intended> {
        let mut e = like.clone();
        for slot in self.slots {
            let text = self.text(slot);
            match slot.field {
                Field::At => e.at = time(text)?,
                Field::Digest => e.digest = digest(text)?,
                Field::Request => e.request_id = RequestId::parse(text).ok()?,
                _ => return None,
            }
        }
        Some(e)
    }

    fn issued(self, like: &Issued) -> Option<Issued> {
        let mut e = like.clone();
        for slot in self.slots {
            let text = self.text(slot);
            match slot.field {
                Field::At => e.at = time(text)?,
                Field::Digest => e.digest = digest(text)?,
                Field::Ends => e.expires_at = time(text)?,
                Field::Fact => text.clone_into(e.facts.get_mut(self.key(slot))?),
                Field::Lease => e.lease_id = LeaseId::parse(text).ok()?,
                Field::Request => e.request_id = RequestId::parse(text).ok()?,
                _ => return None,
            }
        }
        Some(e)
    }

    fn expired(self, like: &Expired) -> Option<Expired> {
        let mut e = like.clone();
        for slot in self.slots {
            let text = self.text(slot);
            match slot.field {
                Field::At => e.at = time(text)?,
                Field::Digest => e.digest = digest(text)?,
                Field::Lease => e.lease_id = Some(LeaseId::parse(text).ok()?),
                Field::Request => e.request_id = RequestId::parse(text).ok()?,
                _ => return None,
            }
        }
        Some(e)
    }
}

fn time(text: &str) -> Option<Timestamp> {
    Timestamp::parse_written(text.as_bytes())
}

fn digest(text: &str) -> Option<Digest> {
    Digest::parse(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(id: &str, at: &str, dataset: &str) -> Vec<u8> {
        asked(id, at, dataset, 7, "uid \\u0007")
    }

    fn asked(id: &str, at: &str, dataset: &str, pid: u64, workload: &str) -> Vec<u8> {
        let hex = "ab".repeat(32);
        format!(
            "{{\"at\":\"{at}\",\"digest\":\"{hex}\",\"kind\":\"requested\",\"request_id\":\"{id}\",\
             \"terms\":{{\"agent\":\"a-1\",\"decide_by\":\"2026-11-21T10:00:00Z\",\"delegation\":[],\
             \"instance\":\"i-1\",\"origin\":\"o\",\"params\":{{\"dataset\":\"{dataset}\",\
             \"tags\":[\"x\",\"y\"]}},\"process\":{{\"gid\":7,\"pid\":{pid},\"uid\":7}},\"reason\":\"{hex}\",\"request_id\":\"{id}\",\"scope\":\"s\",\
             \"template\":\"{hex}\",\"ttl_s\":60,\"version\":1,\"workload\":\"{workload}\"}}}}"
        )
        .into_bytes()
    }

    /// What is found in shapes that know `known`.
    fn like(known: &[u8], body: &[u8]) -> Option<(Event, Option<Digest>)> {
        let mut shapes = Shapes::new(1);
        let mut slots = Vec::new();
        assert!(shapes.find(known, 0..known.len(), &mut slots).is_none());
        shapes.remember(&Event::from_leaf(known).unwrap());
        let (read, range, terms) = shapes.find(body, 0..body.len(), &mut slots)?;
        let like = Like { read: &read, page: body, slots: &slots[range] };
        Some((like.event()?, terms))
    }

    #[test]
    fn a_leaf_of_a_known_shape_is_read_as_the_strict_reader_reads_it() {
        let known = leaf("r-1", "2026-11-21T09:00:00Z", "sales");
        for (id, at, dataset) in [
            ("r-1", "2026-11-21T09:00:00Z", "sales"),
            ("r-2.x_Y", "2026-11-21T09:00:00.001Z", ""),
            ("r-22", "2024-02-29T23:59:59.100Z", "a b/{}[],:~"),
        ] {
            is_read_the_same(&known, &leaf(id, at, dataset));
        }
        let at = "2026-11-21T09:00:00Z";
        let known = asked("r-1", at, "sales", 7, "uid:7");
        for (pid, workload) in [(0, ""), (8, "uid:8"), (4_294_967_295, "a token's {}")] {
            is_read_the_same(&known, &asked("r-1", at, "sales", pid, workload));
        }
    }

    fn is_read_the_same(known: &[u8], body: &[u8]) {
        let strict = Event::from_leaf(body).unwrap();
        let Event::Requested(e) = &strict else { panic!() };
        let digest = e.terms.digest().unwrap();
        let text = String::from_utf8_lossy(body);
        assert_eq!(like(known, body), Some((strict, Some(digest))), "{text}");
    }

    #[test]
    fn what_the_strict_reader_refuses_is_no_known_shape() {
        let known = leaf("r-1", "2026-11-21T09:00:00Z", "sales");
        let text = String::from_utf8(known.clone()).unwrap();
        let swap = |from: &str, to: &str| text.replacen(from, to, 1).into_bytes();
        for body in [
            leaf("r-1", "2026-11-21T09:00:00.000Z", "sales"),
            leaf("r-1", "2026-11-21T09:00:60Z", "sales"),
            leaf("r-1", "2026-02-30T09:00:00Z", "sales"),
            leaf("r-1", "2026-11-21T10:00:00+01:00", "sales"),
            leaf("r", "2026-11-21T09:00:00Z", "sales"),
            leaf("r/1", "2026-11-21T09:00:00Z", "sales"),
            leaf("r-1", "2026-11-21T09:00:00Z", "\\u0041"),
            leaf("r-1", "2026-11-21T09:00:00Z", "sales\u{1}"),
            asked("r-1", "2026-11-21T09:00:00Z", "sales", 4_294_967_296, "uid \\u0007"),
            swap("\"pid\":7", "\"pid\":07"),
            swap("\"pid\":7", "\"pid\":7.0"),
            swap("\"pid\":7", "\"pid\":-7"),
            swap("\"pid\":7", "\"pid\":\"7\""),
            swap("\"pid\":7", "\"pid\":7,\"pid\":7"),
            asked("r-1", "2026-11-21T09:00:00Z", "sales", 7, "uid \u{7}"),
            swap("abab", "ABAB"),
            swap("[\"x\",\"y\"]", "[\"y\",\"x\"]"),
            swap("\"digest\":", "\"digest\": "),
            swap("\"ttl_s\":60", "\"ttl_s\":60.0"),
            swap("\"ttl_s\":60", "\"ttl_s\":060"),
            swap("\\u0007", "\u{7}"),
            swap("\"request_id\":\"r-1\"", "\"request_id\":\"r-1\",\"request_id\":\"r-1\""),
            known[..known.len() - 1].to_vec(),
            [&known[..], b" "].concat(),
            [&known[..], &known[..]].concat(),
            Vec::new(),
        ] {
            assert!(Event::from_leaf(&body).is_err(), "{}", String::from_utf8_lossy(&body));
            assert_eq!(like(&known, &body), None, "{}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn a_recorded_time_is_taken_out_only_in_its_own_form() {
        let fine = br#"{"date":"2026-11-21","epoch":1795225490,"hour":0,"minute":30,"weekday":"saturday"},"#;
        assert_eq!(time_record(fine), Some(fine.len() - 1));
        for bad in [
            &br#"{"date":"2026-11-2x","epoch":1,"hour":0,"minute":3,"weekday":"monday"}"#[..],
            br#"{"date":"2026-11-21","epoch":01,"hour":0,"minute":3,"weekday":"monday"}"#,
            br#"{"date":"2026-11-21","epoch":1,"hour":-1,"minute":3,"weekday":"monday"}"#,
            br#"{"date":"2026-11-21","epoch":1,"hour":1.0,"minute":3,"weekday":"monday"}"#,
            br#"{"date":"2026-11-21","epoch":1,"hour":1,"minute":3,"weekday":"Monday"}"#,
            br#"{"date":"2026-11-21","epoch":1,"hour":1,"minute":3,"weekday":"monday""#,
            br#"{"epoch":1,"date":"2026-11-21","hour":1,"minute":3,"weekday":"monday"}"#,
            b"",
        ] {
            assert_eq!(time_record(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}
