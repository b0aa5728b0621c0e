//! A channel of paper, for tests of what all channels share: it signs with a digest, renders JSON,
//! and its courier keeps what it was given and fails as it is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use grantwright_approval::Sheet;
use grantwright_approval::channel::{
    Channel, Delivery, Flood, Handle, Limits, Message, Notice, Press, Rejected, Verified, Wish,
};
use grantwright_domain::event::Account;
use grantwright_domain::{Digest, GroupName, Timestamp};
use serde_json::{Value, json};

use super::conformance::Hand;
use super::{Courier, SendError, Sending};

const SECRET: &str = "paper-secret";

/// See the module.
pub struct Paper {
    pub limits: Limits,
}

/// One message on the wall.
#[derive(Debug, Clone, PartialEq)]
pub struct Sheeted {
    pub place: String,
    pub thread: Option<String>,
    pub body: Value,
    pub at: usize,
}

/// What the service holds; it outlives brokers.
#[derive(Default)]
pub struct Wall {
    pub messages: Mutex<BTreeMap<String, Sheeted>>,
    pub faults: Mutex<VecDeque<SendError>>,
    pub calls: Mutex<Vec<String>>,
    /// Groups that have no place here.
    pub nowhere: Mutex<BTreeSet<String>>,
}

/// The courier.
pub struct PaperCourier {
    pub paper: Paper,
    pub wall: Arc<Wall>,
}

impl Paper {
    pub fn new() -> Self {
        let limits =
            Limits { message_every_ms: 1000, most_cards: 50, most_bytes: 1 << 20, most_grouped: 3 };
        Self { limits }
    }
}

fn sign(at: &str, body: &[u8]) -> String {
    Digest::of("paper", &[SECRET.as_bytes(), at.as_bytes(), body].concat()).hex()
}

impl Channel for Paper {
    fn name(&self) -> &'static str {
        "paper"
    }
    fn limits(&self) -> Limits {
        self.limits
    }
    fn card(&self, sheet: &Sheet) -> Message {
        let state = &sheet.card.state;
        let body = json!({
            "request": sheet.handle.request, "value": sheet.handle.encode(), "open": sheet.open,
            "headline": sheet.card.headline, "state": state.sentence, "have": state.have,
            "questions": state.questions.len(), "answers": sheet.card.words.answers.len(),
            "agent": sheet.card.who.agent, "asked": sheet.asked, "reason": sheet.card.words.reason,
        });
        Message { text: sheet.card.headline.clone(), body }
    }
    fn group(&self, sheets: &[Sheet]) -> Message {
        let bodies: Vec<Value> = sheets.iter().map(|sheet| self.card(sheet).body).collect();
        Message { text: "several".into(), body: json!({ "requests": bodies }) }
    }
    fn notice(&self, notice: &Notice) -> Message {
        Message { text: notice.text.clone(), body: json!({ "notice": notice }) }
    }
    fn flood(&self, flood: &Flood) -> Message {
        Message { text: "flood".into(), body: json!({ "flood": flood }) }
    }
    fn verify(&self, delivery: &Delivery, now: Timestamp) -> Result<Verified<Press>, Rejected> {
        let at = delivery.headers.get("at").ok_or(Rejected::Stale)?;
        let mark = delivery.headers.get("sign").ok_or(Rejected::Forged)?;
        if sign(at, &delivery.body) != *mark {
            return Err(Rejected::Forged);
        }
        let sent: i64 = at.parse().map_err(|_| Rejected::Stale)?;
        if now.since(Timestamp::from_millis(sent)).abs() > 300_000 {
            return Err(Rejected::Stale);
        }
        let body: Value =
            serde_json::from_slice(&delivery.body).map_err(|_| Rejected::Malformed("json"))?;
        let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("tenant") != "T1" {
            return Err(Rejected::Stranger);
        }
        let wish = match text("wish").as_str() {
            "approve" => Wish::Approve { confirm: None },
            "withdraw" => Wish::Withdraw,
            "ask" => Wish::Ask { text: text("text") },
            "deny" => Wish::Deny { reason_code: text("text"), reason: None },
            "narrow" => Wish::Narrow {
                ttl_s: text("text").parse().ok().filter(|ttl| *ttl > 0),
                params: body.get("params").filter(|p| p.is_object()).cloned(),
                confirm: None,
            },
            _ => return Err(Rejected::Malformed("wish")),
        };
        let handle = Handle::decode(&text("value"))?;
        Ok(Verified::danger_vouch(Press {
            account: Account {
                channel: "paper".into(),
                tenant: "T1".into(),
                account: text("account"),
            },
            shown_name: text("account"),
            wish,
            request: handle.request,
            digest: handle.digest,
            seen: handle.seen,
            delivery: text("id"),
        }))
    }
}

