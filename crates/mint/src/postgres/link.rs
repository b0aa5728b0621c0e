//! The connections to PostgreSQL, and quoting.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Duration;

use grantwright_credential::Secret;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use super::tls::Tls;
use crate::SetupError;

/// How long a session may take to end, in milliseconds.
const SESSION_END_MS: i64 = 2000;
/// Most connections at a time: one while little is to do, more while much is, such as the end of thousands
/// of roles, whose commits the server then writes together.
const MOST_LINKS: usize = 8;

/// Why a statement had no effect that is known of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// No connection: nothing was sent.
    #[error("away: {0}")]
    Away(String),
    /// Sent, and no answer came; `backend` is the session's process at the server.
    #[error("no answer: {said}")]
    Lost {
        /// What went wrong.
        said: String,
        /// Process id at the server.
        backend: i32,
    },
    /// The server refused it.
    #[error("{state}: {said}")]
    Refused {
        /// SQLSTATE.
        state: String,
        /// Its words.
        said: String,
    },
}

impl Fault {
    /// Chosen words.
    pub(super) fn told(&self) -> &'static str {
        match self {
            Self::Away(_) => "PostgreSQL cannot be reached",
            Self::Lost { .. } => "PostgreSQL's answer was lost",
            Self::Refused { .. } => "PostgreSQL refused",
        }
    }
}

struct Link {
    client: Client,
    backend: i32,
    /// How many use it now.
    users: AtomicUsize,
    /// Statements that the server has planned: most of a short reading's cost.
    planned: Mutex<HashMap<&'static str, Statement>>,
}

/// The use of a connection.
struct Held(Arc<Link>);

impl Held {
    fn of(link: &Arc<Link>) -> Self {
        link.users.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(link))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    fn users(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }

    async fn query(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let mut planned = self.planned.lock().await;
        let statement = match planned.get(sql) {
            Some(statement) => statement.clone(),
            None => {
                let statement = self.client.prepare(sql).await?;
                planned.insert(sql, statement.clone());
                statement
            }
        };
        drop(planned);
        self.client.query(&statement, values).await
    }
}

/// A role's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sessions {
    /// The role's number.
    pub(super) role: u32,
    /// How many were ended.
    pub(super) ended: i64,
    /// How many did not end.
    pub(super) left: i64,
}

impl Sessions {
    fn read(row: &Row) -> Result<Self, Fault> {
        let read = || {
            let (role, ended) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
            Some(Self { role, ended, left: row.try_get(2).ok()? })
        };
        read().ok_or_else(other_shape)
    }
}

fn other_shape() -> Fault {
    Fault::Away("an answer of another shape".into())
}

/// Ends the sessions of a role, which may be gone itself, and waits for that.
const END_SESSIONS: &str = "SELECT $1::oid, count(*) FILTER (WHERE gone), count(*) FILTER (WHERE NOT gone) FROM \
    (SELECT pg_terminate_backend(pid, $2) AS gone FROM pg_stat_activity WHERE usesysid = $1) AS sessions";

/// A few connections, made when they are needed and anew when they are lost. Where all are in use,
/// statements of several grants are pipelined on them; each message is a transaction of its own.
pub(super) struct Links {
    config: Config,
    /// None: unencrypted, within this host.
    tls: Option<Tls>,
    longest: Duration,
    open: Lock<Vec<Arc<Link>>>,
    /// One connection is made at a time.
    making: Mutex<()>,
}

