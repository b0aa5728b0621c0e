//! Microsoft Teams: the door for the Bot Service's activities, and the courier that carries cards to
//! conversations. What is believed and what is shown is `approval`'s; who decides is the rules'.

pub mod config;
mod connector;
pub mod door;
mod keys;
#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use grantwright_approval::channel::{Channel, Message};
use grantwright_approval::teams::card::set_refresh;
use grantwright_approval::teams::{Expected, NAME, Person, Place, Teams};
use grantwright_credential::Secret;
use grantwright_domain::event::Account;
use grantwright_domain::{Clock, GroupName};
use grantwright_store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::config::TeamsSection;
use self::connector::Connector;
use super::{Courier, SendError, Sending};
use crate::error::StartError;

/// Kind of the rows that say at which address of the service a conversation is.
const CONVERSATIONS: &str = "teams-conversation";
/// Kind of the rows that say where a person is reached.
const PEOPLE: &str = "teams-person";
/// Most conversations and most people that are remembered.
const MOST: usize = 20_000;
/// How a place begins that is one person.
const DIRECT: char = '@';

/// See the module.
pub struct TeamsChannel {
    teams: Teams,
    section: TeamsSection,
    connector: Connector,
    keys: keys::Keys,
    store: Store,
    clock: Arc<dyn Clock>,
    known: RwLock<Known>,
}

/// What was learnt from activities; the same is in the side table.
#[derive(Default)]
struct Known {
    /// The service's address by conversation, without its `;messageid=`.
    conversations: BTreeMap<String, String>,
    /// By object id.
    people: BTreeMap<String, Reached>,
}

/// Where a person is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Reached {
    address: String,
    service_url: String,
}

/// A message of ours: where it is. Opaque to everybody else.
#[derive(Debug, Serialize, Deserialize)]
struct Reference {
    c: String,
    a: String,
}

impl TeamsChannel {
    /// The channel as configured, with what earlier brokers learnt.
    ///
    /// # Errors
    /// When the configuration does not hold, or the store cannot be read.
    pub async fn new(
        section: TeamsSection,
        secret: Secret<String>,
        store: Store,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let expected = Expected { issuer: section.issuer.clone(), app_id: section.app_id.clone() };
        let out = Self {
            teams: Teams::new(expected, &section.tenant),
            connector: Connector::new(&section, secret, Arc::clone(&clock))?,
            keys: keys::Keys::new(&section)?,
            known: RwLock::default(),
            section,
            store,
            clock,
        };
        out.recall().await.map_err(|e| StartError::new(format!("the store: {e}")))?;
        Ok(out)
    }

