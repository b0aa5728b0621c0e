//! Leases, what is due, and sealed copies.

use grantwright_domain::request::LeaseState;
use grantwright_domain::{AgentId, InstanceId, LeaseId, RequestId, ScopeName, Timestamp};

use super::select::{NEWEST, NEWEST_OF_FEW, Select};
use super::{Due, LeaseFilter, LeaseSummary, MAX_ROWS, Unacknowledged, id};
use crate::db::{Db, Row, Value};
use crate::{Sealed, StoreError};

const LEASE: &str = "SELECT lease_id, id, agent, instance, scope, lease_state, lease_expires_ms, \
                     revocable, first_index, created_ms FROM requests";

fn lease_row(mut r: Row) -> Result<LeaseSummary, StoreError> {
    let state = match r.text(5)?.as_str() {
        "live" => LeaseState::Live,
        "withdrawn" => LeaseState::Withdrawn,
        "revoked" => LeaseState::Revoked,
        "expired" => LeaseState::Expired,
        _ => return Err(StoreError::tampered("a lease's state")),
    };
    Ok(LeaseSummary {
        id: id(&mut r, 0, LeaseId::parse)?,
        request: id(&mut r, 1, RequestId::parse)?,
        agent: id(&mut r, 2, AgentId::parse)?,
        instance: id(&mut r, 3, InstanceId::parse)?,
        scope: id(&mut r, 4, ScopeName::parse)?,
        state,
        expires_at: Timestamp::from_millis(r.signed(6)?),
        revocable: r.signed(7)? != 0,
        first_index: r.int(8)?,
        requested_at: Timestamp::from_millis(r.signed(9)?),
    })
}

pub(crate) fn lease(db: &mut dyn Db, id: &LeaseId) -> Result<Option<LeaseSummary>, StoreError> {
    // By its request, which its name says.
    let Some(request) = id.request() else { return Ok(None) };
    let mut select = Select::new(LEASE);
    select.and_value("id =", Value::from(request.as_str()));
    select.and_value("lease_id =", Value::from(id.as_str()));
    select.newest_first(db, 1)?.into_iter().next().map(lease_row).transpose()
}

pub(crate) fn leases(
    db: &mut dyn Db,
    filter: &LeaseFilter,
) -> Result<Vec<LeaseSummary>, StoreError> {
    let mut out = Vec::new();
    let mut malformed = 0u64;
    for row in leases_select(filter).rows(db)? {
        match lease_row(row) {
            Ok(lease) => out.push(lease),
            Err(_) => malformed += 1,
        }
    }
    if malformed > 0 {
        tracing::error!(malformed, "ALARM: rows of leases were written behind the broker's back");
    }
    Ok(out)
}

pub(super) fn leases_select(filter: &LeaseFilter) -> Select {
    let mut select = Select::new(LEASE);
    select.and("lease_id IS NOT NULL");
    // These have small indexes: what lives in the order of the key, the others in orders of their own.
    let few = filter.ended_early.is_some() || filter.soonest_after.is_some();
    if filter.live {
        // As the index of them says it, word for word.
        select.and("lease_state IN ('live', 'withdrawn')");
    }
    if let Some(now) = filter.ended_early {
        // As the index of them says it, word for word.
        select.and("lease_state IN ('revoked', 'withdrawn')");
        select.and_value("lease_expires_ms >", Value::Int(now.millis()));
    }
    if let Some(agent) = &filter.agent {
        // An expression is not indexed: what is due, or lives, is walked, not all that the agent ever
        // asked.
        let column = if few || filter.live { "agent || '' =" } else { "agent =" };
        select.and_value(column, Value::from(agent.as_str()));
    }
    if let Some(before) = filter.before {
        select.and_before(before, few);
    }
    let order = match filter.soonest_after {
        Some(now) => {
            select.and_value("due_ms >", Value::Int(now.millis()));
            "due_ms, first_index"
        }
        None if few => NEWEST_OF_FEW,
        None => NEWEST,
    };
    select.by(order, filter.limit);
    select
}

pub(crate) fn sealed(
    db: &mut dyn Db,
    request: &RequestId,
    instance: &InstanceId,
) -> Result<Option<Sealed>, StoreError> {
    let sql = "SELECT body, until_ms FROM sealed WHERE request_id = $1 AND instance = $2";
    let params = [Value::from(request.as_str()), Value::from(instance.as_str())];
    let mut rows = db.query(sql, &params)?;
    let Some(row) = rows.first_mut() else { return Ok(None) };
    let until = Timestamp::from_millis(row.signed(1)?);
    Ok(Some(Sealed { instance: instance.clone(), bytes: row.blob(0)?, until }))
}

pub(crate) fn due(
    db: &mut dyn Db,
    now: Timestamp,
    limit: u32,
    from: Option<(Timestamp, u64)>,
) -> Result<Due, StoreError> {
    let limit = limit.clamp(1, MAX_ROWS);
    let (ms, first) = from.map_or((i64::MIN, 0), |(at, first)| (at.millis(), first));
    let mut due = Due::default();
    let sql = "SELECT id, lease_id, due_ms, first_index, CAST(due_ms AS BIGINT) FROM requests \
               WHERE due_ms IS NOT NULL AND due_ms <= $1 \
               AND due_ms >= $2 AND (due_ms > $2 OR +first_index > $3) \
               ORDER BY due_ms, first_index LIMIT $4";
    let most = Value::from(u64::from(limit));
    let params = [Value::Int(now.millis()), Value::Int(ms), Value::from(first), most];
    let rows = db.query(sql, &params)?;
    let whole = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    for mut row in rows {
        // Nor may a moment that is no whole number, which SQLite keeps, be where the pages stop: past it
        // is the next whole one.
        let place = match row.signed(2) {
            Ok(at) => (at, row.int(3).unwrap_or(first)),
            Err(_) => (row.signed(4).unwrap_or(ms).saturating_add(1), 0),
        };
        due.next = whole.then_some((Timestamp::from_millis(place.0), place.1));
        let leased = !row.is_null(1);
        let request = id(&mut row, 0, RequestId::parse);
        match (request, leased.then(|| id(&mut row, 1, LeaseId::parse))) {
            (Ok(request), None) => due.requests.push(request),
            (Ok(request), Some(Ok(lease))) => due.leases.push((lease, request)),
            _ => due.malformed += 1,
        }
    }
    Ok(due)
}

pub(crate) fn unacknowledged(
    db: &mut dyn Db,
    now: Timestamp,
    limit: u32,
    skip: u64,
) -> Result<Unacknowledged, StoreError> {
    let limit = limit.clamp(1, MAX_ROWS);
    let sql = "SELECT request_id FROM sealed WHERE until_ms <= $1 \
               ORDER BY until_ms, request_id LIMIT $2 OFFSET $3";
    let params = [Value::Int(now.millis()), Value::from(u64::from(limit)), Value::from(skip)];
    let mut out = Unacknowledged::default();
    let rows = db.query(sql, &params)?;
    out.more = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    for mut row in rows {
        match id(&mut row, 0, RequestId::parse) {
            Ok(request) => out.requests.push(request),
            Err(_) => out.malformed += 1,
        }
    }
    Ok(out)
}
