//! Charts where people look rather than read, as inline SVG: no script, legible in print and without colour.

use std::collections::BTreeMap;
use std::fmt::Write;

use grantwright_domain::Timestamp;
use serde::Serialize;

use super::Wanted;
use super::gather::{Data, Row};
use super::html::escaped;
use super::people::{exposure_ms, uncollected};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Most columns of a chart over time.
const MOST_COLUMNS: i64 = 60;
/// Fills, dark to light, told apart in grey as well.
const FILLS: [&str; 5] = ["#1f3a5f", "#4f7cac", "#c0632b", "#9fb8d0", "#d9d9d9"];

/// A picture and the numbers in it.
#[derive(Debug, Clone, Serialize)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// Of what the numbers are.
    pub unit: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Stacked from the bottom.
    pub series: Vec<Series>,
}

/// One kind of thing, a number a column.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// What is counted.
    pub name: String,
    /// One for each column.
    pub values: Vec<f64>,
}

/// Columns over time.
struct Time {
    from: Timestamp,
    width: i64,
    names: Vec<String>,
}

impl Time {
    fn new(wanted: &Wanted) -> Self {
        let span = wanted.until.since(wanted.from).max(1);
        let widths = [HOUR, 6 * HOUR, DAY, 7 * DAY, 30 * DAY, 365 * DAY];
        let fits = |w: &&i64| span / **w < MOST_COLUMNS;
        let width = widths.iter().find(fits).copied().unwrap_or(span / MOST_COLUMNS + 1);
        let count = span.div_euclid(width) + i64::from(span % width != 0);
        let name = |n: i64| {
            let at = wanted.from.plus_millis(n * width).to_string();
            let whole = if width < DAY { at.get(5..16) } else { at.get(..10) };
            whole.unwrap_or_default().replace('T', " ")
        };
        Self { from: wanted.from, width, names: (0..count).map(name).collect() }
    }

    fn column(&self, at: Timestamp) -> Option<usize> {
        let n = usize::try_from(at.since(self.from).div_euclid(self.width)).ok()?;
        (n < self.names.len()).then_some(n)
    }

    fn zeros(&self) -> Vec<f64> {
        vec![0.0; self.names.len()]
    }

    fn chart(&self, title: &str, unit: &str, series: Vec<Series>) -> Chart {
        Chart { title: title.into(), unit: unit.into(), columns: self.names.clone(), series }
    }

    /// Counts rows by the column of a moment of theirs.
    fn count(&self, rows: impl Iterator<Item = Timestamp>) -> Vec<f64> {
        let mut values = self.zeros();
        for at in rows {
            if let Some(value) = self.column(at).and_then(|n| values.get_mut(n)) {
                *value += 1.0;
            }
        }
        values
    }
}

pub(super) fn all(data: &Data, wanted: &Wanted) -> Vec<Chart> {
    let time = Time::new(wanted);
    vec![
        by_risk(data, &time),
        decisions(data),
        denied(data, &time),
        exposure(data, &time),
        unused(data, &time),
    ]
}

fn by_risk(data: &Data, time: &Time) -> Chart {
    let mut by: BTreeMap<&str, Vec<Timestamp>> = BTreeMap::new();
    for row in &data.requests {
        if let Some(lease) = &row.lease {
            by.entry(&row.risk).or_default().push(lease.from);
        }
    }
    let order = |risk: &str| match risk {
        "critical" => 0,
        "high" => 1,
        "medium" => 2,
        "low" => 3,
        _ => 4,
    };
    let mut series: Vec<Series> = by
        .into_iter()
        .map(|(risk, at)| Series { name: risk.to_owned(), values: time.count(at.into_iter()) })
        .collect();
    series.sort_by_key(|s| order(&s.name));
    time.chart("Credentials issued, by risk", "credentials", series)
}

fn decisions(data: &Data) -> Chart {
    let bounds =
        [(60, "≤ 1 min"), (300, "≤ 5 min"), (900, "≤ 15 min"), (3600, "≤ 1 h"), (i64::MAX, "more")];
    let mut values = vec![0.0; bounds.len()];
    for ms in data.requests.iter().filter_map(Row::decided_ms) {
        let n = bounds.iter().position(|(most, _)| ms / 1000 <= *most);
        if let Some(value) = n.and_then(|n| values.get_mut(n)) {
            *value += 1.0;
        }
    }
    Chart {
        title: "Time until people decided".into(),
        unit: "requests".into(),
        columns: bounds.iter().map(|(_, name)| (*name).to_owned()).collect(),
        series: vec![Series { name: "requests".into(), values }],
    }
}

