//! `[guards]`: what keeps people who decide attentive.

use std::collections::BTreeMap;

use grantwright_domain::time::parse_ttl;
use grantwright_domain::{GroupName, HumanId, Timestamp};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::Deserialize;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// Names of days, from Monday.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// `[guards]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuardsSection {
    /// Risk labels whose scopes must name a fact that an approver types; see `Scope::confirm`.
    pub two_step_risks: Vec<String>,
    /// Risk labels whose live credentials end when an approval they rest on no longer counts: its
    /// person was removed from the group, is no longer active, or the group's membership is stale.
    pub end_with_approvers: Vec<String>,
    /// Live credentials end when the right they rest on does: the agent is revoked, its scope removed, its
    /// model no longer qualified, or policy as it now is would refuse it or ask more people.
    pub end_with_rights: bool,
    /// IANA time zone of quiet hours and shifts.
    pub zone: String,
    /// Requests of one task that come within this are one card.
    pub group_window: String,
    /// Requests of one agent within an hour that reach people; none: no bound.
    pub asks_per_agent_hour: Option<u32>,
    /// Approvals of one person within an hour; none: no bound. Denying is always possible.
    pub approvals_per_reviewer_hour: Option<u32>,
    /// After this, who is asked first is reminded; none: nobody is.
    pub remind_after: Option<String>,
    /// So long before its end everybody who may decide is told; none: nobody is.
    pub escalate_before: Option<String>,
    /// A group that is told then as well.
    pub escalate_to: Option<GroupName>,
    /// When only what is urgent is shown.
    pub quiet: Option<QuietSection>,
    /// Who is asked first, by approver group; absent: everybody at once.
    pub routing: BTreeMap<GroupName, RoutingSection>,
}

impl Default for GuardsSection {
    fn default() -> Self {
        Self {
            two_step_risks: Vec::new(),
            end_with_approvers: Vec::new(),
            end_with_rights: true,
            zone: "UTC".into(),
            group_window: "2m".into(),
            asks_per_agent_hour: None,
            approvals_per_reviewer_hour: None,
            remind_after: None,
            escalate_before: None,
            escalate_to: None,
            quiet: None,
            routing: BTreeMap::new(),
        }
    }
}

/// `[guards.quiet]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietSection {
    /// Quiet each day from then, `HH:MM` …
    pub from: String,
    /// … until then, the next day where it is earlier.
    pub until: String,
    /// Days that are quiet as a whole: `sat`, `sun`, …
    #[serde(default)]
    pub days: Vec<String>,
    /// Risk labels that are shown at any hour.
    pub wakes: Vec<String>,
}

/// `[guards.routing.GROUP]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingSection {
    /// How those who are asked first are chosen.
    pub by: RoutingBy,
    /// How many of them.
    #[serde(default = "one")]
    pub first: usize,
    /// Who is on call when; outside every shift they take turns.
    #[serde(default)]
    pub shift: Vec<ShiftSection>,
}

/// How those who are asked first are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoutingBy {
    /// Who is on call.
    OnCall,
    /// In turn.
    RoundRobin,
}

/// One `[[guards.routing.GROUP.shift]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShiftSection {
    /// Days on which it begins.
    pub days: Vec<String>,
    /// From then, `HH:MM` …
    pub from: String,
    /// … until then, the next day where it is not later.
    pub until: String,
    /// Who is on call.
    pub people: Vec<HumanId>,
}

fn one() -> usize {
    1
}

