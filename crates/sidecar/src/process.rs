//! Which process is at the other end of the unix socket: once per connection, from the kernel.
//!
//! The number of a process alone names nobody for long: the process may end while its files under
//! `/proc` are read, and another may get its number. So the socket itself gives a handle of the very
//! process that connected (`SO_PEERPIDFD`, Linux 6.5), everything is read, and what was read counts
//! only if that process still lives after it. Where there is no such handle, only user and group are
//! told, which the kernel pinned when the connection was made.
//!
//! What a process of the same user can do to another (trace it, preload a library, connect and then
//! become another program) is not seen here: `docs/agents.md` says what this is worth.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use grantwright_domain::process::MAX_LOCAL_PATH;
use grantwright_domain::{Digest, LocalProcess, canonical};
use nix::sys::socket::{getsockopt, sockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sha2::{Digest as _, Sha256};

use crate::guard::Peer;

/// Largest executable that is digested: 512 MiB.
const MOST_EXE: u64 = 512 << 20;
/// Most digests that are remembered.
const MOST_DIGESTS: usize = 64;
/// How often a process that becomes another program meanwhile is looked at again.
const LOOKS: usize = 3;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// How it came in.
    pub(crate) peer: Peer,
    /// What was seen of the process; absent on TCP.
    pub(crate) process: Option<Arc<LocalProcess>>,
    /// Stands before the raw bytes of its calls in the cache, so that no other workload is answered
    /// with what this one was given. Empty on TCP; else no call begins with its first byte.
    pub(crate) mark: Arc<[u8]>,
}

impl Caller {
    /// Over loopback TCP: its token names it.
    pub(crate) fn tcp() -> Self {
        Self { peer: Peer::Tcp, process: None, mark: Arc::new([]) }
    }

    fn unix(peer: Peer, process: LocalProcess) -> Self {
        let same = canonical::digest("local-process", &process.identity());
        let mark = same.map_or_else(|_| vec![2], |digest| [&[1], digest.0.as_slice()].concat());
        Self { peer, process: Some(Arc::new(process)), mark: mark.into() }
    }

    /// The bytes of a call as the cache knows them.
    pub(crate) fn marked(&self, raw: &[u8]) -> Vec<u8> {
        [&self.mark, raw].concat()
    }
}

/// What makes a file the same as one that was digested before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(file: &File) -> std::io::Result<Self> {
        let it = file.metadata()?;
        Ok(Self {
            device: it.dev(),
            inode: it.ino(),
            size: it.size(),
            modified: (it.mtime(), it.mtime_nsec()),
            changed: (it.ctime(), it.ctime_nsec()),
        })
    }
}

/// Digests of executables that were met.
#[derive(Default)]
pub(crate) struct Programs {
    known: Mutex<HashMap<Version, Digest>>,
    /// One is read at a time: many connections of a new program cost one reading.
    reading: tokio::sync::Mutex<()>,
}

/// Looks who connected. `user`: whose calls this socket is for.
pub(crate) async fn identify(stream: impl AsFd, user: u32, programs: &Programs) -> Caller {
    let Ok(told) = getsockopt(&stream, sockopt::PeerCredentials) else {
        let nobody = LocalProcess {
            uid: u32::MAX,
            gid: u32::MAX,
            pid: None,
            exe: None,
            exe_digest: None,
            cgroup: None,
            container: None,
        };
        return Caller::unix(Peer::OtherUser, nobody);
    };
    let uid = told.uid();
    let peer = if uid == user { Peer::SameUser } else { Peer::OtherUser };
    let bare = LocalProcess {
        uid,
        gid: told.gid(),
        // 0: not visible from here, as of a process in another namespace.
        pid: u32::try_from(told.pid()).ok().filter(|pid| *pid != 0),
        exe: None,
        exe_digest: None,
        cgroup: None,
        container: None,
    };
    // Who is refused anyway is not looked at further.
    let handle = match peer {
        Peer::SameUser => getsockopt(&stream, sockopt::PeerPidfd).ok(),
        _ => None,
    };
    let Some(handle) = handle else { return Caller::unix(peer, bare) };
    for _ in 0..LOOKS {
        if let Some(seen) = look(&bare, &handle, programs).await {
            return Caller::unix(peer, seen);
        }
    }
    Caller::unix(peer, bare)
}

/// Everything `/proc` says, if it is of the process of this handle; none if that ended or became
/// another program while it was read.
async fn look(bare: &LocalProcess, handle: &OwnedFd, programs: &Programs) -> Option<LocalProcess> {
    let folder = PathBuf::from(format!("/proc/{}", bare.pid?));
    let mut seen = bare.clone();
    // The link itself opens the program that runs, also one that was replaced on the disk since.
    let program = File::open(folder.join("exe")).ok();
    let version = program.as_ref().and_then(|it| Version::of(it).ok());
    seen.exe = std::fs::read_link(folder.join("exe"))
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .filter(|path| fits(path));
    if let (Some(program), Some(version)) = (program, version) {
        seen.exe_digest = programs.digest(program, version).await;
    }
    let groups = std::fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
    seen.cgroup = cgroup(&groups).filter(|path| fits(path)).map(ToOwned::to_owned);
    seen.container = seen.cgroup.as_deref().and_then(container).map(ToOwned::to_owned);
    let now = File::open(folder.join("exe")).ok().and_then(|it| Version::of(&it).ok());
    let same = now.map(|it| (it.device, it.inode)) == version.map(|it| (it.device, it.inode));
    (same && lives(handle)).then_some(seen)
}