impl Hand for Paper {
    fn channel(&self) -> Option<&dyn Channel> {
        Some(self)
    }
    fn press(
        &self,
        tenant: &str,
        account: &str,
        value: &str,
        wish: &Wish,
        id: &str,
        at: Timestamp,
    ) -> Delivery {
        let (word, text) = match wish {
            Wish::Approve { .. } => ("approve", String::new()),
            Wish::Withdraw => ("withdraw", String::new()),
            Wish::Ask { text } => ("ask", text.clone()),
            Wish::Deny { reason_code, .. } => ("deny", reason_code.clone()),
            Wish::Narrow { ttl_s, .. } => ("narrow", ttl_s.unwrap_or(0).to_string()),
        };
        let params = match wish {
            Wish::Narrow { params, .. } => params.clone(),
            _ => None,
        };
        let body = json!({
            "tenant": tenant, "account": account, "value": value, "wish": word, "text": text, "id": id,
            "params": params,
        });
        let (at, body) = (at.millis().to_string(), body.to_string().into_bytes());
        let mark = sign(&at, &body);
        Delivery { headers: BTreeMap::from([("at".into(), at), ("sign".into(), mark)]), body }
    }
    fn garble(&self, mut delivery: Delivery) -> Delivery {
        delivery.body = b"{\"tenant\":".to_vec();
        delivery.headers.insert("sign".into(), sign(&delivery.headers["at"], &delivery.body));
        delivery
    }
    fn forge(&self, mut delivery: Delivery) -> Delivery {
        delivery.headers.insert("sign".into(), "00".repeat(32));
        delivery
    }
}

impl Wall {
    /// The cards that are posted, by request.
    pub fn cards(&self) -> BTreeMap<String, Value> {
        let messages = self.messages.lock().unwrap();
        let alone = |body: &Value| Some((body.get("request")?.as_str()?.to_owned(), body.clone()));
        let grouped = |body: &Value| body.get("requests").and_then(Value::as_array).cloned();
        let all = messages
            .values()
            .flat_map(|m| grouped(&m.body).unwrap_or_else(|| vec![m.body.clone()]));
        all.filter_map(|body| alone(&body)).collect()
    }

    fn fault(&self, call: String) -> Result<(), SendError> {
        self.calls.lock().unwrap().push(call);
        self.faults.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }
}

impl Courier for PaperCourier {
    fn channel(&self) -> &dyn Channel {
        &self.paper
    }
    fn tenant(&self) -> &str {
        "T1"
    }
    fn place(&self, group: &GroupName) -> Option<String> {
        let nowhere = self.wall.nowhere.lock().unwrap().contains(group.as_str());
        (!nowhere).then(|| format!("#{group}"))
    }
    fn direct(&self, account: &Account) -> Option<String> {
        Some(format!("@{}", account.account))
    }
    fn post<'a>(
        &'a self,
        place: &'a str,
        thread: Option<&'a str>,
        message: &'a Message,
    ) -> Sending<'a, String> {
        Box::pin(async move {
            self.wall.fault(format!("post {place}"))?;
            let mut messages = self.wall.messages.lock().unwrap();
            let at = messages.len();
            let reference = format!("m{at:05}");
            let (place, thread) = (place.to_owned(), thread.map(ToOwned::to_owned));
            let body = message.body.clone();
            messages.insert(reference.clone(), Sheeted { place, thread, body, at });
            Ok(reference)
        })
    }
    fn update<'a>(&'a self, reference: &'a str, message: &'a Message) -> Sending<'a, ()> {
        Box::pin(async move {
            self.wall.fault(format!("update {reference}"))?;
            let mut messages = self.wall.messages.lock().unwrap();
            let found = messages.get_mut(reference).ok_or(SendError::Gone)?;
            found.body = message.body.clone();
            Ok(())
        })
    }
}
