use std::path::Path;

use grantwright_domain::{ScopeName, Strength};
use grantwright_policy::{PolicySet, Sources};

use super::*;
use crate::config::VaultSettings;

fn sources() -> Sources {
    let map = |files: &[(&str, &str)]| {
        files.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect()
    };
    Sources { policies: map(&POLICIES), scopes: map(&SCOPES), zone: "UTC".into() }
}

fn loaded() -> PolicySet {
    PolicySet::load(&sources(), &crate::policy::template_faults).unwrap_or_else(|faults| {
        panic!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

#[test]
fn scopes_and_policies_of_the_demo_load_without_a_fault() {
    let set = loaded();
    let names: Vec<&str> = set.scopes().keys().map(ScopeName::as_str).collect();
    assert_eq!(
        names,
        [
            "aws.s3-export",
            "aws.s3-read",
            "demo.drop-tables",
            "demo.escalate",
            "demo.export",
            "demo.read",
            "demo.rotate-root",
            "vault.db-read"
        ]
    );
    for scope in set.scopes().values() {
        assert_eq!((scope.ttl.default_s, scope.ttl.max_s), (900, 900), "{}", scope.name);
    }
}

#[test]
fn policies_demand_what_the_table_says() {
    let text: String = POLICIES.iter().map(|(_, text)| *text).collect();
    let statements: Vec<&str> = text.split(';').collect();
    let of = |scope: &str| {
        let found = statements.iter().find(|s| s.contains(&format!("Scope::\"{scope}\"")));
        (*found.unwrap()).to_owned()
    };
    for (scope, quorum, strength) in [
        ("demo.export", "1", Strength::Chat),
        ("aws.s3-export", "1", Strength::Chat),
        ("demo.escalate", "2", Strength::Chat),
        ("demo.rotate-root", "1", Strength::Passkey),
    ] {
        let statement = of(scope);
        assert!(statement.contains("issueAfterApproval"), "{scope}");
        assert!(statement.contains(&format!("@quorum(\"{quorum}\")")), "{scope}");
        assert!(statement.contains("@channels(\"console,api\")"), "{scope}");
        let strength = if strength == Strength::Passkey { "passkey" } else { "chat" };
        assert!(statement.contains(&format!("@strength(\"{strength}\")")), "{scope}");
    }
    for scope in ["demo.read", "aws.s3-read", "vault.db-read"] {
        assert!(of(scope).contains("Action::\"issue\""), "{scope}");
    }
    assert!(of("demo.drop-tables").contains("forbid"));
}

#[test]
fn configurations_are_what_broker_and_sidecar_read() {
    let aws = AwsSettings {
        endpoint: "http://127.0.0.1:5000".into(),
        region: "us-east-1".into(),
        access_key_id: "id".into(),
        secret_access_key: "not in the file".into(),
        session_token: Some("nor this".into()),
    };
    let ports = Ports { grpc: 1, http: 2, sidecar: 3, witness: 4 };
    let vault = VaultSettings {
        address: "http://127.0.0.1:8200".into(),
        token: "not in the file".into(),
        namespace: Some("team".into()),
        ca_file: None,
    };
    for (aws, vault) in [(None, None), (Some(aws), Some(vault))] {
        let settings = DemoSettings {
            aws,
            vault,
            aws_absent: "it's \"absent\"".into(),
            pending_ttl: Some("2s".into()),
            asks_per_second: Some("100000".into()),
            certificate_life: Some("90s".into()),
            ..DemoSettings::default()
        };
        let file = broker_toml(&settings, ports, "sqlite:///tmp/d/store.db").unwrap();
        assert!(!file.contains("not in the file") && !file.contains("nor this"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.toml");
        std::fs::write(&path, file).unwrap();
        let config = grantwright_broker::Config::load(&path).unwrap();
        assert_eq!(config.minters.len(), 3);
        assert_eq!(config.limits.asks_per_second, 100_000);
        assert_eq!((config.pending_ms(), config.certificate_s()), (2000, 90));
    }
    let file = sidecar_toml(ports, "/tmp/d/sidecar.sock");
    let config = grantwright_sidecar::Config::parse(&file, Path::new("/tmp/d")).unwrap();
    assert_eq!(config.checkpoint_file, Path::new("/tmp/d/sidecar/checkpoint"));
}

#[test]
fn variables_of_the_wrong_form_are_refused() {
    let with = |pending: Option<&str>, asks: Option<&str>| {
        let settings = DemoSettings {
            pending_ttl: pending.map(str::to_owned),
            asks_per_second: asks.map(str::to_owned),
            ..DemoSettings::default()
        };
        broker_toml(&settings, Ports::default(), "sqlite:///x")
    };
    assert!(with(Some("soon"), None).is_err());
    assert!(with(None, Some("0")).is_err());
    assert!(with(None, None).is_ok());
}

#[test]
fn every_line_of_the_contract_is_in_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let dir = DemoDir::open(Some(&folder.path().join("d")), false).unwrap();
    crate::witness::init(&dir.file("witness"), "demo/witness").unwrap();
    let facts = Facts {
        dir: &dir,
        ports: Ports { grpc: 1, http: 2, sidecar: 3, witness: 4 },
        vkey: "demo+abc+key=",
        links: ("http://localhost:2/a", "http://localhost:2/b"),
        pids: (10, 11),
    };
    let text = super::super::env::render(&env_lines(&facts).unwrap());
    for name in [
        "GRANTWRIGHT_BROKER='https://127.0.0.1:1'",
        "GRANTWRIGHT_CONSOLE='http://localhost:2'",
        "GRANTWRIGHT_SIDECAR='http://127.0.0.1:3'",
        "GRANTWRIGHT_SIDECAR_SOCKET='/",
        "GRANTWRIGHT_TOKEN_FILE='/",
        "GRANTWRIGHT_HUMANS='/",
        "GRANTWRIGHT_LOGIN_BOB='http://localhost:2/a'",
        "GRANTWRIGHT_ENROL_BOB='http://localhost:2/b'",
        "GRANTWRIGHT_CHECKPOINT='/",
        "GRANTWRIGHT_STORE='sqlite:///",
        "GRANTWRIGHT_LOG='http://127.0.0.1:2/log'",
        "GRANTWRIGHT_LOG_VKEY='demo+abc+key='",
        "GRANTWRIGHT_BROKER_PID='10'",
        "GRANTWRIGHT_SIDECAR_PID='11'",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI='http://127.0.0.1:3/aws/aws.s3-read?bucket=demo&prefix=public/'",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE='/",
        "AWS_CONFIG_FILE='/",
        "AWS_SHARED_CREDENTIALS_FILE='/",
    ] {
        assert!(text.contains(&format!("export {name}")), "{name}\n{text}");
    }
    for name in super::super::env::AWS_UNSET {
        assert!(text.contains(&format!("unset {name}\n")), "{name}");
    }
}
