//! `grantwright sidecar doctor`: looks for the usual faults of a sidecar's surroundings and says how to
//! mend each. It changes nothing and shows no secret.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use grantwright_sidecar::Config;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::config::{Settings, now};
use crate::exit::{Exit, Outcome};
use crate::output::{Look, Out, clean};

/// How long one end of a connection is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Clocks may differ by this much, in seconds: beyond it credentials expire early or nothing is minted.
const MOST_SKEW_S: i64 = 5;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// It may be meant so.
    Odd,
    Bad,
}

/// What was looked at, what was found, and what to do.
struct Finding {
    check: &'static str,
    state: State,
    detail: String,
    mend: &'static str,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, check: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { check, state: State::Good, detail: detail.into(), mend: "" });
    }

    fn odd(&mut self, check: &'static str, detail: impl Into<String>, mend: &'static str) {
        self.0.push(Finding { check, state: State::Odd, detail: detail.into(), mend });
    }

    fn bad(&mut self, check: &'static str, detail: impl Into<String>, mend: &'static str) {
        self.0.push(Finding { check, state: State::Bad, detail: detail.into(), mend });
    }
}

/// Looks at everything.
///
/// # Errors
/// None: what cannot be looked at is a finding.
pub fn run(out: &Out, settings: &Settings, path: &Path) -> Outcome {
    let mut found = Findings::default();
    match Config::load_all(path) {
        Err(error) => {
            found.bad(
                "configuration",
                error.to_string(),
                "correct the file; deploy/config/sidecar.toml names every key",
            );
        }
        Ok(agents) => {
            found.good("configuration", path.display().to_string());
            for config in &agents {
                let before = found.0.len();
                look(settings, config, &mut found);
                let Some(name) = &config.name else { continue };
                for it in found.0.iter_mut().skip(before) {
                    it.detail = format!("agent {name}: {}", it.detail);
                }
            }
        }
    }
    Ok(show(out, &found.0))
}

fn look(settings: &Settings, config: &Config, found: &mut Findings) {
    trust_bundle(config, found);
    state(config, found);
    tokens(config, found);
    let running = listening(config, found);
    readiness(config, running, found);
    brokers(config, found);
    clock(config, found);
    variables(settings, config, found);
}

fn show(out: &Out, found: &[Finding]) -> Exit {
    let bad = found.iter().any(|it| it.state == State::Bad);
    let word = |state| match state {
        State::Good => "good",
        State::Odd => "odd",
        State::Bad => "bad",
    };
    let checks: Vec<Value> = found
        .iter()
        .map(|it| json!({"check": it.check, "state": word(it.state), "detail": it.detail, "mend": it.mend}))
        .collect();
    out.either(&json!({"ok": !bad, "checks": checks}), |out| {
        for it in found {
            let look = match it.state {
                State::Good => Look::Good,
                State::Odd => Look::Bold,
                State::Bad => Look::Bad,
            };
            let mark = out.paint(look, &format!("{:4}", word(it.state)));
            out.line(format!("{mark}  {:14}  {}", it.check, clean(&it.detail)));
            if !it.mend.is_empty() {
                out.line(format!("      {:14}  mend: {}", "", it.mend));
            }
        }
    });
    if bad { Exit::Refused } else { Exit::Done }
}

fn trust_bundle(config: &Config, found: &mut Findings) {
    const CHECK: &str = "trust bundle";
    const MEND: &str = "copy `ca.pem` of the broker's folder here";
    let shown = config.trust_bundle.display();
    let text = match std::fs::read(&config.trust_bundle) {
        Ok(text) => text,
        Err(error) => return found.bad(CHECK, format!("`{shown}`: {error}"), MEND),
    };
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let Ok(der) = certificate else {
            return found.bad(CHECK, format!("`{shown}` is no PEM"), MEND);
        };
        let Ok((_, read)) = x509_parser::parse_x509_certificate(&der) else {
            return found.bad(CHECK, format!("`{shown}` holds what is no certificate"), MEND);
        };
        let at = now().seconds();
        if read.validity().not_after.timestamp() <= at {
            return found.bad(CHECK, format!("a certificate in `{shown}` has expired"), MEND);
        }
        if read.validity().not_before.timestamp() > at + MOST_SKEW_S {
            return found.bad(CHECK, "a certificate begins in the future", "set this host's clock");
        }
        count += 1;
    }
    match count {
        0 => found.bad(CHECK, format!("`{shown}` holds no certificate"), MEND),
        _ => found.good(CHECK, format!("{count} certificate(s), all in force")),
    }
}

