//! What the sidecar's gRPC door says to the agents of its host: the messages of
//! `proto/grantwright/agent/v1/agent.proto`, their frames, and a refusal as the status that any client's
//! library reads.

use bytes::{BufMut as _, Bytes};
pub use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use tonic::{Code, Status};

use crate::status::{Refusal, bounded, grpc_code};

/// Generated from `proto/grantwright/agent/v1/agent.proto`; `tests/generated.rs` re-derives it.
#[allow(missing_docs, clippy::all, reason = "generated")]
pub mod v1 {
    include!("gen/grantwright.agent.v1.rs");
}

/// The service's name, as it stands in a call's path.
pub const SERVICE: &str = "grantwright.agent.v1.Agent";
/// What comes before a message: whether it is compressed, and its length (4 bytes).
const PREFIX: usize = 5;
/// Longest message of a status, in bytes: clients bound what they read of trailers to a few kilobytes.
const MAX_MESSAGE: usize = 512;
/// Field numbers of `Standing.granted` and `Granted.credential_json`.
const GRANTED: u32 = 3;
const CREDENTIAL: u32 = 8;

/// A body that is no frame of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is compressed, which nobody offered.
    #[error("the message is compressed: send it as it is")]
    Compressed,
    /// It holds less or more than one message.
    #[error("the call wants exactly one message")]
    Length,
    /// It is not the message that the call wants.
    #[error("the message cannot be read: want that of agent.proto")]
    Message,
}

/// The one message of a call's body.
///
/// # Errors
/// [`FrameError`].
pub fn read<M: Message + Default>(body: &[u8]) -> Result<M, FrameError> {
    let Some(([flag, length @ ..], message)) = body.split_first_chunk::<PREFIX>() else {
        return Err(FrameError::Length);
    };
    if *flag != 0 {
        return Err(FrameError::Compressed);
    }
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(message.len()) {
        return Err(FrameError::Length);
    }
    M::decode(message).map_err(|_| FrameError::Message)
}

/// A message in its frame.
pub fn frame(message: &impl Message) -> Bytes {
    let mut framed = prefix(message.encoded_len(), message.encoded_len());
    // A vector grows as it must.
    let _ = message.encode(&mut framed);
    framed.into()
}

/// A granted standing in its frame; `credential` comes last and is not copied, so that it is wiped where it
/// lies. The message's own `credential_json` is to be empty.
pub fn granted(request_id: &str, granted: &v1::Granted, credential: Bytes) -> [Bytes; 2] {
    let mut inner = granted.encode_to_vec();
    encode_key(CREDENTIAL, WireType::LengthDelimited, &mut inner);
    encode_varint(credential.len() as u64, &mut inner);
    let standing =
        v1::Standing { state: "granted".into(), request_id: request_id.into(), detail: None };
    let mut outer = standing.encode_to_vec();
    encode_key(GRANTED, WireType::LengthDelimited, &mut outer);
    encode_varint((inner.len() + credential.len()) as u64, &mut outer);
    let here = outer.len() + inner.len();
    let mut framed = prefix(here + credential.len(), here);
    framed.extend_from_slice(&outer);
    framed.extend_from_slice(&inner);
    [framed.into(), credential]
}

fn prefix(length: usize, room: usize) -> Vec<u8> {
    let mut framed = Vec::with_capacity(PREFIX + room);
    framed.put_u8(0);
    // Messages are bounded far below 4 GiB.
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed
}

/// `google.rpc.Status`, which client libraries look for in `grpc-status-details-bin`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// A refusal as the status of a call: the message is for who reads it, the problem in its details for programs.
#[must_use]
pub fn status(refusal: &Refusal) -> Status {
    let Refusal { status, code, title, detail, next, request_id, lease_id, retry_after_ms } =
        refusal.clone();
    let mut message = title.clone();
    for part in [&detail, &next].into_iter().filter(|it| !it.is_empty()) {
        message.push_str(if message.ends_with('.') { " " } else { "; " });
        message.push_str(part);
    }
    let message = bounded(message, MAX_MESSAGE);
    let problem = v1::Problem {
        code,
        title: bounded(title, MAX_MESSAGE),
        detail: bounded(detail, 2 * MAX_MESSAGE),
        next: bounded(next, MAX_MESSAGE),
        request_id,
        status: status.into(),
        retry_after_ms,
        lease_id,
    };
    let code = grpc_code(status);
    let told = RpcStatus {
        code: code.into(),
        message: message.clone(),
        details: vec![Any {
            type_url: "type.googleapis.com/grantwright.agent.v1.Problem".into(),
            value: problem.encode_to_vec(),
        }],
    };
    Status::with_details(code, message, told.encode_to_vec().into())
}

