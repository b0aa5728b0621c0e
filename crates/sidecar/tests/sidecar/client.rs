//! A sidecar of one test, and a client that sends exactly the bytes a test wants.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use grantwright_sidecar::serve::{serve, serve_all};
use grantwright_sidecar::{Config, SidecarError};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::broker::{Scripted, TRUST_DOMAIN};

pub struct Running {
    pub dir: PathBuf,
    pub tcp: String,
    end: oneshot::Sender<()>,
    task: JoinHandle<Result<(), SidecarError>>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Value,
    pub text: String,
}

/// Two agents of one sidecar, with the door of each in a folder of its own.
pub fn two_agents(broker: &Scripted, dir: &std::path::Path) -> Vec<Config> {
    std::fs::write(dir.join("ca.pem"), &broker.ca_pem).unwrap();
    std::fs::write(dir.join("a.join"), "join-1\n").unwrap();
    std::fs::write(dir.join("b.join"), "join-1\n").unwrap();
    let mut text = format!(
        "brokers = [\"https://{}\"]\ntrust_bundle = \"ca.pem\"\ntrust_domain = \"{TRUST_DOMAIN}\"\n",
        broker.addr
    );
    for name in ["aa", "bb"] {
        let door = dir.join(name);
        std::fs::create_dir(&door).unwrap();
        let letter = &name[..1];
        text += &format!(
            "[[agent]]\nname = \"{name}\"\njoin_token_file = \"{letter}.join\"\n\
             state_dir = \"{name}/state\"\nlisten = \"127.0.0.1:0\"\nsocket = \"{name}/sidecar.sock\"\n\
             token_file = \"{name}/agent.token\"\naws_token_file = \"{name}/aws.token\"\n\
             ready_file = \"{name}/ready.json\"\nworkload = \"test\"\n"
        );
    }
    Config::parse_all(&text, dir).unwrap()
}

pub fn config(broker: &Scripted, dir: &std::path::Path) -> Config {
    std::fs::write(dir.join("ca.pem"), &broker.ca_pem).unwrap();
    if !dir.join("join.token").exists() {
        std::fs::write(dir.join("join.token"), "join-1\n").unwrap();
    }
    let text = format!(
        "brokers = [\"https://{}\"]\ntrust_bundle = \"ca.pem\"\ntrust_domain = \"{TRUST_DOMAIN}\"\n\
         join_token_file = \"join.token\"\nstate_dir = \"state\"\nlisten = \"127.0.0.1:0\"\n\
         socket = \"sidecar.sock\"\ntoken_file = \"agent.token\"\naws_token_file = \"aws.token\"\n\
         ready_file = \"ready.json\"\nworkload = \"test\"\n",
        broker.addr
    );
    Config::parse(&text, dir).unwrap()
}

impl Running {
    /// Starts, and waits until the broker attends.
    pub async fn start(broker: &Scripted, dir: &std::path::Path) -> Self {
        let running = Self::start_only(broker, dir).await;
        running.until("attended", || async { running.get("/readyz").await.status == 200 }).await;
        running
    }

    pub async fn start_only(broker: &Scripted, dir: &std::path::Path) -> Self {
        let config = config(broker, dir);
        let (end, ended) = oneshot::channel();
        let clock = Arc::clone(&broker.clock);
        let task = tokio::spawn(serve(config, clock, async {
            let _ = ended.await;
        }));
        let tcp = told(dir, &task).await;
        Self { dir: dir.into(), tcp, end, task }
    }

    /// Starts two agents of one sidecar, and waits until the broker attends to both. Only the first
    /// ends the sidecar.
    pub async fn start_two(broker: &Scripted, dir: &std::path::Path) -> (Self, Self) {
        let agents = two_agents(broker, dir);
        let (end, ended) = oneshot::channel();
        let clock = Arc::clone(&broker.clock);
        let task = tokio::spawn(serve_all(agents, clock, async {
            let _ = ended.await;
        }));
        let (a, b) = (dir.join("aa"), dir.join("bb"));
        let at = (told(&a, &task).await, told(&b, &task).await);
        let (unused, _) = oneshot::channel();
        let a = Self { dir: a, tcp: at.0, end, task };
        let b = Self { dir: b, tcp: at.1, end: unused, task: tokio::spawn(async { Ok(()) }) };
        for one in [&a, &b] {
            one.until("attended", || async { one.get("/readyz").await.status == 200 }).await;
        }
        (a, b)
    }

    pub async fn stop(self) {
        let _ = self.end.send(());
        self.task.await.unwrap().unwrap();
        assert!(!self.dir.join("ready.json").exists() && !self.dir.join("sidecar.sock").exists());
    }

    pub fn token(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    /// Waits for something that happens in the background, not longer than a test may last.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, is: impl Fn() -> F) {
        for _ in 0..2000 {
            if is().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (ready, metrics) = (self.get("/readyz").await, self.get("/metrics").await);
        panic!("never {what}: {} {}", ready.text, metrics.text);
    }

    pub async fn raw(&self, request: &str) -> Answer {
        exchange(TcpStream::connect(&self.tcp).await.unwrap(), request).await
    }

    pub async fn raw_unix(&self, request: &str) -> Answer {
        let path = self.dir.join("sidecar.sock");
        exchange(UnixStream::connect(path).await.unwrap(), request).await
    }

    pub async fn call(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let token = self.token("agent.token");
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\
             Connection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            self.tcp,
            body.len()
        ))
        .await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", "").await
    }

    pub async fn aws(&self, path: &str) -> Answer {
        let token = self.token("aws.token");
        self.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {token}\r\nConnection: close\r\n\r\n",
            self.tcp
        ))
        .await
    }

    pub async fn post(&self, body: &str) -> Answer {
        self.call("POST", "/v1/credentials", "", body).await
    }

    /// Asks for a scope in the shortest way.
    pub async fn ask(&self, scope: &str) -> Answer {
        self.post(&format!(r#"{{"scope":"{scope}","params":{{}},"reason":"test"}}"#)).await
    }
}

/// Where it listens on TCP, once it says so.
async fn told(dir: &std::path::Path, task: &JoinHandle<Result<(), SidecarError>>) -> String {
    let ready = dir.join("ready.json");
    let told = loop {
        assert!(!task.is_finished(), "it ended");
        if let Ok(text) = std::fs::read_to_string(&ready) {
            break text;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let told: Value = serde_json::from_str(&told).unwrap();
    told["tcp"].as_str().unwrap().to_owned()
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    // The answer may come, and the stream close, before the request is written.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
    Answer {
        status,
        head: head.to_ascii_lowercase(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
        text: body.to_owned(),
    }
}
