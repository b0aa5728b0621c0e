//! Canaries: secrets that a test knows, looked for wherever they must never stand.

use std::io;
use std::path::{Path, PathBuf};

/// The files below `dir` that hold one of `secrets` in the clear, or in hexadecimal, each
/// with the secret's place in the list. Secrets of fewer than eight bytes would be found by chance.
///
/// # Errors
/// When a file cannot be read, or a secret is too short: a search that saw nothing proves nothing.
pub fn sightings(dir: &Path, secrets: &[&[u8]]) -> io::Result<Vec<(PathBuf, usize)>> {
    if secrets.is_empty() || secrets.iter().any(|s| s.len() < 8) {
        return Err(io::Error::other("want secrets of eight bytes or more"));
    }
    let mut found = Vec::new();
    let mut seen = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if !path.is_file() {
                continue;
            }
            seen += 1;
            let bytes = std::fs::read(&path)?;
            for (place, secret) in secrets.iter().enumerate() {
                if spellings(secret).iter().any(|s| holds(&bytes, s)) {
                    found.push((path.clone(), place));
                }
            }
        }
    }
    if seen == 0 {
        return Err(io::Error::other("there is no file to look into"));
    }
    Ok(found)
}

fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
    vec![secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()]
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|w| w == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_the_clear_and_in_hexadecimal_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let secret: &[u8] = b"a secret of a test";
        assert!(sightings(dir.path(), &[secret]).is_err(), "nothing to look into");
        std::fs::write(dir.path().join("clean"), b"nothing here").unwrap();
        assert!(sightings(dir.path(), &[secret]).unwrap().is_empty());
        assert!(sightings(dir.path(), &[b"short"]).is_err());
        std::fs::create_dir(dir.path().join("below")).unwrap();
        let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
        std::fs::write(dir.path().join("below/hex"), format!("x{hex}y")).unwrap();
        std::fs::write(dir.path().join("clear"), [b"...", secret].concat()).unwrap();
        assert_eq!(sightings(dir.path(), &[b"another one", secret]).unwrap().len(), 2);
    }
}
