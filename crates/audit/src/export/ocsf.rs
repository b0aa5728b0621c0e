//! OCSF: which class, activity and disposition each kind of leaf is, and how it is filled.
//!
//! | leaf | class | activity |
//! |---|---|---|
//! | asked, decided, asked back, answered, approved, intended, cancelled | API Activity 6003 | create, update or delete of a request |
//! | refused by policy or a person, out of time, failed, issued, renewed, revoked | Authorize Session 3003 | assign privileges |
//! | the outcome is unknown, a copied key, a person says that it looks wrong | Detection Finding 2004 | create |
//! | a person or a sidecar proved who it is; a credential ended by itself | Authentication 3002 | log-on, log-off |
//! | everything that decisions rest on | Entity Management 3004 | create, update, delete, other |

use grantwright_domain::event::{Decided, Decision, Issued, Voted};
use grantwright_domain::{Event, VerdictKind};
use serde_json::{Map, Value, json};

use super::Entry;

/// The version of the schema that the events name.
pub const SCHEMA: &str = "1.5.0";

/// An event's class.
#[derive(Clone, Copy)]
enum Class {
    Api,
    Authentication,
    Entity,
    Finding,
    Session,
}

impl Class {
    fn uid(self) -> u32 {
        match self {
            Self::Finding => 2004,
            Self::Authentication => 3002,
            Self::Session => 3003,
            Self::Entity => 3004,
            Self::Api => 6003,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Finding => "Detection Finding",
            Self::Authentication => "Authentication",
            Self::Session => "Authorize Session",
            Self::Entity => "Entity Management",
            Self::Api => "API Activity",
        }
    }

    fn category(self) -> &'static str {
        match self {
            Self::Finding => "Findings",
            Self::Authentication | Self::Session | Self::Entity => "Identity & Access Management",
            Self::Api => "Application Activity",
        }
    }

    fn activity(self, id: u32) -> &'static str {
        match (self, id) {
            (Self::Authentication, 1) => "Logon",
            (Self::Authentication, 2) => "Logoff",
            (Self::Session, 1) => "Assign Privileges",
            (_, 1) => "Create",
            (_, 3) => "Update",
            (_, 4) => "Delete",
            _ => "Set",
        }
    }
}

/// What the security control did.
#[derive(Clone, Copy)]
enum Done {
    Allowed,
    Approved,
    Blocked,
    Challenge,
    Error,
    Rejected,
    Revoked,
}

impl Done {
    /// (action, disposition), each with its caption.
    fn ids(self) -> ((u32, &'static str), (u32, &'static str)) {
        const ALLOWED: (u32, &str) = (1, "Allowed");
        const DENIED: (u32, &str) = (2, "Denied");
        match self {
            Self::Allowed => (ALLOWED, (1, "Allowed")),
            Self::Blocked => (DENIED, (2, "Blocked")),
            Self::Approved => (ALLOWED, (8, "Approved")),
            Self::Challenge => ((0, "Unknown"), (23, "Challenge")),
            Self::Revoked => (DENIED, (24, "Access Revoked")),
            Self::Rejected => (DENIED, (25, "Rejected")),
            Self::Error => (DENIED, (27, "Error")),
        }
    }
}

