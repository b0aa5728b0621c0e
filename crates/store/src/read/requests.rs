//! Requests: lists of them, and searches.

use grantwright_domain::{
    AgentId, Event, HumanId, InstanceId, LeaseId, Phase, RequestId, ScopeName, Timestamp,
};

use super::select::{NEWEST, NEWEST_OF_FEW, Select, rows_of};
use super::{Found, MAX_ROWS, RequestFilter, RequestSearch, RequestSummary, id, leaves_at};
use crate::StoreError;
use crate::db::{Db, Row, Value, placeholders};

pub(crate) fn list(
    db: &mut dyn Db,
    filter: &RequestFilter,
) -> Result<Vec<RequestSummary>, StoreError> {
    let mut out = Vec::new();
    for row in list_select(filter).rows(db)? {
        match request_row(row) {
            Ok(request) => out.push(request),
            Err(e) => tracing::error!(error = %e, "ALARM: a request's row was written by others"),
        }
    }
    Ok(out)
}

pub(super) fn list_select(filter: &RequestFilter) -> Select {
    let mut select = Select::new(&format!("SELECT {REQUEST} FROM requests"));
    // The index of open requests is small: nothing may lead SQLite to the history instead.
    let few = filter.open || filter.phase.is_some_and(Phase::is_open);
    if few {
        select.and("identity IS NOT NULL");
    }
    if filter.ended {
        select.and("identity IS NULL AND phase <> 'intended'");
    }
    if let Some(phase) = filter.phase {
        select.and_value("phase =", Value::from(phase.word()));
    }
    if let Some(agent) = &filter.agent {
        select.and_value("agent =", Value::from(agent.as_str()));
    }
    // Those of one agent have an index of their own, in this order.
    let few = few && filter.agent.is_none();
    if let Some(before) = filter.before {
        select.and_before(before, few);
    }
    if let Some((due, index)) = filter.soonest_from {
        select.and_values("(due_ms, first_index) >=", [Value::Int(due.millis()), index.into()]);
    }
    let order = match (filter.soonest, few) {
        (true, _) => "due_ms, first_index",
        (false, true) => NEWEST_OF_FEW,
        (false, false) => NEWEST,
    };
    select.by(order, filter.limit);
    select
}

const REQUEST: &str = "id, agent, instance, scope, phase, version, first_index, created_ms, \
                       due_ms, lease_id";

fn request_row(mut r: Row) -> Result<RequestSummary, StoreError> {
    Ok(RequestSummary {
        id: id(&mut r, 0, RequestId::parse)?,
        agent: id(&mut r, 1, AgentId::parse)?,
        instance: id(&mut r, 2, InstanceId::parse)?,
        scope: id(&mut r, 3, ScopeName::parse)?,
        phase: r.text(4)?,
        version: r.int(5)?,
        first_index: r.int(6)?,
        created_at: Timestamp::from_millis(r.signed(7)?),
        due_at: r.opt(8, Row::signed)?.map(Timestamp::from_millis),
        lease: if r.is_null(9) { None } else { Some(id(&mut r, 9, LeaseId::parse)?) },
    })
}

/// Rows that one search looks at, at most.
const LOOKED_AT: u64 = 10_000;
/// Leaves of one person that one search looks at, at most.
const LEAVES_OF_PEOPLE: u64 = 2_000;

/// See [`crate::Store::search`].
pub(crate) fn search(db: &mut dyn Db, s: &RequestSearch) -> Result<Found, StoreError> {
    // Request ids begin with their time, so that the index of ids finds a moment's place in the log.
    let at = |db: &mut dyn Db, moment: Timestamp| -> Result<Option<u64>, StoreError> {
        let sql = "SELECT first_index FROM requests WHERE id >= $1 ORDER BY id LIMIT 1";
        let id = format!("r{:012x}", moment.millis().max(0));
        let mut rows = db.query(sql, &[Value::from(id.as_str())])?;
        Ok(rows.first_mut().map(|r| r.int(0)).transpose()?)
    };
    let mut before = s.before.unwrap_or(i64::MAX.unsigned_abs());
    if let Some(until) = s.until {
        before = before.min(at(db, until)?.unwrap_or(before));
    }
    let least = match s.from {
        Some(from) => match at(db, from)? {
            Some(index) => index,
            None => return Ok(Found::default()),
        },
        None => 0,
    };
    // Of one agent, or for one scope, the index leads to those alone.
    let of = match (&s.agent, &s.scope) {
        (Some(agent), _) => Some(("agent", agent.as_str())),
        (None, Some(scope)) => Some(("scope", scope.as_str())),
        (None, None) => None,
    };
    // SQLite counts parameters as they appear.
    let mut window = vec![Value::from(least), Value::from(before)];
    let mut only = String::new();
    if let Some((column, value)) = of {
        window.push(Value::from(value));
        only = format!("AND {column} = $3");
    }
    // Only the oldest row that is looked at is read: the others are stepped over in the index.
    window.push(Value::from(LOOKED_AT - 1));
    let offset = window.len();
    let sql = format!(
        "SELECT first_index, created_ms FROM requests WHERE first_index >= $1 AND first_index < $2 \
         {only} ORDER BY first_index DESC LIMIT 1 OFFSET ${offset}"
    );
    let mut oldest = db.query(&sql, &window)?;
    let oldest = match oldest.first_mut() {
        Some(row) => Some((row.int(0)?, Timestamp::from_millis(row.signed(1)?))),
        None => None,
    };
    let floor = oldest.map_or(least, |(index, _)| index);
    let mut select = Select::new(&format!("SELECT {REQUEST} FROM requests"));
    select.and_value("first_index >=", Value::from(floor));
    select.and_value("first_index <", Value::from(before));
    if let Some(agent) = &s.agent {
        select.and_value("agent =", Value::from(agent.as_str()));
    }
    if let Some(scope) = &s.scope {
        select.and_value("scope =", Value::from(scope.as_str()));
    }
    if let Some(phase) = s.phase {
        select.and_value("phase =", Value::from(phase.word()));
    }
    if let Some(from) = s.from {
        select.and_value("created_ms >=", Value::Int(from.millis()));
    }
    if let Some(until) = s.until {
        select.and_value("created_ms <", Value::Int(until.millis()));
    }
    if let Some(text) = &s.text {
        let mut words = String::from("%");
        for c in text.to_lowercase().chars() {
            if matches!(c, '%' | '_' | '\\') {
                words.push('\\');
            }
            words.push(c);
        }
        words.push('%');
        select.params.push(Value::Text(words));
        let number = select.params.len();
        select.and(&format!(
            "EXISTS (SELECT 1 FROM texts t WHERE t.request_id = requests.id \
             AND t.name NOT LIKE 'param:%' AND lower(t.body) LIKE ${number} ESCAPE '\\')"
        ));
    }
    if let Some(human) = &s.human {
        let ids = of_person(db, human, floor)?;
        if ids.is_empty() {
            select.and("1 = 0");
        } else {
            let list = placeholders(select.params.len() + 1, ids.len());
            select.and(&format!("id IN ({list})"));
            select.params.extend(ids.into_iter().map(Value::Text));
        }
    }
    let limit = if s.resource.is_some() { MAX_ROWS } else { s.limit };
    let rows: Result<Vec<_>, _> =
        select.newest_first(db, limit)?.into_iter().map(request_row).collect();
    let mut rows = rows?;
    let last = |rows: &[RequestSummary]| rows.last().map(|r| (r.first_index, r.created_at));
    let mut next =
        if rows.len() as u64 >= u64::from(rows_of(limit)) { last(&rows) } else { oldest };
    if let Some(resource) = &s.resource {
        let most = usize::try_from(rows_of(s.limit)).unwrap_or(usize::MAX);
        rows = with_resource(db, rows, resource)?;
        if rows.len() > most {
            rows.truncate(most);
            next = last(&rows);
        }
    }
    Ok(Found { rows, next })
}

