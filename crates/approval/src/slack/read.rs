//! What a payload of Slack's says: only the fields named here are read, and none of them is an
//! authority. Names, display names and the legacy `token` are never identities.

use std::collections::BTreeMap;

use grantwright_domain::event::Account;
use serde_json::Value;

use crate::channel::{Handle, Press, Rejected, Wish};

/// Longest text that is taken from a field, in characters; longer is refused later in words.
const MOST_TEXT: usize = 3000;

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A decision.
    Press(Box<Press>, ReplyTo),
    /// A button that opens a form.
    Open {
        /// Which form.
        form: Form,
        /// To what it refers.
        handle: Handle,
        /// By whom.
        account: Account,
        /// Their name as shown.
        shown_name: String,
        /// Opens a view within three seconds, once.
        trigger: String,
        /// Where to tell them something.
        reply: ReplyTo,
    },
    /// A form that was sent.
    Submitted(Box<Submitted>),
    /// Nothing to do: a link was followed, a view was closed.
    Nothing,
}

/// Where the person who pressed can be told something alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplyTo {
    /// The conversation of the message.
    pub channel: String,
    /// The account.
    pub user: String,
    /// A capability of Slack's; attacker-shaped until its host was compared.
    pub response_url: Option<String>,
}

/// The forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Type the fact that the scope demands.
    Approve,
    /// A question.
    Ask,
    /// Why not.
    Deny,
    /// Less.
    Narrow,
}

/// A form that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Which.
    pub form: Form,
    /// To what it refers, as it was when the form was opened.
    pub handle: Handle,
    /// By whom.
    pub account: Account,
    /// Their name as shown.
    pub shown_name: String,
    /// Where to tell them something.
    pub reply: ReplyTo,
    /// Unique to this delivery.
    pub delivery: String,
    /// Its fields.
    pub fields: Fields,
}

/// A form's fields by their block's id.
pub type Fields = BTreeMap<String, Vec<String>>;

impl Form {
    /// The view's `callback_id`.
    #[must_use]
    pub fn id(self) -> &'static str {
        match self {
            Self::Approve => "gw_confirm",
            Self::Ask => "gw_ask",
            Self::Deny => "gw_deny",
            Self::Narrow => "gw_narrow",
        }
    }

    fn parse(id: &str) -> Option<Self> {
        [Self::Approve, Self::Ask, Self::Deny, Self::Narrow].into_iter().find(|f| f.id() == id)
    }
}

/// The one field of an interactive delivery over HTTP.
pub(super) fn form_payload(body: &[u8]) -> Result<Value, Rejected> {
    let mut found = None;
    for (name, value) in form_urlencoded::parse(body) {
        if name != "payload" || found.is_some() {
            return Err(Rejected::Malformed("want one field, payload"));
        }
        found = Some(value.into_owned());
    }
    let text = found.ok_or(Rejected::Malformed("want one field, payload"))?;
    serde_json::from_str(&text).map_err(|_| Rejected::Malformed("the payload is no JSON"))
}

pub(super) fn incoming(
    payload: &Value,
    team: &str,
    app: Option<&str>,
) -> Result<Incoming, Rejected> {
    let text = |path: &str| payload.pointer(path).and_then(Value::as_str).filter(|t| !t.is_empty());
    // A workspace's delivery names its team; an organisation's has none, and names the enterprise.
    let tenant = text("/team/id").or_else(|| text("/enterprise/id")).ok_or(Rejected::Stranger)?;
    let of_user = text("/user/team_id").unwrap_or(tenant);
    if tenant != team || of_user != team {
        return Err(Rejected::Stranger);
    }
    if app.is_some() && text("/api_app_id") != app {
        return Err(Rejected::Stranger);
    }
    let user = text("/user/id").ok_or(Rejected::Malformed("no user"))?;
    let account = Account { channel: "slack".into(), tenant: tenant.into(), account: user.into() };
    if !account.is_wellformed() {
        return Err(Rejected::Malformed("the user's id"));
    }
    let shown = text("/user/username").or_else(|| text("/user/name")).unwrap_or(user);
    match text("/type") {
        Some("block_actions") => action(payload, account, shown),
        Some("view_submission") => submission(payload, account, shown),
        Some("view_closed") => Ok(Incoming::Nothing),
        _ => Err(Rejected::Malformed("the payload's type")),
    }
}

