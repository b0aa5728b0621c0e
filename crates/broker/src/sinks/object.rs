//! Objects in a bucket (S3's PUT, signed with Signature Version 4): one a batch, named by its day and its
//! first leaf, so that a batch that is delivered again replaces itself. Keep it for ever with Object Lock.

use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use grantwright_domain::Timestamp;
use grantwright_domain::time::parse_ttl;
use reqwest::{Client, Url};

use super::Line;
use super::config::ObjectTarget;
use crate::keys::read_secret;

/// Longest wait for an answer.
const CALL_TIME: Duration = Duration::from_secs(25);

/// See the module.
pub(super) struct ObjectSink {
    /// How long a leaf may wait for others, in milliseconds.
    pub(super) every_ms: i64,
    http: Client,
    base: Url,
    target: ObjectTarget,
}

/// What a call is signed with.
struct Signer {
    key_id: String,
    secret: String,
    token: Option<String>,
}

impl ObjectSink {
    pub(super) fn new(t: &ObjectTarget) -> Result<Self, String> {
        let endpoint = match &t.endpoint {
            Some(endpoint) => endpoint.trim_end_matches('/').to_owned(),
            None => format!("https://s3.{}.amazonaws.com", t.region),
        };
        let base = Url::parse(&endpoint).map_err(|e| format!("s3.endpoint: {e}"))?;
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(CALL_TIME)
            .build()
            .map_err(|e| format!("no HTTP client: {e}"))?;
        let every_ms = i64::from(parse_ttl(&t.every).map_err(|e| format!("s3.every: {e}"))?) * 1000;
        let sink = Self { every_ms, http, base, target: t.clone() };
        sink.signer()?;
        Ok(sink)
    }

    /// Files are read at each delivery: their keys may have been replaced.
    fn signer(&self) -> Result<Signer, String> {
        let read = |path: &PathBuf| {
            let text = read_secret(path).map_err(|e| e.to_string());
            text.map(|s| s.expose_secret().trim().to_owned())
        };
        Ok(Signer {
            key_id: read(&self.target.access_key_id_file)?,
            secret: read(&self.target.secret_access_key_file)?,
            token: self.target.session_token_file.as_ref().map(read).transpose()?,
        })
    }

    /// Writes the lines as one object.
    pub(super) async fn deliver(&self, lines: &[Line], now: Timestamp) -> Result<(), String> {
        let Some(first) = lines.first() else { return Ok(()) };
        let day: String = first.at.to_string().chars().take(10).collect();
        let (bucket, prefix) = (&self.target.bucket, &self.target.prefix);
        let path = format!("/{bucket}/{prefix}{}/{:012}.jsonl", day.replace('-', "/"), first.index);
        let mut body = Vec::new();
        for line in lines {
            body.extend_from_slice(&line.bytes);
            body.push(b'\n');
        }
        let mut url = self.base.clone();
        url.set_path(&path);
        let signer = self.signer()?;
        let mut put = self.http.put(url.clone());
        for (name, value) in signer.headers(&url, &self.target.region, &body, now)? {
            put = put.header(name, value);
        }
        let answer = put.body(body).send().await.map_err(|e| e.without_url().to_string())?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(format!("`{path}`: the store answered {}", answer.status().as_u16()))
    }
}

impl Signer {
    /// The headers that sign a PUT of `body`.
    fn headers(
        &self,
        url: &Url,
        region: &str,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Vec<(&'static str, String)>, String> {
        let host = url.host_str().ok_or("s3.endpoint: no host")?;
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let moment: String =
            now.whole_second().to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect();
        let day: String = moment.chars().take(8).collect();
        let hash = sha256(body);
        let mut signed = vec![
            ("host", host),
            ("x-amz-content-sha256", hash.clone()),
            ("x-amz-date", moment.clone()),
        ];
        if let Some(token) = &self.token {
            signed.push(("x-amz-security-token", token.clone()));
        }
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String =
            signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let call = format!("PUT\n{}\n\n{lines}\n{names}\n{hash}", url.path());
        let scope = format!("{day}/{region}/s3/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", sha256(call.as_bytes()));
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for part in [day.as_str(), region, "s3", "aws4_request"] {
            key = mac(&key, part);
        }
        let signature = hex::encode(mac(&key, &text));
        let credential = format!("{}/{scope}", self.key_id);
        // The host's is the client's to send.
        let mut out: Vec<_> = signed.into_iter().filter(|(name, _)| *name != "host").collect();
        out.push((
            "authorization",
            format!(
                "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
            ),
        ));
        Ok(out)
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_call_is_signed() {
        let signer = Signer {
            key_id: "AKIAIOSFODNN7EXAMPLE".into(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: None,
        };
        let url = Url::parse("http://127.0.0.1:9000/b/2026/11/21/000000000000.jsonl").unwrap();
        let now = Timestamp::from_millis(1_795_225_490_000);
        let headers = |body: &[u8], region: &str| {
            let all = signer.headers(&url, region, body, now).unwrap();
            all.into_iter().find(|(name, _)| *name == "authorization").unwrap().1
        };
        let one = headers(b"{}\n", "us-east-1");
        assert!(one.contains("Credential=AKIAIOSFODNN7EXAMPLE/20261121/us-east-1/s3/aws4_request"));
        assert_ne!(one, headers(b"{}", "us-east-1"));
        assert_ne!(one, headers(b"{}\n", "eu-central-1"));
    }
}
