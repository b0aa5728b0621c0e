//! Tile paths, tile bytes and entry bundles.

use grantwright_proof::{
    Edge, Hash, HashReader, ProofError, Tile, TileKind, TileReader, inclusion_proof, leaf_hash,
    root_hash,
    tile::{decode_entries, encode_entries},
    verify_inclusion,
};

const fn hashes(level: u8) -> TileKind {
    TileKind::Hashes { level }
}

#[test]
fn paths_are_canonical() {
    for (kind, index, width, path) in [
        (hashes(0), 0, 256, "tile/0/000"),
        (hashes(0), 67, 12, "tile/0/067.p/12"),
        (hashes(1), 999, 256, "tile/1/999"),
        (hashes(0), 1067, 12, "tile/0/x001/067.p/12"),
        (hashes(0), 1_234_067, 256, "tile/0/x001/x234/067"),
        (hashes(63), 1_000_000, 1, "tile/63/x001/x000/000.p/1"),
        (TileKind::Entries, 0, 255, "tile/entries/000.p/255"),
        (TileKind::Entries, 1_234_067, 256, "tile/entries/x001/x234/067"),
    ] {
        let tile = Tile::new(kind, index, width).unwrap();
        assert_eq!(tile.to_string(), path);
        assert_eq!(path.parse(), Ok(tile));
    }
    for bad in [
        "",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x000",
        "tile/0/x000/001",
        "tile/0/001/001",
        "tile/0/x001/x001",
        "tile/0/X001/001",
        "tile/0/xx01/001",
        "tile/0/+01",
        "tile/0/٠٠١",
        "tile/00/001",
        "tile/64/001",
        "tile/256/001",
        "tile/-1/001",
        "tile/data/001",
        "tile/0/001.p",
        "tile/0/001.p/",
        "tile/0/001.p/0",
        "tile/0/001.p/01",
        "tile/0/001.p/256",
        "tile/0/001.p/65792",
        "tile/0/001.p/1.p/1",
        "tile/0/001/",
        "/tile/0/001",
        "tile/0//001",
        "tile/0/../001",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        "Tile/0/001",
    ] {
        assert!(bad.parse::<Tile>().is_err(), "{bad}");
    }
    assert!(Tile::new(hashes(64), 0, 1).is_err());
    assert!(Tile::new(hashes(0), u64::MAX, 1).is_err());
    assert!(Tile::new(hashes(0), 0, 0).is_err());
    assert!(Tile::new(hashes(0), 0, 257).is_err());
}

#[test]
fn widths_follow_the_size() {
    let width = |kind, index, size| Tile::at_size(kind, index, size).map(|tile| tile.width());
    assert_eq!(width(hashes(0), 0, 0), None);
    assert_eq!(width(hashes(0), 0, 1), Some(1));
    assert_eq!(width(hashes(0), 0, 70_000), Some(256));
    assert_eq!(width(hashes(0), 273, 70_000), Some(112));
    assert_eq!(width(hashes(0), 274, 70_000), None);
    assert_eq!(width(hashes(0), 1, 256), None);
    assert_eq!(width(hashes(1), 1, 70_000), Some(17));
    assert_eq!(width(hashes(2), 0, 70_000), Some(1));
    assert_eq!(width(hashes(3), 0, 70_000), None);
    assert_eq!(width(hashes(63), 0, u64::MAX), None);
    assert_eq!(width(TileKind::Entries, u64::MAX, u64::MAX), None);
    let tile: Tile = "tile/entries/001.p/5".parse().unwrap();
    assert!(tile.is_within(261) && tile.is_within(1000) && !tile.is_within(260));
}

#[derive(Default)]
struct Stored(std::collections::HashMap<(u32, u64), Hash>);

impl HashReader for Stored {
    fn complete(&self, level: u32, index: u64) -> Result<Hash, ProofError> {
        self.0.get(&(level, index)).copied().ok_or(ProofError::MissingHash { level, index })
    }
}

#[test]
fn proofs_come_out_of_tiles() {
    let mut edge = Edge::new();
    let mut stored = Stored::default();
    for size in 1..=70_000u64 {
        edge.append_with(leaf_hash(&size.to_be_bytes()), &mut |level, index, hash| {
            stored.0.insert((level, index), hash);
        });
        if ![1, 2, 255, 256, 257, 1000, 65_535, 65_536, 65_537, 70_000].contains(&size) {
            continue;
        }
        let tiles = TileReader::new(size, |tile: &Tile| {
            assert!(tile.is_within(size));
            tile.hash_bytes(&stored)
        });
        assert_eq!(root_hash(size, &tiles), Ok(edge.root()));
        for index in (0..size).step_by(1 + size as usize / 50) {
            let proof = inclusion_proof(index, size, &tiles).unwrap();
            let leaf = stored.complete(0, index).unwrap();
            verify_inclusion(leaf, index, size, &proof, edge.root()).unwrap();
        }
        assert!(tiles.complete(0, size).is_err());
        assert!(tiles.complete(size.ilog2() + 1, 0).is_err());
        assert!(tiles.complete(u32::MAX, u64::MAX).is_err());
        let short = TileReader::new(size, |tile: &Tile| {
            tile.hash_bytes(&stored).map(|bytes| bytes[1..].to_vec())
        });
        assert!(short.complete(0, 0).is_err());
    }
    let full = Tile::new(hashes(0), 0, 256).unwrap().hash_bytes(&stored).unwrap();
    assert_eq!(full.len(), 8192);
    assert_eq!(full[..32], leaf_hash(&1u64.to_be_bytes()).0);
    assert!(Tile::new(TileKind::Entries, 0, 1).unwrap().hash_bytes(&stored).is_err());
    assert!(Tile::new(hashes(8), 0, 1).unwrap().hash_bytes(&stored).is_err());
}

#[test]
fn entry_bundles_hold_exactly_their_entries() {
    let longest = vec![7; 65_535];
    let entries: [&[u8]; 4] = [b"", b"a", b"bc", &longest];
    let bytes = encode_entries(entries).unwrap();
    assert_eq!(bytes[..9], [0, 0, 0, 1, b'a', 0, 2, b'b', b'c']);
    assert_eq!(decode_entries(&bytes, 4).unwrap(), entries);
    assert!(decode_entries(&bytes, 3).is_err());
    assert!(decode_entries(&bytes, 5).is_err());
    assert!(decode_entries(&bytes[..bytes.len() - 1], 4).is_err());
    assert!(decode_entries(&[bytes.as_slice(), &[0]].concat(), 4).is_err());
    assert_eq!(encode_entries([vec![0; 65_536]]), Err(ProofError::EntryTooLong { len: 65_536 }));
}
