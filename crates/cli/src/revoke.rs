//! `grantwright revoke`: ends a credential early, and says what that did at the backend, as seen.

use grantwright_domain::LeaseId;
use serde_json::json;

use crate::api::Api;
use crate::config::Settings;
use crate::exit::{Failure, Outcome};
use crate::output::{Out, clean, text};

/// `grantwright revoke`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The lease, from `grantwright lease list`.
    lease: String,
}

/// Ends it.
///
/// # Errors
/// The broker's refusal (not your agent, no such lease), or why it could not be asked.
pub async fn run(out: &Out, settings: &Settings, args: &Args) -> Outcome {
    let lease = LeaseId::parse(&args.lease).map_err(Failure::unable)?;
    let api = Api::of_person(settings)?;
    let ended = api.post(&format!("/api/v1/leases/{lease}/revoke"), &json!({})).await?;
    Ok(out.either(&ended, |out| {
        out.line(format!("{lease}: {}", clean(text(&ended, "effect"))));
    }))
}
