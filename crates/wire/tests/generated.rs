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

/// One file of `proto/`, and what is made from it.
struct Proto {
    file: &'static str,
    package: &'static str,
    /// Messages that hold a credential, a token or an agent's words: their `Debug` is written by hand in
    /// `redact.rs`.
    secret: &'static [&'static str],
    /// What then derives no `Debug`, in the order of the code.
    undebugged: &'static [&'static str],
    /// Whether we serve it with the generated code.
    served: bool,
}

const PROTOS: [Proto; 2] = [
    Proto {
        file: "grantwright/v1/broker.proto",
        package: "grantwright.v1",
        secret: &["AskRequest", "EnrolRequest", "Granted"],
        undebugged: &["EnrolRequest", "AskRequest", "Granted", "Delivery"],
        served: true,
    },
    // The sidecar frames its answers itself, so that no credential is copied.
    Proto {
        file: "grantwright/agent/v1/agent.proto",
        package: "grantwright.agent.v1",
        secret: &["AskRequest", "Granted"],
        undebugged: &["AskRequest", "Granted"],
        served: false,
    },
];

#[test]
fn committed_code_is_what_the_proto_says() {
    for proto in &PROTOS {
        let (derived, generated) = (proto.derive(), proto.generated());
        if blessing() {
            fs::write(&generated, &derived).unwrap();
        }
        assert!(
            fs::read_to_string(&generated).unwrap() == derived,
            "{} is not what {} says: run this test with GRANTWRIGHT_BLESS=1",
            generated.display(),
            proto.file
        );
    }
}

#[test]
fn nothing_is_removed_renumbered_or_retyped() {
    for proto in &PROTOS {
        let now = summary(&proto.descriptors());
        let path = here(&format!("tests/golden/{}.txt", proto.package));
        let golden = fs::read_to_string(&path).unwrap_or_default();
        let gone: Vec<&str> = golden.lines().filter(|line| !now.contains(*line)).collect();
        assert!(gone.is_empty(), "programs in the field rely on:\n{}", gone.join("\n"));
        let text: String = now.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        if blessing() {
            fs::write(&path, &text).unwrap();
        } else {
            assert!(golden == text, "{} grew: run this test with GRANTWRIGHT_BLESS=1", proto.file);
        }
    }
}

/// A message that gains a field of bytes or a token must be looked at: this list is that look.
#[test]
fn secret_messages_derive_no_debug() {
    for proto in &PROTOS {
        let code = proto.derive();
        let skipped: Vec<&str> = code
            .split("#[prost(skip_debug)]")
            .skip(1)
            .filter_map(|rest| rest.split_whitespace().nth(2))
            .collect();
        assert_eq!(skipped, proto.undebugged);
    }
}

impl Proto {
    fn derive(&self) -> String {
        let out = tempfile::tempdir().unwrap();
        let secret: Vec<String> =
            self.secret.iter().map(|it| format!(".{}.{it}", self.package)).collect();
        tonic_prost_build::configure()
            .build_transport(false)
            .build_server(self.served)
            .emit_rerun_if_changed(false)
            .out_dir(out.path())
            .skip_debug(&secret)
            .compile_fds(self.descriptors())
            .unwrap();
        fs::read_to_string(out.path().join(format!("{}.rs", self.package))).unwrap()
    }

    fn descriptors(&self) -> FileDescriptorSet {
        protox::compile([self.file], [here("../../proto")]).unwrap()
    }

    fn generated(&self) -> PathBuf {
        here(&format!("src/gen/{}.rs", self.package))
    }
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
