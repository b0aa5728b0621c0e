//! Scopes and policies in force.

use axum::extract::State;
use axum::http::StatusCode;
use grantwright_approval::console::policies::{Policies, policies};
use grantwright_approval::console::{Frame, Here, Viewer, page as document};

use super::respond::{Page, html};
use crate::http::Shared;
use crate::http::session::Session;

/// The page.
pub async fn page(State(broker): Shared, session: Session) -> Page {
    let set = broker.policy()?;
    let matter = Policies {
        digest: set.digest().hex(),
        zone: set.zone(),
        scopes: set.scopes().values().map(AsRef::as_ref).collect(),
        files: set.texts().iter().map(|(f, t)| (f.as_str(), t.as_str())).collect(),
    };
    let viewer = Viewer { human: session.human.as_str(), csrf: &session.csrf };
    let frame = Frame::new("Policies", Here::Policies, viewer);
    Ok(html(StatusCode::OK, document(&frame, &policies(&matter))))
}
