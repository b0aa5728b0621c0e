//! Times as people say them: absolute in the reader's zone, and relative.

use grantwright_domain::Timestamp;

/// `14:20 (in 42 min)`; with the date when it is not within a day. Text that is no time is given back.
pub fn when(text: &str, now: Timestamp) -> String {
    let Ok(at) = Timestamp::parse(text) else { return crate::output::clean(text) };
    let Ok(moment) = jiff::Timestamp::from_millisecond(at.millis()) else {
        return crate::output::clean(text);
    };
    let local = moment.to_zoned(jiff::tz::TimeZone::system());
    let near = at.since(now).abs() < 20 * 3_600_000;
    let clock = local.strftime(if near { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" });
    format!("{clock} ({})", relative(at.since(now)))
}

/// `in 42 min`, `3 s ago`.
pub fn relative(ms: i64) -> String {
    let seconds = ms.abs() / 1000;
    let words = match seconds {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", (s + 30) / 60),
        s if s < 172_800 => format!("{} h", (s + 1800) / 3600),
        s => format!("{} days", (s + 43_200) / 86_400),
    };
    if ms >= 0 { format!("in {words}") } else { format!("{words} ago") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_words() {
        assert_eq!(relative(42 * 60_000), "in 42 min");
        assert_eq!(relative(-3_000), "3 s ago");
        assert_eq!(relative(3 * 86_400_000), "in 3 days");
    }
}
