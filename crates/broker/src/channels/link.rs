//! How an account of a chat service becomes a person's: a press by an unknown account is answered
//! with a one-time link; whoever is signed in to the console there confirms that the account is
//! theirs. No name and no e-mail address links anything.

use grantwright_domain::event::{Account, AccountLinked};
use grantwright_domain::{Digest, Event, HumanId, Timestamp};
use grantwright_store::{StoreError, Transition};
use grantwright_wire::Refusal;
use serde::{Deserialize, Serialize};

use crate::core::Broker;
use crate::error::{of_store, of_violation, refuse};

/// Kind of the rows of codes, by their digest.
const CODES: &str = "chan-link";
/// Kind of the rows that bound how many codes one account has.
const OFFERED: &str = "chan-offered";
/// Life of a code.
const CODE_MS: i64 = 10 * 60_000;
/// One account is given a new code this often.
const OFFER_MS: i64 = 30_000;

/// What a code links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The account.
    pub account: Account,
    /// Its name as the service shows it: for the page only, never an identity.
    pub shown_name: String,
}

/// A code's row; vouched for, since it says whose account is linked.
#[derive(Serialize, Deserialize)]
struct Stored {
    offer: Offer,
    end: Timestamp,
}

fn key(code: &str) -> String {
    Digest::of("link-code", code.as_bytes()).hex()
}

/// A new link for this account.
///
/// # Errors
/// 429 when it was given one a moment ago; the store is away.
pub async fn offer(
    broker: &Broker,
    account: &Account,
    shown_name: &str,
) -> Result<String, Refusal> {
    let now = broker.now();
    let whole = format!("{}\n{}\n{}", account.channel, account.tenant, account.account);
    let bound = Digest::of("link-account", whole.as_bytes()).hex();
    let end = Some(now.plus_millis(OFFER_MS));
    let first = broker.store.side_put_if_absent(OFFERED, &bound, Vec::new(), end, now).await;
    if !first.map_err(of_store)? {
        return Err(refuse(
            429,
            "link_offered",
            "this account is not linked to a person here, and was given a link a moment ago",
            "open that link, sign in and confirm; then press again",
        ));
    }
    let code = broker.random.secret();
    let offer = Offer {
        account: account.clone(),
        shown_name: grantwright_approval::show::prose(shown_name, 80).text,
    };
    let (key, end) = (key(&code), now.plus_millis(CODE_MS));
    let row = broker.vouch.seal(CODES, &key, &Stored { offer, end }).map_err(of_store)?;
    broker.store.side_put(CODES, &key, row, Some(end)).await.map_err(of_store)?;
    Ok(format!("{}/link/{code}", broker.public_url))
}

/// What the code would link.
///
/// # Errors
/// 404 when it is unknown, used or expired.
pub async fn look(broker: &Broker, code: &str) -> Result<Offer, Refusal> {
    let now = broker.now();
    let row = broker.store.side_get(CODES, &key(code), now).await.map_err(of_store)?;
    let stored = row.and_then(|row| broker.vouch.open::<Stored>(CODES, &row));
    stored.filter(|s| s.end > now).map(|s| s.offer).ok_or_else(unknown)
}

/// Links the account to the signed-in person who confirmed it; the code works once.
///
/// # Errors
/// 404 as [`look`]; 409 when the account or the person is linked there already.
pub async fn confirm(broker: &Broker, human: &HumanId, code: &str) -> Result<Offer, Refusal> {
    let now = broker.now();
    let key = key(code);
    let value = broker.store.side_take(CODES, &key, now).await.map_err(of_store)?;
    let stored = value.and_then(|v| broker.vouch.open_value::<Stored>(CODES, &key, &v));
    let offer = stored.filter(|s| s.end > now).map(|s| s.offer).ok_or_else(unknown)?;
    let linked = Event::AccountLinked(AccountLinked {
        at: now,
        human: human.clone(),
        account: offer.account.clone(),
    });
    match broker.commit(Transition::authority(vec![linked])).await {
        Ok(_) => Ok(offer),
        Err(StoreError::Violation(v)) if v.rule == "account-once" => Err(refuse(
            409,
            "account_linked",
            v.detail,
            "unlink the other one first; an operator can do it too",
        )),
        Err(StoreError::Violation(v)) => Err(of_violation(&v)),
        Err(e) => Err(of_store(e)),
    }
}

fn unknown() -> Refusal {
    refuse(
        404,
        "link_refused",
        "the link is unknown, used or expired",
        "press a button of a card again: it gives you a new one",
    )
}
