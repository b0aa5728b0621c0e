//! Refused or unknown: what a call that gave no answer means.

use std::error::Error;

use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::RequestId;
use grantwright_credential::Secret;

use crate::MintError;

/// What a failed call means. `secrets` are the broker's own, which a hostile answer may repeat.
pub(super) fn failure<E>(error: &SdkError<E>, secrets: &[&Secret<String>]) -> MintError
where
    E: ProvideErrorMetadata + RequestId + Error + 'static,
{
    let said = match error.as_service_error() {
        Some(e) => format!(
            "{}: {} (request {})",
            e.code().unwrap_or("no code"),
            e.message().unwrap_or("no message"),
            e.request_id().or(error.request_id()).unwrap_or("without an id")
        ),
        None => chain(error),
    };
    let said = secrets
        .iter()
        .fold(said, |text, secret| text.replace(secret.expose_secret().as_str(), "(redacted)"));
    let status = error.raw_response().map(|r| r.status().as_u16());
    match (error, status) {
        (SdkError::ConstructionFailure(_), _) => {
            MintError::refused("backend_call", "the call to AWS could not be made", said)
        }
        (SdkError::DispatchFailure(_), _) if never_sent(error) => {
            MintError::refused("backend_away", "AWS STS cannot be reached", said)
        }
        (_, Some(429)) => {
            let detail = "AWS STS refused for load; ask again later";
            MintError::refused("backend_busy", detail, said)
        }
        // 408: some proxy gave up waiting, as a timeout of ours.
        (_, Some(status)) if (400..500).contains(&status) && status != 408 => {
            let (code, detail) = refusal(error.code());
            MintError::refused(code, detail, said)
        }
        _ => MintError::unknown(said),
    }
}

/// Public words for a definite refusal; what AWS said is for the operator.
fn refusal(code: Option<&str>) -> (&'static str, &'static str) {
    match code {
        Some("PackedPolicyTooLarge") => (
            "policy_too_large",
            "the session policy and tags are larger than AWS takes when packed",
        ),
        Some("MalformedPolicyDocument") => (
            "bad_template",
            "AWS does not take the session policy of this scope's template (`policy`)",
        ),
        Some("IDPCommunicationError") => (
            "backend_busy",
            "AWS could not fetch the broker's keys in time; ask again, and see that its discovery \
             document is reachable from the internet",
        ),
        Some("IDPRejectedClaim" | "InvalidIdentityToken") => (
            "backend_denied",
            "AWS does not accept the broker's identity token: the IAM OIDC provider, or the trust \
             policy of this scope's role, names another issuer, audience or subject",
        ),
        Some("RegionDisabledException") => (
            "backend_denied",
            "STS is not activated for this account in the minter's region; an operator activates it \
             or names another region",
        ),
        Some("ValidationError") => (
            "bad_template",
            "AWS does not take the role (`role_arn`) or the session of this scope's template",
        ),
        Some(
            "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException",
        ) => ("backend_busy", "AWS STS refused for load; ask again later"),
        Some("AccessDenied" | "AccessDeniedException") => (
            "backend_denied",
            "AWS does not let the broker assume this scope's role (`role_arn`) with these tags",
        ),
        Some(
            "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidClientTokenId"
            | "SignatureDoesNotMatch"
            | "UnrecognizedClientException",
        ) => ("backend_denied", "AWS does not accept the broker's own keys"),
        _ => ("backend_refused", "AWS STS refused"),
    }
}

/// True when the connection never came about, so that nothing left.
fn never_sent(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(e) = e.downcast_ref::<hyper_util::client::legacy::Error>() {
            return e.is_connect();
        }
        next = e.source();
    }
    false
}

fn chain(error: &dyn Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        out.push_str(": ");
        out.push_str(&e.to_string());
        next = e.source();
    }
    out
}
