//! PostgreSQL behind the store: the conformance checks against a real server of its own, started from
//! an installed PostgreSQL. Without one the tests fail; `GRANTWRIGHT_SKIP_POSTGRES=1` says why not.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "helpers of tests fail and speak like tests"
)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use grantwright_store::conformance;
use grantwright_store::conformance::world::{self, World};
use grantwright_store::readonly::Snapshot;
use grantwright_store::{Faults, StoreError};

/// A server that ends with this value, or with the thread that started it.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
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

impl Server {
    /// None when the environment says to skip.
    fn start() -> Option<Self> {
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
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "-D"])
            .arg(&data)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = as_anyone(&bin.join("postgres"))
            .arg("-D")
            .arg(&data)
            // No port at all: a socket in a folder of its own.
            .args(["-c", "listen_addresses=", "-c", "max_connections=60", "-k"])
            .arg(folder.path())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { child, folder };
        let until = Instant::now() + Duration::from_secs(60);
        while !this.psql("SELECT 1").status.success() {
            let log = fs::read_to_string(this.folder.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "PostgreSQL does not answer: {log}");
            sleep(Duration::from_millis(50));
        }
        Some(this)
    }

    fn psql(&self, sql: &str) -> std::process::Output {
        let mut child = Command::new(programs().join("psql"))
            .args(["-X", "-q", "-U", "postgres", "-h"])
            .arg(self.folder.path())
            .args(["-d", "postgres", "-v", "ON_ERROR_STOP=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A server that does not answer yet closes this pipe; the status says so.
        let _ = child.stdin.take().unwrap().write_all(sql.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn database(&self, name: &str) -> String {
        let made = self.psql(&format!("CREATE DATABASE {name}"));
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://postgres@/{name}?host={}", self.folder.path().display())
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

#[tokio::test]
async fn postgres_passes_every_check() {
    let Some(server) = Server::start() else { return };
    for (n, (name, check)) in conformance::ALL.iter().enumerate() {
        let url = server.database(&format!("check{n}"));
        if let Err(what) = check(url).await {
            panic!("{name}: {what}");
        }
    }
}

#[tokio::test]
async fn two_brokers_keep_one_order_and_survive_lost_connections() {
    let Some(server) = Server::start() else { return };
    let url = server.database("brokers");
    conformance::two_brokers_keep_one_order(url).await.unwrap();

    let url = server.database("lost");
    let store = conformance::open(&url, &Faults::default()).await.unwrap();
    let world = World::new();
    store.commit(world.opening()).await.unwrap();
    store.commit(world.grant(1)).await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lost'";
    assert!(server.psql(cut).status.success());
    store.commit(world.grant(2)).await.unwrap();
    assert!(store.load(&world::request(2)).await.unwrap().is_some());

    let at = url.clone();
    let leaves = tokio::task::spawn_blocking(move || {
        let mut snapshot = Snapshot::open(&at).unwrap();
        let mut leaves = 0;
        snapshot
            .for_each_leaf(|_, _| {
                leaves += 1;
                true
            })
            .unwrap();
        assert_eq!(snapshot.size().unwrap(), leaves);
        leaves
    });
    assert_eq!(leaves.await.unwrap(), store.head().size);

    // Another broker's rows changed behind both backs: caught up with by nobody.
    let other = conformance::open(&url, &Faults::default()).await.unwrap();
    other.commit(world.ask(3)).await.unwrap();
    let edit = "\\c lost\nUPDATE requests SET version = 1 WHERE id = 'req-00000003'";
    let edited = server.psql(edit);
    assert!(edited.status.success(), "{}", String::from_utf8_lossy(&edited.stderr));
    let refused = store.commit(world.grant(4)).await;
    assert!(matches!(refused, Err(StoreError::Tampered(_))), "{refused:?}");
    let refused = store.commit(world.grant(4)).await;
    assert!(matches!(refused, Err(StoreError::Halted(_))), "{refused:?}");
    store.close().await;
    other.close().await;
}

/// What one broker remembers another does not know: the second is refused, and whoever lost the lock
/// to another writes no more.
#[tokio::test]
async fn invariant_27_a_second_broker_alone_is_refused_and_the_loser_stops() {
    let Some(server) = Server::start() else { return };
    let url = server.database("alone");
    let alone = || grantwright_store::Options { alone: true, ..Default::default() };
    let open = || grantwright_store::Store::open_with(&url, world::keys(), alone());
    let first = open().await.unwrap();
    let world = World::new();
    first.commit(world.opening()).await.unwrap();
    first.commit(world.grant(1)).await.unwrap();
    let second = open().await;
    assert!(matches!(second, Err(StoreError::Locked(_))), "{second:?}");

    // Its session ends behind its back, and another takes its place.
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'alone'";
    assert!(server.psql(cut).status.success());
    let second = open().await.expect("the place is free");
    second.commit(world.grant(2)).await.unwrap();
    for n in [3, 4] {
        let late = first.commit(world.grant(n)).await;
        assert!(late.is_err(), "{late:?}");
    }
    second.close().await;
    let late = first.commit(world.grant(5)).await;
    assert!(matches!(late, Err(StoreError::Halted(_))), "{late:?}");
    open().await.expect("the next one").close().await;
}
