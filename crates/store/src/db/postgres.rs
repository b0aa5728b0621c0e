//! PostgreSQL: several brokers, one total order. Set-wise statements, pipelined.

use std::collections::HashMap;
use std::error::Error as _;

use futures_util::future::try_join_all;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, Statement};

use super::schema::{Dialect, NEWEST};
use super::{Db, DbError, Found, KeyRow, Mode, Needs, RequestRow, Row, RowAt, Rows, Value, int};
use crate::StoreError;
use crate::head::HeadRow;
use grantwright_domain::Digest;

/// Any fixed number: only brokers that migrate the same database meet in it.
const MIGRATION_LOCK: i64 = 0x6772_616e_7477;

/// Any other fixed number: held by the session of the one broker of a database.
const BROKER_LOCK: i64 = 0x6772_616e_7478;
/// How often, and after which rest, a held lock is asked for again: 2 s in all.
const LOCK_TRIES: usize = 8;
const LOCK_REST: std::time::Duration = std::time::Duration::from_millis(250);

/// One connection on the runtime of the thread that owns it.
pub(crate) struct Postgres {
    runtime: Runtime,
    url: String,
    link: Option<Link>,
    writer: bool,
    /// One broker at a time: its session holds a lock, and without it nothing is written.
    alone: bool,
    mode: Mode,
    in_transaction: bool,
}

struct Link {
    client: Client,
    statements: HashMap<String, Statement>,
}

type Param<'a> = &'a (dyn ToSql + Sync);

