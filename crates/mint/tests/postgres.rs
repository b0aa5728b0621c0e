//! The PostgreSQL minter against a real server of its own, started from an installed PostgreSQL.
//! Without one the tests fail; `GRANTWRIGHT_SKIP_POSTGRES=1` says why not.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::indexing_slicing,
    reason = "helpers of tests fail and speak like tests"
)]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use grantwright_credential::Secret;
use grantwright_domain::param::check_all;
use grantwright_domain::request::{Lease, LeaseState};
use grantwright_domain::{Clock, LeaseId, Params, Scope, Timestamp};
use grantwright_mint::conformance::{self, Subject, danger_grant};
use grantwright_mint::postgres::{PostgresConfig, PostgresMinter};
use grantwright_mint::{MintError, Minted, Minter};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_postgres::{Client, NoTls};

/// A server that ends with this value, or with the thread that started it.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
    port: u16,
}

/// PostgreSQL refuses to run as root: then as this user.
const NOBODY: u32 = 65_534;

fn as_anyone(program: &Path) -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "KILL"]);
        command.arg(program);
        command
    } else {
        Command::new(program)
    }
}

fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|all| all.flatten().map(|e| e.path().join("bin")).collect())
        .unwrap_or_default();
    found.retain(|bin| bin.join("initdb").is_file());
    found.sort();
    found.pop().expect(
        "no PostgreSQL under /usr/lib/postgresql: install it, or set GRANTWRIGHT_SKIP_POSTGRES=1",
    )
}

const TABLES: &str = "CREATE ROLE sales_readers; CREATE TABLE sales (n int); \
    INSERT INTO sales VALUES (42); GRANT SELECT ON sales TO sales_readers; \
    CREATE TABLE salaries (n int); GRANT CREATE, USAGE ON SCHEMA public TO sales_readers; \
    CREATE ROLE broker LOGIN CREATEROLE PASSWORD 'broker-pass'; GRANT pg_signal_backend TO broker; \
    CREATE ROLE boss_readers SUPERUSER; CREATE ROLE sly_readers; GRANT boss_readers TO sly_readers";

impl Server {
    /// None when the environment says to skip.
    fn start() -> Option<Self> {
        Self::start_with(false)
    }

    /// `encrypted`: nobody comes in over TCP without TLS; its authority is in `ca.pem`.
    fn start_with(encrypted: bool) -> Option<Self> {
        if std::env::var_os("GRANTWRIGHT_SKIP_POSTGRES").is_some_and(|v| v == "1") {
            eprintln!("skipped: GRANTWRIGHT_SKIP_POSTGRES=1");
            return None;
        }
        let bin = programs();
        let folder = tempfile::Builder::new().prefix("gwpg").tempdir_in("/tmp").unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = folder.path().join("data");
        let made = as_anyone(&bin.join("initdb"))
            .args(["--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256"])
            .args(["--username=postgres", "--encoding=UTF8", "-D"])
            .arg(&data)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let tls: &[&str] = if encrypted {
            let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
            fs::write(data.join("pg_hba.conf"), hba).unwrap();
            certificates(folder.path());
            &[
                "-c",
                "ssl=on",
                "-c",
                "ssl_cert_file=../server.pem",
                "-c",
                "ssl_key_file=../server.key",
            ]
        } else {
            &[]
        };
        let this = Self::listening(&bin, folder, tls);
        this.psql(TABLES).unwrap();
        Some(this)
    }

