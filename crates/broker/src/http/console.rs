//! The console: pages for people who signed in. Rendering is `grantwright_approval::console`'s;
//! here the pages' matter is read, forms are taken, and everything that changes something goes
//! through the same functions as the API.

pub mod agents;
pub mod assets;
pub mod attention;
pub mod decide;
pub mod delegations;
pub mod desk;
pub mod inbox;
pub mod leases;
pub mod live;
pub mod log;
pub mod matter;
pub mod may;
pub mod narrow;
pub mod policies;
pub mod request;
pub mod respond;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::core::Broker;

/// The pages' routes.
pub fn routes() -> Router<Arc<Broker>> {
    Router::new()
        .route("/", get(inbox::page))
        .route("/agents", get(agents::page))
        .route("/agents/{name}", get(agents::one))
        .route("/attention", get(attention::page))
        .route("/delegations", get(delegations::page))
        .route("/delegations/{id}/end", post(delegations::end))
        .route("/leases", get(leases::page))
        .route("/leases/{id}/revoke", post(leases::revoke))
        .route("/live", get(live::stream))
        .route("/log", get(log::page))
        .route("/policies", get(policies::page))
        .route("/requests/{id}", get(request::page))
        .route("/requests/{id}/approve", post(decide::approve))
        .route("/requests/{id}/ask", post(decide::ask))
        .route("/requests/{id}/deny", post(decide::deny))
        .route("/requests/{id}/narrow", get(narrow::page).post(narrow::narrow))
        .route("/requests/{id}/proof", get(log::proof))
        .route("/requests/{id}/withdraw", post(decide::withdraw))
        .route("/assets/{name}", get(assets::asset))
}