impl Postgres {
    /// Connects; a writer also brings the tables up to date.
    pub(crate) fn open(url: &str, writer: bool, alone: bool) -> Result<Self, StoreError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| StoreError::Unavailable(e.to_string()))?;
        let url = url.to_owned();
        let mut this = Self {
            runtime,
            url,
            link: None,
            writer,
            alone,
            mode: Mode::Read,
            in_transaction: false,
        };
        this.connect()?;
        if writer {
            this.migrate()?;
        }
        Ok(this)
    }

    fn connect(&mut self) -> Result<(), DbError> {
        if self.link.as_ref().is_some_and(|l| !l.client.is_closed()) {
            return Ok(());
        }
        self.in_transaction = false;
        self.link = None;
        let (writer, alone) = (self.writer, self.alone);
        let client = self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
            tokio::spawn(async move {
                if let Err(e) = connection.await {
                    tracing::warn!(error = %e, "the connection to PostgreSQL ended");
                }
            });
            if writer {
                // A broker that stalls gives the head's lock back.
                client
                    .batch_execute(
                        "SET synchronous_commit = on; SET lock_timeout = '10s'; \
                         SET idle_in_transaction_session_timeout = '10s'",
                    )
                    .await?;
                let row = client.query_one("SELECT current_setting('fsync')", &[]).await?;
                if row.get::<_, &str>(0) != "on" {
                    tracing::warn!("PostgreSQL runs with fsync off: commits are not durable");
                }
            }
            let free = !alone || lock(&client).await?;
            Ok::<_, tokio_postgres::Error>(free.then_some(client))
        });
        let client = client.map_err(|e| match fault(&e) {
            DbError::Broken(d) => DbError::Broken(d),
            other => other,
        })?;
        let client = client.ok_or(DbError::Taken)?;
        self.link = Some(Link { client, statements: HashMap::new() });
        Ok(())
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        let Some(link) = &mut self.link else { return Err(gone().into()) };
        let found: Result<i64, tokio_postgres::Error> = self.runtime.block_on(async {
            let transaction = link.client.transaction().await?;
            transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await?;
            transaction
                .batch_execute(
                    "SET LOCAL client_min_messages = warning; \
                     CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)",
                )
                .await?;
            let sql = "SELECT coalesce(max(version), 0) FROM schema_version";
            let version: i64 = transaction.query_one(sql, &[]).await?.get(0);
            for (to, sql) in Dialect::Postgres.after(u64::try_from(version).unwrap_or(0)) {
                transaction.batch_execute(&sql).await?;
                transaction.execute("INSERT INTO schema_version VALUES ($1)", &[&int(to)]).await?;
            }
            transaction.commit().await?;
            Ok(version)
        });
        let version = found.map_err(|e| fault(&e))?;
        if version > int(NEWEST) {
            return Err(StoreError::Unavailable(format!(
                "its tables are of version {version}, this program knows {NEWEST}: use a newer one"
            )));
        }
        Ok(())
    }

    /// Runs a future with the link; prepares `statements` first.
    fn run<'s, T>(
        &mut self,
        statements: &[&str],
        work: impl AsyncFnOnce(&Client, &HashMap<String, Statement>) -> Result<T, tokio_postgres::Error>
        + 's,
    ) -> Result<T, DbError> {
        let Some(link) = &mut self.link else { return Err(gone()) };
        let result = self.runtime.block_on(async {
            for sql in statements {
                if !link.statements.contains_key(*sql) {
                    let statement = link.client.prepare(sql).await?;
                    link.statements.insert((*sql).to_owned(), statement);
                }
            }
            work(&link.client, &link.statements).await
        });
        result.map_err(|e| fault(&e))
    }

    /// Executes these at once, in order; gives back how many rows each changed.
    fn pipeline(&mut self, work: &[(&str, Vec<Param<'_>>)]) -> Result<Vec<u64>, DbError> {
        let all: Vec<&str> = work.iter().map(|(sql, _)| *sql).collect();
        self.run(&all, async |client, statements| {
            let each = work.iter().filter_map(|(sql, params)| {
                let statement = statements.get(*sql)?;
                Some(async move { client.execute(statement, params).await })
            });
            try_join_all(each).await
        })
    }
}

const CHANGE: &str = "UPDATE requests r SET phase = u.phase, version = u.version, \
    last_index = u.last_index, leaf_list = r.leaf_list || u.leaves, due_ms = u.due_ms, \
    identity = u.identity, lease_id = u.lease_id, lease_state = u.lease_state, \
    lease_expires_ms = u.lease_expires_ms, revocable = u.revocable \
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bytea[], \
    $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], \
    $13::text[]) AS u(phase, version, last_index, leaves, due_ms, identity, lease_id, \
    lease_state, lease_expires_ms, revocable, first_index, was, id) \
    WHERE r.first_index = u.first_index AND r.version = u.was AND r.id = u.id";
const LEAVES: &str = "INSERT INTO leaves (idx, request_id, kind, body, hash) \
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])";
const REQUESTS: &str = "INSERT INTO requests (phase, version, last_index, leaf_list, due_ms, \
    identity, lease_id, lease_state, lease_expires_ms, revocable, first_index, id, agent, \
    instance, scope, created_ms) SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], \
    $4::text[], $5::bigint[], $6::bytea[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], \
    $11::bigint[], $12::text[], $13::text[], $14::text[], $15::text[], $16::bigint[])";
const KEYS: &str = "INSERT INTO keys (agent, key, request_id, instance, body) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[])";
const TEXTS: &str = "INSERT INTO texts (request_id, name, salt, body) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::text[]) \
    ON CONFLICT (request_id, name) DO UPDATE SET salt = excluded.salt, body = excluded.body";
const BLOBS: &str = "INSERT INTO blobs (digest, body) \
    SELECT * FROM unnest($1::bytea[], $2::bytea[]) ON CONFLICT (digest) DO NOTHING";
const SEALED: &str = "INSERT INTO sealed (request_id, instance, body, until_ms) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[]) \
    ON CONFLICT (request_id) DO UPDATE SET instance = excluded.instance, body = excluded.body, \
    until_ms = excluded.until_ms";
const TILES: &str = "INSERT INTO tiles (level, idx, hashes) \
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) \
    ON CONFLICT (level, idx) DO UPDATE SET hashes = excluded.hashes";
const ERASE: &str = "DELETE FROM texts WHERE request_id = ANY($1::text[])";
const UNSEAL: &str = "DELETE FROM sealed WHERE request_id = ANY($1::text[])";
const CHECKPOINT: &str = "INSERT INTO checkpoints (size, note) VALUES ($1, $2)";
const HEAD: &str = "UPDATE head SET size = $1, frontier = $2, epoch = $3, chain = $4, \
    open_tag = $5, mac = $6 WHERE id = 1";

/// The columns of request rows, one vector each.
#[derive(Default)]
struct Columns<'a> {
    phase: Vec<&'a str>,
    version: Vec<i64>,
    last: Vec<i64>,
    leaves: Vec<&'a str>,
    due: Vec<Option<i64>>,
    identity: Vec<Option<&'a [u8]>>,
    lease: Vec<Option<&'a str>>,
    lease_state: Vec<Option<&'a str>>,
    lease_expires: Vec<Option<i64>>,
    revocable: Vec<Option<i64>>,
    first: Vec<i64>,
    was: Vec<i64>,
    id: Vec<&'a str>,
    agent: Vec<&'a str>,
    instance: Vec<&'a str>,
    scope: Vec<&'a str>,
    created: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a [RequestRow]) -> Self {
        let mut c = Self::default();
        for r in rows {
            let lease = r.lease.as_ref();
            c.phase.push(r.phase);
            c.version.push(int(r.version));
            c.last.push(int(r.last));
            c.leaves.push(&r.leaves);
            c.due.push(r.due_ms);
            c.identity.push(r.identity.as_ref().map(|d| d.0.as_slice()));
            c.lease.push(lease.map(|l| l.id.as_str()));
            c.lease_state.push(lease.map(|l| l.state));
            c.lease_expires.push(lease.map(|l| l.expires_ms));
            c.revocable.push(lease.map(|l| i64::from(l.revocable)));
            c.first.push(int(r.first));
            c.was.push(r.was.map_or(-1, int));
            c.id.push(r.id.as_str());
            c.agent.push(r.agent.as_str());
            c.instance.push(r.instance.as_str());
            c.scope.push(r.scope.as_str());
            c.created.push(r.created_ms);
        }
        c
    }

    fn shared(&self) -> Vec<Param<'_>> {
        vec![
            &self.phase,
            &self.version,
            &self.last,
            &self.leaves,
            &self.due,
            &self.identity,
            &self.lease,
            &self.lease_state,
            &self.lease_expires,
            &self.revocable,
            &self.first,
        ]
    }
}

