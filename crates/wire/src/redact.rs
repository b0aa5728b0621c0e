//! `Debug` of the messages that carry a credential or a token: it names what is there, never what
//! it says. What an agent wrote (parameters, reason, task) may be sensitive and is left out too.

use std::fmt;

use crate::agent::v1 as agent;
use crate::v1::granted::Delivery;
use crate::v1::{AskRequest, EnrolRequest, Granted};

impl fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest").finish_non_exhaustive()
    }
}

impl fmt::Debug for AskRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskRequest")
            .field("idempotency_key", &self.idempotency_key)
            .field("scope", &self.scope)
            .field("ttl_s", &self.ttl_s)
            .field("has_on_behalf_of", &!self.on_behalf_of.is_empty())
            .field("renews", &self.renews)
            .field("known_size", &self.known_size)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted")
            .field("lease_id", &self.lease_id)
            .field("expires_at_ms", &self.expires_at_ms)
            .field("delivery", &self.delivery)
            .field("people", &self.people)
            .field("revocable", &self.revocable)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(redacted)",
            Self::Sealed(_) => "Sealed(redacted)",
        })
    }
}

impl fmt::Debug for agent::AskRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskRequest")
            .field("idempotency_key", &self.idempotency_key)
            .field("scope", &self.scope)
            .field("ttl", &self.ttl)
            .field("has_on_behalf_of", &!self.on_behalf_of.is_empty())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for agent::Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Granted")
            .field("lease_id", &self.lease_id)
            .field("expires_at_ms", &self.expires_at_ms)
            .field("revocable", &self.revocable)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{NumberedAnswer, NumberedAsk, Outcome, numbered_answer, outcome};

    #[test]
    fn debug_shows_no_secret_however_deeply_it_is_wrapped() {
        let secret = "hunter2";
        let granted = Granted {
            delivery: Some(Delivery::Plain(secret.into())),
            params_jcs: secret.into(),
            narrowed: secret.into(),
            ..Granted::default()
        };
        let outcome =
            Outcome { request_id: "r".into(), state: Some(outcome::State::Granted(granted)) };
        let ask = AskRequest {
            on_behalf_of: secret.into(),
            params_jcs: secret.into(),
            reason: secret.into(),
            task: secret.into(),
            body_digest: secret.into(),
            ..AskRequest::default()
        };
        let enrol = EnrolRequest { join_token: secret.into(), ..EnrolRequest::default() };
        let agents = agent::AskRequest {
            params_json: secret.into(),
            reason: secret.into(),
            task: secret.into(),
            on_behalf_of: secret.into(),
            ..agent::AskRequest::default()
        };
        let given = agent::Granted {
            credential_json: secret.into(),
            params_json: secret.into(),
            narrowed: secret.into(),
            ..agent::Granted::default()
        };
        let standing = agent::Standing {
            detail: Some(agent::standing::Detail::Granted(given)),
            ..agent::Standing::default()
        };
        let outcome =
            NumberedAnswer { number: 1, answer: Some(numbered_answer::Answer::Outcome(outcome)) };
        let ask = NumberedAsk { number: 1, ask: Some(ask) };
        let shown = format!(
            "{outcome:?} {outcome:#?} {ask:?} {enrol:?} {agents:?} {standing:?} {standing:#?}"
        );
        let bytes = format!("{:?}", secret.as_bytes());
        assert!(!shown.contains(secret) && !shown.contains(bytes.trim_matches(['[', ']'])));
        assert!(shown.contains("Plain(redacted)"), "{shown}");
    }
}
