//! One guard in front of every listener. Localhost is hostile: other users, other programs, and
//! browsers that a web page turns against it.

use grantwright_wire::Refusal;
use http::Version;
use http::header::AUTHORIZATION;
use http::request::Parts;
use subtle::ConstantTimeEq as _;

use crate::{Config, SidecarError, chance, files};

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Loopback TCP: anyone on this host, so a token is wanted.
    Tcp,
    /// The unix socket, from a process of the user whom it is for.
    SameUser,
    /// The unix socket, from another user's process.
    OtherUser,
}

/// What a path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Nothing: health and metrics.
    Open,
    /// The agent's token, or that of the AWS SDKs.
    Aws,
    /// The agent's token.
    Agent,
}

impl Door {
    /// By the path as it came: nothing is decoded or normalised before it is routed.
    #[must_use]
    pub fn of(path: &str) -> Self {
        match path {
            "/healthz" | "/readyz" | "/metrics" => Self::Open,
            _ if path.starts_with("/aws/") => Self::Aws,
            _ => Self::Agent,
        }
    }
}

/// The bearer tokens of this start. Their files stay, their values do not.
pub struct Tokens {
    agent: String,
    aws: Option<String>,
}

impl Tokens {
    /// Makes new ones and writes them where the configuration says: 0600, no newline, by rename.
    ///
    /// # Errors
    /// [`SidecarError::Key`] or [`SidecarError::File`].
    pub fn fresh(config: &Config) -> Result<Self, SidecarError> {
        let agent = chance::token()?;
        if let Some(path) = &config.token_file {
            files::write_for(path, agent.as_bytes(), config.user)?;
        }
        let aws = match &config.aws_token_file {
            None => None,
            Some(path) => {
                let token = chance::token()?;
                files::write_for(path, token.as_bytes(), config.user)?;
                Some(token)
            }
        };
        Ok(Self { agent, aws })
    }

    /// Lets a call in, or says why not.
    ///
    /// # Errors
    /// 403 `guard` for whatever a local program of this user would not send; 401 `unauthorized`.
    pub fn admit(&self, peer: Peer, door: Door, head: &Parts) -> Result<(), Box<Refusal>> {
        if let Some(what) = foreign(peer, head) {
            return Err(Box::new(
                Refusal::new(403, "guard", "The sidecar serves local programs only.")
                    .detail(what)
                    .next("Call it directly, without a browser or proxy between."),
            ));
        }
        if peer == Peer::SameUser || door == Door::Open || self.knows(door, head) {
            return Ok(());
        }
        Err(Box::new(Refusal::new(401, "unauthorized", "The token is missing or wrong.").next(
            "Send `Authorization: Bearer` with the token from the sidecar's token file; it \
                 changes when the sidecar starts.",
        )))
    }

    fn knows(&self, door: Door, head: &Parts) -> bool {
        let mut values = head.headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let value = value.as_bytes();
        // AWS SDKs send the token as it stands in its file.
        let shown = match value.split_at_checked(7) {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token,
            _ => value,
        };
        let agent = shown.ct_eq(self.agent.as_bytes());
        let aws = match (door, &self.aws) {
            (Door::Aws, Some(aws)) => shown.ct_eq(aws.as_bytes()),
            _ => subtle::Choice::from(0),
        };
        (agent | aws).into()
    }
}

/// What gives a call away as foreign: not from a program of this user on this host.
#[must_use]
pub fn foreign(peer: Peer, head: &Parts) -> Option<&'static str> {
    if peer == Peer::OtherUser {
        return Some("the call comes from another user");
    }
    let mut hosts = 0;
    for (name, value) in &head.headers {
        let name = name.as_str();
        match name {
            "host" => {
                hosts += 1;
                if !is_local(value.as_bytes()) {
                    return Some("`Host` is not this host");
                }
            }
            "origin" => return Some("`Origin` is there: browsers have no business here"),
            "forwarded" | "via" | "x-real-ip" | "x-original-host" | "proxy-connection" => {
                return Some("the call was forwarded");
            }
            _ if name.starts_with("x-forwarded") => return Some("the call was forwarded"),
            _ => {}
        }
    }
    let target = head.uri.authority();
    // HTTP/2 says it as `:authority`, which is the target's (RFC 9113 §8.3.1).
    let told = match head.version {
        Version::HTTP_2 => hosts <= 1 && (hosts == 1 || target.is_some()),
        _ => hosts == 1,
    };
    if !told || target.is_some_and(|it| !is_local(it.as_str().as_bytes())) {
        return Some("`Host` is not this host");
    }
    None
}

