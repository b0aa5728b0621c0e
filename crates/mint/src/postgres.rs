//! PostgreSQL directly: a role per grant, member of the scope's roles, that may log in until the
//! grant's end and is dropped, its sessions ended, when the lease is
//! (<https://www.postgresql.org/docs/current/sql-createrole.html>).
//!
//! The role's name is a function of the lease, so a lost answer is looked into: the broker's own session
//! is ended, and the role dropped, before the mint counts as refused. `VALID UNTIL` keeps a password from
//! logging in, and ends no session: a sweep does, and drops what a crash left.

mod link;
mod template;
mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use grantwright_credential::{Credential, Kind, Secret};
use grantwright_domain::request::Lease;
use grantwright_domain::{Clock, Digest, Grant, LeaseId, Params, Scope, Timestamp};

use crate::template::{first_s, step_faults, step_s};
use crate::{Backend, BoxFuture, Declaration, Ended, MintError, Minted, Minter, SetupError};
use link::{Fault, Links, Sessions, identifier, literal};
use template::Asked;

/// How far the server's clock and ours may differ, in seconds.
const CLOCK_BOUND_S: i64 = 30;
/// How often roles that have ended are swept.
const SWEEP: Duration = Duration::from_secs(5);
/// Begins the name of every role of ours; the sweep touches no other.
const PREFIX: &str = "gw-";
/// Longest name of a role (NAMEDATALEN - 1).
const MAX_NAME: usize = 63;

/// What PostgreSQL can do.
pub const BACKEND: Backend = Backend {
    declaration: Declaration {
        name: "postgres",
        credential: Kind::UserPass,
        ttl_floor_s: 5,
        ttl_ceiling_s: 43_200,
        revocable: Some("the role is dropped and its sessions are ended; both are looked up after"),
        measured: "yes: the role and its sessions are looked up after, and gone",
        renewable: true,
        narrowing: "membership in the roles that the template names with typed parameters",
        stamps: &["the role's comment: request, agent, approvers"],
    },
    faults: |scope| {
        let mut out = template::faults(scope);
        out.extend(BACKEND.declaration.ttl_faults(scope));
        out.extend(step_faults(scope, &BACKEND.declaration));
        out
    },
    preview: |scope, params| Ok(Asked::compile(scope, params)?.preview()),
};

/// Fills its argument with random bytes.
pub type Fill = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// How PostgreSQL is reached.
pub struct PostgresConfig {
    /// `postgres://user@host/database`, without a password; the user may create roles, and grant those
    /// that scopes name. Without `ca_file` the host is loopback or a socket's folder.
    pub url: String,
    /// PEM file of the authority that signs the server's certificate: then only TLS is spoken.
    pub ca_file: Option<PathBuf>,
    /// The user's password.
    pub password: Option<Secret<String>>,
    /// Longest wait for an answer; 10 s unless configured.
    pub timeout: Duration,
    /// Where passwords come from.
    pub random: Fill,
}

/// Mints roles.
pub struct PostgresMinter {
    links: Links,
    random: Fill,
    clock: Arc<dyn Clock>,
}

impl PostgresMinter {
    /// A minter. The clock tells when grants begin; the server's must agree with it.
    ///
    /// # Errors
    /// The URL does not parse, holds a password, or leaves this host without TLS; the authority's file is not
    /// usable.
    pub fn new(config: PostgresConfig, clock: Arc<dyn Clock>) -> Result<Self, SetupError> {
        let ca_file = config.ca_file.as_deref();
        let links = Links::new(&config.url, config.password.as_ref(), ca_file, config.timeout)?;
        Ok(Self { links, random: config.random, clock })
    }