/// The problem in a status of this door; `None`: it was not made by it.
#[must_use]
pub fn problem(status: &Status) -> Option<v1::Problem> {
    let told = RpcStatus::decode(status.details()).ok()?;
    let [Any { type_url, value }] = told.details.as_slice() else { return None };
    type_url
        .ends_with("/grantwright.agent.v1.Problem")
        .then(|| v1::Problem::decode(value.as_slice()).ok())?
}

/// What a path names that is no method of the service.
#[must_use]
pub fn unknown_method() -> Status {
    Status::new(
        Code::Unimplemented,
        "there is no such method: see agent.proto, GET /v1/agent.proto",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> v1::Granted {
        v1::Granted {
            lease_id: "l-1".into(),
            expires_at_ms: 1_700_000_000_000,
            revocable: true,
            params_json: "{}".into(),
            ..v1::Granted::default()
        }
    }

    #[test]
    fn a_credential_in_its_own_piece_reads_as_the_message_it_is() {
        for size in [0, 1, 100, 127, 128, 20_000] {
            let credential = "c".repeat(size);
            let pieces = granted("r-1", &example(), credential.clone().into());
            assert_eq!(pieces[1].len(), size);
            let read: v1::Standing = read(&pieces.concat()).unwrap();
            let granted = v1::Granted { credential_json: credential, ..example() };
            let whole = v1::Standing {
                state: "granted".into(),
                request_id: "r-1".into(),
                detail: Some(v1::standing::Detail::Granted(granted)),
            };
            assert_eq!(read, whole);
            assert_eq!(super::read::<v1::Standing>(&frame(&whole)).unwrap(), whole);
        }
    }

    #[test]
    fn only_one_whole_message_is_read() {
        let ask = v1::AskRequest { scope: "demo.read".into(), ..v1::AskRequest::default() };
        let good = frame(&ask);
        assert_eq!(read::<v1::AskRequest>(&good).unwrap().scope, "demo.read");
        let with = |at: usize, byte: u8| {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            read::<v1::AskRequest>(&bytes).unwrap_err()
        };
        assert_eq!(with(0, 1), FrameError::Compressed);
        assert_eq!(with(4, 200), FrameError::Length);
        assert_eq!(with(1, 255), FrameError::Length);
        assert_eq!(with(5, 0xff), FrameError::Message);
        for bytes in [&[][..], &good[..4], &good[..8], &[&good[..], &good[..]].concat()] {
            assert_eq!(read::<v1::AskRequest>(bytes).unwrap_err(), FrameError::Length);
        }
        assert!(read::<v1::CancelRequest>(&[0; PREFIX]).unwrap().request_id.is_empty());
    }

    #[test]
    fn a_refusal_is_a_status_with_its_problem() {
        let refusal = Refusal::new(403, "denied", "The request was denied.")
            .detail("not today")
            .next("Do not ask again as it is.")
            .request_id("r-1");
        let status = status(&refusal);
        assert_eq!(status.code(), Code::PermissionDenied);
        assert_eq!(
            status.message(),
            "The request was denied. not today; Do not ask again as it is."
        );
        let told = problem(&status).unwrap();
        assert_eq!((told.code.as_str(), told.status), ("denied", 403));
        assert_eq!((told.detail.as_str(), told.request_id.as_str()), ("not today", "r-1"));
        assert!(problem(&Status::new(Code::Unknown, "x")).is_none());
    }

    /// Clients read 8 KiB of trailers, names and all.
    #[test]
    fn the_longest_refusal_fits_into_trailers() {
        let long = "é".repeat(4000);
        let refusal = Refusal::new(400, "bad", &long).detail(&long).next(&long);
        let refusal = refusal.request_id("r".repeat(64)).lease_id("l".repeat(64));
        let mut trailers = http::HeaderMap::new();
        status(&refusal).add_header(&mut trailers).unwrap();
        let size: usize = trailers.iter().map(|(k, v)| k.as_str().len() + v.len() + 32).sum();
        assert!(size < 8 * 1024, "{size}");
    }
}
