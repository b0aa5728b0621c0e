//! How SQLite walks the tables for lists: what is open and what lives costs as much as is shown, not
//! as much as ever was.

use grantwright_domain::{AgentId, LeaseId, Phase, Timestamp};

use super::{LeaseFilter, RequestFilter, count_open, due, lease, leases, list, open_by_agent};
use crate::db::sqlite::Sqlite;
use crate::db::{Db, DbError, Found, Mode, Needs, Row, Rows, Value};
use crate::head::HeadRow;

/// A database that tells how it would read, and reads nothing.
struct Told {
    db: Sqlite,
    plans: Vec<String>,
}

impl Db for Told {
    fn begin(&mut self, mode: Mode) -> Result<(), DbError> {
        self.db.begin(mode)
    }
    fn head(&mut self) -> Result<Option<HeadRow>, DbError> {
        self.db.head()
    }
    fn lookup(&mut self, needs: &Needs<'_>) -> Result<Found, DbError> {
        self.db.lookup(needs)
    }
    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, DbError> {
        let mut steps = self.db.query(&format!("EXPLAIN QUERY PLAN {sql}"), params)?;
        let steps: Result<Vec<String>, DbError> = steps.iter_mut().map(|r| r.text(3)).collect();
        self.plans.push(steps?.join("; "));
        Ok(Vec::new())
    }
    fn write(&mut self, rows: &Rows) -> Result<(), DbError> {
        self.db.write(rows)
    }
    fn commit(&mut self) -> Result<(), DbError> {
        self.db.commit()
    }
    fn rollback(&mut self) {
        self.db.rollback();
    }
    fn is_shared(&self) -> bool {
        false
    }
    fn reconnects(&self) -> bool {
        false
    }
}

#[test]
fn what_is_open_or_lives_is_found_by_its_own_index_and_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let db = Sqlite::open_writer(&dir.path().join("store.db")).unwrap();
    let mut told = Told { db, plans: Vec::new() };
    let agent = AgentId::parse("bot").unwrap();
    let mine = || Some(agent.clone());
    let open = RequestFilter { open: true, limit: 10, ..RequestFilter::default() };
    let live = LeaseFilter {
        live: true,
        soonest_after: Some(Timestamp::default()),
        limit: 10,
        ..LeaseFilter::default()
    };
    let soonest = RequestFilter { soonest: true, ..open.clone() };
    let later = Some((Timestamp::default(), 7));
    list(&mut told, &RequestFilter { soonest_from: later, ..soonest.clone() }).unwrap();
    list(&mut told, &soonest).unwrap();
    list(&mut told, &RequestFilter { agent: mine(), ..open }).unwrap();
    count_open(&mut told, &agent).unwrap();
    open_by_agent(&mut told).unwrap();
    leases(&mut told, &live).unwrap();
    leases(&mut told, &LeaseFilter { agent: mine(), ..live }).unwrap();
    let indexes = [
        "requests_open_due",
        "requests_open_due",
        "requests_open_agent",
        "requests_open_agent",
        "requests_open_agent",
        "requests_due",
        "requests_due",
    ];
    assert_eq!(told.plans.len(), indexes.len());
    for (plan, index) in told.plans.iter().zip(indexes) {
        assert!(plan.contains(&format!("INDEX {index}")), "{index}: {plan}");
        assert!(!plan.contains("TEMP B-TREE"), "sorted: {plan}");
    }
}

/// A lease has no index of its own: it is named after its request.
#[test]
fn a_lease_is_found_by_its_requests_id() {
    let dir = tempfile::tempdir().unwrap();
    let db = Sqlite::open_writer(&dir.path().join("store.db")).unwrap();
    let mut told = Told { db, plans: Vec::new() };
    for (name, asks) in [("l-1", true), ("lease-1", true), ("x-1", false)] {
        lease(&mut told, &LeaseId::parse(name).unwrap()).unwrap();
        let plans = std::mem::take(&mut told.plans);
        assert_eq!(!plans.is_empty(), asks, "{name}");
        for plan in plans {
            assert!(plan.contains("sqlite_autoindex_requests_1 (id=?)"), "{name}: {plan}");
        }
    }
}

/// What asks for the few that are open, live or ended early never walks all requests, nor all of one
/// agent, whatever else it asks for.
#[test]
fn what_is_few_is_never_looked_for_in_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let db = Sqlite::open_writer(&dir.path().join("store.db")).unwrap();
    let mut told = Told { db, plans: Vec::new() };
    let bot = || Some(AgentId::parse("bot").unwrap());
    let at = Some(Timestamp::from_millis(7));
    for (agent, before) in [(None, None), (bot(), None), (None, Some(7)), (bot(), Some(7))] {
        let page = LeaseFilter { agent: agent.clone(), before, ..LeaseFilter::default() };
        for filter in [
            LeaseFilter { live: true, ..page.clone() },
            LeaseFilter { live: true, soonest_after: at, ..page.clone() },
            LeaseFilter { ended_early: at, ..page },
        ] {
            leases(&mut told, &filter).unwrap();
        }
        let page = RequestFilter { agent, before, ..RequestFilter::default() };
        for filter in [
            RequestFilter { open: true, ..page.clone() },
            RequestFilter { open: true, soonest: true, ..page.clone() },
            RequestFilter { phase: Some(Phase::Pending), ..page },
        ] {
            list(&mut told, &filter).unwrap();
        }
    }
    due(&mut told, Timestamp::default(), 10, Some((Timestamp::default(), 7))).unwrap();
    let small = ["live", "due", "ended", "identity", "open_due", "open_agent"];
    let is_small = |plan: &str| {
        small.iter().any(|name| {
            let index = format!("requests USING INDEX requests_{name}");
            plan.split("; ").any(|step| {
                step.split_once(&index).is_some_and(|(_, rest)| !rest.starts_with(|c| c != ' '))
            })
        })
    };
    assert_eq!(told.plans.len(), 25);
    for plan in &told.plans {
        assert!(is_small(plan), "{plan}");
    }
}