/// Those of the requests one of whose open parameters holds the text, by their first leaves.
fn with_resource(
    db: &mut dyn Db,
    rows: Vec<RequestSummary>,
    resource: &str,
) -> Result<Vec<RequestSummary>, StoreError> {
    let mut out = Vec::new();
    for chunk in rows.chunks(8) {
        let indexes: Vec<u64> = chunk.iter().map(|r| r.first_index).collect();
        let leaves = leaves_at(db, &indexes)?;
        out.extend(
            chunk
                .iter()
                .filter(|row| {
                    let leaf = leaves.iter().find(|(index, _)| *index == row.first_index);
                    match leaf.map(|(_, body)| Event::from_leaf(body)) {
                        Some(Ok(Event::Requested(e))) => {
                            e.terms.params.values().any(|value| value.text().contains(resource))
                        }
                        _ => false,
                    }
                })
                .cloned(),
        );
    }
    Ok(out)
}

/// Requests on which a person acted, by their newest leaves from `floor` on.
fn of_person(db: &mut dyn Db, human: &HumanId, floor: u64) -> Result<Vec<String>, StoreError> {
    // An id holds no character that JSON escapes.
    acted(db, &format!("\"human\":\"{human}\""), floor, 500)
}

/// Requests whose denial gave this reason, those denied last first.
pub(crate) fn denied_because(
    db: &mut dyn Db,
    reason_code: &str,
    floor: u64,
) -> Result<Vec<RequestId>, StoreError> {
    let plain = reason_code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if !plain {
        return Err(StoreError::Invalid("a reason's code is of `[a-z_]`".into()));
    }
    let found = acted(db, &format!("\"reason_code\":\"{reason_code}\""), floor, 64)?;
    let parse =
        |id: &String| RequestId::parse(id).map_err(|_| StoreError::tampered("a leaf's request"));
    found.iter().map(parse).collect()
}

/// Requests on which people acted with this field in their leaf, by the newest from `floor` on.
fn acted(db: &mut dyn Db, field: &str, floor: u64, most: usize) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT request_id, body FROM leaves WHERE kind IN ('voted', 'questioned', \
               'narrowed', 'withdrawn') AND idx >= $1 ORDER BY idx DESC LIMIT $2";
    let rows = db.query(sql, &[Value::from(floor), Value::from(LEAVES_OF_PEOPLE)])?;
    let mut out = Vec::new();
    for mut row in rows {
        let (Some(request), body) = (row.opt(0, Row::text)?, row.blob(1)?) else { continue };
        let is_meant = body.windows(field.len()).any(|w| w == field.as_bytes());
        if is_meant && !out.contains(&request) && out.len() < most {
            out.push(request);
        }
    }
    Ok(out)
}

pub(crate) fn count_all_open(db: &mut dyn Db) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM requests WHERE identity IS NOT NULL";
    Ok(db.query(sql, &[])?.first_mut().map(|r| r.int(0)).transpose()?.unwrap_or(0))
}

pub(crate) fn open_by_agent(db: &mut dyn Db) -> Result<Vec<(AgentId, u64)>, StoreError> {
    let sql = "SELECT agent, count(*) FROM requests WHERE identity IS NOT NULL GROUP BY agent";
    let rows = db.query(sql, &[])?;
    rows.into_iter().map(|mut r| Ok((id(&mut r, 0, AgentId::parse)?, r.int(1)?))).collect()
}
