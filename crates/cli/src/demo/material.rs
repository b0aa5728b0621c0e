//! What the demo writes into its folder: scopes, policies, and the configurations of both processes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use grantwright_domain::time::parse_ttl;

use super::dir::DemoDir;
use super::env::Line;
use crate::config::{AwsSettings, DemoSettings};
use crate::exit::Failure;
use crate::files;

/// SPIFFE trust domain of the demo.
pub const TRUST_DOMAIN: &str = "demo.grantwright.example";
/// Role that the AWS scopes assume, unless `GRANTWRIGHT_DEMO_ROLE_ARN` names another.
const ROLE_ARN: &str = "arn:aws:iam::123456789012:role/grantwright-demo";

/// Scopes by file name.
pub const SCOPES: [(&str, &str); 3] = [
    ("aws.toml", include_str!("../../demo/scopes/aws.toml")),
    ("demo.toml", include_str!("../../demo/scopes/demo.toml")),
    ("vault.toml", include_str!("../../demo/scopes/vault.toml")),
];
/// Policies by file name.
pub const POLICIES: [(&str, &str); 4] = [
    ("approve.cedar", include_str!("../../demo/policy/approve.cedar")),
    ("never.cedar", include_str!("../../demo/policy/never.cedar")),
    ("routine.cedar", include_str!("../../demo/policy/routine.cedar")),
    ("sensitive.cedar", include_str!("../../demo/policy/sensitive.cedar")),
];

/// Scopes and policies as they were written: text by file.
#[derive(Debug, Default)]
pub struct Written {
    /// Cedar.
    pub policies: BTreeMap<String, String>,
    /// TOML.
    pub scopes: BTreeMap<String, String>,
}

/// Ports to listen on; 0 lets the system choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ports {
    /// The broker's gRPC.
    pub grpc: u16,
    /// The broker's HTTP.
    pub http: u16,
    /// The sidecar's HTTP.
    pub sidecar: u16,
    /// The witness's HTTP.
    pub witness: u16,
}

/// Writes scopes and policies as plain files, and gives them back as the API takes them.
///
/// # Errors
/// When the folder cannot be written, or the role of the environment is not an ARN.
pub fn write_policies(dir: &DemoDir, settings: &DemoSettings) -> Result<Written, Failure> {
    let role = settings.role_arn.as_deref().unwrap_or(ROLE_ARN);
    let plain = |c: char| c.is_ascii_alphanumeric() || "+=,.@_/:-".contains(c);
    if !role.starts_with("arn:") || !role.chars().all(plain) {
        return Err(Failure::unable(format!("GRANTWRIGHT_DEMO_ROLE_ARN: `{role}` is not an ARN")));
    }
    let mut out = Written::default();
    let policy = dir.make("policy")?;
    for (name, text) in POLICIES {
        files::write_private(&policy.join(name), text)?;
        out.policies.insert(name.to_owned(), text.to_owned());
    }
    let scopes = dir.make("scopes")?;
    for (name, text) in SCOPES {
        let text = text.replace(ROLE_ARN, role);
        files::write_private(&scopes.join(name), &text)?;
        out.scopes.insert(name.to_owned(), text);
    }
    Ok(out)
}

/// Writes `broker.toml`, and the keys and tokens it names into files of their own.
///
/// # Errors
/// When the folder cannot be written, or a variable of the demo is not of its form.
pub fn write_broker(dir: &DemoDir, settings: &DemoSettings, ports: Ports) -> Result<(), Failure> {
    let aws = dir.make("aws")?;
    for (name, secret) in aws_files(settings.aws.as_ref()) {
        let path = aws.join(name);
        match secret {
            Some(secret) => files::write_private(&path, secret)?,
            None => drop(std::fs::remove_file(&path)),
        }
    }
    let token = dir.make("vault")?.join("token");
    match &settings.vault {
        Some(vault) => files::write_private(&token, &vault.token)?,
        None => drop(std::fs::remove_file(&token)),
    }
    let store = store_url(dir)?;
    let mut config = broker_toml(settings, ports, &store)?;
    let key = dir.file(WITNESS_KEY);
    if ports.witness != 0 && key.is_file() {
        config.push_str(&witness_toml(files::read_secret(&key)?.as_str(), ports));
    }
    files::write_private(&dir.file("broker.toml"), &config)
}

/// The witness's key.
pub const WITNESS_KEY: &str = "witness/witness.vkey";

/// The part of `broker.toml` that names the witness.
pub fn witness_toml(vkey: &str, ports: Ports) -> String {
    format!(
        "\n[[log.witness]]\n\
         vkey = {}\n\
         url = \"http://127.0.0.1:{}\"\n",
        text(vkey),
        ports.witness,
    )
}

