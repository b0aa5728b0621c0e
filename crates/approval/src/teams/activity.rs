//! An activity as the Bot Service posts it, believed only with a valid token
//! (<https://learn.microsoft.com/azure/bot-service/rest-api/bot-framework-rest-connector-api-reference>).

use grantwright_domain::event::Account;
use grantwright_domain::text::shorten;
use grantwright_domain::{Digest, RequestId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::channel::{Handle, Press, Rejected, Wish};
use crate::show::prose;
use crate::teams::form;
use crate::teams::keys::KeySet;
use crate::teams::token::{self, Expected, Forged};

/// The channel id of Teams.
pub const CHANNEL: &str = "msteams";
/// Largest activity, in bytes.
pub const MOST_BYTES: usize = 64 << 10;
/// Longest id of a conversation, an activity or an address, in bytes.
pub const MOST_ID: usize = 400;
/// Longest text that a person writes, in characters; the rules for people's words are stricter.
pub const MOST_TEXT: usize = 4000;

/// An activity of the configured tenant, sent by the Bot Service to this app.
#[derive(Debug, Clone, PartialEq)]
pub struct Activity {
    what: What,
    person: Option<Person>,
    place: Place,
    id: String,
    expires_at: Timestamp,
}

/// Who is signed in where it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Tenant and Entra object id, lower case: the identity.
    pub account: Account,
    /// What the client shows; never identity.
    pub shown_name: String,
    /// Where the bot reaches them: `29:…`, unique for this bot; never identity.
    pub address: String,
}

/// Where it happened, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The connector's base, equal to the token's claim; it must still be an allowed host.
    pub service_url: String,
    /// The conversation; within a channel `19:…;messageid=…`.
    pub conversation: String,
    /// `personal`, `groupChat` or `channel`.
    pub kind: String,
    /// The activity that this one answers: the card that was pressed.
    pub reply_to: Option<String>,
}

/// What it is about.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// The app was added where the activity says.
    Installed,
    /// A person pressed a button of a card.
    Pressed(Pressed),
    /// The client asks for the person's own view of a card: no human act.
    Refresh(RequestId),
    /// The app was removed.
    Removed,
    /// A person wrote to the bot.
    Said(String),
    /// Something that is of no interest.
    Other,
}

