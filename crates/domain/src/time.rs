//! Time as a value: milliseconds since the Unix epoch, UTC. Shown and logged as RFC 3339.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, in whole milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// By how much clocks of this system may differ from each other and from the time that passed (30 s).
pub const CLOCK_BOUND_MS: i64 = 30_000;

/// Where time comes from. Product code has one implementation; tests pass their own.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
    /// By how many milliseconds it differs from the time that passed since the process started, when
    /// that is more than [`CLOCK_BOUND_MS`]: then its time is doubted and nothing is granted by it.
    fn jumped_ms(&self) -> Option<i64> {
        None
    }
}

impl Timestamp {
    /// From milliseconds since the epoch.
    #[must_use]
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }
    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn millis(self) -> i64 {
        self.0
    }
    /// Whole seconds since the epoch, rounded down.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
    /// This moment and `ms` milliseconds more (saturating).
    #[must_use]
    pub const fn plus_millis(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
    /// This moment and `s` seconds more (saturating).
    #[must_use]
    pub const fn plus_seconds(self, s: i64) -> Self {
        self.plus_millis(s.saturating_mul(1000))
    }
    /// Milliseconds from `earlier` to this moment; negative when it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
    /// This moment cut to whole seconds.
    #[must_use]
    pub const fn whole_second(self) -> Self {
        Self(self.seconds() * 1000)
    }
    /// Parses RFC 3339.
    ///
    /// # Errors
    /// When the text is not an RFC 3339 time.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(at) = Self::parse_plain(text.as_bytes()) {
            return Ok(at);
        }
        let at: jiff::Timestamp =
            text.parse().map_err(|_| format!("`{text}` is not an RFC 3339 time"))?;
        Ok(Self(at.as_millisecond()))
    }
}

impl Timestamp {
    /// Parses the very form that is written here, and no other spelling of the same moment.
    #[must_use]
    pub fn parse_written(text: &[u8]) -> Option<Self> {
        match Self::parse_plain(text) {
            // Milliseconds are written only where there are some.
            Some(at) => (text.len() == 20 || at.0 % 1000 != 0).then_some(at),
            None => {
                let text = str::from_utf8(text).ok()?;
                Self::parse(text).ok().filter(|at| at.to_string() == text)
            }
        }
    }

    /// The form that is written here: `2026-01-31T09:30:00Z`, with three more digits where there are
    /// milliseconds. None: another form, or no such day; that is for the whole parser to say.
    fn parse_plain(text: &[u8]) -> Option<Self> {
        let (whole, ms) = match text {
            [whole @ .., b'Z'] if whole.len() == 19 => (whole, 0),
            [whole @ .., b'.', a, b, c, b'Z'] if whole.len() == 19 => {
                (whole, number(&[*a, *b, *c])?)
            }
            _ => return None,
        };
        let signs = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
        if signs.iter().any(|(at, sign)| whole.get(*at) != Some(sign)) {
            return None;
        }
        let part = |from: usize, to: usize| number(whole.get(from..to)?);
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        let (h, m, s) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
        // The last days of months are the whole parser's.
        if !(1..=12).contains(&month) || !(1..=28).contains(&day) || h > 23 || m > 59 || s > 59 {
            return None;
        }
        // Howard Hinnant's public-domain `days_from_civil`.
        let y = if month <= 2 { year - 1 } else { year };
        let era = y.div_euclid(400);
        let yoe = y - era * 400;
        let doy = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
        let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
        Some(Self(((days * 24 + h) * 60 + m) * 60_000 + s * 1000 + ms))
    }
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Days to civil date, after Howard Hinnant's public-domain `civil_from_days`.
        let days = self.0.div_euclid(86_400_000);
        let ms = self.0.rem_euclid(86_400_000);
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
        let ms = ms % 1000;
        if !(0..=9999).contains(&year) {
            write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}")?;
            return if ms == 0 { f.write_str("Z") } else { write!(f, ".{ms:03}Z") };
        }
        // Digit by digit: every leaf holds several times, and formatting is slow.
        let mut out = *b"0000-00-00T00:00:00.000Z";
        let parts = [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, h),
            (14, 2, m),
            (17, 2, s),
            (20, 3, ms),
        ];
        for (from, digits, mut value) in parts {
            for place in out.iter_mut().skip(from).take(digits).rev() {
                *place = b'0' + u8::try_from(value % 10).unwrap_or(0);
                value /= 10;
            }
        }
        let text = str::from_utf8(&out).map_err(|_| fmt::Error)?;
        match text.split_once('.') {
            Some((whole, _)) if ms == 0 => write!(f, "{whole}Z"),
            _ => f.write_str(text),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Text)
    }
}

/// Reads it without a place of its own on the heap.
struct Text;

impl serde::de::Visitor<'_> for Text {
    type Value = Timestamp;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an RFC 3339 time")
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
        Timestamp::parse(text).map_err(E::custom)
    }
}

/// Parses a lifetime: a positive integer with `s`, `m` or `h`, for example `15m`; in seconds.
///
/// # Errors
/// Anything else: zero, signs, spaces, fractions, other units, more than ten years.
pub fn parse_ttl(text: &str) -> Result<u32, String> {
    let wrong = || {
        format!(
            "`{}` is not a lifetime: want a positive integer with s, m or h, for example 15m",
            crate::text::shorten(&crate::text::visible(text), 24)
        )
    };
    let (digits, unit) = text.split_at_checked(text.len().wrapping_sub(1)).ok_or_else(wrong)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    if digits.is_empty()
        || digits.len() > 9
        || digits.starts_with('0')
        || !digits.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(wrong());
    }
    let n: u32 = digits.parse().map_err(|_| wrong())?;
    n.checked_mul(factor).filter(|s| *s <= 315_360_000).ok_or_else(wrong)
}

/// A lifetime in the words people use: `15 min`, `2 h`, `45 s`.
#[must_use]
pub fn ttl_words(seconds: u32) -> String {
    match seconds {
        s if s >= 3600 && s % 3600 == 0 => format!("{} h", s / 3600),
        s if s >= 60 && s % 60 == 0 => format!("{} min", s / 60),
        s if s >= 120 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{s} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_as_rfc_3339_and_read_back() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_795_225_490_000, "2026-11-21T01:44:50Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Timestamp::from_millis(ms).to_string(), text);
            assert_eq!(Timestamp::parse(text), Ok(Timestamp::from_millis(ms)));
        }
        // Every day of a few centuries, and what is written otherwise or is no time at all.
        for day in -40_000_i64..120_000 {
            let at = Timestamp::from_millis(day * 86_400_000 + day.rem_euclid(86_400_000));
            assert_eq!(Timestamp::parse(&at.to_string()), Ok(at));
        }
        for (text, ms) in [("1970-01-01T01:00:00+01:00", Some(0)), ("1970-02-30T00:00:00Z", None)] {
            assert_eq!(Timestamp::parse(text).ok().map(Timestamp::millis), ms, "{text}");
        }
        for bad in ["", "1970-01-01T24:00:00.5Z", "1970-13-01T00:00:00Z", "197a-01-01T00:00:00Z"] {
            assert!(Timestamp::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lifetimes() {
        assert_eq!(parse_ttl("15m"), Ok(900));
        assert_eq!(parse_ttl("1h"), Ok(3600));
        for bad in [
            "",
            "m",
            "0s",
            "-1s",
            "+1s",
            "1.5h",
            "15",
            "15 m",
            "1d",
            "015m",
            "99999999999s",
            "é",
            "1é",
        ] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
    }
}