    /// The server on a port that is its own: another one, if somebody was given this one first.
    fn listening(bin: &Path, folder: tempfile::TempDir, tls: &[&str]) -> Self {
        let until = Instant::now() + Duration::from_secs(60);
        let start = |folder: &Path| {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let child = as_anyone(&bin.join("postgres"))
                .arg("-D")
                .arg(folder.join("data"))
                .args(tls)
                .args(["-c", "listen_addresses=127.0.0.1", "-c", "log_statement=all", "-p"])
                .arg(port.to_string())
                .arg("-k")
                .arg(folder)
                .current_dir(folder)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(fs::File::create(folder.join("log")).unwrap())
                .spawn()
                .unwrap();
            (child, port)
        };
        let (child, port) = start(folder.path());
        let mut this = Self { child, folder, port };
        while this.psql("SELECT 1").is_err() {
            assert!(Instant::now() < until, "PostgreSQL does not answer: {}", this.log());
            if this.child.try_wait().unwrap().is_some() {
                (this.child, this.port) = start(this.folder.path());
            }
            sleep(Duration::from_millis(50));
        }
        this
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn psql(&self, sql: &str) -> Result<String, String> {
        let done = Command::new(programs().join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"])
            .arg(self.folder.path())
            .args(["-p", &self.port.to_string(), "-d", "postgres", "-c", sql])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if done.status.success() { Ok(text(&done.stdout)) } else { Err(text(&done.stderr)) }
    }

    fn has(&self, role: &str) -> bool {
        self.psql(&format!("SELECT 1 FROM pg_roles WHERE rolname = '{role}'")).unwrap() == "1"
    }

    /// The server's time: tests read no clock of their own.
    fn now(&self) -> Timestamp {
        let ms = self.psql("SELECT (extract(epoch FROM now()) * 1000)::int8").unwrap();
        Timestamp::from_millis(ms.parse().unwrap())
    }

    fn minter(&self, port: u16) -> PostgresMinter {
        self.minter_at(port, self.now())
    }

    fn minter_at(&self, port: u16, now: Timestamp) -> PostgresMinter {
        let count = AtomicU8::new(1);
        let config = PostgresConfig {
            url: format!("postgres://broker@127.0.0.1:{port}/postgres"),
            ca_file: None,
            password: Some(Secret::new("broker-pass".into())),
            timeout: Duration::from_secs(5),
            random: Arc::new(move |out: &mut [u8]| out.fill(count.fetch_add(1, Ordering::Relaxed))),
        };
        PostgresMinter::new(config, Arc::new(At(now))).unwrap()
    }

    async fn log_in(&self, minted: &Minted) -> Result<Client, String> {
        let (user, password) = parts(minted);
        let url = format!("postgres://{user}:{password}@127.0.0.1:{}/postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.map_err(shown)?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// An authority, and a certificate of it for 127.0.0.1.
fn certificates(folder: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    fs::write(folder.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&own, &authority).unwrap();
    fs::write(folder.join("server.pem"), certificate.pem()).unwrap();
    let file = folder.join("server.key");
    fs::write(&file, own.serialize_pem()).unwrap();
    let private = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    fs::set_permissions(&file, private).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An immediate end: nothing of it is kept. The server's helpers end with it.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
        }
        let _ = self.child.wait();
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn shown(error: tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned())
}

fn parts(minted: &Minted) -> (String, String) {
    let value: Value = serde_json::from_slice(minted.credential.expose_json()).unwrap();
    (value["username"].as_str().unwrap().into(), value["password"].as_str().unwrap().into())
}

struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn scope() -> Scope {
    serde_json::from_value(json!({
        "name": "db.read",
        "title": "Read {dataset}",
        "minter": "postgres",
        "params": { "dataset": { "type": "string", "pattern": "[a-z]{1,16}" } },
        "template": { "roles": ["${dataset}_readers"], "connection_limit": 2 },
    }))
    .unwrap()
}

fn params(dataset: &str) -> Params {
    check_all(&scope().params, &json!({ "dataset": dataset })).unwrap()
}

async fn mint(server: &Server, minter: &PostgresMinter, of: &str) -> Result<Minted, MintError> {
    let now = server.now();
    let grant = danger_grant(&scope(), &params(of), &["bob"], 600, now).unwrap();
    minter.mint(grant, now).await
}

fn lease(minted: &Minted) -> Lease {
    Lease {
        id: LeaseId::parse("l-1").unwrap(),
        issued_at: minted.expires_at.plus_seconds(-600),
        expires_at: minted.expires_at,
        revocable: true,
        state: LeaseState::Live,
        effect: String::new(),
        facts: minted.facts.clone(),
    }
}

/// A minter at this address, by TLS where there is an authority.
fn minter_to(server: &Server, url: &str, ca_file: Option<PathBuf>) -> PostgresMinter {
    let config = PostgresConfig {
        url: url.into(),
        ca_file,
        password: Some(Secret::new("broker-pass".into())),
        timeout: Duration::from_secs(5),
        random: Arc::new(|out: &mut [u8]| out.fill(7)),
    };
    PostgresMinter::new(config, Arc::new(At(server.now()))).unwrap()
}

#[tokio::test]
async fn over_tls_to_the_server_that_the_authority_names_and_to_no_other() {
    let Some(server) = Server::start_with(true) else { return };
    let ca = Some(server.folder.path().join("ca.pem"));
    let url = format!("postgres://broker@127.0.0.1:{}/postgres", server.port);
    // SCRAM is bound to this very connection, else the server would not be believed.
    let minter = minter_to(&server, &format!("{url}?channel_binding=require"), ca.clone());
    let minted = mint(&server, &minter, "sales").await.unwrap();
    let sql = "SELECT bool_and(ssl), min(version) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
               WHERE usename = 'broker'";
    assert_eq!(server.psql(sql).unwrap(), "t|TLSv1.3");
    assert!(server.has(&parts(&minted).0));
    assert!(minter.revoke(&lease(&minted)).await.ended);
    assert!(!server.has(&parts(&minted).0));

    let another = tempfile::tempdir().unwrap();
    certificates(another.path());
    for (why, url, ca_file) in [
        ("another authority", url.clone(), Some(another.path().join("ca.pem"))),
        ("another name", url.replace("127.0.0.1", "localhost"), ca),
        ("in the clear", url.clone(), None),
    ] {
        let refused = mint(&server, &minter_to(&server, &url, ca_file), "sales").await;
        assert_eq!(refused.map(drop).unwrap_err().code(), "backend_away", "{why}");
    }
}

#[test]
fn invariant_30_a_host_elsewhere_wants_its_authority() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let made = |ca_file| {
        let config = PostgresConfig {
            url: "postgres://broker@db.example.com/postgres".into(),
            ca_file,
            password: None,
            timeout: Duration::from_secs(5),
            random: Arc::new(|_: &mut [u8]| ()),
        };
        PostgresMinter::new(config, Arc::new(At(Timestamp::from_millis(0)))).map(drop)
    };
    assert!(made(None).unwrap_err().to_string().contains("ca_file"));
    assert!(made(Some(folder.path().join("server.key"))).is_err(), "no certificate in it");
    assert!(made(Some(folder.path().join("absent"))).is_err());
    assert!(made(Some(folder.path().join("ca.pem"))).is_ok());
}

#[tokio::test]
async fn asked_used_ended_and_refused_at_the_database() {
    let Some(server) = Server::start() else { return };
    let minter = server.minter(server.port);
    let minted = mint(&server, &minter, "sales").await.unwrap();
    let (role, password) = parts(&minted);

    let session = server.log_in(&minted).await.unwrap();
    let sum: i64 = session.query_one("SELECT sum(n) FROM sales", &[]).await.unwrap().get(0);
    assert_eq!(sum, 42);
    let denied = session.query("SELECT * FROM salaries", &[]).await.map(drop).map_err(shown);
    assert!(denied.unwrap_err().contains("permission denied"));
    let _second = server.log_in(&minted).await.unwrap();
    let third = server.log_in(&minted).await.map(drop).unwrap_err();
    assert!(third.contains("too many connections"), "{third}");
    let limits = format!(
        "SELECT rolsuper OR rolcreaterole OR rolcreatedb, rolconnlimit, \
         extract(epoch FROM rolvaliduntil - now())::int <= 600 FROM pg_roles WHERE rolname = '{role}'"
    );
    assert_eq!(server.psql(&limits).unwrap(), "f|2|t");

    let ended = minter.revoke(&lease(&minted)).await;
    assert!(ended.ended && ended.effect.contains("2 sessions were ended"), "{ended:?}");
    assert!(!server.has(&role));
    session.query("SELECT 1", &[]).await.map(drop).expect_err("the session goes on");
    let refused = server.log_in(&minted).await.map(drop).unwrap_err();
    assert!(refused.contains("authentication failed"), "{refused}");
    assert!(minter.revoke(&lease(&minted)).await.ended, "ending may be repeated");
    assert!(!server.log().contains(&password), "invariant 21: the server's log holds the password");
}

#[tokio::test]
async fn made_in_steps_and_extended_while_the_role_may_log_in() {
    let Some(server) = Server::start() else { return };
    let minter = server.minter(server.port);
    let mut stepped = scope();
    stepped.template.insert("step_s".into(), 60.into());
    assert_eq!((minter.faults(&stepped), minter.step_s(&stepped)), (Vec::new(), Some(60)));
    let now = server.now();
    let grant = danger_grant(&stepped, &params("sales"), &["bob"], 600, now).unwrap();
    let minted = minter.mint(grant, now).await.unwrap();
    assert_eq!(minted.expires_at, now.plus_seconds(60).whole_second());
    let (role, _) = parts(&minted);
    let valid = format!(
        "SELECT extract(epoch FROM rolvaliduntil)::int8 FROM pg_roles WHERE rolname = '{role}'"
    );
    assert_eq!(server.psql(&valid).unwrap(), minted.expires_at.seconds().to_string());
    let until = now.plus_seconds(120).whole_second();
    assert_eq!(minter.renew(&lease(&minted), until).await, Ok(until));
    assert_eq!(server.psql(&valid).unwrap(), until.seconds().to_string());
    server.log_in(&minted).await.unwrap();
    // What was ended is not brought back by a call that comes late.
    assert!(minter.revoke(&lease(&minted)).await.ended);
    let late = minter.renew(&lease(&minted), until).await;
    assert_eq!(late.map_err(|e| e.code()), Err("backend_refused"));
    assert!(!server.has(&role));
    stepped.template.insert("step_s".into(), 0.into());
    assert!(minter.faults(&stepped).iter().any(|f| f.contains("step_s")));
}

#[tokio::test]
async fn inv_04_a_role_with_powers_or_none_makes_nothing() {
    let Some(server) = Server::start() else { return };
    let minter = server.minter(server.port);
    for (dataset, code) in
        [("boss", "backend_wider"), ("sly", "backend_wider"), ("absent", "backend_refused")]
    {
        let error = mint(&server, &minter, dataset).await.map(drop).unwrap_err();
        assert_eq!(error.code(), code, "{dataset}: {error:?}");
    }
    assert_eq!(
        server.psql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'gw-%'").unwrap(),
        "0"
    );
    let off = server.minter_at(server.port, server.now().plus_seconds(31 + 30));
    let error = mint(&server, &off, "sales").await.map(drop).unwrap_err();
    assert_eq!(error.code(), "clock", "invariant 26: {error:?}");
}

#[tokio::test]
async fn a_sweep_ends_what_is_over_and_nothing_else() {
    let Some(server) = Server::start() else { return };
    let minter = server.minter(server.port);
    server
        .psql(
            "CREATE ROLE \"app\" LOGIN VALID UNTIL '2001-01-01'; \
             CREATE ROLE \"gw-left\" LOGIN VALID UNTIL '2001-01-01' IN ROLE sales_readers; \
             CREATE ROLE \"gw-alive\" LOGIN VALID UNTIL '2101-01-01'",
        )
        .unwrap();
    // Logged in while it was good, and still there: `VALID UNTIL` ends no session.
    let socket = format!(
        "host={} port={} user=gw-left dbname=postgres",
        server.folder.path().display(),
        server.port
    );
    let (session, connection) = tokio_postgres::connect(&socket, NoTls).await.unwrap();
    tokio::spawn(connection);
    session.query("SELECT 1", &[]).await.unwrap();
    assert!(minter.keep().await.is_some());
    assert!(!server.has("gw-left") && server.has("app") && server.has("gw-alive"));
    session.query("SELECT 1", &[]).await.map(drop).expect_err("its session goes on");
}

#[tokio::test]
async fn a_role_that_owns_objects_is_ended_and_said_to_stay() {
    let Some(server) = Server::start() else { return };
    let minter = server.minter(server.port);
    let minted = mint(&server, &minter, "sales").await.unwrap();
    let session = server.log_in(&minted).await.unwrap();
    session.batch_execute("CREATE TABLE mine (n int)").await.unwrap();
    let ended = minter.revoke(&lease(&minted)).await;
    assert!(ended.ended && ended.effect.contains("owns objects"), "{ended:?}");
    server.log_in(&minted).await.map(drop).expect_err("it logs in still");
    assert_eq!(server.psql("SELECT count(*) FROM mine").unwrap(), "0", "nobody's data is dropped");
}

/// It keeps its role, by which the next try finds it.
#[tokio::test]
async fn a_session_that_does_not_end_is_told_of() {
    let Some(server) = Server::start() else { return };
    let minter = server.minter(server.port);
    let minted = mint(&server, &minter, "sales").await.unwrap();
    let (role, _) = parts(&minted);
    let session = server.log_in(&minted).await.unwrap();
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let signal = |name: &str| {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
        assert!(sent.unwrap().success(), "SIG{name}");
    };
    signal("STOP");
    let tried = minter.revoke(&lease(&minted)).await;
    let kept = server.has(&role);
    signal("CONT");
    assert!(!tried.ended && tried.effect.contains("1 of its sessions go on"), "{tried:?}");
    assert!(kept, "the role is gone, and its session is not");
    assert!(minter.revoke(&lease(&minted)).await.ended);
    assert!(!server.has(&role));
    session.query("SELECT 1", &[]).await.map(drop).expect_err("the session goes on");
}

/// Passes bytes on, until a message that makes a role: that one reaches the server, its answer nobody.
async fn losing_proxy(to: u16) -> (u16, Arc<AtomicBool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let lose = Arc::new(AtomicBool::new(true));
    let armed = Arc::clone(&lose);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = tokio::net::TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let (mut from, mut back) = client.into_split();
            let (mut answers, mut there) = server.into_split();
            let armed = Arc::clone(&armed);
            let down = tokio::spawn(async move {
                let _ = tokio::io::copy(&mut answers, &mut back).await;
            });
            tokio::spawn(async move {
                let mut chunk = [0; 16384];
                while let Ok(n @ 1..) = from.read(&mut chunk).await {
                    let makes = String::from_utf8_lossy(&chunk[..n]).contains("CREATE ROLE");
                    if makes && armed.swap(false, Ordering::SeqCst) {
                        down.abort();
                        let _ = down.await;
                        let _ = there.write_all(&chunk[..n]).await;
                        // The server is at work; the client hears nothing more.
                        tokio::time::sleep(Duration::from_millis(300)).await;
                        return;
                    }
                    if there.write_all(&chunk[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, lose)
}

#[tokio::test]
async fn inv_08_a_lost_answer_is_looked_into_and_leaves_no_role() {
    let Some(server) = Server::start() else { return };
    let (port, armed) = losing_proxy(server.port).await;
    let minter = server.minter(port);
    let error = mint(&server, &minter, "sales").await.map(drop).unwrap_err();
    assert!(!armed.load(Ordering::SeqCst), "no answer was lost");
    assert_eq!(error.code(), "backend_away", "{error:?}");
    assert!(server.log().contains("CREATE ROLE \"gw-l-1\""), "the server was not asked");
    assert!(!server.has("gw-l-1"), "an orphan is left");
    mint(&server, &minter, "sales").await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_refuses() {
    let Some(server) = Server::start() else { return };
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = mint(&server, &server.minter(closed), "sales").await.map(drop).unwrap_err();
    assert_eq!(error.code(), "backend_away", "{error:?}");
}

#[test]
fn a_url_that_leaves_the_host_or_holds_a_password_is_refused() {
    for url in
        ["postgres://b@db.example.com/x", "postgres://b:p@localhost/x", "postgres://", "nonsense"]
    {
        let config = PostgresConfig {
            url: url.into(),
            ca_file: None,
            password: None,
            timeout: Duration::from_secs(1),
            random: Arc::new(|_: &mut [u8]| {}),
        };
        let made = PostgresMinter::new(config, Arc::new(At(Timestamp::from_millis(0))));
        assert!(made.is_err(), "{url}");
    }
}

#[test]
fn a_template_that_could_express_more_is_refused_at_load() {
    let faults = grantwright_mint::postgres::BACKEND.faults;
    assert_eq!(faults(&scope()), Vec::<String>::new());
    for (roles, part) in [
        (json!([]), "1 to 16"),
        (json!(["readers"]), "does not narrow"),
        (json!(["${dataset}_readers", "readers"]), "does not narrow"),
        (json!(["pg_${dataset}"]), "PostgreSQL's own"),
        (json!(["${other}"]), "names no parameter"),
        (json!(["${dataset}*"]), "wildcard"),
    ] {
        let mut wrong = scope();
        wrong.template.insert("roles".into(), roles.clone());
        let found = faults(&wrong).join("\n");
        assert!(found.contains(part), "{roles}: {found}");
    }
}

struct PostgresSubject<'a>(&'a Server, PostgresMinter);

impl Subject for PostgresSubject<'_> {
    fn minter(&self) -> &dyn Minter {
        &self.1
    }
    fn scope(&self) -> Scope {
        scope()
    }
    fn params(&self) -> Params {
        params("sales")
    }
    fn observed(&self, minted: &Minted) -> Value {
        let role = &minted.facts["role"];
        let sql = format!(
            "SELECT json_build_object('roles', json_agg(g.rolname), 'connection_limit', r.rolconnlimit) \
             FROM pg_roles r JOIN pg_auth_members m ON m.member = r.oid JOIN pg_roles g ON g.oid = m.roleid \
             WHERE r.rolname = '{role}' GROUP BY r.rolconnlimit"
        );
        serde_json::from_str(&self.0.psql(&sql).unwrap()).unwrap()
    }
}

#[tokio::test]
async fn conforms() {
    let Some(server) = Server::start() else { return };
    let minter = server.minter(server.port);
    let now = server.now();
    conformance::check(&PostgresSubject(&server, minter), now).await.unwrap();
}
