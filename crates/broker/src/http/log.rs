//! The log's public side, C2SP tlog-tiles.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use grantwright_domain::{Digest, GroupName};
use grantwright_proof::tile::{Tile, TileKind};

use super::{Refused, Shared};
use crate::core::Broker;
use crate::error::{of_store, refuse};

/// The newest checkpoint, with the witnesses' cosignatures where they have seen it already.
pub async fn checkpoint(State(broker): Shared) -> Result<Response, Refused> {
    let head = broker.store.head();
    let witnessed = broker.witnesses.newest().filter(|w| w.size == head.size);
    Ok(note(&witnessed.map_or_else(|| head.checkpoint.clone(), |w| w.note)))
}

/// The newest checkpoint that the quorum of witnesses cosigned.
pub async fn witnessed(State(broker): Shared) -> Result<Response, Refused> {
    let newest = broker.witnesses.newest().ok_or_else(|| {
        refuse(
            404,
            "unwitnessed",
            "no checkpoint was cosigned by enough witnesses yet",
            "configure witnesses with [[log.witness]], or wait a moment",
        )
    })?;
    Ok(note(&newest.note))
}

fn note(text: &str) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.to_owned()).into_response()
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
    if matches!(tile.kind(), TileKind::Entries) {
        may_read(&broker, &headers)?;
    }
    let bytes = broker.store.tile(tile).await.map_err(of_store)?.ok_or_else(none)?;
    Ok(for_ever(bytes))
}

/// A policy set or the declaration of a scope, by its digest: what verdicts are replayed against.
pub async fn blob(
    State(broker): Shared,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let none = || {
        refuse(404, "no_such_blob", "the log names no such policy or scope", "take it from a leaf")
    };
    let digest = Digest::parse(&digest).map_err(|_| none())?;
    may_read(&broker, &headers)?;
    let bytes = broker.store.blob(digest).await.map_err(of_store)?.ok_or_else(none)?;
    Ok(for_ever(bytes))
}

/// Entries, and the policy that they name, are for `security` unless they were opened.
fn may_read(broker: &Broker, headers: &HeaderMap) -> Result<(), Refused> {
    if broker.config.log.open_entries {
        return Ok(());
    }
    let human = super::bearer(broker, headers)?;
    let security = GroupName::parse("security").ok();
    let authority = broker.authority();
    if security.is_some_and(|g| authority.in_group(&human, &g, broker.now())) {
        return Ok(());
    }
    let refusal =
        refuse(403, "not_in_group", "entries are for members of `security`", "ask an operator");
    Err(refusal.into())
}

fn for_ever(bytes: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, bytes).into_response()
}
