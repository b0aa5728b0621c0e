//! The staging: a fresh folder is set up like any installation, a resumed one is started again.

use std::time::{Duration, Instant};

use grantwright_broker::{InitOptions, Recovery};
use grantwright_domain::{HumanId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::agent::Agent;
use super::dir::{DemoDir, MARK};
use super::material::{self, Ports};
use super::people::{self, Operator};
use super::process::{self, Process, Processes};
use super::steps::{Cast, Teller};
use crate::config::{DemoSettings, now};
use crate::exit::Failure;
use crate::files;
use crate::output::Out;

/// `demo.toml`: what a resume needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Mark {
    version: u32,
    /// The log's verifier key.
    pub vkey: String,
    operator_token_until: String,
    people_tokens_until: String,
    ports: [u16; 3],
    #[serde(default)]
    witness_port: u16,
    /// Bob's one-time link to sign in.
    pub login_bob: String,
    /// Bob's one-time link to enrol a passkey.
    pub enrol_bob: String,
}

/// What every part of the staging needs.
pub struct Stage<'a> {
    /// Where notes go.
    pub out: &'a Out,
    /// What the environment says.
    pub settings: &'a DemoSettings,
    /// The folder.
    pub dir: &'a DemoDir,
}

impl Stage<'_> {
    /// A fresh folder: keys and log, people and policy, an enrolled sidecar.
    pub async fn begin(&self, processes: &mut Processes) -> Result<(Mark, Ports), Failure> {
        let dir = self.dir;
        let options = InitOptions {
            dir: dir.path.clone(),
            trust_domain: material::TRUST_DOMAIN.into(),
            origin: format!("{}/log", material::TRUST_DOMAIN),
            operator: HumanId::parse(people::OPERATOR).map_err(Failure::unable)?,
            config: Some(self.broker_toml(Ports::default())?),
            recovery: Recovery::Written(dir.path.join("recovery.key")),
        };
        // It has a runtime of its own.
        let begun = tokio::task::spawn_blocking(move || grantwright_broker::init(&options));
        let begun = begun.await.map_err(Failure::unable)?.map_err(Failure::unable)?;
        let written = material::write_policies(dir, self.settings)?;
        let ports = self.start_witness(processes, &begun.vkey, Ports::default()).await?;
        let mut ports = self.start_broker(processes, ports).await?;
        let base = format!("http://localhost:{}", ports.http);
        let operator = people::sign_in(dir, &base, &begun.code).await?;
        people::register(&operator.api, &written).await?;
        people::join(dir, &operator.api).await?;
        let people_until = people::tokens(dir, &operator.api).await?;
        ports = self.start_sidecar(processes, ports).await?;
        self.agent(ports)?.ready_within(Duration::from_secs(10)).await.map_err(Failure::unable)?;
        let mark = Mark {
            version: 1,
            vkey: begun.vkey,
            operator_token_until: operator.expires_at.to_string(),
            people_tokens_until: people_until.to_string(),
            ports: [ports.grpc, ports.http, ports.sidecar],
            witness_port: ports.witness,
            login_bob: people::link(&operator.api, "bob", "login").await?,
            enrol_bob: people::link(&operator.api, "bob", "enrol").await?,
        };
        self.save(&mark)?;
        Ok((mark, ports))
    }

    /// A resumed folder: the same keys, log and identity; the same ports where they are free.
    pub async fn resume(&self, processes: &mut Processes) -> Result<(Mark, Ports), Failure> {
        let path = self.dir.file(MARK);
        let mut mark: Mark = toml::from_str(&files::read(&path)?)
            .map_err(|e| Failure::unable(format!("`{}`: {e}", path.display())))?;
        let code = self.link_if_expired(&mark).await?;
        let [grpc, http, sidecar] = mark.ports.map(|port| process::port_again(Some(port)));
        let witness = process::port_again(Some(mark.witness_port));
        let ports = Ports { grpc, http, sidecar, witness };
        let ports = self.start_witness(processes, &mark.vkey, ports).await?;
        let ports = self.start_broker(processes, ports).await?;
        if let Some(code) = code {
            let base = format!("http://localhost:{}", ports.http);
            let operator = people::sign_in(self.dir, &base, &code).await?;
            mark.operator_token_until = operator.expires_at.to_string();
            self.save(&mark)?;
        }
        let ports = self.start_sidecar(processes, ports).await?;
        Ok((mark, ports))
    }

    /// A one-time link made beside the stopped broker, when the operator's token has ended.
    async fn link_if_expired(&self, mark: &Mark) -> Result<Option<String>, Failure> {
        let until = Timestamp::parse(&mark.operator_token_until).map_err(Failure::unable)?;
        if until > now() {
            return Ok(None);
        }
        material::write_broker(self.dir, self.settings, Ports::default())?;
        let config = self.dir.file("broker.toml");
        let operator = HumanId::parse(people::OPERATOR).map_err(Failure::unable)?;
        let made =
            tokio::task::spawn_blocking(move || grantwright_broker::fresh_link(&config, &operator));
        made.await.map_err(Failure::unable)?.map(Some).map_err(Failure::unable)
    }

    fn broker_toml(&self, ports: Ports) -> Result<String, Failure> {
        material::broker_toml(self.settings, ports, &material::store_url(self.dir)?)
    }

    async fn start_witness(
        &self,
        processes: &mut Processes,
        vkey: &str,
        ports: Ports,
    ) -> Result<Ports, Failure> {
        let dir = self.dir;
        let folder = dir.file("witness");
        if !dir.file(material::WITNESS_KEY).is_file() {
            crate::witness::init(&folder, &format!("{}/witness", material::TRUST_DOMAIN))?;
        }
        files::write_private(&folder.join("logs.txt"), &format!("log {vkey}\n"))?;
        let ready = dir.file("witness.ready");
        let _ = std::fs::remove_file(&ready);
        let own = process::own_program()?;
        let listen = format!("127.0.0.1:{}", ports.witness);
        let (dir_text, ready_text) = (folder.to_string_lossy(), ready.to_string_lossy());
        let arguments =
            ["witness", "--dir", &*dir_text, "--listen", &listen, "--ready-file", &*ready_text];
        let log = dir.file("witness.log");
        let process = Process::start("witness", &own, &arguments, None, log)?;
        let process = processes.witness.insert(process);
        let said = process.ready(&ready).await?;
        Ok(Ports { witness: port(&said, "http")?, ..ports })
    }

    async fn start_broker(
        &self,
        processes: &mut Processes,
        ports: Ports,
    ) -> Result<Ports, Failure> {
        let dir = self.dir;
        material::write_broker(dir, self.settings, ports)?;
        let ready = dir.file("broker.ready");
        let _ = std::fs::remove_file(&ready);
        let own = process::own_program()?;
        let log = dir.file("broker.log");
        let config = dir.file("broker.toml");
        let process = Process::start("broker", &own, &["broker"], Some(&config), log)?;
        let process = processes.broker.insert(process);
        let said = process.ready(&ready).await?;
        let ports = Ports { grpc: port(&said, "grpc")?, http: port(&said, "http")?, ..ports };
        // Who restarts the broker by hand finds it where the sidecar looks for it.
        material::write_broker(dir, self.settings, ports)?;
        Ok(ports)
    }

    async fn start_sidecar(
        &self,
        processes: &mut Processes,
        ports: Ports,
    ) -> Result<Ports, Failure> {
        let dir = self.dir;
        dir.make("sidecar")?;
        material::write_sidecar(dir, ports)?;
        let ready = dir.file("sidecar.ready");
        let _ = std::fs::remove_file(&ready);
        let (program, arguments) = process::sidecar_program()?;
        let log = dir.file("sidecar.log");
        let config = dir.file("sidecar.toml");
        let process = Process::start("sidecar", &program, arguments, Some(&config), log)?;
        let process = processes.sidecar.insert(process);
        let said = process.ready(&ready).await?;
        let ports = Ports { sidecar: port(&said, "tcp")?, ..ports };
        material::write_sidecar(dir, ports)?;
        Ok(ports)
    }

    /// The agent at its sidecar.
    pub fn agent(&self, ports: Ports) -> Result<Agent, Failure> {
        let base = format!("http://127.0.0.1:{}", ports.sidecar);
        Agent::new(base, &self.dir.file("agent.token"))
    }

    /// Everyone who takes part in the story.
    pub fn cast(&self, ports: Ports) -> Result<Cast, Failure> {
        let base = format!("http://localhost:{}", ports.http);
        let person = |name: &str| people::person(self.dir, &base, name);
        Ok(Cast {
            agent: self.agent(ports)?,
            alice: person("alice")?,
            bob: person("bob")?,
            carol: person("carol")?,
        })
    }

    /// What the proof looks at: the store, the key, and the sidecar's checkpoint, which is written beside
    /// its answers and may come a moment after them.
    pub async fn check(&self, vkey: &str) -> Result<crate::audit::Check, Failure> {
        let checkpoint = self.dir.file("sidecar/checkpoint");
        let begin = Instant::now();
        while !checkpoint.is_file() && begin.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(crate::audit::Check {
            store: material::store_url(self.dir)?,
            vkey: Some(vkey.to_owned()),
            checkpoints: if checkpoint.is_file() { vec![checkpoint] } else { Vec::new() },
        })
    }

    /// Renews what a resumed folder needs: tokens with little life left, and bob's spent links. A
    /// broker that may not append keeps the old ones; that is told, not fatal.
    pub async fn refresh(&self, mut mark: Mark, ports: Ports) -> Mark {
        if let Err(why) = self.renew(&mut mark, ports).await {
            self.out.note(format!("tokens and links stay as they were: {why}"));
            for link in [&mut mark.login_bob, &mut mark.enrol_bob] {
                *link = rebased(link, ports.http);
            }
        }
        mark
    }

    async fn renew(&self, mark: &mut Mark, ports: Ports) -> Result<(), Failure> {
        let dir = self.dir;
        let until = |text: &str| Timestamp::parse(text).map_err(Failure::unable);
        let base = format!("http://localhost:{}", ports.http);
        let mut operator: Operator =
            people::come_back(dir, &base, until(&mark.operator_token_until)?)?;
        if people::is_little(operator.expires_at, now()) {
            operator = people::renew(dir, operator).await?;
            mark.operator_token_until = operator.expires_at.to_string();
        }
        if people::is_little(until(&mark.people_tokens_until)?, now()) {
            mark.people_tokens_until = people::tokens(dir, &operator.api).await?.to_string();
        }
        mark.login_bob = people::link(&operator.api, "bob", "login").await?;
        mark.enrol_bob = people::link(&operator.api, "bob", "enrol").await?;
        mark.ports = [ports.grpc, ports.http, ports.sidecar];
        mark.witness_port = ports.witness;
        self.save(mark)
    }

    fn save(&self, mark: &Mark) -> Result<(), Failure> {
        let text = toml::to_string(mark).map_err(Failure::unable)?;
        files::write_private(
            &self.dir.file(MARK),
            &format!(
                "# Written by `grantwright demo`: a folder with this file is resumed.\n{text}"
            ),
        )
    }

    /// What to do next.
    pub fn goodbye(&self, teller: &Teller<'_>) {
        teller.aside("");
        if self.dir.is_temporary() {
            teller
                .aside("Next: `grantwright demo --keep` leaves everything running for you to try.");
        } else {
            let path = self.dir.path.display();
            teller.aside(&format!("Next: `grantwright demo --keep --dir {path}` resumes it."));
        }
    }
}

/// The port of `{"key": "127.0.0.1:port"}` in a ready file.
fn port(ready: &Value, key: &str) -> Result<u16, Failure> {
    let at = ready.get(key).and_then(Value::as_str).unwrap_or_default();
    let port = at.rsplit(':').next().and_then(|p| p.trim_end_matches('/').parse().ok());
    port.ok_or_else(|| Failure::unable(format!("the ready file names no port for `{key}`")))
}

/// The same link at another port.
fn rebased(link: &str, port: u16) -> String {
    match link.strip_prefix("http://localhost:").and_then(|rest| rest.split_once('/')) {
        Some((_, path)) => format!("http://localhost:{port}/{path}"),
        None => link.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_links() {
        let ready = serde_json::json!({"grpc": "127.0.0.1:41", "tcp": "http://127.0.0.1:42/"});
        assert_eq!(port(&ready, "grpc").unwrap(), 41);
        assert_eq!(port(&ready, "tcp").unwrap(), 42);
        assert!(port(&ready, "http").is_err());
        assert_eq!(rebased("http://localhost:1/login/x", 2), "http://localhost:2/login/x");
    }
}
