//! `grantwright helper ssh-agent`: an agent (draft-ietf-sshm-ssh-agent) with one key, made here or the
//! sidecar's own, never written anywhere, whose certificate the broker signs and renews. It lists, it signs,
//! and nothing else.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::config::Settings;
use crate::door::Door;
use crate::exec::ask::{Asked, Granted, Wanted, renew_again};
use crate::exec::child::{Child, end_signal};
use crate::exit::{Exit, Failure};
use crate::output::{Out, clean};

/// Longest message that is read, in bytes, as OpenSSH has it.
const MOST_MESSAGE: usize = 256 * 1024;
/// Connections at the same time.
const MOST_CONNECTIONS: usize = 64;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// `grantwright helper ssh-agent`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The scope gives an OpenSSH certificate for a public key. With a command, that \
                  command finds the agent in SSH_AUTH_SOCK and everything ends with it; without, the \
                  agent serves until SIGTERM."
)]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// The scope's parameter that takes the public key.
    #[arg(long, value_name = "NAME", default_value = "public_key")]
    key_param: String,
    /// Use the sidecar's own key for the scope: the same at every start, so that what was asked before is
    /// asked identically.
    #[arg(long, conflicts_with = "key_param")]
    sidecar_key: bool,
    /// The agent's socket, in a folder that only this user can enter; a fresh one unless given.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// Runs it.
///
/// # Errors
/// When there was no certificate, the socket cannot be made, or the command not be run.
pub async fn run(out: &Out, settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let own = if args.sidecar_key {
        None
    } else {
        Some(Ed25519KeyPair::generate().map_err(|_| Failure::unable("no randomness"))?)
    };
    let door = Door::open(settings)?;
    let mut asked = match &own {
        None => args.wanted.ask(&door)?,
        Some(key) => {
            let public = blob(&[b"ssh-ed25519", key.public_key().as_ref()]);
            let line = format!("ssh-ed25519 {}", base64(&public));
            args.wanted.with(&args.key_param, &line).ask(&door)?
        }
    };
    let mut signal = Box::pin(end_signal());
    asked.fresh()?;
    let mut granted = tokio::select! {
        granted = asked.granted(out, None) => granted?,
        signal = &mut signal => {
            asked.cancel().await;
            return Ok(Exit::Child(128 + signal?));
        }
    };
    asked.done();
    let key = own.map_or_else(|| sidecars(&granted), Ok);
    let ended = async {
        let agent = Arc::new(Agent { key: key?, certificate: Mutex::default() });
        agent.show(&granted)?;
        let home = Home::make(settings, args.socket)?;
        let listener = home.listen()?;
        let variables = vec![("SSH_AUTH_SOCK".to_owned(), home.socket.display().to_string())];
        let mut child = match args.command.split_first() {
            Some((program, arguments)) => Some(Child::start(program, arguments, variables)?),
            None => {
                out.line(format!(
                    "SSH_AUTH_SOCK='{}'; export SSH_AUTH_SOCK;",
                    home.socket.display()
                ));
                None
            }
        };
        let ends = async {
            match &mut child {
                Some(child) => child.ended().await.map_err(Failure::unable),
                None => signal.await.map(|_| Exit::Done),
            }
        };
        tokio::select! {
            ended = ends => ended,
            () = Arc::clone(&agent).serve(listener) => Err(Failure::unable("the socket is gone")),
            never = keep(out, &mut asked, &mut granted, &agent) => match never {},
        }
    }
    .await;
    asked.cancel().await;
    granted.release(&door).await;
    ended
}

async fn keep(
    out: &Out,
    asked: &mut Asked,
    granted: &mut Granted,
    agent: &Agent,
) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(granted.until_renewal()).await;
        let renewed = match asked.fresh() {
            Ok(()) => asked.granted(out, None).await,
            Err(failure) => Err(failure),
        };
        match renewed.and_then(|fresh| agent.show(&fresh).map(|()| fresh)) {
            Ok(fresh) => {
                asked.done();
                *granted = fresh;
            }
            Err(failure) => {
                out.note(format!("not renewed: {}", clean(&failure.to_string())));
                tokio::time::sleep(renew_again(&failure, granted.until_end())).await;
            }
        }
    }
}