fn state(config: &Config, found: &mut Findings) {
    const CHECK: &str = "identity";
    let folder = &config.state_dir;
    match std::fs::metadata(folder) {
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            let detail = format!("`{}` is open to other users", folder.display());
            return found.bad(CHECK, detail, "chmod 700 the folder: it holds this sidecar's key");
        }
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => {
            let detail = format!("`{}` belongs to another user", folder.display());
            return found.odd(CHECK, detail, "run the doctor as the sidecar's user");
        }
        Ok(_) => {
            let kept = std::fs::read_dir(folder).map(|it| it.count()).unwrap_or(0);
            if kept > 0 {
                found.good(CHECK, format!("kept in `{}`", folder.display()));
                return recovery_key(folder, found);
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => {
            let detail = format!("`{}`: {error}", folder.display());
            return found.bad(CHECK, detail, "give the sidecar's user this folder");
        }
    }
    match &config.join_token_file {
        Some(file) if std::fs::read(file).is_ok_and(|it| !it.is_empty()) => {
            found.good(CHECK, "none yet; a join token is there");
        }
        _ => found.bad(
            CHECK,
            "none yet, and no join token to get one with",
            "`grantwright agent join NAME --out FILE`, and name the file in `join_token_file`",
        ),
    }
}

/// Without it the sidecar follows the log into no new epoch. One that enrolled before keys were pinned
/// learns it from the log, once it runs.
fn recovery_key(folder: &Path, found: &mut Findings) {
    const CHECK: &str = "recovery key";
    let pinned = std::fs::read(folder.join("log.json")).ok();
    let pinned = pinned.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    match pinned.as_ref().and_then(|p| p.get("recovery_key")).and_then(Value::as_str) {
        Some(key) => found.good(CHECK, format!("pinned: {}", clean(key))),
        None => found.odd(
            CHECK,
            "none is pinned: after a restore of the broker this sidecar refuses the new log",
            "let the sidecar run: it learns the key from a log that names one. If this stays, the log \
             names none: after a restore give the sidecar a new, empty `state_dir` and a join token",
        ),
    }
}

fn tokens(config: &Config, found: &mut Findings) {
    const CHECK: &str = "token files";
    let mut names = Vec::new();
    for file in [&config.token_file, &config.aws_token_file].into_iter().flatten() {
        let shown = file.display();
        let meta = match std::fs::symlink_metadata(file) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                found.odd(
                    CHECK,
                    format!("`{shown}` is not there"),
                    "it is written when the sidecar starts",
                );
                continue;
            }
            Err(error) => {
                found.bad(CHECK, format!("`{shown}`: {error}"), "let the sidecar's user reach it");
                continue;
            }
        };
        if !meta.is_file() {
            found.bad(
                CHECK,
                format!("`{shown}` is no plain file"),
                "remove it; the sidecar writes it anew",
            );
        } else if meta.mode() & 0o077 != 0 {
            found.bad(
                CHECK,
                format!("`{shown}` can be read by others"),
                "chmod 600, and restart the sidecar: the token may be known",
            );
        } else if std::fs::read(file).is_ok_and(|it| it.ends_with(b"\n") || it.is_empty()) {
            found.bad(
                CHECK,
                format!("`{shown}` was edited: AWS SDKs refuse a line end"),
                "restart the sidecar, which writes it anew",
            );
        } else if std::fs::File::open(file).is_err() {
            found.bad(
                CHECK,
                format!("`{shown}` cannot be read by this user"),
                "run the agent as the sidecar's user",
            );
        } else {
            names.push(shown.to_string());
        }
    }
    if !names.is_empty() {
        found.good(CHECK, format!("{}: 0600, one line", names.join(", ")));
    }
}