/// The event of a leaf.
pub(super) fn event(e: &Entry<'_>) -> Value {
    let mut out = Built::new(e);
    match e.event {
        Event::Requested(_) => out.api(1, "RequestCredential", e.agent_user()),
        Event::Decided(d) => decided(&mut out, e, d),
        Event::Questioned(q) => out.api(3, "AskRequester", human(q.human.as_str(), e)),
        Event::Answered(_) => out.api(3, "AnswerQuestion", e.agent_user()),
        Event::Narrowed(n) => out.api(3, "NarrowRequest", human(n.human.as_str(), e)),
        Event::Voted(v) => voted(&mut out, e, v),
        Event::Withdrawn(w) => out.api(3, "WithdrawApproval", human(w.human.as_str(), e)),
        Event::Intended(_) => out.api(1, "MintCredential", broker(e)),
        Event::Issued(i) => issued(&mut out, e, i),
        Event::Failed(f) => {
            out.session(Done::Error, None);
            out.failure(&f.code, &f.detail);
        }
        Event::Unknown(u) => {
            out.finding("The outcome of a mint is unknown", &u.detail, "outcome-unknown")
        }
        Event::Cancelled(_) => out.api(4, "CancelRequest", e.agent_user()),
        Event::Expired(x) => match &x.lease_id {
            Some(lease) => {
                out.authentication(2, e.agent_user(), "mutual TLS");
                out.put("session", json!({ "uid": lease, "issuer": e.origin.log }));
            }
            None => {
                out.session(Done::Blocked, None);
                out.failure("expired", "time ran out before it was decided or collected");
            }
        },
        Event::Renewed(r) => {
            let session = json!({ "uid": r.lease_id, "issuer": e.origin.log,
                "expiration_time": r.expires_at.millis() });
            out.session(Done::Allowed, Some(session));
        }
        Event::Revoked(r) => {
            let session = json!({ "uid": r.lease_id, "issuer": e.origin.log });
            out.session(Done::Revoked, Some(session));
            out.put("actor", json!({ "user": human(&r.by, e) }));
            out.put("status_detail", json!(r.effect));
        }
        Event::GroupsClaimed(g) => {
            out.authentication(1, human(g.human.as_str(), e), "OpenID Connect");
        }
        Event::InstanceEnrolled(i) => {
            out.authentication(1, agent(i.agent.as_str(), e), "join token");
        }
        Event::TokenIssued(t) => out.authentication(1, human(t.human.as_str(), e), "one-time link"),
        Event::InstanceRevoked(i) if i.by == "broker" => {
            out.finding("The key of a sidecar was used twice", &i.reason, "copied-key")
        }
        other => entity(&mut out, e, other),
    }
    out.done()
}

fn decided(out: &mut Built<'_, '_>, e: &Entry<'_>, d: &Decided) {
    let v = &d.verdict;
    match v.kind {
        VerdictKind::Deny => {
            out.session(Done::Blocked, None);
            out.failure(&v.code, &v.reason);
        }
        VerdictKind::Ask => {
            out.api(3, "DecidePolicy", broker(e));
            out.control(Done::Challenge);
            out.put("status_id", json!(99));
            out.put("status", json!("Pending approval"));
        }
        VerdictKind::Allow => {
            out.api(3, "DecidePolicy", broker(e));
            out.control(Done::Allowed);
        }
    }
    let word = match v.kind {
        VerdictKind::Allow => "allow",
        VerdictKind::Ask => "ask",
        VerdictKind::Deny => "deny",
    };
    let each = |id: &String| {
        json!({ "decision": word,
            "policy": { "name": id, "uid": id, "version": v.policy_set.to_string() } })
    };
    let mut said: Vec<Value> = v.policies.iter().map(each).collect();
    if said.is_empty() {
        let policy = json!({ "uid": v.policy_set.to_string(), "name": "policy set" });
        said.push(json!({ "decision": word, "policy": policy }));
    }
    out.put("authorizations", json!(said));
}

fn voted(out: &mut Built<'_, '_>, e: &Entry<'_>, v: &Voted) {
    let user = human(v.human.as_str(), e);
    match v.decision {
        Decision::Approve => {
            out.api(3, "ApproveRequest", user);
            out.control(Done::Approved);
        }
        Decision::Deny if v.reason_code == "looks_wrong" => {
            out.finding(
                "A reviewer says that a request looks wrong",
                "a person denied the request and asked security to look at it",
                "looks-wrong",
            );
            out.put("comment", json!(format!("denied by {} through {}", v.human, v.channel)));
        }
        Decision::Deny => {
            out.session(Done::Rejected, None);
            out.put("actor", json!({ "user": user }));
            out.failure("denied", "denied by a person");
        }
    }
}