/// `127.0.0.1`, `localhost` or `[::1]`, with or without a port.
fn is_local(host: &[u8]) -> bool {
    const LOCAL: [&[u8]; 3] = [b"127.0.0.1", b"localhost", b"[::1]"];
    LOCAL.iter().any(|name| match host.split_at_checked(name.len()) {
        Some((given, rest)) if given.eq_ignore_ascii_case(name) => match rest {
            [] => true,
            [b':', port @ ..] => {
                (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit)
            }
            _ => false,
        },
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        Tokens { agent: "a".repeat(64), aws: Some("b".repeat(64)) }
    }

    fn head(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get("/v1/credentials");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(peer: Peer, door: Door, headers: &[(&str, &str)]) -> u16 {
        tokens().admit(peer, door, &head(headers)).map_or_else(|e| e.status, |()| 200)
    }

    /// SECURITY: every foreign mark is refused at every listener, whatever token is shown.
    #[test]
    fn guard_matrix() {
        let good = format!("Bearer {}", "a".repeat(64));
        for peer in [Peer::Tcp, Peer::SameUser] {
            for door in [Door::Open, Door::Aws, Door::Agent] {
                for host in ["127.0.0.1", "127.0.0.1:7788", "localhost:1", "LOCALHOST", "[::1]:80"]
                {
                    let headers = [("host", host), ("authorization", &good)];
                    assert_eq!(status(peer, door, &headers), 200, "{peer:?} {door:?} {host}");
                }
                for host in [
                    "",
                    "evil.example",
                    "127.0.0.1.evil.example",
                    "localhost.evil.example",
                    "127.0.0.2",
                    "[::2]",
                    "::1",
                    "127.0.0.1:",
                    "127.0.0.1:x",
                    "127.0.0.1:999999",
                    "user@127.0.0.1",
                    "localhost:80:80",
                ] {
                    let headers = [("host", host), ("authorization", &good)];
                    assert_eq!(status(peer, door, &headers), 403, "{peer:?} {door:?} {host}");
                }
                for (name, value) in [
                    ("origin", "http://127.0.0.1:7788"),
                    ("origin", "null"),
                    ("forwarded", "for=x"),
                    ("x-forwarded-for", "127.0.0.1"),
                    ("x-forwarded-host", "a"),
                    ("X-Forwarded-Proto", "http"),
                    ("via", "1.1 p"),
                    ("host", "localhost"),
                ] {
                    let headers =
                        [("host", "localhost"), ("authorization", good.as_str()), (name, value)];
                    assert_eq!(status(peer, door, &headers), 403, "{peer:?} {door:?} {name}");
                }
                assert_eq!(status(peer, door, &[("authorization", &good)]), 403);
            }
        }
        for door in [Door::Open, Door::Aws, Door::Agent] {
            let headers = [("host", "localhost"), ("authorization", &good)];
            assert_eq!(status(Peer::OtherUser, door, &headers), 403);
        }
    }

    #[test]
    fn token_matrix() {
        let (agent, aws) = ("a".repeat(64), "b".repeat(64));
        for (token, on_aws, on_agent) in [
            (Some(agent.clone()), 200, 200),
            (Some(format!("Bearer {agent}")), 200, 200),
            (Some(format!("bearer {agent}")), 200, 200),
            (Some(aws.clone()), 200, 401),
            (Some(format!("Bearer {aws}")), 200, 401),
            (Some(format!("Basic {agent}")), 401, 401),
            (Some(format!("{agent}a")), 401, 401),
            (Some(agent.get(1..).unwrap().into()), 401, 401),
            (Some("Bearer ".into()), 401, 401),
            (Some(String::new()), 401, 401),
            (None, 401, 401),
        ] {
            let mut headers = vec![("host", "localhost")];
            if let Some(token) = &token {
                headers.push(("authorization", token));
            }
            assert_eq!(status(Peer::Tcp, Door::Aws, &headers), on_aws, "{token:?}");
            assert_eq!(status(Peer::Tcp, Door::Agent, &headers), on_agent, "{token:?}");
            assert_eq!(status(Peer::Tcp, Door::Open, &headers), 200, "{token:?}");
            assert_eq!(status(Peer::SameUser, Door::Agent, &headers), 200, "{token:?}");
        }
        let twice = [("host", "localhost"), ("authorization", &agent), ("authorization", &agent)];
        assert_eq!(status(Peer::Tcp, Door::Agent, &twice), 401);
        // No AWS token configured: nothing, least of all an empty one, is it.
        let none = Tokens { agent, aws: None };
        let empty = head(&[("host", "localhost"), ("authorization", "")]);
        assert!(none.admit(Peer::Tcp, Door::Aws, &empty).is_err());
    }

    /// HTTP/2 has `:authority` where HTTP/1 has `Host`: one of them is there, and each is local.
    #[test]
    fn authority_matrix() {
        for (target, host, is_let_in) in [
            ("http://127.0.0.1:7788/x", None, true),
            ("http://localhost/x", None, true),
            ("http://localhost/x", Some("localhost"), true),
            ("/x", Some("localhost"), true),
            ("/x", None, false),
            ("http://evil.example/x", None, false),
            ("http://evil.example/x", Some("localhost"), false),
            ("http://localhost/x", Some("evil.example"), false),
            ("http://127.0.0.1.evil.example:7788/x", None, false),
        ] {
            let mut request = http::Request::post(target).version(Version::HTTP_2);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let head = request.body(()).unwrap().into_parts().0;
            assert_eq!(foreign(Peer::Tcp, &head).is_none(), is_let_in, "{target} {host:?}");
        }
        // Under HTTP/1 a target with an authority needs its `Host` all the same.
        let head = http::Request::get("http://localhost/x").body(()).unwrap().into_parts().0;
        assert!(foreign(Peer::Tcp, &head).is_some());
    }

    #[test]
    fn only_the_aws_prefix_is_the_aws_door() {
        for (path, door) in [
            ("/aws/x", Door::Aws),
            ("/aws", Door::Agent),
            ("/AWS/x", Door::Agent),
            ("//aws/x", Door::Agent),
            ("/v1/credentials", Door::Agent),
            ("/healthz", Door::Open),
            ("/healthz/", Door::Agent),
            ("/", Door::Agent),
            ("", Door::Agent),
        ] {
            assert_eq!(Door::of(path), door, "{path}");
        }
    }
}