/// Whether a sidecar answers on the configured doors.
fn listening(config: &Config, found: &mut Findings) -> bool {
    const CHECK: &str = "doors";
    let mut running = false;
    if let Some(at) = config.listen.filter(|at| at.port() != 0) {
        match (ask(at, "/healthz"), std::net::TcpListener::bind(at)) {
            (Some((200, body)), _) if body.contains("alive") => {
                running = true;
                found.good(CHECK, format!("a sidecar answers at {at}"));
            }
            (_, Ok(_)) => found.odd(CHECK, format!("nothing listens at {at}"), "start the sidecar"),
            (Some(_), Err(_)) | (None, Err(_)) => found.bad(
                CHECK,
                format!("{at} is taken by another program, or may not be listened on"),
                "end it, or choose another port in `listen`",
            ),
        }
    }
    if let Some(path) = &config.socket {
        let shown = path.display();
        match std::fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                found.bad(CHECK, format!("`{shown}` is no socket"), "remove it");
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => {
                    running = true;
                    found.good(CHECK, format!("something listens at `{shown}`"));
                }
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    found.bad(
                        CHECK,
                        format!("`{shown}` is another user's"),
                        "run the agent as the sidecar's user",
                    );
                }
                Err(_) => {
                    found.odd(CHECK, format!("nobody listens at `{shown}`"), "start the sidecar")
                }
            },
            Err(_) => found.odd(CHECK, format!("`{shown}` is not there"), "start the sidecar"),
        }
    }
    running
}

fn readiness(config: &Config, running: bool, found: &mut Findings) {
    const CHECK: &str = "readiness";
    let Some(at) = config.listen.filter(|at| at.port() != 0 && running) else { return };
    match ask(at, "/readyz") {
        Some((200, _)) => found.good(CHECK, "ready"),
        Some((_, body)) => {
            let why: Value = serde_json::from_str(&body).unwrap_or_default();
            let why =
                why.get("why").and_then(Value::as_str).unwrap_or("no reason given").to_owned();
            let mend = match why.as_str() {
                "log_inconsistent" => "the broker's log shrank or forked: tell its operators",
                "revoked" => "an operator ended this sidecar's right: enrol it anew",
                "certificate_expired" => "look at its log: it could not renew; check the clock",
                _ => "look at the brokers below",
            };
            found.bad(CHECK, why, mend);
        }
        None => found.bad(CHECK, "no answer", "look at the sidecar's log"),
    }
}

/// One GET over loopback: status and body.
fn ask(at: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.take(64 * 1024).read_to_string(&mut text).ok()?;
    let status = text.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
}

fn brokers(config: &Config, found: &mut Findings) {
    const CHECK: &str = "broker";
    const MEND: &str = "check name and route, and that firewalls let this port through";
    for address in &config.brokers {
        let bare = address.trim_start_matches("https://").trim_end_matches('/');
        let resolved: Vec<SocketAddr> = match bare.to_socket_addrs() {
            Ok(resolved) => resolved.collect(),
            Err(error) => {
                found.bad(CHECK, format!("{address}: {error}"), MEND);
                continue;
            }
        };
        let reached = resolved.iter().any(|at| TcpStream::connect_timeout(at, PATIENCE).is_ok());
        match reached {
            true => found.good(CHECK, format!("{address} accepts connections")),
            false => found.bad(CHECK, format!("{address} does not answer"), MEND),
        }
    }
}