fn issued(out: &mut Built<'_, '_>, e: &Entry<'_>, i: &Issued) {
    let mut session = json!({ "uid": i.lease_id, "issuer": e.origin.log,
        "created_time": i.at.millis(), "expiration_time": i.expires_at.millis() });
    let credential = ["access_key_id", "jti", "vault_lease_id", "username"];
    if let Some(found) = credential.iter().find_map(|name| i.facts.get(*name))
        && let Some(session) = session.as_object_mut()
    {
        session.insert("credential_uid".into(), json!(found));
    }
    let approved = e.asked.is_some_and(|a| !a.approvers.is_empty());
    out.session(if approved { Done::Approved } else { Done::Allowed }, Some(session));
    if let Some(asked) = e.asked.filter(|a| !a.approvers.is_empty()) {
        let each = |h: &grantwright_domain::HumanId| {
            json!({ "name": "approver", "value": h, "type": "human",
                "data": { "human": h, "request": i.request_id } })
        };
        out.put("enrichments", json!(asked.approvers.iter().map(each).collect::<Vec<_>>()));
    }
}

/// What decisions rest on: which entity, and what became of it. A kind that is not listed is told as it is.
fn entity(out: &mut Built<'_, '_>, e: &Entry<'_>, event: &Event) {
    const CREATED: u32 = 1;
    const UPDATED: u32 = 3;
    const DELETED: u32 = 4;
    const OTHER: u32 = 99;
    let text = |t: &dyn ToString| t.to_string();
    let (activity, kind, uid, by) = match event {
        Event::AccountLinked(x) => (OTHER, "account", text(&x.account.account), text(&x.human)),
        Event::AccountUnlinked(x) => (DELETED, "account", text(&x.account.account), text(&x.by)),
        Event::AgentRevoked(x) => (DELETED, "agent", text(&x.agent), text(&x.by)),
        Event::AgentSet(x) => (OTHER, "agent", text(&x.agent), text(&x.by)),
        Event::Delegated(x) => (CREATED, "delegation", text(&x.delegation_id), String::new()),
        Event::DelegationEnded(x) => {
            let by = x.human.as_ref().map(ToString::to_string).unwrap_or_default();
            (DELETED, "delegation", text(&x.delegation_id), by)
        }
        Event::EpochStarted(x) => (CREATED, "log", text(&x.origin), String::new()),
        Event::Erased(x) => (DELETED, "texts", text(&x.of), text(&x.by)),
        Event::GroupSet(x) => (OTHER, "group", text(&x.group), text(&x.by)),
        Event::HumanSet(x) => (OTHER, "human", text(&x.human), text(&x.by)),
        Event::IdentitySet(x) => (OTHER, "identity", text(&x.subject), text(&x.by)),
        Event::InstanceRenewed(x) => (UPDATED, "sidecar", text(&x.instance), String::new()),
        Event::InstanceRevoked(x) => (DELETED, "sidecar", text(&x.instance), text(&x.by)),
        Event::JoinCreated(x) => (CREATED, "join token", text(&x.join_id), text(&x.by)),
        Event::LinkCreated(x) => (CREATED, "one-time link", text(&x.link_id), text(&x.by)),
        Event::LinkSpent(x) => (DELETED, "one-time link", text(&x.link_id), String::new()),
        Event::ModelSet(x) => {
            (OTHER, "model", format!("{} {}", x.model, x.model_version), text(&x.by))
        }
        Event::Opened(x) => (CREATED, "log", text(&x.origin), String::new()),
        Event::PasskeyEnrolled(x) => (CREATED, "passkey", text(&x.credential_id), text(&x.human)),
        Event::PasskeyRevoked(x) => (DELETED, "passkey", text(&x.credential_id), text(&x.by)),
        Event::PolicyLoaded(x) => (UPDATED, "policy", text(&x.policy_set), text(&x.by)),
        Event::TokenRevoked(x) => (DELETED, "token", text(&x.token_id), text(&x.by)),
        other => (OTHER, other.kind(), e.index.to_string(), String::new()),
    };
    out.class(Class::Entity, activity);
    out.put("entity", json!({ "name": format!("{kind} {uid}"), "type": kind, "uid": uid }));
    let who = if by.is_empty() { broker(e) } else { human(&by, e) };
    out.put("actor", json!({ "user": who }));
}

