//! What the demo's operator sets up, through the people's API like any operator: people, groups,
//! the agent, policy, tokens.

use grantwright_domain::Timestamp;
use serde_json::{Value, json};

use super::dir::DemoDir;
use super::material::Written;
use crate::api::Api;
use crate::exit::Failure;
use crate::files;
use crate::output::text;

/// The demo's operator: a fifth person, who decides nothing.
pub const OPERATOR: &str = "olivia";
/// Who else there is.
pub const PEOPLE: [&str; 4] = ["alice", "bob", "carol", "dave"];
/// The agent; alice answers for it.
pub const AGENT: &str = "demo-agent";
/// Groups and their members. Alice is a reviewer, and still never approves for her own agent.
const GROUPS: [(&str, &[&str]); 2] =
    [("reviewers", &["alice", "bob", "carol"]), ("security", &["dave"])];
/// A token with less life than this is renewed at a resume, in milliseconds.
const LITTLE_LIFE: i64 = 3_600_000;

/// The operator, signed in.
pub struct Operator {
    /// The API as olivia.
    pub api: Api,
    /// When her token ends.
    pub expires_at: Timestamp,
}

/// Redeems the one-time link of `init`, and keeps the token.
///
/// # Errors
/// The broker's refusal.
pub async fn sign_in(dir: &DemoDir, base: &str, code: &str) -> Result<Operator, Failure> {
    let api = Api::open(base)?;
    let session = api.post("/api/v1/login", &json!({"code": code})).await?;
    let token = text(&session, "token").to_owned();
    files::write_private(&dir.file("operator.token"), &token)?;
    Ok(Operator { api: api.with_token(token), expires_at: until(&session)? })
}

/// The operator of a resumed folder, by the token that was kept.
///
/// # Errors
/// When it is gone.
pub fn come_back(dir: &DemoDir, base: &str, expires_at: Timestamp) -> Result<Operator, Failure> {
    let token = files::read_secret(&dir.file("operator.token"))?;
    Ok(Operator { api: Api::open(base)?.with_token(token), expires_at })
}

/// Registers people, groups, the agent and policy.
///
/// # Errors
/// The broker's refusal.
pub async fn register(api: &Api, written: &Written) -> Result<(), Failure> {
    for person in PEOPLE {
        api.post("/api/v1/people", &json!({"id": person})).await?;
    }
    for (name, members) in GROUPS {
        api.post("/api/v1/groups", &json!({"name": name, "members": members})).await?;
    }
    let agent = json!({
        "name": AGENT, "owner": "alice", "team": "Data", "environment": "demo",
        "model": "demo-model", "model_version": "1.0",
    });
    api.post("/api/v1/agents", &agent).await?;
    api.post("/api/v1/policy", &crate::policy::body(&written.policies, &written.scopes)).await?;
    Ok(())
}

/// Writes the agent's join token, with which one sidecar enrols.
///
/// # Errors
/// The broker's refusal.
pub async fn join(dir: &DemoDir, api: &Api) -> Result<(), Failure> {
    let joined = api.post(&format!("/api/v1/agents/{AGENT}/join"), &json!({})).await?;
    files::write_private(&dir.file("join.token"), text(&joined, "join_token"))
}

/// Writes a fresh token for each person, 12 h; gives the end of the first to end.
///
/// # Errors
/// The broker's refusal.
pub async fn tokens(dir: &DemoDir, api: &Api) -> Result<Timestamp, Failure> {
    let humans = dir.make("humans")?;
    let mut first: Option<Timestamp> = None;
    for person in PEOPLE {
        let path = format!("/api/v1/people/{person}/token");
        let made = api.post(&path, &json!({"ttl": "12h"})).await?;
        files::write_private(&humans.join(format!("{person}.token")), text(&made, "token"))?;
        let end = until(&made)?;
        first = Some(first.map_or(end, |f| f.min(end)));
    }
    Ok(first.unwrap_or_default())
}

/// A new token for the operator, by the one she has.
///
/// # Errors
/// The broker's refusal.
pub async fn renew(dir: &DemoDir, operator: Operator) -> Result<Operator, Failure> {
    let path = format!("/api/v1/people/{OPERATOR}/token");
    let made = operator.api.post(&path, &json!({"ttl": "12h"})).await?;
    let token = text(&made, "token").to_owned();
    files::write_private(&dir.file("operator.token"), &token)?;
    Ok(Operator { api: operator.api.with_token(token), expires_at: until(&made)? })
}

/// True when a token that ends then should be renewed now.
pub fn is_little(expires_at: Timestamp, now: Timestamp) -> bool {
    expires_at.since(now) < LITTLE_LIFE
}

/// A one-time link for a person.
///
/// # Errors
/// The broker's refusal.
pub async fn link(api: &Api, person: &str, purpose: &str) -> Result<String, Failure> {
    let body = json!({"purpose": purpose, "ttl": "12h"});
    let link = api.post(&format!("/api/v1/people/{person}/link"), &body).await?;
    Ok(text(&link, "url").to_owned())
}

/// A person's API, by the token file of the demo.
///
/// # Errors
/// When the file cannot be read.
pub fn person(dir: &DemoDir, base: &str, person: &str) -> Result<Api, Failure> {
    let file = dir.file("humans").join(format!("{person}.token"));
    Ok(Api::open(base)?.with_token(files::read_secret(&file)?))
}

fn until(made: &Value) -> Result<Timestamp, Failure> {
    Timestamp::parse(text(made, "expires_at")).map_err(Failure::unable)
}