/// The key that came with the certificate.
fn sidecars(granted: &Granted) -> Result<Ed25519KeyPair, Failure> {
    let [pem] = granted.texts(["private_key"])?;
    from_openssh(&pem).ok_or_else(|| Failure::unable("the sidecar's key is not Ed25519"))
}

/// Reads an unencrypted private key of Ed25519 (OpenSSH's PROTOCOL.key).
fn from_openssh(pem: &str) -> Option<Ed25519KeyPair> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let whole = from_base64(&body)?;
    let mut rest = whole.strip_prefix(b"openssh-key-v1\0")?;
    for plain in [&b"none"[..], b"none", b""] {
        if take(&mut rest)? != plain {
            return None;
        }
    }
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let (_public, mut inner) = (take(&mut rest)?, take(&mut rest)?);
    let (_checks, tail) = inner.split_first_chunk::<8>()?;
    inner = tail;
    let (kind, public, private) = (take(&mut inner)?, take(&mut inner)?, take(&mut inner)?);
    let fits = *count == 1u32.to_be_bytes() && kind == b"ssh-ed25519" && private.len() == 64;
    let seed = private.get(..32).filter(|_| fits)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()
}

/// The socket, and the folder that was made for it.
struct Home {
    socket: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Home {
    fn make(settings: &Settings, given: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(socket) = given {
            let folder = socket.parent().filter(|it| !it.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            let mode = std::fs::metadata(folder).map_err(|e| Failure::file(folder, &e))?;
            if mode.permissions().mode() & 0o077 != 0 {
                let shown = folder.display();
                return Err(Failure::unable(format!(
                    "`{shown}` is open to others: want mode 0700"
                )));
            }
            return Ok(Self { socket, _folder: None });
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix("grantwright-ssh-").permissions(std::fs::Permissions::from_mode(0o700));
        let made = match settings.runtime_dir.as_deref().filter(|it| it.is_dir()) {
            Some(runtime) => builder.tempdir_in(runtime),
            None => builder.tempdir(),
        };
        let folder = made.map_err(|e| Failure::unable(format!("no folder for the socket: {e}")))?;
        Ok(Self { socket: folder.path().join("agent.sock"), _folder: Some(folder) })
    }

    fn listen(&self) -> Result<UnixListener, Failure> {
        let fault = |e: std::io::Error| Failure::file(&self.socket, &e);
        let listener = UnixListener::bind(&self.socket).map_err(fault)?;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&self.socket, private).map_err(fault)?;
        Ok(listener)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The key, and the certificate in force.
struct Agent {
    key: Ed25519KeyPair,
    certificate: Mutex<Certificate>,
}

#[derive(Default)]
struct Certificate {
    blob: Vec<u8>,
    ends_ms: i64,
}

impl Agent {
    /// Takes a certificate that is for this agent's key.
    fn show(&self, granted: &Granted) -> Result<(), Failure> {
        let [line] = granted.texts(["ssh_certificate"])?;
        let blob = line
            .strip_prefix("ssh-ed25519-cert-v01@openssh.com ")
            .and_then(|rest| from_base64(rest.split_whitespace().next()?))
            .filter(|blob| certifies(blob, self.key.public_key().as_ref()))
            .ok_or_else(|| Failure::unable("what the scope gave is no certificate for this key"))?;
        let ends_ms = granted.expires_at.millis();
        *self.certificate.lock().unwrap_or_else(PoisonError::into_inner) =
            Certificate { blob, ends_ms };
        Ok(())
    }

    /// The certificate, unless it has ended.
    fn certificate(&self) -> Option<Vec<u8>> {
        let certificate = self.certificate.lock().unwrap_or_else(PoisonError::into_inner);
        (crate::config::now().millis() < certificate.ends_ms).then(|| certificate.blob.clone())
    }

    async fn serve(self: Arc<Self>, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let own = rustix::process::geteuid().as_raw();
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) if stream.peer_cred().is_ok_and(|it| it.uid() == own) => {
                    let agent = Arc::clone(&self);
                    tokio::spawn(async move {
                        let _ = agent.attend(stream).await;
                        drop(place);
                    });
                }
                Ok(_) => {}
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn attend(&self, mut stream: UnixStream) -> std::io::Result<()> {
        loop {
            let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
            if length == 0 || length > MOST_MESSAGE {
                return Ok(());
            }
            let mut message = vec![0; length];
            stream.read_exact(&mut message).await?;
            let answer = self.answer(&message).unwrap_or_else(|| vec![FAILURE]);
            stream.write_all(&string(&answer)).await?;
        }
    }

    /// The answer; none where it is a failure.
    fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (kind, mut rest) = message.split_first()?;
        match *kind {
            REQUEST_IDENTITIES => {
                let certificate = self.certificate();
                let mut answer = vec![IDENTITIES_ANSWER];
                answer.extend(u32::from(certificate.is_some()).to_be_bytes());
                if let Some(certificate) = certificate {
                    answer.extend(string(&certificate));
                    answer.extend(string(b"grantwright"));
                }
                Some(answer)
            }
            SIGN_REQUEST => {
                let (key, data) = (take(&mut rest)?, take(&mut rest)?);
                if self.certificate()?.as_slice() != key {
                    return None;
                }
                let signature = blob(&[b"ssh-ed25519", self.key.sign(data).as_ref()]);
                let mut answer = vec![SIGN_RESPONSE];
                answer.extend(string(&signature));
                Some(answer)
            }
            _ => None,
        }
    }
}

/// The certificate's own key (PROTOCOL.certkeys: type, nonce, then the key) is this one.
fn certifies(mut certificate: &[u8], key: &[u8]) -> bool {
    let mut next = || take(&mut certificate);
    matches!(
        (next(), next(), next()),
        (Some(b"ssh-ed25519-cert-v01@openssh.com"), Some(_), Some(own)) if own == key
    )
}

/// The next string of a message.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (string, after) = after.split_at_checked(length)?;
    *rest = after;
    Some(string)
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

fn blob(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| string(part)).collect()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).ok()
}

impl Wanted {
    /// The same with one parameter more.
    fn with(&self, name: &str, value: &str) -> Self {
        let mut wanted = self.clone();
        wanted.add_param(name, Value::from(value));
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent() -> Agent {
        let key = Ed25519KeyPair::generate().unwrap();
        let certificate = Certificate { blob: b"certificate".to_vec(), ends_ms: i64::MAX };
        Agent { key, certificate: certificate.into() }
    }

    #[test]
    fn it_lists_and_signs_with_its_certificate_only() {
        let agent = agent();
        let listed = agent.answer(&[REQUEST_IDENTITIES]).unwrap();
        assert_eq!(listed[..5], [IDENTITIES_ANSWER, 0, 0, 0, 1]);
        let sign = |key: &[u8]| {
            let mut message = vec![SIGN_REQUEST];
            message.extend(blob(&[key, b"data"]));
            message.extend([0; 4]);
            agent.answer(&message)
        };
        let signed = sign(b"certificate").unwrap();
        let mut rest = &signed[1..];
        let mut signature = take(&mut rest).unwrap();
        assert_eq!(take(&mut signature), Some(&b"ssh-ed25519"[..]));
        let public = agent.key.public_key().as_ref().to_vec();
        aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, public)
            .verify(b"data", take(&mut signature).unwrap())
            .unwrap();
        assert!(sign(b"another").is_none());
        for strange in [&[][..], &[17, 0, 0, 0, 0], &[SIGN_REQUEST, 255, 255, 255, 255], &[27]] {
            assert!(agent.answer(strange).is_none());
        }
    }

    #[test]
    fn an_ended_certificate_is_no_key() {
        let agent = agent();
        agent.certificate.lock().unwrap().ends_ms = 0;
        assert_eq!(agent.answer(&[REQUEST_IDENTITIES]).unwrap(), [IDENTITIES_ANSWER, 0, 0, 0, 0]);
    }

    #[test]
    fn a_certificate_for_another_key_is_not_shown() {
        let key = [7; 32];
        let made = blob(&[b"ssh-ed25519-cert-v01@openssh.com", b"nonce", &key]);
        assert!(certifies(&made, &key));
        assert!(!certifies(&made, &[8; 32]));
        assert!(!certifies(&made[..40], &key));
    }
}