/// A pressed button. Everything in it is the client's claim, to be judged by the rules.
#[derive(Debug, Clone, PartialEq)]
pub struct Pressed {
    /// What the card showed.
    pub handle: Handle,
    /// What is wanted.
    pub wish: Wish,
    /// Nothing is decided: what [`Wish::Narrow`] would issue is to be shown.
    pub preview: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: String,
    name: Option<String>,
    #[serde(default)]
    channel_id: String,
    #[serde(default)]
    service_url: String,
    from: Option<From>,
    conversation: Option<Conversation>,
    channel_data: Option<ChannelData>,
    reply_to_id: Option<String>,
    text: Option<String>,
    action: Option<String>,
    value: Option<Value>,
    #[serde(default)]
    members_added: Vec<Member>,
    #[serde(default)]
    members_removed: Vec<Member>,
    recipient: Option<Member>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct From {
    #[serde(default)]
    id: String,
    name: Option<String>,
    aad_object_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conversation {
    id: String,
    #[serde(default)]
    conversation_type: Option<String>,
    tenant_id: Option<String>,
}

#[derive(Deserialize)]
struct ChannelData {
    tenant: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Member {
    #[serde(default)]
    id: String,
}

impl Activity {
    /// Believes a posted activity, or not: token, channel, address and tenant.
    ///
    /// # Errors
    /// Why not; for the log only. [`Forged::UnknownKey`]: fetch the keys anew, then try once more.
    pub fn authentic(
        authorization: Option<&str>,
        body: &[u8],
        keys: &KeySet,
        expected: &Expected,
        tenant: &str,
        now: Timestamp,
    ) -> Result<Self, Forged> {
        let wrong = |what: &str| Forged::Activity(what.to_owned());
        if body.len() > MOST_BYTES {
            return Err(wrong("it is too long"));
        }
        let claims = token::verify(authorization, keys, expected, CHANNEL, now)?;
        let raw: Raw =
            serde_json::from_slice(body).map_err(|e| wrong(&shorten(&e.to_string(), 200)))?;
        if raw.channel_id != CHANNEL {
            return Err(wrong("it comes from another channel than Teams"));
        }
        if claims.service_url.is_empty() || claims.service_url != raw.service_url {
            return Err(Forged::ServiceUrl);
        }
        let conversation = raw.conversation.as_ref().ok_or_else(|| wrong("no conversation"))?;
        let tenants = [
            conversation.tenant_id.as_deref(),
            raw.channel_data.as_ref().and_then(|d| d.tenant.as_ref()).map(|t| t.id.as_str()),
        ];
        let mut named = tenants.into_iter().flatten().peekable();
        if named.peek().is_none() || named.any(|t| !t.eq_ignore_ascii_case(tenant)) {
            return Err(Forged::Tenant);
        }
        let ids = [&raw.id, &raw.service_url, &conversation.id];
        if conversation.id.is_empty() || ids.iter().any(|id| id.len() > MOST_ID) {
            return Err(wrong("an id is missing or too long"));
        }
        Ok(Self {
            what: what(&raw)?,
            person: raw.from.as_ref().and_then(|from| person(from, tenant)),
            place: Place {
                service_url: raw.service_url.clone(),
                conversation: conversation.id.clone(),
                kind: conversation.conversation_type.clone().unwrap_or_default(),
                reply_to: raw.reply_to_id.clone().filter(|id| id.len() <= MOST_ID),
            },
            id: raw.id,
            expires_at: claims.expires_at,
        })
    }

    /// What it is about.
    #[must_use]
    pub fn what(&self) -> &What {
        &self.what
    }

    /// Who did it; none for the service itself and for anonymous guests, who can do nothing.
    #[must_use]
    pub fn person(&self) -> Option<&Person> {
        self.person.as_ref()
    }

    /// What a person decides by it.
    ///
    /// # Errors
    /// [`Rejected::Malformed`] where nobody decides anything: it is no press, or only a preview, or
    /// nobody known to the tenant did it; [`Rejected::Stale`] without the id that tells it from a replay.
    pub fn press(&self) -> Result<Press, Rejected> {
        let (Some(person), What::Pressed(Pressed { handle, wish, preview: false })) =
            (&self.person, &self.what)
        else {
            return Err(Rejected::Malformed("it decides nothing"));
        };
        if self.id.is_empty() {
            return Err(Rejected::Stale);
        }
        Ok(Press {
            account: person.account.clone(),
            shown_name: person.shown_name.clone(),
            wish: wish.clone(),
            request: handle.request.clone(),
            digest: handle.digest,
            seen: handle.seen,
            delivery: Digest::of("teams-delivery", self.delivery().as_bytes()).hex(),
        })
    }

    /// The id is unique within its conversation.
    fn delivery(&self) -> String {
        format!("{}\n{}", self.place.conversation, self.id)
    }

    /// Where.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The id that the Bot Service gave it, the same when it is sent again; may be empty.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When the token that brought it ends: after that (and [`token::SKEW_S`]) it cannot come again.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

/// An Entra object id is a GUID; anything else is nobody.
fn person(from: &From, tenant: &str) -> Option<Person> {
    let object_id = from.aad_object_id.as_deref().filter(|id| is_guid(id))?;
    (from.id.len() <= MOST_ID).then(|| Person {
        account: Account {
            channel: super::NAME.to_owned(),
            tenant: tenant.to_ascii_lowercase(),
            account: object_id.to_ascii_lowercase(),
        },
        shown_name: prose(from.name.as_deref().unwrap_or_default(), 80).text,
        address: from.id.clone(),
    })
}

/// True for `8-4-4-4-12` hexadecimal digits.
#[must_use]
pub fn is_guid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|g| g.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn what(raw: &Raw) -> Result<What, Forged> {
    let bot = raw.recipient.as_ref().map(|r| r.id.as_str()).unwrap_or_default();
    let about_us = |members: &[Member]| members.iter().any(|m| !bot.is_empty() && m.id == bot);
    Ok(match (raw.kind.as_str(), raw.name.as_deref(), raw.action.as_deref()) {
        ("invoke", Some("adaptiveCard/action"), _) => {
            invoked(raw.value.as_ref().unwrap_or(&Value::Null))?
        }
        ("installationUpdate", _, Some("add" | "add-upgrade")) => What::Installed,
        ("installationUpdate", _, Some("remove" | "remove-upgrade")) => What::Removed,
        ("conversationUpdate", _, _) if about_us(&raw.members_added) => What::Installed,
        ("conversationUpdate", _, _) if about_us(&raw.members_removed) => What::Removed,
        ("message", _, _) => {
            let text = raw.text.as_deref().unwrap_or_default();
            What::Said(text.chars().take(MOST_TEXT).collect())
        }
        _ => What::Other,
    })
}

fn invoked(value: &Value) -> Result<What, Forged> {
    let wrong = |what: &str| Forged::Activity(what.to_owned());
    let text = |at: &str| value.pointer(at).and_then(Value::as_str);
    if text("/action/type") != Some("Action.Execute") {
        return Err(wrong("the action is not Action.Execute"));
    }
    let verb = text("/action/verb").unwrap_or_default();
    let none = Map::new();
    let data = value.pointer("/action/data").and_then(Value::as_object).unwrap_or(&none);
    let handle = data.get(form::HANDLE).and_then(Value::as_str).unwrap_or_default();
    let handle = Handle::decode(handle).map_err(|e| wrong(&e.to_string()))?;
    if verb == form::REFRESH {
        return Ok(What::Refresh(handle.request));
    }
    // `automatic` is the client's refresh, and never a person's click.
    if text("/trigger").is_some_and(|t| t != "manual") {
        return Err(wrong("only a refresh comes by itself"));
    }
    let (wish, preview) = form::wish(verb, data).map_err(wrong)?;
    Ok(What::Pressed(Pressed { handle, wish, preview }))
}
