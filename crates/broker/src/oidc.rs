//! The company's identity provider: sign-in with PKCE, and verification of the ID tokens it signs.
//!
//! What a token says is believed only as [`Verified`], which has one constructor. An account there is
//! `(issuer, subject)`, compared as bytes; whose it is, only the log's leaves say. An e-mail address is
//! never anybody's identity.

pub(crate) mod fetch;

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use grantwright_credential::Secret;
use grantwright_domain::authority::MOST_CLAIMED;
use grantwright_domain::{GroupName, Timestamp};
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata,
    CoreResponseType, CoreRevocableToken, CoreRevocationErrorResponse,
    CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, AuthenticationFlow, AuthorizationCode, ClaimsVerificationError, Client,
    ClientId, ClientSecret, CsrfToken, EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet,
    EndpointSet, IdToken, IdTokenClaims, IdTokenFields, IdTokenVerifier, IssuerUrl, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, SignatureVerificationError,
    StandardErrorResponse, StandardTokenResponse, TokenResponse as _,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::oidc::OidcSection;
use crate::error::StartError;
use fetch::{Fetch, FetchError};

/// Keys are read again after this long.
const FRESH_MS: i64 = 600_000;
/// While the provider is away its keys serve this long.
const STALE_MS: i64 = 3_600_000;
/// A token whose key is unknown makes them be read again, this often at most.
const AGAIN_MS: i64 = 30_000;
/// A provider that did not answer is left alone for this long.
const REST_MS: i64 = 5_000;
/// How far the provider's clock may run ahead of ours.
const SKEW_MS: i64 = 120_000;

/// Why a token or a sign-in is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// The code of a sign-in was not taken.
    #[error("the identity provider did not take the sign-in's code")]
    Code,
    /// The token's time is over, or has not begun.
    #[error("the token has expired, or is from the future")]
    Expired,
    /// The token is meant for somebody else, or by somebody else.
    #[error("the token is not from the configured issuer, or not for this broker")]
    NotForUs,
    /// The token is no ID token, or lacks the subject.
    #[error("this is not an ID token")]
    NotToken,
    /// The nonce is not that of this sign-in.
    #[error("the token is of another sign-in")]
    Replayed,
    /// The signature does not hold, or is of an algorithm that is not taken.
    #[error("the token's signature does not hold")]
    Signature,
    /// The provider is away.
    #[error("the identity provider cannot be reached")]
    Unreachable,
}

/// What the provider vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    subject: String,
    groups: Option<BTreeSet<GroupName>>,
    name: String,
}

impl Verified {
    /// The account.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }
    /// The groups its claim maps to; none where no claim is configured.
    #[must_use]
    pub fn groups(&self) -> Option<&BTreeSet<GroupName>> {
        self.groups.as_ref()
    }
    /// What the account calls itself: to be shown to operators, never to be believed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The secrets of one sign-in; all three follow from what the browser keeps.
pub struct SignIn {
    /// Comes back with the code.
    pub state: String,
    /// Comes back in the token.
    pub nonce: String,
    /// Proves to the provider that who redeems the code began the sign-in (RFC 7636).
    pub verifier: String,
}

/// Claims beyond the standard ones.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Extra(Map<String, Value>);

impl AdditionalClaims for Extra {}

type Token =
    IdToken<Extra, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;
type Fields = IdTokenFields<
    Extra,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type Door = Client<
    Extra,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<Fields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

#[derive(Default)]
struct Known {
    metadata: Option<(Timestamp, Arc<CoreProviderMetadata>)>,
    tried_at: Option<Timestamp>,
}

/// The provider that the configuration names.
pub struct Provider {
    section: OidcSection,
    issuer: IssuerUrl,
    redirect: RedirectUrl,
    secret: Option<Secret<String>>,
    fetch: Fetch,
    known: tokio::sync::Mutex<Known>,
}

impl Provider {
    /// The provider of this section; it is asked for its keys when they are first needed.
    ///
    /// # Errors
    /// When an address does not parse, or no HTTP client can be made.
    pub fn new(
        section: OidcSection,
        public_url: &str,
        secret: Option<Secret<String>>,
    ) -> Result<Self, StartError> {
        let wrong =
            |key: &str, e: &dyn std::fmt::Display| StartError::new(format!("oidc.{key}: {e}"));
        let issuer = IssuerUrl::new(section.issuer.clone()).map_err(|e| wrong("issuer", &e))?;
        let redirect = RedirectUrl::new(format!("{public_url}/oidc/callback"))
            .map_err(|e| wrong("redirect", &e))?;
        let fetch = Fetch::new(&section.issuer).map_err(|e| wrong("issuer", &e))?;
        Ok(Self { section, issuer, redirect, secret, fetch, known: Default::default() })
    }

