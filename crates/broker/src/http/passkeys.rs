//! Passkeys of people: enrolling one by a link, signing in with one, seeing and ending them, and
//! deciding a request with one.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use grantwright_approval::console::passkeys as pages;
use grantwright_approval::console::{Frame, Here, Viewer, page};
use grantwright_domain::event::{PasskeyEnrolled, PasskeyRevoked};
use grantwright_domain::passkey::{NONCE_LIFE_MS, PROOF_KIND, PasskeyProof, Statement};
use grantwright_domain::{Authority, Decision, Digest, Event, HumanId, RequestId, Timestamp};
use grantwright_proof::passkey::{Assertion as Given, verify_assertion, verify_registration};
use grantwright_store::{StoreError, Transition};
use grantwright_wire::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ceremony::{self, Assertion, Attestation, Purpose};
use super::console::decide::all_was_shown;
use super::console::respond;
use super::peer::Peer;
use super::session::{self, How, Session, SessionPost, own_origin};
use super::webauthn::Said;
use super::{Answer, Operator, Refused, Shared, body, login, view};
use crate::core::Broker;
use crate::error::{no_such_request, of_store, refuse};
use crate::people::{self, Actor, Intention};

/// Rows of challenges that wait for a signature.
const DECISION: &str = "passkey-decision";
/// Most of them for one person.
const MOST_DECISIONS: usize = 20;

/// The page where a person enrols a passkey; looking at it spends nothing.
pub async fn enrol_page(State(broker): Shared, Path(code): Path<String>) -> Response {
    let authority = broker.authority();
    match login::usable(&authority, &code, "enrol", broker.now()) {
        Ok(link) => {
            let content = pages::enrol(link.subject.as_str(), &code);
            respond::html(StatusCode::OK, page(&Frame::open("Enrol a passkey"), &content))
        }
        Err(refusal) => respond::problem(&refusal),
    }
}