fn account(e: &Entry<'_>) -> Value {
    let domain = &e.origin.trust_domain;
    json!({ "name": domain, "uid": domain, "type": "SPIFFE trust domain", "type_id": 99 })
}

fn service(e: &Entry<'_>) -> Value {
    json!({ "name": "grantwright", "uid": e.origin.log, "version": env!("CARGO_PKG_VERSION") })
}

fn human(id: &str, e: &Entry<'_>) -> Value {
    json!({ "name": id, "uid": id, "type": "User", "type_id": 1, "account": account(e) })
}

fn agent(name: &str, e: &Entry<'_>) -> Value {
    let uid = format!("spiffe://{}/agent/{name}", e.origin.trust_domain);
    json!({ "name": name, "uid": uid, "type": "Service", "type_id": 4, "account": account(e) })
}

fn broker(e: &Entry<'_>) -> Value {
    let uid = format!("spiffe://{}/broker", e.origin.trust_domain);
    json!({ "name": "broker", "uid": uid, "type": "System", "type_id": 3, "account": account(e) })
}

impl Entry<'_> {
    /// The agent that asks; where its ask is not known, its request's id stands for it.
    fn agent_user(&self) -> Value {
        match (self.asked, self.event.request_id()) {
            (Some(asked), _) => agent(asked.agent.as_str(), self),
            (None, Some(id)) => {
                json!({ "name": format!("agent of request {id}"), "uid": id, "type": "Service",
                    "type_id": 4, "account": account(self) })
            }
            (None, None) => broker(self),
        }
    }
}

/// An event in the making.
struct Built<'e, 'a> {
    e: &'e Entry<'a>,
    fields: Map<String, Value>,
    profiles: Vec<&'static str>,
    severity: (u32, &'static str),
}

impl<'e, 'a> Built<'e, 'a> {
    fn new(e: &'e Entry<'a>) -> Self {
        Self { e, fields: Map::new(), profiles: Vec::new(), severity: (1, "Informational") }
    }