impl Links {
    pub(super) fn new(
        url: &str,
        password: Option<&Secret<String>>,
        ca_file: Option<&Path>,
        longest: Duration,
    ) -> Result<Self, SetupError> {
        let mut config: Config =
            url.parse().map_err(|_| SetupError("postgres: the URL does not parse"))?;
        if config.get_password().is_some() {
            return Err(SetupError("postgres: a password belongs into a file, not into the URL"));
        }
        let here = |host: &Host| match host {
            Host::Tcp(name) => {
                name == "localhost"
                    || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            Host::Unix(_) => true,
        };
        let tls = ca_file.map(Tls::new).transpose()?;
        let local = config.get_hosts().iter().all(here);
        if config.get_hosts().is_empty() || tls.is_none() && !local {
            return Err(SetupError(
                "postgres: without ca_file the connection is not encrypted, so the host must be loopback \
                 or a socket's folder; to others TLS goes, with the authority of their certificate in \
                 ca_file",
            ));
        }
        // Never less than was configured, whatever the URL says.
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        if let Some(password) = password {
            config.password(password.expose_secret());
        }
        config.connect_timeout(longest.min(Duration::from_secs(3)));
        config.application_name("grantwright");
        Ok(Self { config, tls, longest, open: Lock::default(), making: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that fewest use, and whether another may be made because all are in use.
    fn idlest(&self) -> Option<(Held, bool)> {
        let mut open = self.open();
        open.retain(|link| !link.client.is_closed());
        let link = open.iter().min_by_key(|link| link.users())?;
        Some((Held::of(link), link.users() > 0 && open.len() < MOST_LINKS))
    }

    async fn link(&self) -> Result<Held, Fault> {
        let (held, more) = match self.idlest() {
            Some((held, more)) => (Some(held), more),
            None => (None, true),
        };
        let Some(held) = held else {
            let _making = self.making.lock().await;
            // Somebody else may have made one meanwhile.
            return match self.idlest() {
                Some((held, _)) => Ok(held),
                None => self.connect().await,
            };
        };
        // Whoever is making one will have it soon; nobody waits for that.
        match self.making.try_lock() {
            Ok(_making) if more => Ok(self.connect().await.unwrap_or(held)),
            _ => Ok(held),
        }
    }

    async fn connect(&self) -> Result<Held, Fault> {
        let away = |e: tokio_postgres::Error| Fault::Away(chain(&e));
        let late = |_| Fault::Away("no connection in time".into());
        // The connection ends when the client is dropped; what went wrong, the client's calls say.
        let connected = async {
            Ok(match &self.tls {
                Some(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    tokio::spawn(async move { drop(connection.await) });
                    client
                }
                None => {
                    let (client, connection) = self.config.connect(NoTls).await?;
                    tokio::spawn(async move { drop(connection.await) });
                    client
                }
            })
        };
        let client = timeout(self.longest, connected).await.map_err(late)?.map_err(away)?;
        let asked = client.query_one("SELECT pg_backend_pid()", &[]);
        let row = timeout(self.longest, asked).await.map_err(late)?.map_err(away)?;
        let backend = row.try_get(0).map_err(away)?;
        let (users, planned) = (AtomicUsize::new(0), Mutex::default());
        let link = Arc::new(Link { client, backend, users, planned });
        let held = Held::of(&link);
        self.open().push(link);
        Ok(held)
    }

    /// Closes connections that nobody uses, but for one: the server has few to give.
    pub(super) fn shrink(&self) {
        let mut open = self.open();
        let mut kept = false;
        open.retain(|link| {
            !link.client.is_closed() && (link.users() > 0 || !std::mem::replace(&mut kept, true))
        });
    }

    fn forget(&self, link: &Arc<Link>) {
        self.open().retain(|open| !Arc::ptr_eq(open, link));
    }

    async fn settled<T>(
        &self,
        Held(link): &Held,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Fault> {
        let lost = |said: String| Fault::Lost { said, backend: link.backend };
        let fault = match timeout(self.longest, work).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(e)) => match e.as_db_error() {
                // Class 57: the server ended the session, maybe after the work.
                Some(db) if !db.code().code().starts_with("57") => Fault::Refused {
                    state: db.code().code().to_owned(),
                    said: db.message().to_owned(),
                },
                _ => lost(chain(&e)),
            },
            Err(_) => lost("none in time".into()),
        };
        if matches!(fault, Fault::Lost { .. }) {
            self.forget(link);
        }
        Err(fault)
    }

    /// Runs statements as one transaction.
    pub(super) async fn run(&self, sql: &str) -> Result<(), Fault> {
        let link = self.link().await?;
        self.settled(&link, link.0.client.batch_execute(sql)).await
    }

    async fn rows(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Fault> {
        // A read, so it may be repeated once on a new connection: the kept one may have died idle.
        let link = self.link().await?;
        match self.settled(&link, link.0.query(sql, values)).await {
            Err(Fault::Lost { .. }) => {
                let link = self.link().await?;
                self.settled(&link, link.0.query(sql, values)).await
            }
            other => other,
        }
    }

    async fn number(
        &self,
        sql: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<i64, Fault> {
        let rows = self.rows(sql, values).await?;
        let value = rows.first().and_then(|r| r.try_get::<_, i64>(0).ok());
        value.ok_or_else(other_shape)
    }

    /// The server's clock, in seconds since 1970.
    pub(super) async fn server_seconds(&self) -> Result<i64, Fault> {
        self.number("SELECT extract(epoch FROM clock_timestamp())::int8", &[]).await
    }

    /// Whether a role, or one it is a member of, has powers that no grant names; `None`: no such role.
    pub(super) async fn powers(&self, role: &str) -> Result<Option<bool>, Fault> {
        let sql = "WITH RECURSIVE reached(oid) AS (SELECT oid FROM pg_roles WHERE rolname = $1 \
                   UNION SELECT m.roleid FROM pg_auth_members m JOIN reached r ON m.member = r.oid) \
                   SELECT count(*)::int8, coalesce(bool_or(rolsuper OR rolcreaterole OR rolcreatedb OR \
                   rolreplication OR rolbypassrls OR rolname LIKE 'pg\\_%'), false) \
                   FROM pg_roles JOIN reached USING (oid)";
        let rows = self.rows(sql, &[&role]).await?;
        let read = |row: &Row| Some((row.try_get::<_, i64>(0).ok()?, row.try_get(1).ok()?));
        let (count, powers) = rows.first().and_then(read).ok_or_else(other_shape)?;
        Ok((count > 0).then_some(powers))
    }

    /// Runs a statement, a transaction of its own, and then ends the sessions of a role that is known by its
    /// name: without a wait between the two, since thousands of roles may be ended at a time. What the statement said, and
    /// the role's sessions, `None` where there is no such role any more.
    pub(super) async fn run_and_end_sessions_of(
        &self,
        sql: &str,
        name: &str,
    ) -> Result<(Result<(), Fault>, Option<Sessions>), Fault> {
        let ending = "SELECT oid, ended, left_ FROM pg_roles, LATERAL \
                      (SELECT count(*) FILTER (WHERE gone) AS ended, count(*) FILTER (WHERE NOT gone) AS left_ \
                      FROM (SELECT pg_terminate_backend(pid, $2) AS gone FROM pg_stat_activity \
                      WHERE usesysid = pg_roles.oid) AS sessions) AS counted WHERE rolname = $1";
        let (said, rows) = self.run_then(sql, ending, &[&name, &SESSION_END_MS]).await?;
        Ok((said, rows.first().map(Sessions::read).transpose()?))
    }

    /// The same for a role that is known by its number, which finds its sessions when it is gone too.
    pub(super) async fn run_and_end_sessions(
        &self,
        sql: &str,
        role: u32,
    ) -> Result<(Result<(), Fault>, Sessions), Fault> {
        let (said, rows) = self.run_then(sql, END_SESSIONS, &[&role, &SESSION_END_MS]).await?;
        let row = rows.first().ok_or_else(other_shape)?;
        Ok((said, Sessions::read(row)?))
    }

    /// Ends a role's sessions and waits for that.
    pub(super) async fn end_sessions(&self, role: u32) -> Result<Sessions, Fault> {
        let rows = self.rows(END_SESSIONS, &[&role, &SESSION_END_MS]).await?;
        Sessions::read(rows.first().ok_or_else(other_shape)?)
    }

    /// Runs statements as one transaction, then a reading in one of its own, on one connection, so that it
    /// sees their effect. A lost answer is a fault of both.
    async fn run_then(
        &self,
        sql: &str,
        reading: &'static str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<(Result<(), Fault>, Vec<Row>), Fault> {
        let link = self.link().await?;
        // The first is sent before the second is looked at: the server answers in this order.
        let (said, rows) = tokio::join!(
            self.settled(&link, link.0.client.batch_execute(sql)),
            self.settled(&link, link.0.query(reading, values)),
        );
        match said {
            Err(lost @ (Fault::Lost { .. } | Fault::Away(_))) => Err(lost),
            said => Ok((said, rows?)),
        }
    }

    /// Ends a session of our own, so that nothing it was told can still happen.
    pub(super) async fn end_backend(&self, pid: i32) -> Result<(), Fault> {
        let sql = "SELECT count(pg_terminate_backend(pid, $2))::int8 FROM pg_stat_activity \
                   WHERE pid = $1 AND usename = current_user AND pid <> pg_backend_pid()";
        self.number(sql, &[&pid, &SESSION_END_MS]).await?;
        let sql = "SELECT count(*)::int8 FROM pg_stat_activity WHERE pid = $1 \
                   AND pid <> pg_backend_pid()";
        match self.number(sql, &[&pid]).await? {
            0 => Ok(()),
            _ => Err(Fault::Away("the lost session goes on".into())),
        }
    }

    /// Ends sessions of our own whose last statement makes this role, whoever began them.
    pub(super) async fn end_other_creations(&self, role: &str) -> Result<(), Fault> {
        let sql = "SELECT count(pg_terminate_backend(pid, $2))::int8 FROM pg_stat_activity \
                   WHERE usename = current_user AND pid <> pg_backend_pid() AND state <> 'idle' \
                   AND starts_with(query, $1)";
        let statement = format!("CREATE ROLE {} ", identifier(role));
        self.number(sql, &[&statement, &SESSION_END_MS]).await.map(drop)
    }

    /// Roles of ours that may not log in any more by their time, some at once.
    pub(super) async fn over(&self, prefix: &str) -> Result<Vec<String>, Fault> {
        let sql = "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, $1) \
                   AND rolvaliduntil < now() AND (rolcanlogin OR NOT EXISTS \
                   (SELECT 1 FROM pg_shdepend d WHERE d.refobjid = pg_roles.oid)) LIMIT 500";
        let rows = self.rows(sql, &[&prefix]).await?;
        Ok(rows.iter().filter_map(|row| row.try_get(0).ok()).collect())
    }
}

/// A name as an identifier: quoted always, its quotes doubled.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal, whatever `standard_conforming_strings` is: backslashes make it an escape string.
pub(super) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!("E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        out.push_str(": ");
        out.push_str(&e.to_string());
        next = e.source();
    }
    out
}
