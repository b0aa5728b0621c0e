//! An STS that answers as it is told, well or not, and remembers what it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grantwright_domain::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What to do with a request once it was read whole.
#[derive(Clone)]
pub enum Script {
    /// Status, body.
    Answer(u16, String),
    /// The good answer, for what was asked, ending at the given time.
    Good(Timestamp),
    /// Close without an answer.
    Drop,
    /// Promise the whole body, send half of it, close.
    Half(String),
    /// Say nothing.
    Late,
}

pub struct Server {
    pub url: String,
    asked: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
}

impl Server {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), Arc::clone(&seen)));
            }
        });
        Self { url, asked }
    }

    /// The form fields of every request so far.
    pub fn asked(&self) -> Vec<BTreeMap<String, String>> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Script,
    asked: Arc<Mutex<Vec<BTreeMap<String, String>>>>,
) {
    let Some((_, body)) = request(&mut stream).await else { return };
    let form = form(&body);
    asked.lock().unwrap().push(form.clone());
    let (status, body, sent) = match script {
        Script::Answer(status, body) => (status, body, None),
        Script::Good(ends) => (200, good(&form, ends), None),
        Script::Half(body) => (200, body.clone(), Some(body.len() / 2)),
        Script::Drop => return,
        Script::Late => {
            tokio::time::sleep(Duration::from_secs(60)).await;
            return;
        }
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: text/xml\r\nx-amzn-requestid: q-1\r\nlocation: /again\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let end = sent.unwrap_or(body.len());
    stream.write_all(head.as_bytes()).await.ok();
    stream.write_all(&body.as_bytes()[..end]).await.ok();
    stream.shutdown().await.ok();
}

/// Head and body of the next request; none: the caller is gone.
pub async fn request(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend(&chunk[..n]),
            _ => return None,
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = header(head, "content-length").map_or(0, |n| n.parse::<usize>().unwrap());
        if body.len() >= length {
            return Some((head.to_owned(), body.to_owned()));
        }
    }
}

pub fn header(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|l| {
        let (key, value) = l.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn form(body: &str) -> BTreeMap<String, String> {
    body.split('&').filter_map(|f| f.split_once('=')).map(|(k, v)| (plain(k), plain(v))).collect()
}

fn plain(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            b => b,
        });
    }
    String::from_utf8(out).unwrap()
}

/// The answer to what was asked, ending at `ends`.
pub fn good(form: &BTreeMap<String, String>, ends: Timestamp) -> String {
    let role = form["RoleArn"].rsplit('/').next().unwrap();
    let session = &form["RoleSessionName"];
    let arn = format!("arn:aws:sts::111122223333:assumed-role/{role}/{session}");
    answer(&arn, &form["SourceIdentity"], &ends.to_string(), "minted-token")
}

pub fn answer(arn: &str, source: &str, ends: &str, token: &str) -> String {
    format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <SourceIdentity>{source}</SourceIdentity><AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:r-1\
         </AssumedRoleId><Arn>{arn}</Arn></AssumedRoleUser><Credentials><AccessKeyId>ASIAEXAMPLE\
         </AccessKeyId><SecretAccessKey>minted-secret</SecretAccessKey><SessionToken>{token}\
         </SessionToken><Expiration>{ends}</Expiration></Credentials><PackedPolicySize>12\
         </PackedPolicySize></AssumeRoleResult><ResponseMetadata><RequestId>q-1</RequestId>\
         </ResponseMetadata></AssumeRoleResponse>"
    )
}

pub fn error(code: &str, message: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>{message}</Message></Error><RequestId>q-1</RequestId></ErrorResponse>"
    )
}
