//! Receipts end to end, and what must not pass for one.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use grantwright_proof::{
    Checkpoint, Edge, HashReader, NoteSigner, ProofError, Receipt, TlogProof, leaf_hash,
    verify_receipt,
};

const ORIGIN: &str = "broker.example/log1";

struct Nothing;

impl HashReader for Nothing {
    fn complete(&self, level: u32, index: u64) -> Result<grantwright_proof::Hash, ProofError> {
        Err(ProofError::MissingHash { level, index })
    }
}

fn signer() -> NoteSigner {
    NoteSigner::from_seed(ORIGIN, &[5; 32]).unwrap()
}

fn entry(index: u64) -> Vec<u8> {
    format!("{{\"event\":{index}}}").into_bytes()
}

fn receipt(index: u64, size: u64) -> Receipt {
    let mut edge = Edge::new();
    edge.extend((0..size).map(|i| leaf_hash(&entry(i))));
    let checkpoint = Checkpoint::new(ORIGIN, size, edge.root()).unwrap().sign(&signer());
    let hashes = edge.inclusion_proof(index, size, &Nothing).unwrap();
    Receipt { leaf: entry(index), proof: TlogProof { extra: None, index, hashes, checkpoint } }
}

#[test]
fn a_receipt_proves_its_leaf() {
    for size in 1..20 {
        for index in 0..size {
            let receipt = Receipt::from_json(&receipt(index, size).to_json()).unwrap();
            let facts = verify_receipt(&receipt, signer().vkey(), ORIGIN).unwrap();
            assert_eq!(facts.leaf, entry(index));
            assert_eq!(facts.index, index);
            assert_eq!(facts.checkpoint.size(), size);
        }
    }
}

#[test]
fn a_spoiled_receipt_is_refused() {
    let (key, good) = (signer(), receipt(5, 11));
    let refused = |receipt: &Receipt| verify_receipt(receipt, key.vkey(), ORIGIN).is_err();
    assert!(!refused(&good));
    assert!(verify_receipt(&good, key.vkey(), "broker.example/log2").is_err());
    let other = NoteSigner::from_seed(ORIGIN, &[6; 32]).unwrap();
    assert!(verify_receipt(&good, other.vkey(), ORIGIN).is_err());

    let another_leaf = Receipt { leaf: entry(6), ..good.clone() };
    assert!(refused(&another_leaf));
    let mut moved = good.clone();
    moved.proof.index = 4;
    assert!(refused(&moved));
    let mut older = good.clone();
    older.proof.checkpoint = receipt(5, 10).proof.checkpoint;
    assert!(refused(&older));

    // Whatever bit of the text flips: unreadable, refused, or the same facts.
    let text = good.to_json();
    for bit in 0..text.len() * 8 {
        let mut bytes = text.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok(bad) = String::from_utf8(bytes) else { continue };
        let Ok(bad) = Receipt::from_json(&bad) else { continue };
        if let Ok(facts) = verify_receipt(&bad, key.vkey(), ORIGIN) {
            assert_eq!((facts.leaf.as_slice(), facts.index), (entry(5).as_slice(), 5));
        }
    }
}

#[test]
fn the_proof_text_is_frozen_and_strict() {
    let good = receipt(1, 2).proof;
    let text = good.to_string();
    let sibling = leaf_hash(&entry(0)).to_base64();
    let head = format!("c2sp.org/tlog-proof@v1\nindex 1\n{sibling}\n\n{ORIGIN}\n2\n");
    assert!(text.starts_with(&head), "{text}");
    assert_eq!(text.parse(), Ok(good.clone()));

    let extra = TlogProof { extra: Some(b"hello".to_vec()), ..good.clone() };
    assert!(extra.to_string().contains("@v1\nextra aGVsbG8=\nindex 1\n"));
    assert_eq!(extra.to_string().parse(), Ok(extra));
    let alone = receipt(0, 1).proof;
    assert_eq!(alone.to_string().parse(), Ok(alone));

    for bad in [
        text.replace("@v1", "@v2"),
        text.replace("index 1\n", ""),
        text.replace("index 1", "index 01"),
        text.replace("index 1", "index -1"),
        text.replace("index 1", "index 1 "),
        text.replace("index 1", "extra ?\nindex 1"),
        text.replace("index 1", "index 1\nextra aGVsbG8="),
        text.replace('\n', "\r\n"),
        text.replace(&sibling, &format!(" {sibling}")),
        text.replace(&sibling, &sibling[1..]),
        text.replace(&sibling, &format!("{sibling}\n").repeat(64)),
        text.split("\n\n").next().unwrap().to_owned(),
        String::new(),
    ] {
        assert!(bad.parse::<TlogProof>().is_err(), "{bad:?}");
    }
}

#[test]
fn the_json_is_frozen_and_strict() {
    let good = receipt(0, 1);
    let text = good.to_json();
    assert!(text.starts_with(r#"{"leaf":"eyJldmVudCI6MH0=","proof":"c2sp.org/tlog-proof@v1\n"#));
    assert_eq!(serde_json::to_string(&good).unwrap(), text);
    for bad in [
        text.replace("\"leaf\"", "\"leaves\""),
        text.replace("{\"leaf\"", "{\"more\":1,\"leaf\""),
        text.replace("{\"leaf\"", "{\"leaf\":\"\",\"leaf\""),
        text.replace("MH0=", "MH0"),
        format!("{text}x"),
        "{}".into(),
    ] {
        assert!(Receipt::from_json(&bad).is_err(), "{bad}");
    }
}
