//! Where a log's files are read from: a folder, or an address.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use grantwright_audit::tiles::MAX_FILE;
use grantwright_audit::{CannotVerify, Files};
use reqwest::StatusCode;

use crate::exit::Failure;
use crate::{api, files};

/// A folder of files.
pub struct Folder(pub PathBuf);

impl Files for Folder {
    fn read(&mut self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, CannotVerify> {
        paths.iter().map(|path| self.one(path)).collect()
    }
}

impl Folder {
    fn one(&self, path: &str) -> Result<Option<Vec<u8>>, CannotVerify> {
        let path = self.0.join(path);
        let unreadable =
            |e: &std::io::Error| CannotVerify::Unreadable(format!("`{}`: {e}", path.display()));
        // A pipe or device would never end.
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {}
            Ok(_) => return Ok(None),
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(unreadable(&e)),
        }
        let file = File::open(&path).map_err(|e| unreadable(&e))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
        Ok((bytes.len() <= MAX_FILE).then_some(bytes))
    }
}

fn absent(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// An address that serves a log's files, read a few at a time.
pub struct Web {
    base: String,
    client: reqwest::Client,
    token: Option<String>,
    runtime: tokio::runtime::Runtime,
}

/// Tries of one reading over the network.
const TRIES: u32 = 3;

impl Web {
    /// `base` is a log's address, for example `https://broker.example/log`. The token is a person's,
    /// for entries that are not open.
    ///
    /// # Errors
    /// When the address or the token's file is unusable.
    pub fn open(base: &str, token: Option<&std::path::Path>) -> Result<Self, Failure> {
        let url =
            reqwest::Url::parse(base).map_err(|e| Failure::unable(format!("`{base}`: {e}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() {
            return Err(Failure::unable(format!("`{base}` is not the address of a log")));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::unable(format!("cannot start: {e}")))?;
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            client: api::client()?,
            token: token.map(files::read_secret).transpose()?,
            runtime,
        })
    }

    async fn one(&self, path: &str) -> Result<Option<Vec<u8>>, CannotVerify> {
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.attempt(path).await {
                Ok(done) => return done,
                Err(e) => last = e.without_url().to_string(),
            }
        }
        Err(CannotVerify::Unreadable(format!("`{}/{path}`: {last}", self.base)))
    }

    async fn attempt(
        &self,
        path: &str,
    ) -> Result<Result<Option<Vec<u8>>, CannotVerify>, reqwest::Error> {
        let mut call = self.client.get(format!("{}/{path}", self.base));
        if let Some(token) = &self.token {
            call = call.bearer_auth(token);
        }
        let mut answer = call.send().await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return Ok(Ok(None)),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Ok(Err(CannotVerify::Unreadable(format!(
                    "`{}/{path}` is not open to you: set GRANTWRIGHT_HUMAN_TOKEN_FILE to the token \
                     of a member of `security`",
                    self.base
                ))));
            }
            status => {
                let why = format!("`{}/{path}` answers {status}", self.base);
                return Ok(Err(CannotVerify::Unreadable(why)));
            }
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if bytes.len() + chunk.len() > MAX_FILE {
                return Ok(Ok(None));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Ok(Some(bytes)))
    }
}

impl Files for Web {
    fn read(&mut self, paths: &[String]) -> Result<Vec<Option<Vec<u8>>>, CannotVerify> {
        let all = futures_util::future::try_join_all(paths.iter().map(|path| self.one(path)));
        self.runtime.block_on(all)
    }
}