    async fn make(&self, grant: Grant, now: Timestamp) -> Result<Minted, MintError> {
        BACKEND.declaration.admits_ttl(grant.ttl_s())?;
        let asked = Asked::compile(grant.scope(), grant.params())?;
        self.check(&asked).await.map_err(nothing_made)??;
        let name = role_name(grant.lease());
        let first_s = first_s(grant.scope(), grant.ttl_s());
        let expires_at = now.plus_seconds(i64::from(first_s)).whole_second();
        let mut bytes = Secret::new(vec![0; 32]);
        fill(&mut bytes, &self.random);
        let password = Secret::new(URL_SAFE_NO_PAD.encode(bytes.expose_secret()));
        // The server is given a verifier: the password is in none of its logs.
        let verifier = Secret::new(postgres_protocol::password::scram_sha_256(
            password.expose_secret().as_bytes(),
        ));
        let roles: Vec<String> = asked.roles.iter().map(|r| identifier(r)).collect();
        let approvers: Vec<&str> = grant.approvers().iter().map(|h| h.as_str()).collect();
        let comment = format!(
            "grantwright request={} agent={} approvers={}",
            grant.request(),
            grant.agent(),
            approvers.join(",")
        );
        let role = identifier(&name);
        // One message is one transaction: the role is there with all of it, or not at all.
        let sql = Secret::new(format!(
            "CREATE ROLE {role} WITH LOGIN INHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION \
             NOBYPASSRLS CONNECTION LIMIT {} PASSWORD {} VALID UNTIL {} IN ROLE {}; \
             COMMENT ON ROLE {role} IS {}",
            asked.connection_limit,
            literal(verifier.expose_secret()),
            literal(&expires_at.to_string()),
            roles.join(", "),
            literal(&comment),
        ));
        if let Err(fault) = self.links.run(sql.expose_secret()).await {
            return Err(self.not_made(fault, &role, &name).await);
        }
        if expires_at <= self.clock.now() {
            let ended = self.end(&name, "").await;
            return Err(wider(format!("it ended at {expires_at} already; {}", ended.effect)));
        }
        let facts = BTreeMap::from([
            ("role".to_owned(), name.clone()),
            ("member_of".to_owned(), asked.roles.join(" ")),
        ]);
        let credential = Credential::userpass(&name, password.expose_secret());
        Ok(Minted { credential, expires_at, revocable: true, facts })
    }

    /// The server ends a role by its own clock.
    async fn check_clocks(&self) -> Result<Result<(), MintError>, Fault> {
        let there = self.links.server_seconds().await?;
        let here = self.clock.now().seconds();
        if (there - here).abs() > CLOCK_BOUND_S {
            return Ok(Err(MintError::refused(
                "clock",
                "the clocks of the broker and of PostgreSQL differ too far to mint",
                format!("{} s apart, at most {CLOCK_BOUND_S}", (there - here).abs()),
            )));
        }
        Ok(Ok(()))
    }

    /// Before anything is made: the clocks agree, and no role to be joined can do more than its grants.
    async fn check(&self, asked: &Asked) -> Result<Result<(), MintError>, Fault> {
        if let Err(apart) = self.check_clocks().await? {
            return Ok(Err(apart));
        }
        for role in &asked.roles {
            let Some(powers) = self.links.powers(role).await? else {
                return Ok(Err(MintError::refused(
                    "backend_refused",
                    "PostgreSQL has no role as this scope and these parameters name it",
                    format!("no role `{role}`"),
                )));
            };
            if powers {
                return Ok(Err(wider(format!(
                    "`{role}`, or a role it is a member of, is a superuser, creates roles or databases, \
                     replicates, bypasses row security, or is one of PostgreSQL's own"
                ))));
            }
        }
        Ok(Ok(()))
    }

    /// A failed creation: refused by the server, or lost and then seen to.
    async fn not_made(&self, fault: Fault, role: &str, name: &str) -> MintError {
        match fault {
            Fault::Lost { said, backend } => {
                // Its own session first: what it may still commit must not come after the drop.
                let gone = match self.links.end_backend(backend).await {
                    Ok(()) => self.links.run(&format!("DROP ROLE IF EXISTS {role}")).await,
                    Err(e) => Err(e),
                };
                match gone {
                    Ok(()) => MintError::refused(
                        "backend_away",
                        "PostgreSQL's answer was lost; what it may have made was dropped",
                        said,
                    ),
                    Err(e) => MintError::unknown(format!("role `{name}`: {said}; then {e}")),
                }
            }
            definite => nothing_made(definite),
        }
    }

    /// Moves `VALID UNTIL`. A role that is gone stays gone, and one that was kept from logging in stays so.
    async fn extend(&self, lease: &LeaseId, until: Timestamp) -> Result<Timestamp, MintError> {
        self.check_clocks().await.map_err(nothing_made)??;
        let (name, until) = (role_name(lease), until.whole_second());
        let role = identifier(&name);
        let sql = format!("ALTER ROLE {role} VALID UNTIL {}", literal(&until.to_string()));
        match self.links.run(&sql).await {
            Ok(()) => Ok(until),
            Err(Fault::Lost { said, .. }) => {
                Err(MintError::unknown(format!("role `{name}`: {said}")))
            }
            Err(definite) => Err(nothing_made(definite)),
        }
    }

