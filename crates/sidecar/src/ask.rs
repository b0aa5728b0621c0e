//! What a client asks for, parsed strictly: unknown fields, duplicate keys and wrong types are
//! refused here, so that sidecar and broker can never read a body differently.

use std::sync::Arc;

use grantwright_credential::Secret;
use grantwright_domain::{
    DelegationId, Digest, IdempotencyKey, LocalProcess, ScopeName, canonical, time,
};
use grantwright_wire::Refusal;
use grantwright_wire::v1::{self as wire, AskRequest};
use serde_json::{Map, Value, json};

use crate::process::Caller;

/// Longest `reason`, in characters.
pub const MAX_REASON: usize = 2000;
/// Longest `task`, in characters.
pub const MAX_TASK: usize = 200;
/// Longest `on_behalf_of`, in bytes: ID tokens are far shorter.
const MAX_ID_TOKEN: usize = 16 * 1024;

/// One ask of the local workload.
pub struct Ask {
    /// The client's key for it.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The scope.
    pub scope: ScopeName,
    /// Canonical JSON of the parameters.
    pub params_jcs: Vec<u8>,
    /// Seconds; 0: the scope's default.
    pub ttl_s: u32,
    /// The agent's words.
    pub reason: String,
    /// The agent's words; may be empty.
    pub task: String,
    /// ID token of the human for whom the task runs.
    pub on_behalf_of: Option<Secret<String>>,
    /// The delegation under which it is asked; none: this agent's own right.
    pub delegation: Option<DelegationId>,
    /// The process that asked first; none on TCP.
    pub process: Option<Arc<LocalProcess>>,
    /// The body in canonical form without its key.
    pub body_digest: Digest,
    /// What makes two asks identical: workload and its process, delegation, on-behalf-of, scope,
    /// parameters and lifetime; never reason or task.
    pub identity: Digest,
}

impl Ask {
    /// Reads the body of `POST /v1/credentials`; `header_key` is the header `Idempotency-Key`.
    ///
    /// # Errors
    /// 400 `malformed` or `bad_ttl`; 404 `unknown_scope` for a name that no scope can have.
    pub fn from_body(
        body: &[u8],
        header_key: Option<&str>,
        workload: &str,
        caller: &Caller,
    ) -> Result<Self, Box<Refusal>> {
        Self::from_fields(object(body)?, header_key, workload, caller)
    }

    /// The same of the fields of such a body, whichever door they came in by.
    ///
    /// # Errors
    /// As [`Ask::from_body`].
    pub fn from_fields(
        mut fields: Map<String, Value>,
        header_key: Option<&str>,
        workload: &str,
        caller: &Caller,
    ) -> Result<Self, Box<Refusal>> {
        let body_key = text(&mut fields, "idempotency_key")?;
        if let (Some(a), Some(b)) = (&body_key, header_key)
            && a != b
        {
            return Err(malformed("`idempotency_key` and the header `Idempotency-Key` differ"));
        }
        let key = body_key.as_deref().or(header_key);
        let idempotency_key = key
            .map(IdempotencyKey::parse)
            .transpose()
            .map_err(|e| malformed(format!("`idempotency_key`: {e}")))?;
        let body_digest = canonical::digest("body", &fields).map_err(|e| malformed(e.0))?;

        let scope = required(&mut fields, "scope")?;
        let params = fields.remove("params").ok_or_else(|| malformed("`params` is missing"))?;
        let ttl = text(&mut fields, "ttl")?;
        let reason = required(&mut fields, "reason")?;
        let task = text(&mut fields, "task")?.unwrap_or_default();
        let on_behalf_of = text(&mut fields, "on_behalf_of")?;
        let delegation =
            text(&mut fields, "delegation")?.map(|id| delegation_id(&id)).transpose()?;
        if let Some(unknown) = fields.keys().next() {
            let shown = shown(unknown);
            return Err(malformed(format!(
                "unknown field `{shown}`: want idempotency_key, scope, params, ttl, reason, task, \
                 on_behalf_of, delegation"
            )));
        }
        let Value::Object(params) = params else {
            return Err(malformed("`params` wants an object"));
        };
        if reason.trim().is_empty() || reason.chars().count() > MAX_REASON {
            return Err(malformed(format!("`reason` wants 1 to {MAX_REASON} characters")));
        }
        if task.chars().count() > MAX_TASK {
            return Err(malformed(format!("`task` wants at most {MAX_TASK} characters")));
        }
        if on_behalf_of.as_ref().is_some_and(|t| t.is_empty() || t.len() > MAX_ID_TOKEN) {
            return Err(malformed("`on_behalf_of` wants a human's ID token"));
        }
        let ttl_s = ttl.map(|ttl| time::parse_ttl(&ttl)).transpose().map_err(|e| {
            Box::new(Refusal::new(400, "bad_ttl", "The lifetime is not usable.").detail(e))
        })?;
        Self {
            idempotency_key,
            scope: scope_name(&scope)?,
            params_jcs: canonical::to_bytes(&params).map_err(|e| malformed(e.0))?,
            ttl_s: ttl_s.unwrap_or(0),
            reason,
            task,
            on_behalf_of: on_behalf_of.map(Secret::new),
            delegation,
            process: caller.process.clone(),
            body_digest,
            identity: body_digest,
        }
        .identified(workload)
    }

