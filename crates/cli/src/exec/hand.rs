//! How the command gets the credential: in variables of its own environment, or in files that only
//! this user can read and that are gone when the command is.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use crate::config::Settings;
use crate::exit::Failure;

use super::ask::Granted;
use super::part;

/// Variables of the command. It holds secrets, so it has no `Debug`.
pub type Variables = Vec<(String, String)>;

/// Where the credential goes.
pub enum Place {
    /// The usual variables, or those that were named, with the part that each takes.
    Environment(Vec<(String, String)>),
    /// Files.
    Files,
}

impl Place {
    /// From `--env` and `--files`.
    ///
    /// # Errors
    /// What is not of the form `VARIABLE=PART`.
    pub fn parse(named: &[String], files: bool) -> Result<Self, Failure> {
        if files {
            return Ok(Self::Files);
        }
        let pairs = named.iter().map(|given| match given.split_once('=') {
            Some((variable, part)) if is_variable(variable) && !part.is_empty() => {
                Ok((variable.to_owned(), part.to_owned()))
            }
            _ => Err(Failure::unable(format!("--env `{given}`: want VARIABLE=PART"))),
        });
        Ok(Self::Environment(pairs.collect::<Result<_, _>>()?))
    }

    /// The variables for a credential.
    ///
    /// # Errors
    /// When it has no such part, or one that no variable can hold.
    pub fn variables(&self, granted: &Granted) -> Result<Variables, Failure> {
        let Self::Environment(named) = self else { return Ok(Vec::new()) };
        let parts = &granted.credential;
        let mut variables: Variables = if named.is_empty() {
            parts.iter().map(|(name, value)| (usual(name), part(value))).collect()
        } else {
            let found = named.iter().map(|(variable, name)| {
                let value = parts.get(name).ok_or_else(|| {
                    let names: Vec<_> = parts.keys().map(String::as_str).collect();
                    Failure::unable(format!(
                        "the credential has no part `{name}`: it has {}",
                        names.join(", ")
                    ))
                })?;
                Ok((variable.clone(), part(value)))
            });
            found.collect::<Result<_, Failure>>()?
        };
        variables.push(("CREDENTIAL_EXPIRES_AT".into(), granted.expires_at.to_string()));
        if variables.iter().any(|(_, value)| value.contains('\0')) {
            return Err(Failure::unable("a part of the credential does not fit a variable"));
        }
        Ok(variables)
    }
}

/// The variable under which programs look for a part.
fn usual(part: &str) -> String {
    match part {
        "AccessKeyId" => "AWS_ACCESS_KEY_ID".into(),
        "SecretAccessKey" => "AWS_SECRET_ACCESS_KEY".into(),
        "SessionToken" => "AWS_SESSION_TOKEN".into(),
        "Expiration" => "AWS_CREDENTIAL_EXPIRATION".into(),
        other => {
            let plain =
                |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
            format!("CREDENTIAL_{}", other.chars().map(plain).collect::<String>())
        }
    }
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A folder with one file for each part, `credential.json` with all, and for AWS a shared credentials
/// file. It is removed when this is dropped.
pub struct Files(TempDir);

impl Files {
    /// Makes it, where possible in memory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make(settings: &Settings, granted: &Granted) -> Result<Self, Failure> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("grantwright-").permissions(Permissions::from_mode(0o700));
        let made = match settings.runtime_dir.as_deref().filter(|it| it.is_dir()) {
            Some(runtime) => builder.tempdir_in(runtime),
            None => builder.tempdir(),
        };
        let files = Self(made.map_err(|e| Failure::unable(format!("no folder for files: {e}")))?);
        files.write(granted)?;
        Ok(files)
    }

    /// Writes the credential, each file by rename: readers see the old one or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, granted: &Granted) -> Result<(), Failure> {
        for (name, value) in &granted.credential {
            if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
                self.replace(name, &part(value))?;
            }
        }
        if let Ok(shared) = granted.aws_profile() {
            self.replace("aws", &shared)?;
        }
        let whole = serde_json::json!({
            "credential": granted.credential, "expires_at": granted.expires_at,
        });
        self.replace("credential.json", &whole.to_string())
    }

    /// Removes what is in it, once it has expired.
    pub fn clear(&self) {
        let Ok(entries) = std::fs::read_dir(self.0.path()) else { return };
        for entry in entries.flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
    }

    /// The variables that lead there.
    pub fn variables(&self) -> Variables {
        let path = |of: &Path| of.display().to_string();
        let mut variables = vec![("CREDENTIAL_DIR".to_owned(), path(self.0.path()))];
        let aws = self.0.path().join("aws");
        if aws.exists() {
            variables.push(("AWS_SHARED_CREDENTIALS_FILE".into(), path(&aws)));
        }
        variables
    }

    fn replace(&self, name: &str, text: &str) -> Result<(), Failure> {
        let path = self.0.path().join(name);
        // 0600, as temporary files are.
        let written = tempfile::NamedTempFile::new_in(self.0.path()).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.persist(&path).map_err(|e| e.error)
        });
        written.map(drop).map_err(|e| Failure::file(&path, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_usual_variables() {
        for (part, variable) in [
            ("AccessKeyId", "AWS_ACCESS_KEY_ID"),
            ("token", "CREDENTIAL_TOKEN"),
            ("pass-word", "CREDENTIAL_PASS_WORD"),
        ] {
            assert_eq!(usual(part), variable);
        }
    }

    #[test]
    fn named_variables_are_names() {
        for bad in ["X", "=a", "X=", "1X=a", "X Y=a", "X-Y=a"] {
            assert!(Place::parse(&[bad.to_owned()], false).is_err(), "{bad}");
        }
        assert!(Place::parse(&["PGPASSWORD=password".to_owned()], false).is_ok());
    }
}
