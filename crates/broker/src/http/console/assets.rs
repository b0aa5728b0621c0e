//! The stylesheet, the script and the icon.

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use grantwright_approval::console::assets;

use crate::error::refuse;
use crate::http::Refused;

/// A file whose path names its content: a browser may keep it for ever.
pub async fn asset(Path(name): Path<String>) -> Result<Response, Refused> {
    let asset = assets::find(&format!("/assets/{name}")).ok_or_else(|| {
        refuse(404, "no_such_asset", "there is no such file in this version", "reload the page")
    })?;
    Ok((
        [
            (header::CONTENT_TYPE, asset.media_type),
            (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        ],
        asset.body,
    )
        .into_response())
}