    /// What an unmodified AWS SDK asks for by its address.
    ///
    /// # Errors
    /// 400 `malformed`.
    pub fn from_aws(
        scope: ScopeName,
        params: &Map<String, Value>,
        workload: &str,
        caller: &Caller,
    ) -> Result<Self, Box<Refusal>> {
        let body_digest = canonical::digest("body", params).map_err(|e| malformed(e.0))?;
        Self {
            idempotency_key: None,
            scope,
            params_jcs: canonical::to_bytes(params).map_err(|e| malformed(e.0))?,
            ttl_s: 0,
            reason: format!("AWS SDK on {workload}"),
            task: String::new(),
            on_behalf_of: None,
            delegation: None,
            process: caller.process.clone(),
            body_digest,
            identity: body_digest,
        }
        .identified(workload)
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> Map<String, Value> {
        match canonical::parse(&self.params_jcs) {
            Ok(Value::Object(params)) => params,
            _ => Map::new(),
        }
    }

    /// The same with these parameters; what the caller sent, and by which its key compares, stays.
    ///
    /// # Errors
    /// 400 `malformed`.
    pub fn with_params(
        mut self,
        params: &Map<String, Value>,
        workload: &str,
    ) -> Result<Self, Box<Refusal>> {
        self.params_jcs = canonical::to_bytes(params).map_err(|e| malformed(e.0))?;
        self.identified(workload)
    }

    fn identified(mut self, workload: &str) -> Result<Self, Box<Refusal>> {
        // The token enters by its digest: the same person's next token is another ask, which costs
        // one call and can never give one person's credential to another.
        let on_behalf_of = match &self.on_behalf_of {
            Some(token) => Digest::of("on-behalf-of", token.expose_secret().as_bytes()).hex(),
            None => String::new(),
        };
        let delegation = self.delegation.as_ref().map_or("", DelegationId::as_str);
        let params = Digest::of("params", &self.params_jcs);
        let process = match &self.process {
            Some(process) => json!(process.identity()),
            None => "".into(),
        };
        let inputs = json!({
            "workload": workload, "process": process, "delegation": delegation,
            "on_behalf_of": on_behalf_of, "scope": self.scope, "params": params, "ttl_s": self.ttl_s,
        });
        self.identity = canonical::digest("ask", &inputs).map_err(|e| malformed(e.0))?;
        Ok(self)
    }

    /// The ask on the wire. `renews`: the lease that it replaces, and then without a key, since it is
    /// another ask.
    #[must_use]
    pub fn to_wire(&self, workload: &str, renews: Option<&str>, known_size: u64) -> AskRequest {
        let key = self.idempotency_key.as_ref().filter(|_| renews.is_none());
        AskRequest {
            idempotency_key: key.map(ToString::to_string).unwrap_or_default(),
            scope: self.scope.to_string(),
            params_jcs: self.params_jcs.clone(),
            ttl_s: self.ttl_s,
            reason: self.reason.clone(),
            task: self.task.clone(),
            workload: workload.to_owned(),
            on_behalf_of: match &self.on_behalf_of {
                Some(token) => token.expose_secret().clone(),
                None => String::new(),
            },
            renews: renews.unwrap_or_default().to_owned(),
            delegation: self.delegation.as_ref().map(ToString::to_string).unwrap_or_default(),
            body_digest: self.body_digest.0.to_vec(),
            known_size,
            process: self.process.as_deref().map(|seen| wire::LocalProcess {
                uid: seen.uid,
                gid: seen.gid,
                pid: seen.pid.unwrap_or(0),
                exe: seen.exe.clone().unwrap_or_default(),
                exe_sha256: seen.exe_digest.map_or_else(Vec::new, |it| it.0.to_vec()),
                cgroup: seen.cgroup.clone().unwrap_or_default(),
                container: seen.container.clone().unwrap_or_default(),
            }),
        }
    }
}

/// Reads `{"text"}`, the answer to a reviewer's question.
///
/// # Errors
/// 400 `malformed`.
pub fn answer_text(body: &[u8]) -> Result<String, Box<Refusal>> {
    let mut fields = object(body)?;
    let text = required(&mut fields, "text")?;
    if !fields.is_empty() {
        return Err(malformed("unknown field: want `text` only"));
    }
    answer_words(text)
}

/// The words of such an answer.
///
/// # Errors
/// 400 `malformed`.
pub fn answer_words(text: String) -> Result<String, Box<Refusal>> {
    if text.trim().is_empty() || text.chars().count() > MAX_REASON {
        return Err(malformed(format!("`text` wants 1 to {MAX_REASON} characters")));
    }
    Ok(text)
}

/// 400 `malformed` with what is wrong.
pub(crate) fn malformed(detail: impl Into<String>) -> Box<Refusal> {
    Box::new(
        Refusal::new(400, "malformed", "The request is not well formed.")
            .detail(detail)
            .next("Correct the request and send it again."),
    )
}

/// The name of a scope.
///
/// # Errors
/// 404 `unknown_scope`.
pub(crate) fn scope_name(text: &str) -> Result<ScopeName, Box<Refusal>> {
    ScopeName::parse(text).map_err(|_| unknown_scope(text))
}

/// What cannot be a delegation's id is none: 404, as for another agent's.
///
/// # Errors
/// 404 `delegation_unknown`.
pub(crate) fn delegation_id(text: &str) -> Result<DelegationId, Box<Refusal>> {
    DelegationId::parse(text).map_err(|_| {
        Box::new(
            Refusal::new(404, "delegation_unknown", "There is no such delegation.")
                .next("GET /v1/delegations lists those to this agent."),
        )
    })
}

/// 404 `unknown_scope`.
pub(crate) fn unknown_scope(text: &str) -> Box<Refusal> {
    Box::new(
        Refusal::new(404, "unknown_scope", "There is no such scope.")
            .detail(format!("`{}` is not a scope this agent may ask for", shown(text)))
            .next("GET /v1/scopes lists the scopes."),
    )
}

pub(crate) fn shown(text: &str) -> String {
    grantwright_domain::text::shorten(&grantwright_domain::text::visible(text), 40)
}

pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, Box<Refusal>> {
    match canonical::parse(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(malformed("the body wants a JSON object")),
        Err(e) => Err(malformed(format!("the body is not strict JSON: {e}"))),
    }
}

pub(crate) fn text(
    fields: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<String>, Box<Refusal>> {
    match fields.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(malformed(format!("`{name}` wants a string"))),
    }
}

pub(crate) fn required(
    fields: &mut Map<String, Value>,
    name: &str,
) -> Result<String, Box<Refusal>> {
    text(fields, name)?.ok_or_else(|| malformed(format!("`{name}` is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"scope":"demo.read","params":{"dataset":"a"},"reason":"r"}"#;

    fn read(body: &str) -> Result<Ask, Box<Refusal>> {
        Ask::from_body(body.as_bytes(), None, "uid:1", &Caller::tcp())
    }

    fn identity(body: &str) -> Digest {
        read(body).map_err(|e| e.detail).unwrap().identity
    }

    #[test]
    fn identity_is_every_input_of_the_verdict_and_nothing_else() {
        let same = r#"{"reason":"other","task":"t","params":{"dataset":"a"},"scope":"demo.read"}"#;
        assert_eq!(identity(BODY), identity(same));
        for other in [
            r#"{"scope":"demo.reax","params":{"dataset":"a"},"reason":"r"}"#,
            r#"{"scope":"demo.read","params":{"dataset":"b"},"reason":"r"}"#,
            r#"{"scope":"demo.read","params":{},"reason":"r"}"#,
            r#"{"scope":"demo.read","params":{"dataset":"a"},"reason":"r","ttl":"15m"}"#,
            r#"{"scope":"demo.read","params":{"dataset":"a"},"reason":"r","on_behalf_of":"x"}"#,
            r#"{"scope":"demo.read","params":{"dataset":"a"},"reason":"r","delegation":"d1"}"#,
        ] {
            assert_ne!(identity(BODY), identity(other), "{other}");
        }
        let elsewhere =
            Ask::from_body(BODY.as_bytes(), None, "uid:2", &Caller::tcp()).ok().unwrap().identity;
        assert_ne!(identity(BODY), elsewhere);
    }

    #[test]
    fn bodies_compare_as_jcs_without_their_key() {
        let keyed =
            r#"{ "idempotency_key":"k","reason":"r","params":{"dataset":"a"},"scope":"demo.read"}"#;
        assert_eq!(read(BODY).ok().unwrap().body_digest, read(keyed).ok().unwrap().body_digest);
        let reason = BODY.replace("\"r\"", "\"q\"");
        assert_ne!(read(BODY).ok().unwrap().body_digest, read(&reason).ok().unwrap().body_digest);
    }

    #[test]
    fn anything_unclear_is_refused() {
        for (body, code) in [
            ("", "malformed"),
            ("[]", "malformed"),
            (r#"{"scope":"a","scope":"a","params":{},"reason":"r"}"#, "malformed"),
            (r#"{"scope":"a","params":{"x":1,"x":1},"reason":"r"}"#, "malformed"),
            (r#"{"scope":"a","params":{"x":1.5},"reason":"r"}"#, "malformed"),
            (r#"{"scope":"a","params":{"x":null},"reason":"r"}"#, "malformed"),
            (r#"{"scope":"a","params":[],"reason":"r"}"#, "malformed"),
            (r#"{"scope":"a","reason":"r"}"#, "malformed"),
            (r#"{"scope":"a","params":{}}"#, "malformed"),
            (r#"{"scope":"a","params":{},"reason":" "}"#, "malformed"),
            (r#"{"scope":1,"params":{},"reason":"r"}"#, "malformed"),
            (r#"{"scope":"a","params":{},"reason":"r","state":"granted"}"#, "malformed"),
            (r#"{"scope":"a","params":{},"reason":"r","idempotency_key":""}"#, "malformed"),
            (r#"{"scope":"a","params":{},"reason":"r","idempotency_key":"a b"}"#, "malformed"),
            (r#"{"scope":"a","params":{},"reason":"r","ttl":900}"#, "malformed"),
            (r#"{"scope":"a","params":{},"reason":"r","ttl":"15"}"#, "bad_ttl"),
            (r#"{"scope":"a","params":{},"reason":"r","ttl":"0s"}"#, "bad_ttl"),
            (r#"{"scope":"A b","params":{},"reason":"r"}"#, "unknown_scope"),
        ] {
            let refusal = read(body).err().unwrap();
            assert_eq!(refusal.code, code, "{body}");
        }
        let long = BODY.replace("\"r\"", &format!("\"{}\"", "é".repeat(2001)));
        assert_eq!(read(&long).err().unwrap().code, "malformed");
        let fits = BODY.replace("\"r\"", &format!("\"{}\"", "é".repeat(2000)));
        assert!(read(&fits).is_ok());
    }

    #[test]
    fn the_key_may_come_in_either_place_but_not_two_ways() {
        let keyed = BODY.replace('{', r#"{"idempotency_key":"k","#).replacen(
            r#"{"idempotency_key":"k","dataset""#,
            r#"{"dataset""#,
            1,
        );
        let with = |header| {
            Ask::from_body(keyed.as_bytes(), header, "w", &Caller::tcp()).map(|a| a.idempotency_key)
        };
        assert_eq!(with(None).ok().unwrap().unwrap().as_str(), "k");
        assert_eq!(with(Some("k")).ok().unwrap().unwrap().as_str(), "k");
        assert_eq!(with(Some("l")).err().unwrap().code, "malformed");
        let header = Ask::from_body(BODY.as_bytes(), Some("h"), "w", &Caller::tcp()).ok().unwrap();
        assert_eq!(header.idempotency_key.unwrap().as_str(), "h");
    }
}