/// The store's URL; the path in it is absolute.
///
/// # Errors
/// When the path is not UTF-8.
pub fn store_url(dir: &DemoDir) -> Result<String, Failure> {
    let path = dir.file("store.db");
    let path = path.to_str().ok_or_else(|| Failure::unable("the folder's path is not UTF-8"))?;
    Ok(format!("sqlite://{path}"))
}

fn aws_files(aws: Option<&AwsSettings>) -> [(&'static str, Option<&str>); 3] {
    [
        ("access-key-id", aws.map(|a| a.access_key_id.as_str())),
        ("secret-access-key", aws.map(|a| a.secret_access_key.as_str())),
        ("session-token", aws.and_then(|a| a.session_token.as_deref())),
    ]
}

fn limit(name: &str, given: Option<&str>, otherwise: u32) -> Result<u32, Failure> {
    let Some(text) = given else { return Ok(otherwise) };
    text.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(|| {
        Failure::unable(format!("GRANTWRIGHT_DEMO_{name}: `{text}` is not a positive integer"))
    })
}

/// The text of `broker.toml`.
///
/// # Errors
/// When a variable of the demo is not of its form.
pub fn broker_toml(settings: &DemoSettings, ports: Ports, store: &str) -> Result<String, Failure> {
    let pending = settings.pending_ttl.as_deref().unwrap_or("1h");
    parse_ttl(pending)
        .map_err(|e| Failure::unable(format!("GRANTWRIGHT_DEMO_PENDING_TTL: {e}")))?;
    let life = settings.certificate_life.as_deref().unwrap_or("1h");
    parse_ttl(life)
        .map_err(|e| Failure::unable(format!("GRANTWRIGHT_DEMO_CERTIFICATE_LIFE: {e}")))?;
    let asks = limit("ASKS_PER_SECOND", settings.asks_per_second.as_deref(), 50)?;
    let open = limit("OPEN_REQUESTS", settings.open_requests.as_deref(), 20)?;
    let mut out = format!(
        "# Written by `grantwright demo` at each start. Paths are relative to this folder.\n\
         public_url = \"auto\"\n\
         ready_file = \"broker.ready\"\n\n\
         [listen]\n\
         grpc = \"127.0.0.1:{}\"\n\
         http = \"127.0.0.1:{}\"\n\n\
         [store]\n\
         url = {}\n\n\
         [keys]\n\
         dir = \"keys\"\n\n\
         [log]\n\
         # The demo's log holds nothing private; elsewhere entries are for `security`.\n\
         open_entries = true\n\n\
         [limits]\n\
         open_requests_per_agent = {open}\n\
         asks_per_second = {asks}\n\
         pending_ttl = {}\n\
         deny_sticky = \"10m\"\n\
         certificate_life = {}\n\n\
         [[minter]]\n\
         name = \"jwt\"\n\
         kind = \"jwt\"\n\
         algorithm = \"EdDSA\"\n",
        ports.grpc,
        ports.http,
        text(store),
        text(pending),
        text(life),
    );
    let _ = match &settings.aws {
        Some(aws) => {
            let session = match aws.session_token {
                Some(_) => "session_token_file = \"aws/session-token\"\n",
                None => "",
            };
            write!(
                out,
                "\n[[minter]]\n\
                 name = \"aws\"\n\
                 kind = \"sts\"\n\
                 region = {}\n\
                 endpoint = {}\n\
                 access_key_id_file = \"aws/access-key-id\"\n\
                 secret_access_key_file = \"aws/secret-access-key\"\n{session}",
                text(&aws.region),
                text(&aws.endpoint),
            )
        }
        None => unconfigured(&mut out, "aws", "sts", &settings.aws_absent),
    };
    let _ = match &settings.vault {
        Some(vault) => {
            let mut more = String::new();
            for (key, value) in [("namespace", &vault.namespace), ("ca_file", &vault.ca_file)] {
                if let Some(value) = value {
                    let _ = writeln!(more, "{key} = {}", text(value));
                }
            }
            write!(
                out,
                "\n[[minter]]\n\
                 name = \"vault\"\n\
                 kind = \"vault\"\n\
                 address = {}\n\
                 {more}\
                 login = {{ method = \"token\", token_file = \"vault/token\" }}\n",
                text(&vault.address),
            )
        }
        None => unconfigured(&mut out, "vault", "vault", &settings.vault_absent),
    };
    Ok(out)
}

fn unconfigured(out: &mut String, name: &str, backend: &str, reason: &str) -> std::fmt::Result {
    write!(
        out,
        "\n[[minter]]\nname = {}\nkind = \"unconfigured\"\nbackend = {}\nreason = {}\n",
        text(name),
        text(backend),
        text(reason)
    )
}

/// Writes `sidecar.toml`.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_sidecar(dir: &DemoDir, ports: Ports) -> Result<(), Failure> {
    let socket = dir.socket();
    let socket =
        socket.to_str().ok_or_else(|| Failure::unable("the folder's path is not UTF-8"))?;
    files::write_private(&dir.file("sidecar.toml"), &sidecar_toml(ports, socket))
}

