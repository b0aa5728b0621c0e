//! The numbers at the top, and tables of agents, people, scopes and requests.

use std::collections::{BTreeMap, BTreeSet};

use grantwright_domain::event::Decision;
use grantwright_domain::text::visible;
use grantwright_domain::{HumanId, Timestamp};

use super::gather::{Data, Row};
use super::{Kind, Table, Wanted, controls, ranked};

/// Rows of a table of requests.
const MOST_REQUESTS: usize = 5000;

pub(super) fn summary(data: &Data) -> Vec<(String, String)> {
    let count = |word: &str| {
        let is = |r: &&Row| r.outcome.is_some_and(|(_, _, w)| w == word);
        data.requests.iter().filter(is).count()
    };
    let asked = data.requests.len();
    let people = data.requests.iter().filter(|r| !r.votes.is_empty()).count();
    let mut times: Vec<i64> = data.requests.iter().filter_map(Row::decided_ms).collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).map_or("–".to_owned(), |ms| span(*ms));
    let share = |n: usize| format!("{n} ({})", percent(n, asked));
    let row = |name: &str, value: String| (name.to_owned(), value);
    vec![
        row("Requests", asked.to_string()),
        row("Credentials issued", count("granted").to_string()),
        row("Denied", share(count("denied"))),
        row("Decided by people", share(people)),
        row("Median time to decision", median),
        row("Outcome unknown", count("unknown").to_string()),
    ]
}

pub(super) fn tables(data: &Data, wanted: &Wanted) -> Vec<Table> {
    match &wanted.kind {
        Kind::AccessReview => vec![agents(data, wanted), people(data), groups(data), scopes(data)],
        Kind::Agent(_) => vec![requests(data, |_| true), scopes(data)],
        Kind::Reviewer(human) => {
            vec![requests(data, |r| r.votes.iter().any(|v| &v.human == human))]
        }
        Kind::FedRamp | Kind::Soc2 => vec![scopes(data), kinds(data)],
    }
}

fn agents(data: &Data, wanted: &Wanted) -> Table {
    let mut rows = Vec::new();
    for (agent, (owner, told, revoked)) in &data.agents {
        let mine: Vec<&Row> = data.requests.iter().filter(|r| &r.agent == agent).collect();
        let issued = mine.iter().filter(|r| r.lease.is_some()).count();
        let scopes: BTreeSet<&str> = mine.iter().map(|r| r.scope.as_str()).collect();
        let last = mine.iter().filter_map(|r| r.lease.as_ref()).map(|l| l.from).max();
        let live: i64 = mine.iter().filter_map(|r| exposure_ms(r, wanted.from, wanted.until)).sum();
        rows.push(vec![
            agent.to_string(),
            owner.to_string(),
            told.clone(),
            if *revoked { "ended" } else { "active" }.into(),
            scopes.into_iter().collect::<Vec<_>>().join(", "),
            issued.to_string(),
            last.map_or("never".into(), |at| at.to_string()),
            (live / 60_000).to_string(),
        ]);
    }
    table(
        "Agents",
        &[
            "agent",
            "owner",
            "registered",
            "state",
            "scopes used",
            "credentials",
            "last issued",
            "live minutes",
        ],
        rows,
    )
}

fn people(data: &Data) -> Table {
    let mut rows = Vec::new();
    for (human, (active, operator)) in &data.humans {
        let votes: Vec<_> =
            data.requests.iter().flat_map(|r| &r.votes).filter(|v| &v.human == human).collect();
        let approved = votes.iter().filter(|v| v.decision == Decision::Approve).count();
        let groups = data.groups.iter().filter(|(_, m)| m.contains(human)).map(|(g, _)| g.as_str());
        let owns = data.agents.iter().filter(|(_, (owner, _, _))| owner == human);
        rows.push(vec![
            human.to_string(),
            if *active { "active" } else { "not active" }.into(),
            if *operator { "operator" } else { "" }.into(),
            groups.collect::<Vec<_>>().join(", "),
            owns.map(|(a, _)| a.as_str()).collect::<Vec<_>>().join(", "),
            votes.len().to_string(),
            percent(approved, votes.len()),
            votes.last().map_or("never".into(), |v| v.at.to_string()),
        ]);
    }
    table(
        "People",
        &["person", "state", "role", "groups", "answers for", "votes", "approved", "last vote"],
        rows,
    )
}