    async fn recall(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut known = Known::default();
        for kind in [CONVERSATIONS, PEOPLE] {
            let mut after: Option<String> = None;
            loop {
                let page = self.store.side_list(kind, "", after.as_deref(), 1024, now).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.key.clone());
                for row in page {
                    if kind == PEOPLE {
                        if let Ok(reached) = serde_json::from_slice(&row.value) {
                            known.people.insert(row.key, reached);
                        }
                    } else if let Ok(place) = serde_json::from_slice::<Place>(&row.value) {
                        known.conversations.insert(base(&place.conversation), place.service_url);
                    }
                }
            }
        }
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
        Ok(())
    }

    /// Remembers where a conversation is, for ever: the service's addresses change.
    async fn remember(&self, place: &Place) -> Result<(), StoreError> {
        let key = base(&place.conversation);
        if !self.connector.allows(&place.service_url) {
            tracing::warn!(channel = NAME, "an activity names a service whose host is not allowed");
            return Ok(());
        }
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let same = known.conversations.get(&key) == Some(&place.service_url);
            if same || known.conversations.len() >= MOST {
                return Ok(());
            }
        }
        let row = serde_json::to_vec(place).unwrap_or_default();
        self.store.side_put(CONVERSATIONS, &row_key(&key), row, None).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.conversations.insert(key, place.service_url.clone());
        Ok(())
    }

    async fn forget(&self, place: &Place) -> Result<(), StoreError> {
        let key = base(&place.conversation);
        self.store.side_delete(CONVERSATIONS, &row_key(&key)).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.conversations.remove(&key);
        Ok(())
    }

    /// Remembers where a linked person is reached.
    async fn meet(&self, person: &Person, place: &Place) -> Result<(), StoreError> {
        if !self.connector.allows(&place.service_url) {
            return Ok(());
        }
        let reached =
            Reached { address: person.address.clone(), service_url: place.service_url.clone() };
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let same = known.people.get(&person.account.account) == Some(&reached);
            if same || known.people.len() >= MOST {
                return Ok(());
            }
        }
        let row = serde_json::to_vec(&reached).unwrap_or_default();
        self.store.side_put(PEOPLE, &person.account.account, row, None).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.people.insert(person.account.account.clone(), reached);
        Ok(())
    }

    /// The service's address of a conversation.
    fn service_url(&self, conversation: &str) -> String {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.conversations.get(&base(conversation)).unwrap_or(&self.section.service_url).clone()
    }

    /// The message as an activity; a card's view is fetched anew by the people known.
    fn activity(&self, message: &Message) -> Value {
        let mut card = message.body.clone();
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let people: Vec<String> = known.people.values().map(|p| p.address.clone()).collect();
        set_refresh(&mut card, &people);
        // `summary` is plain text; `text` would be markdown.
        json!({
            "type": "message", "summary": message.text,
            "attachments": [{
                "contentType": "application/vnd.microsoft.card.adaptive", "content": card,
            }],
        })
    }

    async fn send(
        &self,
        place: &str,
        thread: Option<&str>,
        message: &Message,
    ) -> Result<String, SendError> {
        let (service_url, conversation) = match place.strip_prefix(DIRECT) {
            Some(object_id) => self.one_to_one(object_id).await?,
            None => (self.service_url(place), place.to_owned()),
        };
        let thread: Option<Reference> = thread.and_then(|t| serde_json::from_str(t).ok());
        let mut path = vec![conversation.as_str(), "activities"];
        path.extend(thread.iter().map(|t| t.a.as_str()));
        let said = self.connector.post(&service_url, &path, &self.activity(message)).await?;
        let id = said.get("id").and_then(Value::as_str).filter(|id| id.len() <= 200);
        let id = id.ok_or_else(|| SendError::Down("the answer holds no id".into()))?;
        let reference = Reference { c: conversation, a: id.to_owned() };
        serde_json::to_string(&reference).map_err(|e| SendError::Unshowable(e.to_string()))
    }

    /// The conversation with one person, made where it is not there yet.
    async fn one_to_one(&self, object_id: &str) -> Result<(String, String), SendError> {
        let reached = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.people.get(object_id).cloned()
        };
        let reached = reached.ok_or_else(|| SendError::Barred("the person is not known".into()))?;
        let ask = json!({
            "isGroup": false, "bot": { "id": format!("28:{}", self.section.app_id) },
            "members": [{ "id": reached.address }],
            "tenantId": self.section.tenant,
            "channelData": { "tenant": { "id": self.section.tenant } },
        });
        let said = self.connector.post(&reached.service_url, &[], &ask).await?;
        let id = said.get("id").and_then(Value::as_str).filter(|id| id.len() <= 400);
        let id = id.ok_or_else(|| SendError::Down("the answer holds no id".into()))?;
        Ok((reached.service_url, id.to_owned()))
    }
}

impl Courier for TeamsChannel {
    fn channel(&self) -> &dyn Channel {
        &self.teams
    }

    fn tenant(&self) -> &str {
        self.teams.tenant()
    }

    fn place(&self, group: &GroupName) -> Option<String> {
        self.section.conversations.get(group.as_str()).cloned()
    }

    fn direct(&self, account: &Account) -> Option<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.people.contains_key(&account.account).then(|| format!("{DIRECT}{}", account.account))
    }

    fn post<'a>(
        &'a self,
        place: &'a str,
        thread: Option<&'a str>,
        message: &'a Message,
    ) -> Sending<'a, String> {
        Box::pin(self.send(place, thread, message))
    }

    fn update<'a>(&'a self, reference: &'a str, message: &'a Message) -> Sending<'a, ()> {
        Box::pin(async move {
            let reference: Reference =
                serde_json::from_str(reference).map_err(|_| SendError::Gone)?;
            let service_url = self.service_url(&reference.c);
            let path = [reference.c.as_str(), "activities", reference.a.as_str()];
            self.connector.put(&service_url, &path, &self.activity(message)).await
        })
    }
}

/// A conversation without the thread within it.
fn base(conversation: &str) -> String {
    conversation.split(';').next().unwrap_or_default().to_owned()
}

/// Conversation ids may be longer than keys.
fn row_key(conversation: &str) -> String {
    grantwright_domain::Digest::of("teams-conversation", conversation.as_bytes()).hex()
}
