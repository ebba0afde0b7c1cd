//! Damaged bytes: an error or the same answers, never a panic, never a wrong hit.

use super::*;

fn entries(kind: KeyKind, seed: u128) -> Entries {
    let mut keys = Keys::new(kind);
    let mut number = seed;
    for i in 0..ENTRIES {
        number = number
            .wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645)
            .wrapping_add(i);
        match kind {
            KeyKind::Fixed { bytes: 16 } => keys.push(KeyRef::Fixed(number)),
            KeyKind::Fixed { .. } => keys.push(KeyRef::Fixed(number >> 112)),
            KeyKind::Bytes => {
                let text = format!("a shared beginning {:x}", number >> 108);
                keys.push(KeyRef::Bytes(text.as_bytes()));
            }
        }
    }
    Entries::of_rows(&keys)
}

/// Two blocks, one of them not full.
const ENTRIES: u128 = 150;

const KINDS: [KeyKind; 3] = [
    KeyKind::Fixed { bytes: 8 },
    KeyKind::Fixed { bytes: 16 },
    KeyKind::Bytes,
];

fn answers(index: &Index) -> Result<Vec<(OwnedKey, u32)>, IndexError> {
    let mut found = Vec::new();
    index.range(
        Bound::Unbounded,
        Bound::Unbounded,
        &slot,
        &mut |key, _, row| {
            found.push((OwnedKey::of(key), row));
            true
        },
    )?;
    Ok(found)
}

fn load(kind: KeyKind, bytes: Vec<u8>) -> Result<Index, IndexError> {
    Index::new(kind).with_sidecar(&IndexHome::memory(), "1".into(), bytes.into())
}

#[test]
fn every_damaged_byte_of_a_sidecar_is_noticed_or_harmless() {
    for kind in KINDS {
        let bytes = encode_sidecar(&entries(kind, 1));
        let expected = answers(&load(kind, bytes.to_vec()).unwrap()).unwrap();
        assert_eq!(expected.len(), ENTRIES as usize);
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80] {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= flip;
                match load(kind, damaged) {
                    Ok(index) => assert_eq!(answers(&index).unwrap(), expected),
                    Err(error) => assert_eq!(error.kind(), tidelake_core::ErrorKind::Corrupt),
                }
            }
        }
        for end in 0..bytes.len() {
            assert!(load(kind, bytes[..end].to_vec()).is_err(), "cut at {end}");
        }
    }
}

/// The checks behind the checksums: what a broken writer would leave.
#[test]
fn damage_under_a_right_checksum_never_panics() {
    for kind in KINDS {
        let bytes = encode_sidecar(&entries(kind, 1));
        let meta = layout::read(&bytes).unwrap();
        let blocks = 0..meta.fences.offset(meta.fences.len()) as usize;
        for at in 0..bytes.len() - layout::FOOTER_BYTES {
            for flip in [0x01, 0x84, 0xFF] {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= flip;
                reseal(&mut damaged, &meta, blocks.end);
                if let Ok(index) = load(kind, damaged) {
                    let found = answers(&index).unwrap();
                    assert!(found.is_sorted_by(|a, b| a.0 <= b.0));
                }
            }
        }
    }
}

/// Makes all checksums right.
fn reseal(bytes: &mut [u8], meta: &layout::Meta, blocks_end: usize) {
    for block in 0..meta.fences.len() {
        let from = meta.fences.offset(block) as usize;
        let to = meta.fences.offset(block + 1) as usize - block::CRC_BYTES;
        let crc = crc32c::crc32c(&bytes[from..to]);
        bytes[to..to + 4].copy_from_slice(&crc.to_le_bytes());
    }
    let crc_at = bytes.len() - 8;
    let header = crc32c::crc32c(&bytes[..layout::HEADER_BYTES]);
    let crc = crc32c::crc32c_append(header, &bytes[blocks_end..crc_at]);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_sidecar_of_other_keys_is_refused() {
    let bytes = encode_sidecar(&entries(KeyKind::Bytes, 1));
    let error = load(KeyKind::Fixed { bytes: 8 }, bytes.to_vec()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "damaged index of 1: its keys are of another kind than the table's"
    );
}

#[test]
fn a_damaged_local_file_is_an_error_for_whoever_reads_there() {
    for kind in KINDS {
        let folder = tempfile::tempdir().unwrap();
        let home = IndexHome::open(folder.path(), 0).unwrap();
        let entries = entries(kind, 1);
        let index = Index::new(kind)
            .with_entries(&home, "1".into(), &entries)
            .unwrap();
        let expected = answers(&index).unwrap();
        let path = home.folder().unwrap().join("0.run");
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, damaged).unwrap();
            if let Ok(found) = answers(&index) {
                assert_eq!(found, expected);
            }
            let mut hits = 0;
            let probed = index.probe(&entries.keys, &slot, &mut |key, _, row| {
                assert_eq!(row, entries.rows[key]);
                hits += 1;
            });
            assert!(probed.is_err() || hits == ENTRIES);
        }
        // Cut behind our back.
        std::fs::write(&path, &whole[..20]).unwrap();
        assert!(answers(&index).is_err());
    }
}
