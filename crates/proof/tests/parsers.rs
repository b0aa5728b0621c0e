//! No parser panics, whatever the bytes; what parses is canonical.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use grantwright_proof::{
    Checkpoint, Frontier, Hash, NoteSigner, Receipt, Tile, TlogProof, Vkey, tile::decode_entries,
    verify_note,
};
use proptest::prelude::*;

const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";

/// Hands the text to every parser, and checks that formats with one spelling come back unchanged.
fn all(text: &str) {
    let vkey = Vkey::parse(VKEY).unwrap();
    let _ = verify_note(text, std::slice::from_ref(&vkey));
    let _ = Checkpoint::open(text, &vkey, "example.com/foo");
    let _ = Checkpoint::parse(text);
    let _ = Receipt::from_json(text);
    let _ = NoteSigner::from_skey(text);
    if let Ok(hash) = Hash::from_base64(text) {
        assert_eq!(hash.to_base64(), text);
    }
    let _ = Hash::from_hex(text);
    if let Ok(tile) = text.parse::<Tile>() {
        assert_eq!(tile.to_string(), text);
    }
    if let Ok(proof) = text.parse::<TlogProof>() {
        assert_eq!(proof.to_string(), text);
    }
    if let Ok(vkey) = Vkey::parse(text) {
        assert_eq!(vkey.to_string(), text);
    }
}

/// Texts that come close: pieces of the formats in any order.
fn near() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "\n",
            "\n\n",
            "— ",
            " ",
            "+",
            "/",
            "x001",
            "067",
            ".p/",
            "12",
            "256",
            "tile/",
            "entries/",
            "0",
            "00",
            "c2sp.org/tlog-proof@v1\n",
            "extra ",
            "index ",
            "aGVsbG8=",
            "example.com/foo",
            "530d903a",
            "PRIVATE+KEY+",
            "{\"leaf\":\"",
            "\",\"proof\":\"",
            "\"}",
            "3bib5AOAnjJXUNPSY814kpwpQreUKjS3fhIslZSnTIw=",
            "18446744073709551615",
            "9223372036854775807",
            VKEY,
        ])
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn near_misses_do_not_panic(text in near()) {
        all(&text);
    }

    #[test]
    fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), width: u16) {
        all(&String::from_utf8_lossy(&bytes));
        if let Ok(frontier) = Frontier::decode(&bytes) {
            prop_assert_eq!(frontier.encode(), bytes.clone());
        }
        let _ = decode_entries(&bytes, width);
        let _ = Hash::from_slice(&bytes);
    }

    #[test]
    fn random_frontiers_do_not_panic(size: u64, spare in 0usize..3) {
        let mut bytes = size.to_be_bytes().to_vec();
        bytes.resize(8 + 32 * (size.count_ones() as usize + spare), 7);
        let decoded = Frontier::decode(&bytes);
        prop_assert_eq!(decoded.is_ok(), spare == 0 && size <= i64::MAX as u64);
        if let Ok(mut frontier) = decoded {
            prop_assert_eq!(grantwright_proof::Edge::from_frontier(&frontier).frontier(), frontier.clone());
            frontier.append(Hash([1; 32]));
            let _ = frontier.root();
        }
    }
}