    /// Keeps the role from logging in, ends its sessions, drops it, and looks.
    async fn end(&self, name: &str, otherwise: &str) -> Ended {
        let still = |effect: String| Ended { ended: false, effect: format!("{effect}{otherwise}") };
        let role = identifier(name);
        let stopped = async {
            let stop = format!("ALTER ROLE {role} NOLOGIN PASSWORD NULL");
            let (said, sessions) = self.links.run_and_end_sessions_of(&stop, name).await?;
            let Some(mut sessions) = sessions else { return Ok(None) };
            said?;
            if sessions.left > 0 {
                // One that ended by itself meanwhile is none.
                sessions.left = self.links.end_sessions(sessions.role).await?.left;
            }
            if sessions.left > 0 {
                return Ok(Some((sessions, Ok(()))));
            }
            let drop = format!("DROP ROLE IF EXISTS {role}");
            // One that was logging in as the role was kept from it may be there only now.
            let (dropped, late) = self.links.run_and_end_sessions(&drop, sessions.role).await?;
            let ended = sessions.ended + late.ended;
            Ok::<_, Fault>(Some((Sessions { ended, ..late }, dropped)))
        };
        match stopped.await {
            Err(fault) => still(format!("not ended: {}", fault.told())),
            Ok(None) => Ended { ended: true, effect: "the role is gone already".into() },
            Ok(Some((Sessions { left, .. }, _))) if left > 0 => {
                still(format!("the role may not log in any more, but {left} of its sessions go on"))
            }
            Ok(Some((Sessions { ended, .. }, Ok(())))) => Ended {
                ended: true,
                effect: format!("the role is dropped and {ended} sessions were ended"),
            },
            // It owns something: without login, password and sessions it is no credential.
            Ok(Some((Sessions { ended, .. }, Err(Fault::Refused { .. })))) => Ended {
                ended: true,
                effect: format!(
                    "the role may not log in and {ended} sessions were ended; it owns objects, so it \
                     stays until an operator reassigns them"
                ),
            },
            Ok(Some((_, Err(fault)))) => still(format!("not dropped: {}", fault.told())),
        }
    }

    /// Ends and drops the roles of ours whose time is over.
    async fn sweep(&self) -> Result<(), Fault> {
        for name in self.links.over(PREFIX).await? {
            self.end(&name, "").await;
        }
        Ok(())
    }
}

fn fill(bytes: &mut Secret<Vec<u8>>, random: &Fill) {
    let mut raw = vec![0; bytes.expose_secret().len()];
    random(&mut raw);
    *bytes = Secret::new(raw);
}

/// The role of a lease: the same at every time, and of no other lease.
fn role_name(lease: &LeaseId) -> String {
    let name = format!("{PREFIX}{lease}");
    if name.len() <= MAX_NAME {
        return name;
    }
    let digest = Digest::of("postgres-role", lease.as_str().as_bytes());
    format!(
        "{PREFIX}{}",
        digest.to_string().chars().filter(char::is_ascii_hexdigit).take(48).collect::<String>()
    )
}

/// Before the creation was sent, whatever happened made nothing.
fn nothing_made(fault: Fault) -> MintError {
    let (code, detail) = match &fault {
        Fault::Refused { state, .. } if state == "42501" => {
            ("backend_denied", "PostgreSQL does not let the broker make this scope's role")
        }
        Fault::Refused { .. } => ("backend_refused", "PostgreSQL refused"),
        Fault::Away(_) | Fault::Lost { .. } => ("backend_away", "PostgreSQL cannot be reached"),
    };
    MintError::refused(code, detail, fault.to_string())
}

fn wider(operator: impl AsRef<str>) -> MintError {
    MintError::refused(
        "backend_wider",
        "the credential would not be within what was granted, so there is none",
        operator,
    )
}

impl Minter for PostgresMinter {
    fn backend(&self) -> Backend {
        BACKEND
    }

    fn mint(&self, grant: Grant, now: Timestamp) -> BoxFuture<'_, Result<Minted, MintError>> {
        Box::pin(self.make(grant, now))
    }

    fn revoke<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            let otherwise = format!("; it ends by itself at {}", lease.expires_at);
            let name = role_name(&lease.id);
            self.end(&name, &otherwise).await
        })
    }

    fn step_s(&self, scope: &Scope) -> Option<u32> {
        step_s(scope)
    }

    fn renew<'a>(
        &'a self,
        lease: &'a Lease,
        until: Timestamp,
    ) -> BoxFuture<'a, Result<Timestamp, MintError>> {
        Box::pin(self.extend(&lease.id, until))
    }

    fn undo<'a>(
        &'a self,
        lease: &'a LeaseId,
        _scope: &'a Scope,
        _params: &'a Params,
    ) -> BoxFuture<'a, Option<Ended>> {
        Box::pin(async move {
            let name = role_name(lease);
            // What a dead broker's session may still commit must not come after this look.
            if let Err(fault) = self.links.end_other_creations(&name).await {
                let effect = format!("whether it made a role is not known: {}", fault.told());
                return Some(Ended { ended: false, effect });
            }
            Some(self.end(&name, "").await)
        })
    }

    fn keep(&self) -> BoxFuture<'_, Option<Duration>> {
        Box::pin(async move {
            // Away: the next sweep finds the same roles.
            let _ = self.sweep().await;
            self.links.shrink();
            Some(SWEEP)
        })
    }
}