/// The text of `sidecar.toml`.
pub fn sidecar_toml(ports: Ports, socket: &str) -> String {
    format!(
        "# Written by `grantwright demo` at each start. Paths are relative to this folder.\n\
         brokers = [\"https://127.0.0.1:{}\"]\n\
         trust_bundle = \"keys/ca.pem\"\n\
         trust_domain = \"{TRUST_DOMAIN}\"\n\
         join_token_file = \"join.token\"\n\
         state_dir = \"sidecar\"\n\
         checkpoint_file = \"sidecar/checkpoint\"\n\
         listen = \"127.0.0.1:{}\"\n\
         socket = {}\n\
         token_file = \"agent.token\"\n\
         aws_token_file = \"aws.token\"\n\
         console = \"http://localhost:{}\"\n\
         ready_file = \"sidecar.ready\"\n",
        ports.grpc,
        ports.sidecar,
        text(socket),
        ports.http,
    )
}

/// A TOML string.
fn text(value: &str) -> String {
    toml::Value::from(value).to_string()
}

/// What `DIR/env` says.
pub struct Facts<'a> {
    /// The folder.
    pub dir: &'a DemoDir,
    /// Where both listen.
    pub ports: Ports,
    /// The log's verifier key.
    pub vkey: &'a str,
    /// Bob's one-time links: to sign in, and to enrol a passkey.
    pub links: (&'a str, &'a str),
    /// Process ids of broker and sidecar.
    pub pids: (u32, u32),
}

/// The lines of `DIR/env`.
///
/// # Errors
/// When the folder cannot be written: AWS's empty files are made here.
pub fn env_lines(facts: &Facts<'_>) -> Result<Vec<Line>, Failure> {
    let Facts { dir, ports, vkey, links, pids } = facts;
    let path = |name: &str| dir.file(name).display().to_string();
    let aws = dir.make("aws")?;
    for empty in ["empty-config", "empty-credentials"] {
        files::write_private(&aws.join(empty), "")?;
    }
    let sidecar = format!("http://127.0.0.1:{}", ports.sidecar);
    let witness = files::read_secret(&dir.file(WITNESS_KEY))?;
    let mut lines = vec![
        Line::Export("GRANTWRIGHT_BROKER", format!("https://127.0.0.1:{}", ports.grpc)),
        Line::Export("GRANTWRIGHT_CONSOLE", format!("http://localhost:{}", ports.http)),
        Line::Export("GRANTWRIGHT_SIDECAR", sidecar.clone()),
        Line::Export("GRANTWRIGHT_SIDECAR_SOCKET", dir.socket().display().to_string()),
        Line::Export("GRANTWRIGHT_TOKEN_FILE", path("agent.token")),
        Line::Export("GRANTWRIGHT_HUMANS", path("humans")),
        Line::Export("GRANTWRIGHT_LOGIN_BOB", links.0.to_owned()),
        Line::Export("GRANTWRIGHT_ENROL_BOB", links.1.to_owned()),
        Line::Export("GRANTWRIGHT_CHECKPOINT", path("sidecar/checkpoint")),
        Line::Export("GRANTWRIGHT_STORE", store_url(dir)?),
        Line::Export("GRANTWRIGHT_LOG", format!("http://127.0.0.1:{}/log", ports.http)),
        Line::Export("GRANTWRIGHT_LOG_VKEY", (*vkey).to_owned()),
        Line::Export("GRANTWRIGHT_WITNESS", format!("http://127.0.0.1:{}", ports.witness)),
        Line::Export("GRANTWRIGHT_WITNESS_VKEY", witness),
        Line::Export("GRANTWRIGHT_BROKER_PID", pids.0.to_string()),
        Line::Export("GRANTWRIGHT_SIDECAR_PID", pids.1.to_string()),
        Line::Export(
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{sidecar}/aws/aws.s3-read?bucket=demo&prefix=public/"),
        ),
        Line::Export("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path("aws.token")),
    ];
    lines.extend(super::env::AWS_UNSET.map(Line::Unset));
    lines.push(Line::Export("AWS_CONFIG_FILE", path("aws/empty-config")));
    lines.push(Line::Export("AWS_SHARED_CREDENTIALS_FILE", path("aws/empty-credentials")));
    Ok(lines)
}

#[cfg(test)]
mod tests;
