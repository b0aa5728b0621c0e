//! Frozen vectors. Each case's input stands here, its outcome in `vectors/*.json`; a difference is a
//! change of format and fails. `GRANTWRIGHT_BLESS=1` writes down cases that are new, and nothing else.
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on stops"
)]

#[path = "vectors/canonical.rs"]
mod canonical;
#[path = "vectors/leaves.rs"]
mod leaves;
#[path = "vectors/params.rs"]
mod params;
#[path = "vectors/requests.rs"]
mod requests;

use std::path::Path;

use serde_json::{Map, Value};

/// Compares the computed vectors with the frozen ones, by name.
fn frozen(file: &str, computed: Vec<Value>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    let mut kept: Vec<Value> = match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).expect("the frozen vectors parse"),
        Err(_) => Vec::new(),
    };
    let name = |v: &Value| v["name"].as_str().expect("a vector has a name").to_owned();
    let mut fresh = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for vector in computed {
        assert!(seen.insert(name(&vector)), "two cases are called `{}`", name(&vector));
        match kept.iter().find(|k| name(k) == name(&vector)) {
            Some(old) => assert_eq!(*old, vector, "{file}: `{}` changed", name(&vector)),
            None => fresh.push(vector),
        }
    }
    for old in &kept {
        assert!(seen.contains(&name(old)), "{file}: no case is called `{}` any more", name(old));
    }
    if fresh.is_empty() {
        return;
    }
    assert!(
        std::env::var_os("GRANTWRIGHT_BLESS").is_some(),
        "{file}: {} new cases; GRANTWRIGHT_BLESS=1 writes them down, first `{}`",
        fresh.len(),
        name(&fresh[0]),
    );
    kept.extend(fresh);
    let mut text = serde_json::to_string_pretty(&kept).expect("json");
    text.push('\n');
    std::fs::write(&path, text).expect("the vectors can be written");
}

/// A vector from its fields.
fn vector<const N: usize>(name: &str, fields: [(&str, Value); N]) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), name.into());
    out.extend(fields.into_iter().map(|(k, v)| (k.to_owned(), v)));
    Value::Object(out)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `SHA-256("grantwright/<label>/v1" ‖ 0x00 ‖ bytes)`, written once more.
fn sha256(label: &str, bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let whole = [b"grantwright/", label.as_bytes(), b"/v1\0", bytes].concat();
    hex(&sha2::Sha256::digest(whole))
}