/// What the browser needs to make a passkey.
pub async fn enrol_options(
    State(broker): Shared,
    Path(code): Path<String>,
    headers: HeaderMap,
) -> Answer {
    own_origin(&headers)?;
    let authority = broker.authority();
    let link = login::usable(&authority, &code, "enrol", broker.now())?;
    let purpose = Purpose::Enrol { link: link.id.clone() };
    let (ticket, challenge) = ceremony::challenge(&broker, purpose);
    let have = authority.passkeys_of(&link.subject).map(|(id, _)| ceremony::decode(id));
    let have = have.collect::<Result<Vec<_>, _>>()?;
    let user = ceremony::user(&broker, &link.subject);
    let options = broker.party.site.create_options(&challenge, user, have);
    let options = options.map_err(|e| ceremony::no_options(&e))?;
    Ok(Json(json!({ "ticket": ticket, "publicKey": options })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enrol {
    ticket: String,
    credential: Attestation,
}

/// Enrols the passkey, spends the link, and signs its person in.
pub async fn enrol(
    State(broker): Shared,
    Path(code): Path<String>,
    peer: Peer,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Refused> {
    own_origin(&headers)?;
    broker.consistent()?;
    let given: Enrol = body(&bytes)?;
    let now = broker.now();
    let authority = broker.authority();
    let link = login::usable(&authority, &code, "enrol", now)?;
    let purpose = Purpose::Enrol { link: link.id.clone() };
    let challenge = ceremony::read(&broker, &given.ticket, &purpose)?;
    let response = &given.credential.response;
    let client = ceremony::decode(&response.client_data)?;
    let object = ceremony::decode(&response.attestation_object)?;
    let expected = ceremony::expected(&broker, &challenge.bytes);
    let made = verify_registration(&expected, &client, &object);
    let made = made.map_err(ceremony::refused)?.into_inner();
    let user = ceremony::user(&broker, &link.subject);
    let same =
        broker.party.site.verify_registration(&challenge.bytes, user, (&client, &object), &made);
    same.map_err(|e| ceremony::unlike(&e))?;
    ceremony::spend(&broker, &challenge).await?;
    let event = Event::PasskeyEnrolled(PasskeyEnrolled {
        at: now,
        human: link.subject.clone(),
        link_id: link.id.clone(),
        credential_id: made.credential_id,
        public_key: made.public_key,
        rp_id: broker.party.id.clone(),
        aaguid: made.aaguid,
        backup_eligible: made.backup_eligible,
    });
    match broker.commit(Transition::authority(vec![event])).await {
        Ok(_) => {}
        Err(StoreError::Violation(v)) => {
            return Err(refuse(409, v.code, v.detail, "ask an operator for a new link").into());
        }
        Err(e) => return Err(of_store(e).into()),
    }
    let cookie = session::begin(&broker, &link.subject, How::Passkey, &peer).await?;
    Ok(([(header::SET_COOKIE, cookie)], Json(json!({ "next": "/account" }))).into_response())
}

/// `?next=…`.
#[derive(Deserialize)]
pub struct Next {
    next: Option<String>,
}

/// Where to sign in.
pub async fn signin_page(
    State(broker): Shared,
    Query(q): Query<Next>,
    peer: Peer,
    headers: HeaderMap,
) -> Response {
    let next = local(q.next.as_deref());
    if let Ok(Some(_)) = session::find(&broker, &headers, &peer).await {
        return (StatusCode::SEE_OTHER, [(header::LOCATION, next)]).into_response();
    }
    let company = broker.oidc.as_ref().map(|provider| {
        let escaped: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
        (provider.host(), format!("/oidc/start?next={escaped}"))
    });
    let content = pages::signin(&next, company.as_ref().map(|(h, at)| (h.as_str(), at.as_str())));
    respond::html(StatusCode::OK, page(&Frame::open("Sign in"), &content))
}

/// A path of our own; anything that could lead elsewhere is the inbox.
fn local(next: Option<&str>) -> String {
    let plain = |p: &&str| {
        p.starts_with('/')
            && !p.starts_with("//")
            && p.len() <= 512
            && p.bytes().all(|c| c.is_ascii_graphic() && c != b'\\')
    };
    next.filter(plain).unwrap_or("/").to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignInOptions {
    human: Option<HumanId>,
}

/// What the browser needs to sign in with a passkey: any of this site's, or those of a person.
pub async fn signin_options(State(broker): Shared, headers: HeaderMap, bytes: Bytes) -> Answer {
    own_origin(&headers)?;
    let given: SignInOptions = body(&bytes)?;
    let authority = broker.authority();
    let allowed = match &given.human {
        None => json!([]),
        Some(human) => {
            let mut ids: Vec<String> =
                authority.passkeys_of(human).map(|(id, _)| id.clone()).collect();
            if ids.is_empty() {
                // Who has no passkey looks like who has one.
                ids.push(ceremony::encode(&broker.vouch.derive("no-passkey", human.as_str())));
            }
            ceremony::descriptors(&ids)
        }
    };
    let (ticket, challenge) = ceremony::challenge(&broker, Purpose::SignIn);
    let options = broker.party.site.get_options(&challenge, allowed);
    let options = options.map_err(|e| ceremony::no_options(&e))?;
    Ok(Json(json!({ "ticket": ticket, "publicKey": options })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    ticket: String,
    assertion: Assertion,
    next: Option<String>,
}

/// Signs the passkey's person in.
pub async fn signin(
    State(broker): Shared,
    peer: Peer,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Refused> {
    own_origin(&headers)?;
    let given: SignIn = body(&bytes)?;
    let authority = broker.authority();
    let known = authority.passkeys.get(&given.assertion.id).filter(|p| {
        let active = authority.humans.get(&p.human).is_some_and(|h| h.active);
        !p.revoked && active && p.rp_id == broker.party.id
    });
    let passkey = known.ok_or_else(|| {
        refuse(
            403,
            "passkey_unknown",
            "this passkey is not enrolled here, or has ended",
            "use another, or ask an operator for a link",
        )
    })?;
    let challenge = ceremony::read(&broker, &given.ticket, &Purpose::SignIn)?;
    let response = &given.assertion.response;
    let (data, client, signature) = (
        ceremony::decode(&response.authenticator_data)?,
        ceremony::decode(&response.client_data)?,
        ceremony::decode(&response.signature)?,
    );
    let assertion =
        Given { authenticator_data: &data, client_data: &client, signature: &signature };
    let expected = ceremony::expected(&broker, &challenge.bytes);
    let said = verify_assertion(&expected, &passkey.public_key, &assertion);
    if said.map_err(ceremony::refused)?.backup_eligible != passkey.backup_eligible {
        return Err(ceremony::refused(grantwright_proof::PasskeyError::Backup).into());
    }
    let said =
        Said { id: &given.assertion.id, data: &data, client: &client, signature: &signature };
    let (key, copies) = (&passkey.public_key, passkey.backup_eligible);
    let same = broker.party.site.verify_assertion(&challenge.bytes, key, copies, said);
    same.map_err(|e| ceremony::unlike(&e))?;
    ceremony::spend(&broker, &challenge).await?;
    let cookie = session::begin(&broker, &passkey.human, How::Passkey, &peer).await?;
    let next = json!({ "next": local(given.next.as_deref()) });
    Ok(([(header::SET_COOKIE, cookie)], Json(next)).into_response())
}

fn of_person(authority: &Authority, human: &HumanId) -> Vec<pages::Passkey> {
    let mut out: Vec<_> = authority
        .passkeys_of(human)
        .map(|(id, p)| pages::Passkey {
            id: id.clone(),
            enrolled_at: p.enrolled_at,
            copies: p.backup_eligible,
            here: p.rp_id.clone(),
        })
        .collect();
    out.sort_by_key(|p| p.enrolled_at);
    out
}

/// The person's own page: who they are here, and their passkeys.
pub async fn account(State(broker): Shared, session: Session) -> Response {
    let authority = broker.authority();
    let groups = authority.groups_of(&session.human, broker.now());
    let content = pages::account(&pages::Account {
        human: session.human.as_str(),
        csrf: &session.csrf,
        operator: authority.is_operator(&session.human),
        groups: &groups.iter().map(ToString::to_string).collect::<Vec<_>>(),
        signed_in_at: session.signed_in_at,
        how: match session.how {
            How::Link => "by a one-time link",
            How::Oidc => "at your identity provider",
            How::Passkey => "with a passkey",
        },
        passkeys: &of_person(&authority, &session.human),
    });
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    respond::html(StatusCode::OK, page(&Frame::new("Account", Here::Account, viewer), &content))
}

/// Ends one of the person's own passkeys, and every other session of theirs: whoever holds the passkey
/// may have begun it.
pub async fn remove(
    State(broker): Shared,
    Path(id): Path<String>,
    call: SessionPost,
) -> Result<Response, Refused> {
    let human = &call.session.human;
    revoke(&broker, human, human, &id).await?;
    session::end_others(&broker, human, &call.session.name).await?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, "/account")]).into_response())
}

async fn revoke(broker: &Broker, by: &HumanId, of: &HumanId, id: &str) -> Result<(), Refusal> {
    broker.consistent()?;
    let unknown =
        || refuse(404, "unknown_passkey", "this person has no such passkey", "look again");
    if !broker.authority().passkeys_of(of).any(|(known, _)| known == id) {
        return Err(unknown());
    }
    let (at, by, credential_id) = (broker.now(), by.clone(), id.to_owned());
    let event = Event::PasskeyRevoked(PasskeyRevoked { at, by, credential_id });
    match broker.commit(Transition::authority(vec![event])).await {
        Ok(_) => Ok(()),
        Err(StoreError::Violation(v)) if v.rule == "passkey-known" => Err(unknown()),
        Err(e) => Err(of_store(e)),
    }
}

/// A person's passkeys, for operators.
pub async fn list(State(broker): Shared, _: Operator, Path(human): Path<String>) -> Answer {
    let human = person(&human)?;
    let authority = broker.authority();
    let shown: Vec<Value> = authority
        .passkeys
        .iter()
        .filter(|(_, p)| p.human == human)
        .map(|(id, p)| {
            json!({
                "credential_id": id, "enrolled_at": p.enrolled_at, "rp_id": p.rp_id,
                "aaguid": p.aaguid, "backup_eligible": p.backup_eligible, "revoked": p.revoked,
            })
        })
        .collect();
    Ok(Json(json!({ "passkeys": shown })))
}

/// Ends a person's passkey and their sessions, by an operator.
pub async fn revoke_by_operator(
    State(broker): Shared,
    Operator(by): Operator,
    Path((human, id)): Path<(String, String)>,
) -> Answer {
    let human = person(&human)?;
    revoke(&broker, &by, &human, &id).await?;
    session::end_all(&broker, &human).await?;
    Ok(Json(json!({ "credential_id": id, "revoked": true })))
}

fn person(text: &str) -> Result<HumanId, Refusal> {
    HumanId::parse(text)
        .map_err(|e| refuse(400, "malformed", e.to_string(), "give the person's id"))
}

/// A challenge that waits for its signature: by whom, in which session, for what.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Waiting {
    session: String,
    request: RequestId,
    digest: Digest,
    decision: Decision,
    nonce: String,
    expires_at: Timestamp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecideOptions {
    decision: Decision,
    digest: Digest,
}

fn only_approvals(decision: Decision) -> Result<(), Refusal> {
    match decision {
        Decision::Approve => Ok(()),
        Decision::Deny => Err(refuse(400, "malformed", "a deny needs no passkey", "just deny")),
    }
}

/// What the browser needs to sign the approval of this very digest.
pub async fn decide_options(
    State(broker): Shared,
    Path(id): Path<String>,
    call: SessionPost,
) -> Answer {
    let given: DecideOptions = call.json()?;
    only_approvals(given.decision)?;
    let human = &call.session.human;
    let id = RequestId::parse(&id).map_err(|_| no_such_request())?;
    let loaded = broker.store.load(&id).await.map_err(of_store)?.ok_or_else(no_such_request)?;
    let now = broker.now();
    let authority = broker.authority();
    let refused = |r: Refusal| r.request_id(id.as_str());
    if !loaded.state.phase.is_open() || now >= loaded.state.expires_at() {
        let refusal =
            refuse(409, "not_open", "the request is not open", "look at the request again");
        return Err(refused(refusal).into());
    }
    if loaded.state.digest != given.digest {
        let detail = "the digest is not the request's present one";
        let next = "look at the request again: it has changed";
        return Err(refused(refuse(409, "digest_mismatch", detail, next)).into());
    }
    grantwright_domain::eligible::check(&loaded.state, &authority, human, "console", now).map_err(
        |e| {
            let detail = format!("`{human}`: {e}");
            refused(refuse(403, e.code(), detail, "another eligible person can decide"))
        },
    )?;
    let mine: Vec<&String> = authority
        .passkeys_of(human)
        .filter(|(_, p)| p.rp_id == broker.party.id)
        .map(|(id, _)| id)
        .collect();
    if mine.is_empty() {
        let next = "ask an operator for a link to enrol one: `grantwright person link`";
        let detail = "you have no passkey here";
        return Err(refused(refuse(403, "no_passkey", detail, next)).into());
    }
    let prefix = format!("{human}:");
    let open =
        broker.store.side_list(DECISION, &prefix, None, 1000, now).await.map_err(of_store)?;
    if open.len() >= MOST_DECISIONS {
        let detail = "too many of your signatures are waited for already";
        return Err(refuse(429, "too_many_signatures", detail, "wait some minutes")
            .retry_after_ms(60_000)
            .into());
    }
    let waiting = Waiting {
        session: call.session.name.clone(),
        request: id,
        digest: given.digest,
        decision: given.decision,
        nonce: broker.random.secret(),
        expires_at: now.plus_millis(NONCE_LIFE_MS),
    };
    let statement = Statement {
        digest: waiting.digest,
        decision: waiting.decision,
        human,
        nonce: &waiting.nonce,
        expires_at: waiting.expires_at,
        origin: &authority.origin,
    };
    let challenge = statement.challenge().map_err(|e| refuse(500, "internal", e.0, "try again"))?;
    let key = format!("{human}:{challenge}");
    let value = broker.vouch.seal(DECISION, &key, &waiting).map_err(of_store)?;
    let end = Some(waiting.expires_at);
    broker.store.side_put(DECISION, &key, value, end).await.map_err(of_store)?;
    let options = ceremony::get_options(
        &broker,
        &ceremony::encode(&challenge.hex()),
        ceremony::descriptors(mine),
    );
    Ok(Json(json!({ "publicKey": options, "expires_at": waiting.expires_at })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decide {
    decision: Decision,
    digest: Digest,
    seen: Option<u64>,
    reason: Option<String>,
    confirm: Option<String>,
    /// The page had shown the values in full that are too long for the card.
    #[serde(default)]
    opened: bool,
    assertion: Assertion,
}

/// The challenge that an answer says it is for: only to find what was asked. Whether it is signed is
/// verified afterwards, over the statement.
fn claimed_challenge(client_data: &str) -> Result<Digest, Refusal> {
    #[derive(Deserialize)]
    struct Client {
        challenge: String,
    }
    let malformed = || refuse(400, "malformed", "the answer is not a passkey's", "try again");
    let json = ceremony::decode(client_data)?;
    let client: Client = serde_json::from_slice(&json).map_err(|_| malformed())?;
    let bytes = ceremony::decode(&client.challenge)?;
    Ok(Digest(<[u8; 32]>::try_from(bytes).map_err(|_| malformed())?))
}

/// Approves by the passkey's signature; the challenge is spent, whatever comes of it.
pub async fn decide(State(broker): Shared, Path(id): Path<String>, call: SessionPost) -> Answer {
    let given: Decide = call.json()?;
    only_approvals(given.decision)?;
    let human = &call.session.human;
    if !given.opened {
        all_was_shown(&broker, &id).await?;
    }
    let id = RequestId::parse(&id).map_err(|_| no_such_request())?;
    let response = given.assertion.response;
    let key = format!("{human}:{}", claimed_challenge(&response.client_data)?);
    let taken = broker.store.side_take(DECISION, &key, broker.now()).await.map_err(of_store)?;
    let waiting: Option<Waiting> =
        taken.and_then(|value| broker.vouch.open_value(DECISION, &key, &value));
    let Some(waiting) = waiting.filter(|w| {
        w.session == call.session.name
            && w.request == id
            && w.digest == given.digest
            && w.decision == given.decision
            && w.expires_at > broker.now()
    }) else {
        return Err(refuse(
            403,
            "passkey_spent",
            "this was not signed for this decision in this session, or it was used or took too long",
            "load the request again, and sign again",
        )
        .request_id(id.as_str())
        .into());
    };
    let proof = PasskeyProof {
        kind: PROOF_KIND.into(),
        credential_id: given.assertion.id,
        authenticator_data: response.authenticator_data,
        client_data: response.client_data,
        signature: response.signature,
        nonce: waiting.nonce,
        expires_at: waiting.expires_at,
    };
    let actor = Actor { human: human.clone(), channel: "console" };
    let what = Intention::Sign {
        reason: given.reason,
        seen: given.seen,
        confirm: given.confirm,
        proof: Box::new(proof),
    };
    let loaded = people::act(&broker, &actor, &id, given.digest, &what).await?;
    Ok(Json(view::request(&broker, &loaded)))
}

#[cfg(test)]
mod tests {
    use super::local;

    #[test]
    fn what_comes_next_is_a_page_of_ours() {
        for fine in ["/", "/requests/r-1?a=b#c", "/account"] {
            assert_eq!(local(Some(fine)), fine);
        }
        for foreign in
            ["", "//evil", "https://evil", "/\\evil", "\\\\evil", "/a b", "/\u{202e}", "x"]
        {
            assert_eq!(local(Some(foreign)), "/", "{foreign}");
        }
        assert_eq!(local(None), "/");
    }
}