/// The number still is that process's: its handle tells when it ends.
fn lives(handle: &OwnedFd) -> bool {
    let mut ends = [PollFd::new(handle, PollFlags::IN)];
    matches!(poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

fn fits(path: &str) -> bool {
    (1..=MAX_LOCAL_PATH).contains(&path.len())
}

impl Programs {
    async fn digest(&self, program: File, version: Version) -> Option<Digest> {
        if let Some(known) = self.known(version) {
            return Some(known);
        }
        if version.size > MOST_EXE {
            return None;
        }
        let _one = self.reading.lock().await;
        if let Some(known) = self.known(version) {
            return Some(known);
        }
        let digest = tokio::task::spawn_blocking(move || read(program, version)).await.ok()??;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_DIGESTS {
            known.clear();
        }
        known.insert(version, digest);
        Some(digest)
    }

    fn known(&self, version: Version) -> Option<Digest> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&version).copied()
    }
}

/// The digest of the file's bytes; none if it grew or changed under the reading.
fn read(mut program: File, version: Version) -> Option<Digest> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    let mut left = version.size;
    loop {
        let count = program.read(&mut piece).ok()?;
        if count == 0 {
            break;
        }
        left = left.checked_sub(count as u64)?;
        hash.update(piece.get(..count)?);
    }
    (left == 0 && Version::of(&program).ok()? == version).then(|| Digest(hash.finalize().into()))
}

/// The control group of `/proc/<pid>/cgroup`: that of version 2, or the first of version 1 that is
/// not the root.
fn cgroup(text: &str) -> Option<&str> {
    let mut paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
    match unified {
        Some(path) if path != "/" => Some(path),
        _ => paths.find(|path| *path != "/").or(unified),
    }
}

/// The id of the container whose runtime made this control group: the last run of exactly 64
/// hexadecimal digits, as Docker, containerd, CRI-O and Podman write it.
fn container(cgroup: &str) -> Option<&str> {
    let is_id =
        |run: &&str| run.len() == 64 && run.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    cgroup.rsplit(|c: char| !c.is_ascii_alphanumeric()).find(is_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_containers() {
        let id = "0123456789abcdef".repeat(4);
        for (path, found) in [
            (format!("/system.slice/docker-{id}.scope"), Some(id.as_str())),
            (format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"), Some(&id)),
            (format!("/docker/{id}"), Some(&id)),
            (format!("/docker/{id}/init.scope"), Some(&id)),
            (format!("/docker/{id}0"), None),
            (format!("/docker/{}", id.to_uppercase()), None),
            ("/user.slice/user-1000.slice".into(), None),
        ] {
            assert_eq!(container(&path), found, "{path}");
        }
        assert_eq!(cgroup("0::/a.slice/b:c.scope\n"), Some("/a.slice/b:c.scope"));
        assert_eq!(cgroup("2:cpu:/\n1:name=systemd:/x\n0::/\n"), Some("/x"));
        assert_eq!(cgroup("0::/\n"), Some("/"));
        assert_eq!(cgroup(""), None);
    }

    #[tokio::test]
    async fn the_process_that_connected_is_seen_and_its_program_is_read_once() {
        let (here, _there) = std::os::unix::net::UnixStream::pair().unwrap();
        let programs = Programs::default();
        let own = rustix::process::geteuid().as_raw();
        let caller = identify(&here, own, &programs).await;
        assert_eq!(caller.peer, Peer::SameUser);
        let seen = caller.process.clone().unwrap();
        assert_eq!((seen.uid, seen.pid), (own, Some(std::process::id())));
        // Kernels before 6.5 give no handle, and then no more is said.
        if getsockopt(&here, sockopt::PeerPidfd).is_ok() {
            let exe = std::env::current_exe().unwrap();
            assert_eq!(seen.exe.as_deref(), exe.to_str());
            let whole = Sha256::digest(std::fs::read(&exe).unwrap());
            assert_eq!(seen.exe_digest, Some(Digest(whole.into())));
            assert_eq!(programs.known.lock().unwrap().len(), 1);
        }
        let again = identify(&here, own, &programs).await;
        assert_eq!((again.mark, again.process), (caller.mark, caller.process));
        // Another user's door: refused, and not looked at.
        let other = identify(&here, own ^ 1, &programs).await;
        assert_eq!(other.peer, Peer::OtherUser);
        assert_eq!(other.process.unwrap().exe, None);
    }

    #[tokio::test]
    async fn a_process_that_ended_is_not_taken_for_whoever_has_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("door");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // A child connects, leaves the connection to nobody, and ends.
        let text = format!(
            "import socket; s = socket.socket(socket.AF_UNIX); s.connect({:?})",
            path.to_str().unwrap()
        );
        let Ok(mut child) =
            std::process::Command::new("python3").args(["-c", text.as_str()]).spawn()
        else {
            return;
        };
        let (stream, _) = listener.accept().unwrap();
        child.wait().unwrap();
        let own = rustix::process::geteuid().as_raw();
        let caller = identify(&stream, own, &Programs::default()).await;
        let seen = caller.process.unwrap();
        assert_eq!(seen.pid, Some(child.id()));
        assert_eq!((&seen.exe, &seen.exe_digest, &seen.cgroup), (&None, &None, &None));
    }

    #[test]
    fn marks_tell_workloads_apart_but_not_runs_of_one() {
        let of = |uid, pid, exe: &str| {
            let process = LocalProcess {
                uid,
                gid: 1,
                pid: Some(pid),
                exe: Some(exe.into()),
                exe_digest: None,
                cgroup: None,
                container: None,
            };
            Caller::unix(Peer::SameUser, process).marked(b"P")
        };
        assert_eq!(of(1, 2, "/a"), of(1, 3, "/a"));
        assert_ne!(of(1, 2, "/a"), of(1, 2, "/b"));
        assert_ne!(of(1, 2, "/a"), of(2, 2, "/a"));
        assert_eq!(Caller::tcp().marked(b"P"), b"P");
    }
}