    fn put(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    fn class(&mut self, class: Class, activity: u32) {
        let (uid, name) = (class.uid(), class.activity(activity));
        self.put("class_uid", json!(uid));
        self.put("class_name", json!(class.name()));
        self.put("category_uid", json!(uid / 1000));
        self.put("category_name", json!(class.category()));
        self.put("activity_id", json!(activity));
        self.put("activity_name", json!(name));
        self.put("type_uid", json!(uid * 100 + activity));
        self.put("type_name", json!(format!("{}: {name}", class.name())));
        self.put("status_id", json!(1));
        self.put("status", json!("Success"));
    }

    fn failure(&mut self, code: &str, detail: &str) {
        self.severity = (2, "Low");
        self.put("status_id", json!(2));
        self.put("status", json!("Failure"));
        self.put("status_code", json!(code));
        self.put("status_detail", json!(detail));
    }

    fn control(&mut self, done: Done) {
        let ((action, action_name), (disposition, disposition_name)) = done.ids();
        self.profiles.push("security_control");
        self.put("action_id", json!(action));
        self.put("action", json!(action_name));
        self.put("disposition_id", json!(disposition));
        self.put("disposition", json!(disposition_name));
    }

    /// A call of the broker's API; its other end is the sidecar, or the person's door.
    fn api(&mut self, activity: u32, operation: &str, user: Value) {
        self.class(Class::Api, activity);
        let service = service(self.e);
        self.put("api", json!({ "operation": operation, "service": service, "version": "v1" }));
        self.put("actor", json!({ "user": user }));
        let from = match (self.e.event, self.e.asked) {
            (Event::Requested(_) | Event::Answered(_) | Event::Cancelled(_), Some(a)) => {
                json!({ "name": a.instance, "uid": a.instance, "svc_name": "grantwright-sidecar" })
            }
            (Event::Voted(v), _) => json!({ "name": v.channel, "svc_name": v.channel }),
            (Event::Questioned(q), _) => json!({ "name": q.channel, "svc_name": q.channel }),
            _ => json!({ "name": "broker", "svc_name": "grantwright-broker" }),
        };
        self.put("src_endpoint", from);
        self.resources();
    }

    fn resources(&mut self) {
        let Some(asked) = self.e.asked else { return };
        let resource = json!({ "name": asked.scope, "uid": asked.scope, "type": "scope",
            "labels": asked.params });
        self.put("resources", json!([resource]));
    }

    /// What became of the agent's right to the scope.
    fn session(&mut self, done: Done, session: Option<Value>) {
        self.class(Class::Session, 1);
        self.control(done);
        self.put("user", self.e.agent_user());
        self.put("actor", json!({ "user": broker(self.e) }));
        let mut privileges = vec!["unknown".to_owned()];
        if let Some(asked) = self.e.asked {
            privileges =
                vec![[&[asked.scope.to_string()], asked.params.as_slice()].concat().join(" ")];
        }
        self.put("privileges", json!(privileges));
        if let Some(session) = session {
            self.put("session", session);
        }
    }

    fn authentication(&mut self, activity: u32, user: Value, by: &str) {
        self.class(Class::Authentication, activity);
        self.put("user", user);
        self.put("service", service(self.e));
        let (id, name) = match by {
            "OpenID Connect" => (4, "OpenID"),
            other => (99, other),
        };
        self.put("auth_protocol_id", json!(id));
        self.put("auth_protocol", json!(name));
    }

    fn finding(&mut self, title: &str, detail: &str, kind: &str) {
        self.class(Class::Finding, 1);
        self.severity = (4, "High");
        self.put("status_id", json!(1));
        self.put("status", json!("New"));
        let info = json!({ "title": title, "desc": detail, "uid": self.uid(), "types": [kind],
            "created_time": self.e.event.at().millis() });
        self.put("finding_info", info);
        self.resources();
    }

    /// Names the leaf for ever.
    fn uid(&self) -> String {
        format!("{}#{}", self.e.origin.log, self.e.index)
    }

    fn done(mut self) -> Value {
        let at = self.e.event.at();
        self.put("time", json!(at.millis()));
        let (id, name) = self.severity;
        self.put("severity_id", json!(id));
        self.put("severity", json!(name));
        let mut metadata = json!({
            "version": SCHEMA,
            "product": { "name": "Grantwright", "vendor_name": "Grantwright",
                "version": env!("CARGO_PKG_VERSION") },
            "uid": self.uid(),
            "sequence": self.e.index,
            "log_name": self.e.origin.log,
            "event_code": self.e.event.kind(),
            "original_time": at,
            "profiles": self.profiles,
        });
        if let (Some(id), Some(metadata)) = (self.e.event.request_id(), metadata.as_object_mut()) {
            metadata.insert("correlation_uid".into(), json!(id));
        }
        self.put("metadata", metadata);
        let what = self.e.event.kind().replace('_', " ");
        let message = match self.e.asked {
            Some(a) => format!("{what}: agent {} and scope {}", a.agent, a.scope),
            None => what,
        };
        self.put("message", json!(message));
        // The leaf itself, so that its hash can be computed and its proof asked for.
        self.put("raw_data", json!(self.e.leaf));
        self.put("unmapped", json!({ "leaf_index": self.e.index, "leaf_hash": self.e.hash }));
        Value::Object(self.fields)
    }
}
