//! The log's public side, C2SP tlog-tiles.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use grantwright_domain::GroupName;
use grantwright_proof::tile::{Tile, TileKind};

use super::{Refused, Shared};
use crate::error::{of_store, refuse};

/// The newest checkpoint.
pub async fn checkpoint(State(broker): Shared) -> Result<Response, Refused> {
    let head = broker.store.head();
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], head.checkpoint.to_string())
        .into_response())
}

/// A tile of hashes, or a bundle of entries.
pub async fn tile(
    State(broker): Shared,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let none = || {
        refuse(
            404,
            "no_such_tile",
            "there is no such tile at this size",
            "read the checkpoint first",
        )
    };
    let tile: Tile = format!("tile/{path}").parse().map_err(|_| none())?;
    if matches!(tile.kind(), TileKind::Entries) && !broker.config.log.open_entries {
        let human = super::bearer(&broker, &headers)?;
        let security = GroupName::parse("security").ok();
        let authority = broker.authority();
        if !security.is_some_and(|g| authority.in_group(&human, &g, broker.now())) {
            return Err(refuse(
                403,
                "not_in_group",
                "entries are for members of `security`",
                "ask an operator",
            )
            .into());
        }
    }
    let bytes = broker.store.tile(tile).await.map_err(of_store)?.ok_or_else(none)?;
    Ok((
        [
            (header::CONTENT_TYPE, "application/octet-stream"),
            (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        ],
        bytes,
    )
        .into_response())
}
