use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};

use super::*;

#[test]
fn well_formed_ids_are_read_whole() {
    for (text, domain, path) in [
        ("spiffe://td/agent/a1", "td", "/agent/a1"),
        ("spiffe://a.b-c_9/X.y-Z_0/...", "a.b-c_9", "/X.y-Z_0/..."),
    ] {
        let id = SpiffeId::parse(text).unwrap();
        assert_eq!((id.as_str(), id.trust_domain(), id.path()), (text, domain, path));
    }
    let longest = format!("spiffe://{}/{}", "d".repeat(255), "p".repeat(2048 - 9 - 255 - 1));
    assert_eq!(longest.len(), 2048);
    assert!(SpiffeId::parse(&longest).is_ok());
    let domain = TrustDomain::parse("td").unwrap();
    assert_eq!(domain.broker(), SpiffeId::parse("spiffe://td/broker").unwrap());
    assert_eq!(domain.agent("a1").unwrap(), SpiffeId::parse("spiffe://td/agent/a1").unwrap());
}

#[test]
fn malformed_ids_are_refused() {
    let long_domain = format!("spiffe://{}/p", "d".repeat(256));
    let long = format!("spiffe://td/{}", "p".repeat(2048 - 11));
    for text in [
        "",
        "spiffe",
        "spiffe:",
        "spiffe://",
        "spiffe:///agent/a1",
        "spiffe:/td/agent/a1",
        "SPIFFE://td/agent/a1",
        "Spiffe://td/agent/a1",
        "https://td/agent/a1",
        " spiffe://td/agent/a1",
        "spiffe://td/agent/a1 ",
        "spiffe://td/agent/a1\n",
        "spiffe://td/agent/a1\0",
        "spiffe://td",
        "spiffe://td/",
        "spiffe://td//agent",
        "spiffe://td/agent//a1",
        "spiffe://td/agent/a1/",
        "spiffe://td/./agent/a1",
        "spiffe://td/x/../agent/a1",
        "spiffe://td/..",
        "spiffe://Td/agent/a1",
        "spiffe://td:443/agent/a1",
        "spiffe://user@td/agent/a1",
        "spiffe://user:pw@td/agent/a1",
        "spiffe://[::1]/agent/a1",
        "spiffe://t%64/agent/a1",
        "spiffe://tdé/agent/a1",
        "spiffe://td/agent/a%31",
        "spiffe://td/agent/é",
        "spiffe://td/agent/a1?x=1",
        "spiffe://td?x=1",
        "spiffe://td/agent/a1#x",
        "spiffe://td#x/agent",
        "spiffe://td/agent\\a1",
        "spiffe://td/agent/a1;x",
        "spiffe://td/agent/a+1",
        "spiffe://td/agent/a~1",
        "spiffe://td/agent/a:1",
        long_domain.as_str(),
        long.as_str(),
    ] {
        assert!(matches!(SpiffeId::parse(text), Err(WireError::SpiffeId(_))), "{text:?}");
    }
}

#[test]
fn agent_names_are_bounded() {
    let domain = TrustDomain::parse("td").unwrap();
    for name in ["a", "", "A1", "a_1", "a.1", "a/b", "é1", &"a".repeat(65)] {
        assert!(domain.agent(name).is_err(), "{name:?}");
    }
    assert!(domain.agent(&"a".repeat(64)).is_ok());
}

struct Shape<'a> {
    uris: &'a [&'a str],
    ca: bool,
    usages: &'a [KeyUsagePurpose],
    serial: &'a [u8],
}

const GOOD: Shape<'static> = Shape {
    uris: &["spiffe://td/agent/demo-agent"],
    ca: false,
    usages: &[KeyUsagePurpose::DigitalSignature],
    serial: &[1],
};

fn read(shape: &Shape<'_>) -> Result<PeerIdentity, WireError> {
    let mut params = CertificateParams::new(vec!["name.example".into()]).unwrap();
    for uri in shape.uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
    }
    if shape.ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.key_usages = shape.usages.to_vec();
    params.serial_number = Some(shape.serial.to_vec().into());
    params.not_after = rcgen::date_time_ymd(2031, 2, 3);
    let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    PeerIdentity::from_leaf(cert.der(), &TrustDomain::parse("td").unwrap())
}

#[test]
fn an_agents_leaf_gives_name_serial_and_end() {
    let identity = read(&Shape { serial: &[0x80, 0, 0x0f], ..GOOD }).unwrap();
    assert_eq!(
        identity,
        PeerIdentity {
            spiffe_id: "spiffe://td/agent/demo-agent".into(),
            agent: "demo-agent".into(),
            serial: "80000f".into(),
            not_after_ms: 1_927_843_200_000,
        }
    );
}

#[test]
fn any_other_leaf_is_refused() {
    use KeyUsagePurpose::{CrlSign, DigitalSignature, KeyCertSign, KeyEncipherment};
    let refused: [(&str, Shape<'_>); 11] = [
        ("exactly one URI", Shape { uris: &[], ..GOOD }),
        (
            "exactly one URI",
            Shape { uris: &["spiffe://td/agent/aa", "spiffe://td/agent/bb"], ..GOOD },
        ),
        (
            "exactly one URI",
            Shape { uris: &["spiffe://td/agent/aa", "spiffe://td/agent/aa"], ..GOOD },
        ),
        ("spiffe://", Shape { uris: &["https://td/agent/aa"], ..GOOD }),
        ("another trust domain", Shape { uris: &["spiffe://other/agent/aa"], ..GOOD }),
        ("/agent/<name>", Shape { uris: &["spiffe://td/broker"], ..GOOD }),
        ("/agent/<name>", Shape { uris: &["spiffe://td/agent/aa/bb"], ..GOOD }),
        ("it is a CA", Shape { ca: true, ..GOOD }),
        ("no key usage", Shape { usages: &[], ..GOOD }),
        ("not that of a leaf", Shape { usages: &[KeyEncipherment], ..GOOD }),
        ("not that of a leaf", Shape { usages: &[DigitalSignature, KeyCertSign, CrlSign], ..GOOD }),
    ];
    for (what, shape) in &refused {
        let error = read(shape).unwrap_err().to_string();
        assert!(error.contains(what), "{error} for {what}");
    }
    assert!(PeerIdentity::from_leaf(b"x", &TrustDomain::parse("td").unwrap()).is_err());
}
