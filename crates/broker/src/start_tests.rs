//! What stops the start, and what a refused set leaves in force.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use grantwright_domain::HumanId;
use grantwright_policy::Sources;

use crate::config::Config;
use crate::init::{InitOptions, Recovery, init};
use crate::issue::rig::{Rig, human, sources};
use crate::keys::KeyDir;
use crate::{app, policies};

fn made(dir: &Path) -> Config {
    let options = InitOptions {
        dir: dir.into(),
        trust_domain: "test.example".into(),
        origin: "test.example/log".into(),
        operator: HumanId::parse("olivia").unwrap(),
        config: None,
        recovery: Recovery::Written(dir.join("recovery.key")),
    };
    let report = init(&options).unwrap();
    Config::load(&report.config).unwrap()
}

#[test]
fn invariant_30_a_missing_open_or_empty_key_stops_the_start_and_says_what_to_do() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for name in ["log.skey", "mac.key", "ca.key", "ca.pem"] {
        let dir = tempfile::tempdir().unwrap();
        let config = made(dir.path());
        let keys = KeyDir::new(config.keys.dir.clone());
        let path = keys.path(name);
        let start = || match name {
            "ca.key" | "ca.pem" => crate::ca::Ca::load(&keys, "test.example").map(drop),
            _ => runtime.block_on(app::open_store(&config, &keys)).map(drop),
        };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let open = start().expect_err("readable by others").to_string();
        assert!(open.contains("chmod 600"), "{open}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(start().expect_err("empty").to_string().contains("empty"), "{name}");
        std::fs::remove_file(&path).unwrap();
        let missing = start().expect_err("missing").to_string();
        assert!(missing.contains(name) && missing.contains("restore"), "{missing}");
    }
}

#[test]
fn invariant_30_a_configuration_reports_every_fault_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.toml");
    let text = "public_url = \"ftp://x\"\n[listen]\ngrpc = \"here\"\nhttp = \"127.0.0.1:0\"\n[store]\nurl = \"mem\"\n\
        [keys]\ndir = \"keys\"\n[limits]\nasks_per_second = 0\npending_ttl = \"soon\"\n\
        certificate_life = \"5s\"\n";
    std::fs::write(&path, text).unwrap();
    let faults = Config::load(&path).unwrap_err().to_string();
    for word in
        ["listen.grpc", "store.url", "public_url", "limits", "pending_ttl", "certificate_life"]
    {
        assert!(faults.contains(word), "{word}: {faults}");
    }
    std::fs::write(&path, format!("surprise = 1\n{text}")).unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().contains("surprise"));
}

#[test]
fn a_second_broker_on_the_same_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = made(dir.path());
    let keys = KeyDir::new(config.keys.dir.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _first = app::open_store(&config, &keys).await.unwrap();
        let second = app::open_store(&config, &keys).await.expect_err("the file is taken");
        assert!(second.to_string().contains("another broker"), "{second}");
    });
}

#[tokio::test]
async fn a_refused_policy_set_leaves_the_old_one_in_force() {
    let rig = Rig::new().await;
    let before = rig.broker.policy().unwrap().digest();
    let bad = Sources {
        scopes: [("s.toml".to_owned(), "[[scope]]\nname = \"x\"\n".to_owned())].into(),
        ..sources("permit (")
    };
    let faults = policies::check(&rig.broker, &bad).expect_err("faults");
    assert!(faults.len() >= 2, "all at once: {faults:?}");
    assert_eq!(rig.broker.policy().unwrap().digest(), before);
    let stranger = policies::check(&rig.broker, &sources("")).unwrap();
    let refusal =
        policies::load(&rig.broker, &human("bob"), stranger).await.expect_err("no operator");
    assert_eq!(refusal.code, "not_operator");
    assert_eq!(rig.broker.authority().policy_set, Some(before));
}