impl Db for Postgres {
    fn begin(&mut self, mode: Mode) -> Result<(), DbError> {
        self.connect()?;
        self.mode = mode;
        let sql = match mode {
            Mode::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            // Each statement after the head's lock sees what the last holder committed.
            Mode::Write => "BEGIN ISOLATION LEVEL READ COMMITTED",
        };
        if let Err(e) = self.run(&[], async |client, _| client.batch_execute(sql).await) {
            // A connection that cannot begin is of no use: the next attempt makes another.
            self.link = None;
            return Err(e);
        }
        self.in_transaction = true;
        Ok(())
    }

    fn head(&mut self) -> Result<Option<HeadRow>, DbError> {
        let sql = match self.mode {
            Mode::Read => "SELECT size, frontier, epoch, chain, open_tag, mac FROM head",
            Mode::Write => {
                "SELECT size, frontier, epoch, chain, open_tag, mac FROM head FOR UPDATE"
            }
        };
        self.query(sql, &[])?.first_mut().map(Row::head).transpose()
    }

    fn lookup(&mut self, needs: &Needs<'_>) -> Result<Found, DbError> {
        const REQUEST: &str =
            "SELECT id, first_index, version, last_index FROM requests WHERE id = ANY($1::text[])";
        const KEY: &str = "SELECT k.agent, k.key, k.request_id, k.instance, k.body FROM keys k \
            JOIN unnest($1::text[], $2::text[]) AS u(agent, key) \
            ON k.agent = u.agent AND k.key = u.key";
        let (agents, keys): (Vec<&str>, Vec<&str>) = needs.keys.iter().copied().unzip();
        let mut work: Vec<(&str, Vec<Param<'_>>)> = Vec::new();
        if !needs.requests.is_empty() {
            work.push((REQUEST, vec![&needs.requests]));
        }
        if !keys.is_empty() {
            work.push((KEY, vec![&agents, &keys]));
        }
        let all: Vec<&str> = work.iter().map(|(sql, _)| *sql).collect();
        let answers = self.run(&all, async |client, statements| {
            let each = work.iter().filter_map(|(sql, params)| {
                let statement = statements.get(*sql)?;
                Some(async move { client.query(statement, params).await.map(|rows| (*sql, rows)) })
            });
            try_join_all(each).await
        })?;
        let mut requests: HashMap<String, RowAt> = HashMap::new();
        let mut claims: HashMap<(String, String), KeyRow> = HashMap::new();
        for (sql, rows) in answers {
            for row in &rows {
                let mut row = values(row)?;
                if sql == REQUEST {
                    let at = RowAt { first: row.int(1)?, version: row.int(2)?, last: row.int(3)? };
                    requests.insert(row.text(0)?, at);
                } else {
                    let body = Digest(row.bytes32(4)?);
                    let claim = KeyRow { request: row.text(2)?, instance: row.text(3)?, body };
                    claims.insert((row.text(0)?, row.text(1)?), claim);
                }
            }
        }
        Ok(Found {
            requests: needs.requests.iter().map(|id| requests.get(*id).copied()).collect(),
            keys: needs
                .keys
                .iter()
                .map(|(a, k)| claims.get(&((*a).to_owned(), (*k).to_owned())).cloned())
                .collect(),
        })
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, DbError> {
        let params: Vec<Param<'_>> = params.iter().map(|v| v as Param<'_>).collect();
        let rows = self.run(&[sql], async |client, statements| match statements.get(sql) {
            Some(statement) => client.query(statement, &params).await,
            None => client.query(sql, &params).await,
        })?;
        rows.iter().map(values).collect()
    }

    fn write(&mut self, rows: &Rows) -> Result<(), DbError> {
        let changed = Columns::of(&rows.changed);
        let new = Columns::of(&rows.new);
        let index: Vec<i64> = rows.leaves.iter().map(|l| int(l.index)).collect();
        let request: Vec<Option<&str>> =
            rows.leaves.iter().map(|l| l.request.as_ref().map(|r| r.as_str())).collect();
        let kind: Vec<&str> = rows.leaves.iter().map(|l| l.kind).collect();
        let body: Vec<&[u8]> = rows.leaves.iter().map(|l| l.body.as_slice()).collect();
        let hash: Vec<&[u8]> = rows.leaves.iter().map(|l| l.hash.0.as_slice()).collect();
        let key_agent: Vec<&str> = rows.keys.iter().map(|k| k.agent.as_str()).collect();
        let key_name: Vec<&str> = rows.keys.iter().map(|k| k.key.as_str()).collect();
        let key_request: Vec<&str> = rows.keys.iter().map(|k| k.request.as_str()).collect();
        let key_instance: Vec<&str> = rows.keys.iter().map(|k| k.instance.as_str()).collect();
        let key_body: Vec<&[u8]> = rows.keys.iter().map(|k| k.body.0.as_slice()).collect();
        let text_request: Vec<&str> = rows.texts.iter().map(|t| t.request.as_str()).collect();
        let text_name: Vec<&str> = rows.texts.iter().map(|t| t.name.as_str()).collect();
        let text_salt: Vec<&[u8]> = rows.texts.iter().map(|t| t.salt.as_slice()).collect();
        let text_body: Vec<&str> = rows.texts.iter().map(|t| t.text.as_str()).collect();
        let blob_digest: Vec<&[u8]> = rows.blobs.iter().map(|(d, _)| d.0.as_slice()).collect();
        let blob_body: Vec<&[u8]> = rows.blobs.iter().map(|(_, b)| b.as_slice()).collect();
        let sealed_request: Vec<&str> = rows.sealed.iter().map(|s| s.request.as_str()).collect();
        let sealed_instance: Vec<&str> = rows.sealed.iter().map(|s| s.instance.as_str()).collect();
        let sealed_body: Vec<&[u8]> = rows.sealed.iter().map(|s| s.bytes.as_slice()).collect();
        let sealed_until: Vec<i64> = rows.sealed.iter().map(|s| s.until_ms).collect();
        let tile_level: Vec<i64> = rows.tiles.iter().map(|t| i64::from(t.level)).collect();
        let tile_index: Vec<i64> = rows.tiles.iter().map(|t| int(t.index)).collect();
        let tile_hashes: Vec<&[u8]> = rows.tiles.iter().map(|t| t.hashes.as_slice()).collect();
        let erase: Vec<&str> = rows.erase.iter().map(|r| r.as_str()).collect();
        let unseal: Vec<&str> = rows.unseal.iter().map(|r| r.as_str()).collect();
        let checkpoint = rows.checkpoint.as_ref().map(|(size, note)| (int(*size), note.as_str()));
        let head =
            rows.head.as_ref().map(|h| (h, int(h.size()), h.frontier.encode(), int(h.epoch)));
        let head = head.as_ref().map(|(h, size, frontier, epoch)| {
            (size, frontier, epoch, h.chain.0.as_slice(), h.open.as_slice(), h.mac.as_slice())
        });

        let mut work: Vec<(&str, Vec<Param<'_>>)> = Vec::new();
        if !rows.changed.is_empty() {
            let mut params = changed.shared();
            params.extend([&changed.was as Param<'_>, &changed.id]);
            work.push((CHANGE, params));
        }
        if !rows.leaves.is_empty() {
            work.push((LEAVES, vec![&index, &request, &kind, &body, &hash]));
        }
        if !rows.new.is_empty() {
            let mut params = new.shared();
            params.extend([&new.id as Param<'_>, &new.agent, &new.instance, &new.scope]);
            params.push(&new.created);
            work.push((REQUESTS, params));
        }
        if !rows.keys.is_empty() {
            let params: Vec<Param<'_>> =
                vec![&key_agent, &key_name, &key_request, &key_instance, &key_body];
            work.push((KEYS, params));
        }
        if !rows.texts.is_empty() {
            work.push((TEXTS, vec![&text_request, &text_name, &text_salt, &text_body]));
        }
        if !rows.blobs.is_empty() {
            work.push((BLOBS, vec![&blob_digest, &blob_body]));
        }
        if !rows.sealed.is_empty() {
            let params: Vec<Param<'_>> =
                vec![&sealed_request, &sealed_instance, &sealed_body, &sealed_until];
            work.push((SEALED, params));
        }
        if !rows.tiles.is_empty() {
            work.push((TILES, vec![&tile_level, &tile_index, &tile_hashes]));
        }
        if !rows.erase.is_empty() {
            work.push((ERASE, vec![&erase]));
        }
        if !rows.unseal.is_empty() {
            work.push((UNSEAL, vec![&unseal]));
        }
        if let Some((size, note)) = &checkpoint {
            work.push((CHECKPOINT, vec![size, note]));
        }
        if let Some((size, frontier, epoch, chain, open, mac)) = &head {
            work.push((HEAD, vec![*size, *frontier, *epoch, chain, open, mac]));
        }
        let counts = self.pipeline(&work)?;
        if !rows.changed.is_empty() && counts.first() != Some(&(rows.changed.len() as u64)) {
            return Err(DbError::Malformed("request row: it is not as it was written"));
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), DbError> {
        // Every statement before this one succeeded, so this is not a rollback in disguise.
        self.run(&[], async |client, _| client.batch_execute("COMMIT").await)?;
        self.in_transaction = false;
        Ok(())
    }

    fn rollback(&mut self) {
        if !std::mem::take(&mut self.in_transaction) {
            return;
        }
        if self.run(&[], async |client, _| client.batch_execute("ROLLBACK").await).is_err() {
            // What the server makes of the transaction is its own business: begin anew.
            self.link = None;
        }
    }

    fn is_shared(&self) -> bool {
        !self.alone
    }

    fn reconnects(&self) -> bool {
        true
    }
}

/// Takes the lock of the one broker for this session. A session that has just ended is given time to
/// go.
async fn lock(client: &Client) -> Result<bool, tokio_postgres::Error> {
    for _ in 0..LOCK_TRIES {
        let row = client.query_one("SELECT pg_try_advisory_lock($1)", &[&BROKER_LOCK]).await?;
        if row.get::<_, bool>(0) {
            return Ok(true);
        }
        tokio::time::sleep(LOCK_REST).await;
    }
    Ok(false)
}

fn gone() -> DbError {
    DbError::Unavailable("not connected to PostgreSQL".into())
}

/// Sorts PostgreSQL's errors: what puts integrity in doubt ends all writing.
fn fault(e: &tokio_postgres::Error) -> DbError {
    let detail = match (e.as_db_error(), e.source()) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{e}: {source}"),
        (None, None) => e.to_string(),
    };
    match e.code() {
        // Class 58: the server's own system calls; XX: internal, corrupted data or index; 23: a row
        // that this program never writes twice exists.
        Some(code)
            if code.code().starts_with("58")
                || code.code().starts_with("XX")
                || (code.code().starts_with("23") && *code != SqlState::RESTRICT_VIOLATION) =>
        {
            DbError::Broken(detail)
        }
        _ => DbError::Unavailable(detail),
    }
}

fn values(row: &tokio_postgres::Row) -> Result<Row, DbError> {
    (0..row.len())
        .map(|i| row.try_get::<_, Value>(i).map_err(|_| DbError::Malformed("stored value")))
        .collect::<Result<_, _>>()
        .map(Row)
}

impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut tokio_postgres::types::private::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(i) => i.to_sql(ty, out),
            Self::Text(t) => t.as_str().to_sql(ty, out),
            Self::Blob(b) => b.as_slice().to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value {
    fn from_sql(
        ty: &Type,
        raw: &'a [u8],
    ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        match *ty {
            Type::INT8 => i64::from_sql(ty, raw).map(Self::Int),
            Type::BYTEA => <&[u8]>::from_sql(ty, raw).map(|b| Self::Blob(b.to_vec())),
            _ => <&str>::from_sql(ty, raw).map(|t| Self::Text(t.to_owned())),
        }
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::TEXT | Type::BYTEA | Type::VARCHAR)
    }
}
