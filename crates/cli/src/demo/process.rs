//! The real processes of the demo: started, awaited until ready, ended.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use crate::exit::Failure;
use crate::files;

/// How long a process may take until it is ready.
const READY: Duration = Duration::from_secs(30);
/// How long it may take to end when asked, before it is killed.
const END: Duration = Duration::from_secs(8);

/// A child process. Dropped, it is killed.
pub struct Process {
    /// What it is, for messages.
    pub name: &'static str,
    /// Its process id.
    pub pid: u32,
    child: tokio::process::Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; its output goes to `log`. Secrets of the environment stay behind.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &'static str,
        program: &Path,
        arguments: &[&str],
        config: Option<&Path>,
        log: PathBuf,
    ) -> Result<Self, Failure> {
        let fault = |e: std::io::Error| Failure::file(&log, &e);
        let file = std::fs::File::options().create(true).append(true).open(&log).map_err(fault)?;
        let errors = file.try_clone().map_err(fault)?;
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        command.stdin(Stdio::null()).stdout(file).stderr(errors).kill_on_drop(true);
        for secret in
            ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "VAULT_TOKEN"]
        {
            command.env_remove(secret);
        }
        let child = command.spawn().map_err(|e| Failure::file(program, &e))?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { name, pid, child, log })
    }

    /// Waits for its ready file.
    ///
    /// # Errors
    /// When it ends before, with the last words of its log, or takes too long.
    pub async fn ready(&mut self, file: &Path) -> Result<Value, Failure> {
        let begin = Instant::now();
        loop {
            if let Ok(text) = std::fs::read_to_string(file)
                && let Ok(value) = serde_json::from_str(&text)
            {
                return Ok(value);
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let said = self.last_words();
                return Err(Failure::unable(format!(
                    "the {} ended at its start ({status}){said}",
                    self.name
                )));
            }
            if begin.elapsed() > READY {
                let said = self.last_words();
                return Err(Failure::unable(format!(
                    "the {} was not ready within {} s{said}",
                    self.name,
                    READY.as_secs()
                )));
            }
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    }

    /// The last lines of its log.
    fn last_words(&self) -> String {
        let text = files::read(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        if lines.is_empty() { String::new() } else { format!(":\n{}", lines.join("\n")) }
    }

    /// Waits until it ends by itself, and reaps it.
    pub async fn ended(&mut self) {
        let _ = self.child.wait().await;
    }

    /// Asks it to end, and kills it when it does not.
    pub async fn end(mut self) {
        // Between exit and `wait` the id still belongs to this child, so no stranger is signalled.
        if let Some(pid) = self.child.id()
            && let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap_or(0))
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(END, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}

/// All of them.
#[derive(Default)]
pub struct Processes {
    /// The broker.
    pub broker: Option<Process>,
    /// The sidecar.
    pub sidecar: Option<Process>,
    /// The witness.
    pub witness: Option<Process>,
}

impl Processes {
    /// Stays until both ended; a broker that is killed leaves the sidecar running.
    pub async fn both_ended(&mut self) {
        for process in [&mut self.broker, &mut self.sidecar].into_iter().flatten() {
            process.ended().await;
        }
        std::future::pending::<()>().await;
    }

    /// Ends all, the sidecar first, so that it can say good-bye.
    pub async fn end(self) {
        for process in [self.sidecar, self.broker, self.witness].into_iter().flatten() {
            process.end().await;
        }
    }
}

/// This program, which is also the broker.
///
/// # Errors
/// When the system cannot say where it is.
pub fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|e| Failure::unable(format!("cannot find this program: {e}")))
}

/// The sidecar: the small binary where one lies beside this program, else this program.
///
/// # Errors
/// As [`own_program`].
pub fn sidecar_program() -> Result<(PathBuf, &'static [&'static str]), Failure> {
    let own = own_program()?;
    let beside = own.with_file_name("grantwright-sidecar");
    Ok(if beside.is_file() { (beside, &[]) } else { (own, &["sidecar"]) })
}

/// A port that was used before and is free now, else 0: the system chooses.
pub fn port_again(former: Option<u16>) -> u16 {
    former
        .filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_process_that_ends_at_its_start_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("fails");
        std::fs::write(&script, "echo the key is missing; exit 3").unwrap();
        runtime().block_on(async {
            let log = dir.path().join("log");
            let mut process = Process::start(
                "broker",
                Path::new("/bin/sh"),
                &[script.to_str().unwrap()],
                None,
                log,
            )
            .unwrap();
            let failure = process.ready(&dir.path().join("ready")).await.unwrap_err().to_string();
            assert!(failure.contains("the key is missing"), "{failure}");
        });
    }

    #[test]
    fn a_process_is_ready_when_its_file_is_there_and_ends_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let ready = dir.path().join("ready");
        let script = dir.path().join("runs");
        std::fs::write(&script, format!("echo '{{\"pid\":1}}' > {}; sleep 60", ready.display()))
            .unwrap();
        runtime().block_on(async {
            let mut process = Process::start(
                "broker",
                Path::new("/bin/sh"),
                &[script.to_str().unwrap()],
                None,
                dir.path().join("log"),
            )
            .unwrap();
            assert_eq!(process.ready(&ready).await.unwrap()["pid"], 1);
            let begin = Instant::now();
            process.end().await;
            assert!(begin.elapsed() < END);
        });
    }
}
