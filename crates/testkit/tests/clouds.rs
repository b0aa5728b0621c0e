//! The vendors' own clients judge the fake clouds: `tests/system/t_clouds.py` runs it.

use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use grantwright_testkit::clouds::Clouds;
use tokio::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

#[expect(clippy::disallowed_methods, reason = "the vendors' clients live by the wall clock")]
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

#[tokio::test(flavor = "multi_thread")]
// Not left out: `tests/run backends` installs what it wants and runs it with `--ignored`.
#[ignore = "needs the Node packages: target/peers/node"]
async fn the_vendors_own_clients_speak_to_the_fakes() {
    let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let fake = Clouds::start(now).await;
    fake.app_key(key.public_key().as_ref()).lasts(3600);
    let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
    let pem = STANDARD.encode(der.as_ref());
    let lines: Vec<&str> = pem.as_bytes().chunks(64).map(|l| str::from_utf8(l).unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("app.pem");
    let pem = lines.join("\n");
    std::fs::write(
        &file,
        format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"),
    )
    .unwrap();
    let packages = std::env::var_os("GRANTWRIGHT_NODE_PACKAGES")
        .unwrap_or_else(|| format!("{ROOT}/target/peers/node").into());
    let done = Command::new("node")
        .arg(format!("{ROOT}/tests/peers/clouds.mjs"))
        .args([packages.as_os_str(), fake.url.as_ref(), file.as_os_str()])
        // The proxy's certificate is its own, on loopback.
        .env("NODE_TLS_REJECT_UNAUTHORIZED", "0")
        .stdin(Stdio::null())
        .output()
        .await
        .expect("node starts");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{said}");
    assert_eq!(said.lines().filter(|l| l.starts_with("ok ")).count(), 4, "{said}");
}