fn denied(data: &Data, time: &Time) -> Chart {
    let is = |r: &&Row| r.outcome.is_some_and(|(_, _, word)| word == "denied");
    let asked = time.count(data.requests.iter().map(|r| r.asked.1));
    let denied = time.count(data.requests.iter().filter(is).map(|r| r.asked.1));
    let share = |(part, whole): (&f64, &f64)| if *whole > 0.0 { part * 100.0 / whole } else { 0.0 };
    let values = denied.iter().zip(&asked).map(share).collect();
    time.chart("Share of requests denied", "%", vec![Series { name: "denied".into(), values }])
}

fn exposure(data: &Data, time: &Time) -> Chart {
    let mut values = time.zeros();
    for row in &data.requests {
        for (n, value) in values.iter_mut().enumerate() {
            let from = time.from.plus_millis(i64::try_from(n).unwrap_or(0) * time.width);
            let ms = exposure_ms(row, from, from.plus_millis(time.width)).unwrap_or(0);
            *value += minutes(ms);
        }
    }
    let series = vec![Series { name: "minutes that credentials were alive".into(), values }];
    time.chart("Standing exposure", "live credential minutes", series)
}

fn unused(data: &Data, time: &Time) -> Chart {
    let rows = data.requests.iter().filter(|r| uncollected(r)).map(|r| r.asked.1);
    let series =
        vec![Series { name: "approved, never collected".into(), values: time.count(rows) }];
    time.chart("Unused grants", "requests", series)
}

/// Tenths of a minute are exact enough to look at.
fn minutes(ms: i64) -> f64 {
    i32::try_from(ms / 6000).map_or(f64::from(i32::MAX), f64::from) / 10.0
}

impl Chart {
    /// Stacked columns, their scale, and a legend.
    #[must_use]
    pub fn to_svg(&self) -> String {
        const WIDTH: f64 = 460.0;
        const HEIGHT: f64 = 150.0;
        const LEFT: f64 = 44.0;
        const TOP: f64 = 12.0;
        let count = self.columns.len().max(1);
        let sums =
            (0..count).map(|n| self.series.iter().filter_map(|s| s.values.get(n)).sum::<f64>());
        let most = scale(sums.fold(0.0, f64::max));
        let columns = u32::try_from(count).map_or(1.0, f64::from);
        let step = WIDTH / columns;
        let mut out = format!(
            "<svg viewBox=\"0 0 520 {}\" role=\"img\" aria-label=\"{}\">",
            205 + 14 * self.series.len().max(1),
            escaped(&self.title)
        );
        for part in [0.0, 0.5, 1.0] {
            let y = TOP + HEIGHT - HEIGHT * part;
            let _ = write!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" class=\"grid\"/>\
                 <text x=\"{}\" y=\"{}\" class=\"tick\" text-anchor=\"end\">{}</text>",
                LEFT + WIDTH,
                LEFT - 6.0,
                y + 4.0,
                number(most * part)
            );
        }
        let mut x = LEFT;
        for (n, name) in self.columns.iter().enumerate() {
            let mut base = TOP + HEIGHT;
            for (series, fill) in self.series.iter().zip(FILLS.iter().cycle()) {
                let value = series.values.get(n).copied().unwrap_or(0.0);
                let height = if most > 0.0 { value / most * HEIGHT } else { 0.0 };
                if height <= 0.0 {
                    continue;
                }
                base -= height;
                let _ = write!(
                    out,
                    "<rect x=\"{:.1}\" y=\"{base:.1}\" width=\"{:.1}\" height=\"{height:.1}\" \
                     fill=\"{fill}\"><title>{}: {} {}</title></rect>",
                    x + step * 0.1,
                    (step * 0.8).min(48.0),
                    escaped(name),
                    escaped(&series.name),
                    number(value)
                );
            }
            // As many names as fit beside one another.
            let every = count.div_ceil(6);
            if n % every == 0 {
                let _ = write!(
                    out,
                    "<text x=\"{:.1}\" y=\"{}\" class=\"tick\">{}</text>",
                    x + step * 0.1,
                    TOP + HEIGHT + 16.0,
                    escaped(name)
                );
            }
            x += step;
        }
        let mut y = TOP + HEIGHT + 38.0;
        for (series, fill) in self.series.iter().zip(FILLS.iter().cycle()) {
            let total: f64 = series.values.iter().sum();
            let said =
                if self.unit == "%" { String::new() } else { format!(": {}", number(total)) };
            let _ = write!(
                out,
                "<rect x=\"{LEFT}\" y=\"{}\" width=\"9\" height=\"9\" fill=\"{fill}\"/>\
                 <text x=\"{}\" y=\"{y}\" class=\"legend\">{}{said}</text>",
                y - 8.0,
                LEFT + 14.0,
                escaped(&series.name)
            );
            y += 14.0;
        }
        out.push_str("</svg>");
        out
    }
}

/// The next round number.
fn scale(most: f64) -> f64 {
    if most <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(most.log10().floor());
    let round = [1.0, 2.0, 4.0, 5.0, 10.0].into_iter().find(|n| n * power >= most);
    (round.unwrap_or(10.0) * power).max(1.0)
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}
