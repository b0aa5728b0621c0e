//! `[[export]]`.

use std::path::{Path, PathBuf};

use grantwright_approval::webhook::MOST_SECRETS;
use grantwright_audit::export::{DOCUMENTATION_ENTERPRISE, Format};
use grantwright_domain::time::parse_ttl;
use serde::Deserialize;

use crate::channels::teams::config::safe_url;

/// One `[[export]]`: what is written, and exactly one of `file`, `syslog`, `webhook` and `s3`: where to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSection {
    /// Names its cursor and its metrics: a to z, 0 to 9 and `-`, at most 64.
    pub name: String,
    /// How each leaf is written.
    pub format: Format,
    /// Where a new export begins.
    #[serde(default)]
    pub begin: Begin,
    /// Nothing is issued while it is further behind than `gate_after`.
    #[serde(default)]
    pub gate: bool,
    /// For example `60s`.
    #[serde(default = "minute")]
    pub gate_after: String,
    /// A file, rotated.
    #[serde(default)]
    pub file: Option<FileTarget>,
    /// A syslog receiver, over TLS.
    #[serde(default)]
    pub syslog: Option<SyslogTarget>,
    /// An address that signed messages are posted to.
    #[serde(default)]
    pub webhook: Option<WebTarget>,
    /// A bucket.
    #[serde(default)]
    pub s3: Option<ObjectTarget>,
}

/// Where a new export begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Begin {
    /// With what comes from the broker's start on.
    Now,
    /// With the log's first leaf.
    #[default]
    Start,
}

/// `[export.file]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTarget {
    /// The file; 0600.
    pub path: PathBuf,
    /// Rotated before it grows beyond this.
    #[serde(default = "hundred_mb")]
    pub max_bytes: u64,
    /// So many rotated files are kept, `.1` the newest.
    #[serde(default = "ten")]
    pub keep: u32,
}

/// `[export.syslog]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyslogTarget {
    /// `host:port`; the port for TLS is 6514.
    pub address: String,
    /// PEM of the authority that signs the receiver's certificate.
    pub ca_file: PathBuf,
    /// The name in its certificate, if it is not the address's host.
    #[serde(default)]
    pub server_name: Option<String>,
    /// PEM of the broker's certificate, where the receiver wants one.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// PEM of its key; 0600.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The host's name in the messages.
    #[serde(default = "nil")]
    pub host: String,
    /// Your private enterprise number.
    #[serde(default = "documentation")]
    pub enterprise: u32,
    /// A batch counts as delivered only when the receiver ends the connection with TLS's close_notify.
    #[serde(default)]
    pub clean_close: bool,
}

/// `[export.webhook]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebTarget {
    /// Where each event is posted.
    pub url: String,
    /// Files with a secret each, the one in use first.
    pub secret_files: Vec<PathBuf>,
}

/// `[export.s3]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectTarget {
    /// The bucket.
    pub bucket: String,
    /// Before each object's name; ends in `/`, or is empty.
    #[serde(default)]
    pub prefix: String,
    /// Its region.
    pub region: String,
    /// Where it is, if not at AWS.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// File with the access key id.
    pub access_key_id_file: PathBuf,
    /// File with the secret access key.
    pub secret_access_key_file: PathBuf,
    /// File with the session token.
    #[serde(default)]
    pub session_token_file: Option<PathBuf>,
    /// An object is written at least this often, if there is anything to write.
    #[serde(default = "minute")]
    pub every: String,
}

impl ExportSection {
    /// How far it may be behind as a gate, in milliseconds.
    #[must_use]
    pub fn gate_ms(&self) -> i64 {
        i64::from(parse_ttl(&self.gate_after).unwrap_or(60)) * 1000
    }

    /// Paths start at this folder.
    pub fn rebase(&mut self, base: &Path) {
        let mut paths: Vec<&mut PathBuf> = Vec::new();
        paths.extend(self.file.iter_mut().map(|f| &mut f.path));
        if let Some(s) = &mut self.syslog {
            paths.push(&mut s.ca_file);
            paths.extend(s.certificate_file.iter_mut());
            paths.extend(s.key_file.iter_mut());
        }
        paths.extend(self.webhook.iter_mut().flat_map(|w| &mut w.secret_files));
        if let Some(s) = &mut self.s3 {
            paths.push(&mut s.access_key_id_file);
            paths.push(&mut s.secret_access_key_file);
            paths.extend(s.session_token_file.iter_mut());
        }
        for path in paths {
            *path = base.join(&*path);
        }
    }

    /// What is wrong with it.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut fault = |what: String| out.push(format!("export `{}`: {what}", self.name));
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !(1..=64).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            fault("name: want 1 to 64 of a-z, 0-9 and -".into());
        }
        let targets =
            [self.file.is_some(), self.syslog.is_some(), self.webhook.is_some(), self.s3.is_some()];
        if targets.iter().filter(|t| **t).count() != 1 {
            fault("want exactly one of [export.file], [export.syslog], [export.webhook] and [export.s3]".into());
        }
        if let Err(e) = parse_ttl(&self.gate_after) {
            fault(format!("gate_after: {e}"));
        }
        if self.syslog.is_some() != (self.format == Format::Syslog) && self.file.is_none() {
            fault(
                "format: syslog goes to [export.syslog] or a file, and nothing else goes there"
                    .into(),
            );
        }
        if let Some(file) = &self.file
            && (file.max_bytes < 4096 || file.keep > 10_000)
        {
            fault("file: max_bytes is at least 4096, keep at most 10000".into());
        }
        if let Some(syslog) = &self.syslog {
            let port = syslog.address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                fault("syslog.address: want host:port, for example siem.example.org:6514".into());
            }
            if syslog.certificate_file.is_some() != syslog.key_file.is_some() {
                fault("syslog: certificate_file and key_file need each other".into());
            }
        }
        if let Some(web) = &self.webhook {
            if safe_url(&web.url).is_none() {
                fault("webhook.url: want https://…, without a name or password in it".into());
            }
            if !(1..=MOST_SECRETS).contains(&web.secret_files.len()) {
                fault(format!("webhook.secret_files: want 1 to {MOST_SECRETS} files"));
            }
        }
        if let Some(s3) = &self.s3 {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
            let ended = s3.prefix.is_empty() || s3.prefix.ends_with('/');
            if !s3.prefix.bytes().all(plain) || !ended || s3.prefix.len() > 256 {
                fault("s3.prefix: want letters, digits, - _ . and /, ending in /".into());
            }
            if s3.bucket.is_empty() || !s3.bucket.bytes().all(|b| plain(b) && b != b'/') {
                fault("s3.bucket: want a bucket's name".into());
            }
            if s3.endpoint.as_deref().is_some_and(|e| safe_url(e).is_none()) {
                fault("s3.endpoint: want https://…".into());
            }
            match parse_ttl(&s3.every) {
                Ok(_) => {}
                Err(e) => fault(format!("s3.every: {e}")),
            }
        }
        out
    }
}

fn minute() -> String {
    "60s".into()
}

fn nil() -> String {
    "-".into()
}

fn hundred_mb() -> u64 {
    100 << 20
}

fn ten() -> u32 {
    10
}

fn documentation() -> u32 {
    DOCUMENTATION_ENTERPRISE
}