    /// The host where people sign in, for showing it.
    #[must_use]
    pub fn host(&self) -> String {
        self.issuer.url().host_str().unwrap_or_default().to_owned()
    }

    /// The issuer, as tokens name it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.section.issuer
    }

    /// The configuration.
    #[must_use]
    pub fn section(&self) -> &OidcSection {
        &self.section
    }

    /// Where a browser goes to sign in.
    ///
    /// # Errors
    /// [`OidcError::Unreachable`].
    pub async fn authorize(&self, sign_in: &SignIn, now: Timestamp) -> Result<String, OidcError> {
        let metadata = self.metadata(now, false).await?;
        let verifier = PkceCodeVerifier::new(sign_in.verifier.clone());
        let (state, nonce) = (sign_in.state.clone(), sign_in.nonce.clone());
        let door = self.door(&metadata);
        let mut ask = door
            .authorize_url(
                AuthenticationFlow::<CoreResponseType>::AuthorizationCode,
                move || CsrfToken::new(state),
                move || Nonce::new(nonce),
            )
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier));
        for scope in self.section.scopes.iter().filter(|s| *s != "openid") {
            ask = ask.add_scope(Scope::new(scope.clone()));
        }
        let (url, _, _) = ask.url();
        self.fetch.may_open(&url).map_err(|_| OidcError::Unreachable)?;
        Ok(url.into())
    }

    /// Redeems the code of a sign-in.
    ///
    /// # Errors
    /// Why its answer is not believed.
    pub async fn redeem(
        &self,
        code: String,
        sign_in: &SignIn,
        now: Timestamp,
    ) -> Result<Verified, OidcError> {
        let metadata = self.metadata(now, false).await?;
        let door = self.door(&metadata);
        let exchange =
            door.exchange_code(AuthorizationCode::new(code)).map_err(|_| OidcError::Unreachable)?;
        let answer = exchange
            .set_pkce_verifier(PkceCodeVerifier::new(sign_in.verifier.clone()))
            .request_async(&self.fetch)
            .await
            .map_err(|e| match e {
                openidconnect::RequestTokenError::Request(_) => OidcError::Unreachable,
                _ => OidcError::Code,
            })?;
        let token = answer.id_token().ok_or(OidcError::NotToken)?;
        let nonce = Nonce::new(sign_in.nonce.clone());
        self.believe(token, &self.section.client_id, Some(&nonce), now).await
    }

    /// Verifies an ID token that somebody else brings: `on_behalf_of`.
    ///
    /// # Errors
    /// Why it is not believed.
    pub async fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, OidcError> {
        let token = Token::from_str(token).map_err(|_| OidcError::NotToken)?;
        self.believe(&token, self.section.audience(), None, now).await
    }

    /// Believes a token, reading the keys again once where its own is not among them.
    async fn believe(
        &self,
        token: &Token,
        audience: &str,
        nonce: Option<&Nonce>,
        now: Timestamp,
    ) -> Result<Verified, OidcError> {
        let metadata = self.metadata(now, false).await?;
        match self.check(token, audience, nonce, &metadata, now) {
            Err(OidcError::Signature) => {
                let again = self.metadata(now, true).await?;
                if Arc::ptr_eq(&metadata, &again) {
                    return Err(OidcError::Signature);
                }
                self.check(token, audience, nonce, &again, now)
            }
            other => other,
        }
    }

    fn check(
        &self,
        token: &Token,
        audience: &str,
        nonce: Option<&Nonce>,
        metadata: &CoreProviderMetadata,
        now: Timestamp,
    ) -> Result<Verified, OidcError> {
        use chrono_of::moment;
        // A public client's verifier: a secret never verifies, whatever the token's header says.
        let verifier = IdTokenVerifier::new_public_client(
            ClientId::new(audience.to_owned()),
            self.issuer.clone(),
            metadata.jwks().clone(),
        )
        .set_allowed_algs([
            CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
            CoreJwsSigningAlgorithm::EcdsaP256Sha256,
            CoreJwsSigningAlgorithm::EdDsa,
        ])
        .set_time_fn(move || moment(now))
        .set_issue_time_verifier_fn(move |at| {
            if at <= moment(now.plus_millis(SKEW_MS)) { Ok(()) } else { Err("future".into()) }
        });
        let claims = token
            .claims(&verifier, |given: Option<&Nonce>| match (nonce, given) {
                (None, _) => Ok(()),
                (Some(own), Some(given)) if crate::vouch::same(own.secret(), given.secret()) => {
                    Ok(())
                }
                _ => Err("another sign-in".into()),
            })
            .map_err(|e| reason(&e))?;
        // A sign-in's token was issued to this client and to no other (OIDC Core §3.1.3.7).
        let party = claims.authorized_party().map(|p| p.as_str());
        if nonce.is_some() && party.is_some_and(|p| p != self.section.client_id) {
            return Err(OidcError::NotForUs);
        }
        self.verified(claims)
    }

    fn verified(
        &self,
        claims: &IdTokenClaims<Extra, CoreGenderClaim>,
    ) -> Result<Verified, OidcError> {
        let extra = &claims.additional_claims().0;
        let subject = match self.section.subject_claim.as_str() {
            "sub" => claims.subject().as_str(),
            other => extra.get(other).and_then(Value::as_str).unwrap_or_default(),
        };
        let fine =
            (1..=255).contains(&subject.len()) && subject.bytes().all(|b| b.is_ascii_graphic());
        if !fine {
            return Err(OidcError::NotToken);
        }
        let groups = self.section.groups_claim.as_ref().map(|claim| {
            let named: Vec<&str> = match extra.get(claim) {
                Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
                Some(Value::String(one)) => vec![one.as_str()],
                _ => Vec::new(),
            };
            let mapped = named.into_iter().filter_map(|name| self.section.groups.get(name));
            mapped.take(MOST_CLAIMED).cloned().collect()
        });
        let name = claims.preferred_username().map(|n| n.as_str()).unwrap_or_default();
        let name = grantwright_domain::text::visible(name);
        Ok(Verified {
            subject: subject.to_owned(),
            groups,
            name: grantwright_domain::text::shorten(&name, 64),
        })
    }

    fn door(&self, metadata: &CoreProviderMetadata) -> Door {
        let secret = self.secret.as_ref().map(|s| ClientSecret::new(s.expose_secret().clone()));
        let id = ClientId::new(self.section.client_id.clone());
        Client::from_provider_metadata(metadata.clone(), id, secret)
            .set_redirect_uri(self.redirect.clone())
    }

    /// The provider's own description and keys. One reading at a time; `again`: its keys may have
    /// changed.
    async fn metadata(
        &self,
        now: Timestamp,
        again: bool,
    ) -> Result<Arc<CoreProviderMetadata>, OidcError> {
        let mut known = self.known.lock().await;
        let enough = if again { AGAIN_MS } else { FRESH_MS };
        if let Some((read_at, metadata)) = &known.metadata
            && now.since(*read_at) < enough
        {
            return Ok(Arc::clone(metadata));
        }
        let rests = known.tried_at.is_some_and(|at| now.since(at) < REST_MS);
        if !rests {
            known.tried_at = Some(now);
            match self.discover().await {
                Ok(metadata) => {
                    let metadata = Arc::new(metadata);
                    known.metadata = Some((now, Arc::clone(&metadata)));
                    known.tried_at = None;
                    return Ok(metadata);
                }
                Err(e) => {
                    tracing::warn!(
                        issuer = self.issuer(),
                        why = e,
                        "the identity provider was not read"
                    );
                }
            }
        }
        let kept = known.metadata.as_ref().filter(|(at, _)| now.since(*at) < STALE_MS);
        kept.map(|(_, m)| Arc::clone(m)).ok_or(OidcError::Unreachable)
    }

    async fn discover(&self) -> Result<CoreProviderMetadata, &'static str> {
        CoreProviderMetadata::discover_async(self.issuer.clone(), &self.fetch).await.map_err(|e| {
            use openidconnect::DiscoveryError::{Parse, Request, Response, UrlParse, Validation};
            match e {
                Parse(_) | UrlParse(_) => "its answer does not parse",
                Request(FetchError::Address) => "an endpoint of it is not https",
                Request(FetchError::TooLarge) => "its answer is too large",
                Request(FetchError::Away) => "it did not answer",
                Response(..) => "it answered with an error",
                Validation(_) => "it names another issuer",
                _ => "it failed",
            }
        })
    }
}

/// Times as the verifier takes them.
mod chrono_of {
    use chrono::{DateTime, Utc};
    use grantwright_domain::Timestamp;

    /// The same moment; the end of time where there is none, which no token survives.
    pub fn moment(at: Timestamp) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(at.millis()).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

fn reason(error: &ClaimsVerificationError) -> OidcError {
    match error {
        ClaimsVerificationError::Expired(_) => OidcError::Expired,
        ClaimsVerificationError::InvalidAudience(_) | ClaimsVerificationError::InvalidIssuer(_) => {
            OidcError::NotForUs
        }
        ClaimsVerificationError::InvalidNonce(_) => OidcError::Replayed,
        ClaimsVerificationError::SignatureVerification(
            SignatureVerificationError::NoSignature
            | SignatureVerificationError::DisallowedAlg(_)
            | SignatureVerificationError::UnsupportedAlg(_),
        )
        | ClaimsVerificationError::Unsupported(_) => OidcError::NotToken,
        ClaimsVerificationError::SignatureVerification(_) => OidcError::Signature,
        ClaimsVerificationError::Other(_) => OidcError::Expired,
        _ => OidcError::NotToken,
    }
}