impl GuardsSection {
    /// Every fault, with what to do.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        if zone(&self.zone).is_none() {
            out.push(format!(
                "guards.zone: no time zone `{}`; want an IANA name such as Europe/Berlin",
                self.zone
            ));
        }
        for (key, ttl) in [
            ("group_window", Some(&self.group_window)),
            ("remind_after", self.remind_after.as_ref()),
            ("escalate_before", self.escalate_before.as_ref()),
        ] {
            if let Some(Err(e)) = ttl.map(|t| parse_ttl(t)) {
                out.push(format!("guards.{key}: {e}"));
            }
        }
        if [self.asks_per_agent_hour, self.approvals_per_reviewer_hour].contains(&Some(0)) {
            out.push(
                "guards: 0 an hour would refuse everything; leave the key out for none".into(),
            );
        }
        let mut hours = |what: &str, from: &str, until: &str| {
            for text in [from, until] {
                if minute(text).is_none() {
                    out.push(format!("{what}: `{text}` is not an hour such as 07:30"));
                }
            }
        };
        if let Some(quiet) = &self.quiet {
            hours("guards.quiet", &quiet.from, &quiet.until);
        }
        for shift in self.routing.values().flat_map(|r| &r.shift) {
            hours("guards.routing", &shift.from, &shift.until);
        }
        let days = self.quiet.iter().flat_map(|q| &q.days);
        for name in days.chain(self.routing.values().flat_map(|r| &r.shift).flat_map(|s| &s.days)) {
            if day(name).is_none() {
                out.push(format!("guards: `{name}` is not one of {}", DAYS.join(", ")));
            }
        }
        for (group, routing) in &self.routing {
            if routing.first == 0 {
                out.push(format!("guards.routing.{group}: first: 0 would ask nobody"));
            }
            if routing.by == RoutingBy::OnCall && routing.shift.is_empty() {
                out.push(format!("guards.routing.{group}: on-call wants a shift"));
            }
        }
        out
    }

    /// How long requests of one task make one card, in milliseconds.
    #[must_use]
    pub fn group_window_ms(&self) -> i64 {
        ms(&self.group_window)
    }

    /// After how long who is asked first is reminded, in milliseconds.
    #[must_use]
    pub fn remind_after_ms(&self) -> Option<i64> {
        self.remind_after.as_deref().map(ms)
    }

    /// How long before its end everybody is told, in milliseconds.
    #[must_use]
    pub fn escalate_before_ms(&self) -> Option<i64> {
        self.escalate_before.as_deref().map(ms)
    }

    /// Until when a request of this risk is not shown; none: it is shown now.
    #[must_use]
    pub fn quiet_until(&self, risk: &str, now: Timestamp) -> Option<Timestamp> {
        let quiet = self.quiet.as_ref().filter(|q| !q.wakes.iter().any(|r| r == risk))?;
        let (from, until) = (minute(&quiet.from)?, minute(&quiet.until)?);
        let is_quiet = |(weekday, minute): (u8, u16)| {
            let whole = quiet.days.iter().filter_map(|d| day(d)).any(|d| d == weekday);
            let by_hour = if from <= until {
                (from..until).contains(&minute)
            } else {
                minute >= from || minute < until
            };
            whole || by_hour
        };
        let zone = zone(&self.zone)?;
        if !is_quiet(local(&zone, now)?) {
            return None;
        }
        // Minute by minute from the next whole one: changes of the clock are seen, too.
        let minute_ms = 60_000;
        let mut at = Timestamp::from_millis(now.millis().div_euclid(minute_ms) * minute_ms);
        for _ in 0..u32::from(DAY) * 8 {
            at = at.plus_millis(minute_ms);
            if !is_quiet(local(&zone, at)?) {
                return Some(at);
            }
        }
        // Never anything but quiet: then it is not.
        None
    }

    /// Who of a group is on call.
    #[must_use]
    pub fn on_call(&self, group: &GroupName, now: Timestamp) -> Vec<HumanId> {
        let Some(routing) = self.routing.get(group) else { return Vec::new() };
        let Some(here) = zone(&self.zone).and_then(|zone| local(&zone, now)) else {
            return Vec::new();
        };
        let shift = routing.shift.iter().find(|shift| covers(shift, here));
        shift.map(|s| s.people.clone()).unwrap_or_default()
    }
}

fn covers(shift: &ShiftSection, (weekday, now): (u8, u16)) -> bool {
    let (Some(from), Some(until)) = (minute(&shift.from), minute(&shift.until)) else {
        return false;
    };
    let begins = |on: u8| shift.days.iter().filter_map(|d| day(d)).any(|d| d == on);
    let yesterday = (weekday + 6) % 7;
    if from < until {
        begins(weekday) && (from..until).contains(&now)
    } else {
        begins(weekday) && now >= from || begins(yesterday) && now < until
    }
}

fn ms(ttl: &str) -> i64 {
    i64::from(parse_ttl(ttl).unwrap_or(0)) * 1000
}

/// The zone, from the database that is compiled in.
fn zone(name: &str) -> Option<TimeZone> {
    TimeZoneDatabase::bundled().get(name).ok()
}