fn action(payload: &Value, account: Account, shown: &str) -> Result<Incoming, Rejected> {
    let text = |path: &str| payload.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let Some([_]) = payload.get("actions").and_then(Value::as_array).map(Vec::as_slice) else {
        return Err(Rejected::Malformed("want one action"));
    };
    let id = text("/actions/0/action_id");
    if id.starts_with("gw_page_") {
        return Ok(Incoming::Nothing);
    }
    if text("/container/type") != "message" {
        return Err(Rejected::Malformed("the action's container"));
    }
    let handle = Handle::decode(text("/actions/0/value"))?;
    let reply = ReplyTo {
        channel: text("/container/channel_id").to_owned(),
        user: account.account.clone(),
        response_url: Some(text("/response_url").to_owned()).filter(|u| !u.is_empty()),
    };
    let wish = match id {
        "gw_approve" => Wish::Approve { confirm: None },
        "gw_withdraw" => Wish::Withdraw,
        _ => {
            let form = Form::parse(id).ok_or(Rejected::Malformed("the action's id"))?;
            let trigger = text("/trigger_id").to_owned();
            let shown_name = shown.to_owned();
            return Ok(Incoming::Open { form, handle, account, shown_name, trigger, reply });
        }
    };
    let delivery = delivery(payload, &["/trigger_id", "/actions/0/action_ts", "/user/id"])?;
    let press = Press {
        account,
        shown_name: shown.to_owned(),
        wish,
        request: handle.request,
        digest: handle.digest,
        seen: handle.seen,
        delivery,
    };
    Ok(Incoming::Press(Box::new(press), reply))
}

fn submission(payload: &Value, account: Account, shown: &str) -> Result<Incoming, Rejected> {
    let text = |path: &str| payload.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let form = Form::parse(text("/view/callback_id")).ok_or(Rejected::Malformed("the view"))?;
    // `handle` and the conversation, with a space between: ours, and checked like a button's value.
    let (handle, channel) =
        text("/view/private_metadata").split_once(' ').ok_or(Rejected::Malformed("the view"))?;
    let handle = Handle::decode(handle)?;
    let reply =
        ReplyTo { channel: channel.into(), user: account.account.clone(), response_url: None };
    let values = payload.pointer("/view/state/values").and_then(Value::as_object);
    let mut fields = Fields::new();
    for (block, actions) in values.into_iter().flatten().take(32) {
        for field in actions.as_object().into_iter().flat_map(|a| a.values()).take(8) {
            fields.entry(block.clone()).or_default().extend(field_values(field));
        }
    }
    let delivery = delivery(payload, &["/view/id", "/view/hash", "/user/id"])?;
    let shown_name = shown.to_owned();
    let submitted = Submitted { form, handle, account, shown_name, reply, delivery, fields };
    Ok(Incoming::Submitted(Box::new(submitted)))
}

/// The value, or values, that one element holds.
fn field_values(field: &Value) -> Vec<String> {
    let bounded = |v: &Value| v.as_str().map(|t| t.chars().take(MOST_TEXT).collect::<String>());
    let chosen = |v: &Value| v.get("value").and_then(bounded);
    match (field.get("value"), field.get("selected_option"), field.get("selected_options")) {
        (Some(value), _, _) => bounded(value).into_iter().collect(),
        (_, Some(option), _) => chosen(option).into_iter().collect(),
        (_, _, Some(options)) => {
            options.as_array().into_iter().flatten().take(100).filter_map(chosen).collect()
        }
        _ => Vec::new(),
    }
}

fn delivery(payload: &Value, parts: &[&str]) -> Result<String, Rejected> {
    let found: Vec<&str> =
        parts.iter().filter_map(|p| payload.pointer(p).and_then(Value::as_str)).collect();
    if found.len() != parts.len() || found.iter().any(|p| p.is_empty()) {
        return Err(Rejected::Malformed("it has no id of its own"));
    }
    Ok(found.join("|"))
}