fn groups(data: &Data) -> Table {
    let names =
        |m: &BTreeSet<HumanId>| m.iter().map(HumanId::as_str).collect::<Vec<_>>().join(", ");
    let rows = data.groups.iter().map(|(group, members)| vec![group.clone(), names(members)]);
    table("Groups", &["group", "members"], rows.collect())
}

fn scopes(data: &Data) -> Table {
    let mut by: BTreeMap<(&str, &str), [usize; 4]> = BTreeMap::new();
    for row in &data.requests {
        let n = by.entry((&row.scope, &row.risk)).or_default();
        let [asked, issued, denied, unused] = n;
        *asked += 1;
        *issued += usize::from(row.lease.is_some());
        *denied += usize::from(row.outcome.is_some_and(|(_, _, w)| w == "denied"));
        *unused += usize::from(uncollected(row));
    }
    let rows = by.into_iter().map(|((scope, risk), n)| {
        let mut row = vec![scope.to_owned(), risk.to_owned()];
        row.extend(n.iter().map(ToString::to_string));
        row
    });
    table(
        "Scopes",
        &["scope", "risk", "asked", "issued", "denied", "approved, never collected"],
        rows.collect(),
    )
}

fn kinds(data: &Data) -> Table {
    let rows = ranked(controls::kinds(data));
    let rows = rows.into_iter().map(|(kind, n)| vec![kind.clone(), n.to_string()]);
    table("Leaves by kind", &["kind", "leaves"], rows.collect())
}

fn requests(data: &Data, of: impl Fn(&Row) -> bool) -> Table {
    let rows: Vec<Vec<String>> = data
        .requests
        .iter()
        .filter(|r| of(r))
        .take(MOST_REQUESTS)
        .map(|r| {
            let votes = r.votes.iter().map(|v| {
                let word = if v.decision == Decision::Approve { "approved" } else { "denied" };
                format!("{} {word}", v.human)
            });
            vec![
                r.asked.0.to_string(),
                r.asked.1.to_string(),
                r.id.to_string(),
                r.agent.to_string(),
                r.scope.clone(),
                visible(&r.params),
                votes.collect::<Vec<_>>().join(", "),
                r.decided_ms().map_or(String::new(), span),
                r.outcome.map_or("open", |(_, _, word)| word).to_owned(),
            ]
        })
        .collect();
    table(
        "Requests",
        &[
            "leaf",
            "asked",
            "request",
            "agent",
            "scope",
            "parameters",
            "votes",
            "decided in",
            "outcome",
        ],
        rows,
    )
}

/// How long its credential was alive within the window, in milliseconds.
pub(super) fn exposure_ms(row: &Row, from: Timestamp, until: Timestamp) -> Option<i64> {
    let lease = row.lease.as_ref()?;
    Some(lease.end().min(until).since(lease.from.max(from)).max(0))
}

/// People approved it, and the agent never collected it.
pub(super) fn uncollected(row: &Row) -> bool {
    let approvals = row.votes.iter().filter(|v| v.decision == Decision::Approve).count();
    let enough = u32::try_from(approvals).is_ok_and(|n| row.quorum > 0 && n >= row.quorum);
    enough && row.intended.is_none() && row.outcome.is_some_and(|(_, _, w)| w == "expired")
}

fn table(title: &str, columns: &[&str], rows: Vec<Vec<String>>) -> Table {
    let columns = columns.iter().map(|c| (*c).to_owned()).collect();
    Table { title: title.into(), columns, rows }
}

fn percent(part: usize, whole: usize) -> String {
    if whole == 0 {
        return "–".into();
    }
    format!("{} %", (part * 100 + whole / 2) / whole)
}

/// A span as people say it.
pub(super) fn span(ms: i64) -> String {
    match ms / 1000 {
        0 => "under 1 s".into(),
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", (s + 30) / 60),
        s => format!("{} h", (s + 1800) / 3600),
    }
}