/// Weekday from Monday, and minute of the day.
fn local(zone: &TimeZone, at: Timestamp) -> Option<(u8, u16)> {
    let at = jiff::Timestamp::from_millisecond(at.millis()).ok()?;
    let local = zone.to_datetime(at);
    let weekday = local.date().weekday().to_monday_zero_offset();
    let minute = i16::from(local.hour()) * 60 + i16::from(local.minute());
    Some((u8::try_from(weekday).ok()?, u16::try_from(minute).ok()?))
}

fn day(name: &str) -> Option<u8> {
    DAYS.iter().position(|d| *d == name).and_then(|n| u8::try_from(n).ok())
}

/// `HH:MM` as minutes.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    (hour < 24 && minute < 60).then_some(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(text: &str) -> GuardsSection {
        toml::from_str(text).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn quiet_hours_end_over_midnight_over_a_weekend_and_over_a_change_of_the_clock() {
        let guards = section(
            "zone = \"Europe/Berlin\"\n[quiet]\nfrom = \"20:00\"\nuntil = \"07:00\"\n\
             days = [\"sat\", \"sun\"]\nwakes = [\"high\"]\n",
        );
        assert_eq!(guards.faults(), Vec::<String>::new());
        for (now, until) in [
            // A Tuesday in winter: 12:00, 20:00 and 06:59 in Berlin.
            ("2026-11-24T11:00:00.000Z", None),
            ("2026-11-24T19:00:00.000Z", Some("2026-11-25T06:00:00.000Z")),
            ("2026-11-25T05:59:59.000Z", Some("2026-11-25T06:00:00.000Z")),
            ("2026-11-25T06:00:00.000Z", None),
            // Friday evening lasts until Monday.
            ("2026-11-27T20:00:00.000Z", Some("2026-11-30T06:00:00.000Z")),
            ("2026-11-28T11:00:00.000Z", Some("2026-11-30T06:00:00.000Z")),
            // The night in which the clock goes forward ends at 07:00 summer time.
            ("2027-03-28T11:00:00.000Z", Some("2027-03-29T05:00:00.000Z")),
        ] {
            assert_eq!(guards.quiet_until("low", at(now)), until.map(at), "{now}");
            assert_eq!(guards.quiet_until("high", at(now)), None, "{now}: it wakes");
        }
        let always = section("[quiet]\nfrom = \"00:00\"\nuntil = \"23:59\"\nwakes = []\n");
        assert_eq!(
            always.quiet_until("low", at("2026-11-24T11:00:00.000Z")),
            Some(at("2026-11-24T23:59:00.000Z"))
        );
        assert_eq!(section("").quiet_until("low", at("2026-11-24T23:00:00.000Z")), None);
    }

    #[test]
    fn a_shift_over_midnight_belongs_to_the_day_on_which_it_begins() {
        let guards = section(
            "[routing.reviewers]\nby = \"on-call\"\n\
             [[routing.reviewers.shift]]\ndays = [\"mon\"]\nfrom = \"22:00\"\nuntil = \"06:00\"\npeople = [\"bob\"]\n\
             [[routing.reviewers.shift]]\ndays = [\"tue\"]\nfrom = \"06:00\"\nuntil = \"22:00\"\npeople = [\"carol\"]\n",
        );
        assert_eq!(guards.faults(), Vec::<String>::new());
        let group = GroupName::parse("reviewers").unwrap();
        for (now, who) in [
            ("2026-11-23T21:59:00.000Z", ""),
            ("2026-11-23T22:00:00.000Z", "bob"),
            ("2026-11-24T05:59:00.000Z", "bob"),
            ("2026-11-24T06:00:00.000Z", "carol"),
            ("2026-11-24T22:00:00.000Z", ""),
        ] {
            let on_call = guards.on_call(&group, at(now));
            assert_eq!(on_call.first().map_or("", HumanId::as_str), who, "{now}");
        }
        let other = GroupName::parse("security").unwrap();
        assert!(guards.on_call(&other, at("2026-11-23T22:00:00.000Z")).is_empty());
    }

    #[test]
    fn every_fault_is_named() {
        let faults = section(
            "zone = \"Mars/Base\"\ngroup_window = \"soon\"\nasks_per_agent_hour = 0\n\
             [quiet]\nfrom = \"7:00\"\nuntil = \"24:00\"\ndays = [\"Sat\"]\nwakes = []\n\
             [routing.reviewers]\nby = \"on-call\"\nfirst = 0\n",
        )
        .faults();
        assert_eq!(faults.len(), 8, "{faults:#?}");
    }
}
