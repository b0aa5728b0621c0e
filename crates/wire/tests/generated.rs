//! The committed code is what `proto/` says, and what `proto/` says only ever grows.
//!
//! `GRANTWRIGHT_BLESS=1 cargo test -p grantwright-wire --test generated` writes both anew; a golden
//! line that vanished is refused even then.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

const PROTO: &str = "grantwright/v1/broker.proto";
const GENERATED: &str = "src/gen/grantwright.v1.rs";
const GOLDEN: &str = "tests/golden/grantwright.v1.txt";

/// Messages that hold a credential or a token: their `Debug` is written by hand in `redact.rs`.
const SECRET: [&str; 3] =
    [".grantwright.v1.AskRequest", ".grantwright.v1.EnrolRequest", ".grantwright.v1.Granted"];

#[test]
fn committed_code_is_what_the_proto_says() {
    let derived = derive();
    if blessing() {
        fs::write(here(GENERATED), &derived).unwrap();
    }
    assert!(
        fs::read_to_string(here(GENERATED)).unwrap() == derived,
        "{GENERATED} is not what {PROTO} says: run this test with GRANTWRIGHT_BLESS=1"
    );
}

#[test]
fn nothing_is_removed_renumbered_or_retyped() {
    let now = summary(&descriptors());
    let golden = fs::read_to_string(here(GOLDEN)).unwrap_or_default();
    let gone: Vec<&str> = golden.lines().filter(|line| !now.contains(*line)).collect();
    assert!(gone.is_empty(), "sidecars in the field rely on:\n{}", gone.join("\n"));
    let text: String = now.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    if blessing() {
        fs::write(here(GOLDEN), &text).unwrap();
    } else {
        assert!(golden == text, "{PROTO} grew: run this test with GRANTWRIGHT_BLESS=1");
    }
}

/// A message that gains a field of bytes or a token must be looked at: this list is that look.
#[test]
fn secret_messages_derive_no_debug() {
    let code = derive();
    let skipped: Vec<&str> = code
        .split("#[prost(skip_debug)]")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().nth(2))
        .collect();
    assert_eq!(skipped, ["EnrolRequest", "AskRequest", "Granted", "Delivery"]);
}

fn derive() -> String {
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .skip_debug(SECRET)
        .compile_fds(descriptors())
        .unwrap();
    fs::read_to_string(out.path().join("grantwright.v1.rs")).unwrap()
}

fn descriptors() -> FileDescriptorSet {
    protox::compile([PROTO], [here("../../proto")]).unwrap()
}

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn blessing() -> bool {
    std::env::var_os("GRANTWRIGHT_BLESS").is_some_and(|value| value == "1")
}

fn summary(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for file in &set.file {
        for message in &file.message_type {
            describe(message, &mut lines);
        }
        for service in &file.service {
            for rpc in &service.method {
                let stream = |on: bool| if on { "stream " } else { "" };
                lines.insert(format!(
                    "rpc {}.{}.{}({}{}) returns ({}{})",
                    file.package(),
                    service.name(),
                    rpc.name(),
                    stream(rpc.client_streaming()),
                    rpc.input_type(),
                    stream(rpc.server_streaming()),
                    rpc.output_type(),
                ));
            }
        }
    }
    lines
}

fn describe(message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    assert!(message.nested_type.is_empty() && message.enum_type.is_empty(), "not summarised");
    lines.insert(format!("message {}", message.name()));
    for field in &message.field {
        lines.insert(format!(
            "message {} field {} = {:02} {}{}",
            message.name(),
            field.name(),
            field.number(),
            type_of(field),
            field
                .oneof_index
                .map(|n| format!(" in oneof {}", message.oneof_decl[n as usize].name()))
                .unwrap_or_default(),
        ));
    }
}

fn type_of(field: &FieldDescriptorProto) -> String {
    let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
    match field.r#type() {
        Type::Message | Type::Enum => format!("{repeated}{}", field.type_name()),
        scalar => {
            let name = scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase();
            format!("{repeated}{name}")
        }
    }
}