/// Against the broker's own clock, by the `Date` of its console.
fn clock(config: &Config, found: &mut Findings) {
    const CHECK: &str = "clock";
    let Some(console) = &config.console else {
        return found.odd(CHECK, "cannot be compared", "name the broker's console in `console`");
    };
    match skew_s(console) {
        Some(skew) if skew.abs() > MOST_SKEW_S => found.bad(
            CHECK,
            format!(
                "{} s {} the broker's",
                skew.abs(),
                if skew > 0 { "ahead of" } else { "behind" }
            ),
            "set this host's clock: turn on time synchronisation",
        ),
        Some(_) => found.good(CHECK, "agrees with the broker's"),
        None => found.odd(
            CHECK,
            format!("{console} tells no time"),
            "see whether the console can be reached from here",
        ),
    }
}

/// Seconds by which this clock is ahead.
fn skew_s(console: &str) -> Option<i64> {
    let fetch = async {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .ok()?;
        let url = format!("{}/healthz", console.trim_end_matches('/'));
        let reply = client.get(url).send().await.ok()?;
        reply.headers().get(reqwest::header::DATE)?.to_str().ok().map(str::to_owned)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let date = runtime.block_on(fetch)?;
    let there = jiff::fmt::rfc2822::parse(&date).ok()?.timestamp().as_second();
    Some(now().seconds() - there)
}

/// What the agent's own environment says to AWS SDKs.
fn variables(settings: &Settings, config: &Config, found: &mut Findings) {
    const CHECK: &str = "SDK variables";
    let get = |name: &str| settings.sdk.iter().find(|(it, _)| *it == name).map(|(_, v)| v.as_str());
    let Some(uri) = get("AWS_CONTAINER_CREDENTIALS_FULL_URI") else {
        return found.odd(
            CHECK,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI is not set in this shell",
            "run the doctor where the agent runs, if it uses AWS SDKs",
        );
    };
    let before = found.0.len();
    let earlier = [
        "AWS_ACCESS_KEY_ID",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_PROFILE",
        "AWS_ROLE_ARN",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    ];
    for name in earlier.into_iter().filter(|name| get(name).is_some()) {
        found.bad(
            CHECK,
            format!("{name} is set and comes before the sidecar"),
            "unset it for the agent",
        );
    }
    let host = uri.strip_prefix("http://").and_then(|it| it.split(['/', '?']).next());
    match (host.and_then(|it| it.parse::<SocketAddr>().ok()), config.listen) {
        (Some(at), _) if !at.ip().is_loopback() => {
            found.bad(
                CHECK,
                "the address is not on loopback: SDKs refuse it",
                "name http://127.0.0.1:PORT/aws/SCOPE?…",
            );
        }
        (Some(at), Some(listen)) if listen.port() != 0 && at.port() != listen.port() => {
            found.bad(
                CHECK,
                format!("port {} is not the sidecar's {}", at.port(), listen.port()),
                "name the port of `listen`",
            );
        }
        (None, _) => found.bad(
            CHECK,
            "the address is not http://127.0.0.1:PORT/…",
            "write the address out: a name may resolve to ::1 first",
        ),
        _ => {}
    }
    match get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        None => found.bad(
            CHECK,
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE is not set",
            "name the file of `aws_token_file`",
        ),
        Some(file) if std::fs::File::open(file).is_err() => {
            found.bad(
                CHECK,
                format!("`{file}` cannot be read"),
                "name the file of `aws_token_file`",
            );
        }
        Some(_) => {}
    }
    if get("AWS_EC2_METADATA_DISABLED") != Some("true") {
        found.odd(
            CHECK,
            "AWS_EC2_METADATA_DISABLED is not `true`",
            "set it: a refusal must not fall through to the machine's own role",
        );
    }
    let proxied = get("HTTP_PROXY").or_else(|| get("http_proxy")).is_some();
    let spared = get("NO_PROXY").or_else(|| get("no_proxy")).unwrap_or_default();
    if proxied && !spared.split(',').any(|it| matches!(it.trim(), "127.0.0.1" | "*")) {
        found.bad(
            CHECK,
            "HTTP_PROXY is set and NO_PROXY does not spare 127.0.0.1",
            "add 127.0.0.1,localhost to NO_PROXY",
        );
    }
    if found.0.len() == before {
        found.good(CHECK, "lead to the sidecar, and nothing comes before it");
    }
}
