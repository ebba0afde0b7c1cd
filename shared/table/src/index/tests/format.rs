//! Sidecars outlive the program that wrote them: their bytes stay readable.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sidecar(kind: KeyKind, keys: &[OwnedKey]) -> Bytes {
    encode_sidecar(&Entries::of_rows(&keys_of(kind, keys)))
}

#[test]
fn integers_are_stored_as_they_were() {
    let keys = [900, 7, 8, 100_000].map(OwnedKey::Fixed);
    assert_eq!(
        hex(&sidecar(KeyKind::Fixed { bytes: 8 }, &keys)),
        "544c4b4901000800030011020100c90000f6066c0c0617beaf8b040101000412070700000000\
         0000008ba36b8b544c4b49"
    );
}

#[test]
fn wide_integers_are_stored_as_they_were() {
    let keys = [u128::MAX, 0, 1 << 100].map(OwnedKey::Fixed);
    assert_eq!(
        hex(&sidecar(KeyKind::Fixed { bytes: 16 }, &keys)),
        "544c4b49010010000202800280808080808080808080808080800400090000000000000000ff\
         ffffffffffffff0000000000000000ffffffffdfffffff0fa817f10301010003390007000000\
         0000000035188b8d544c4b49"
    );
}

#[test]
fn strings_are_stored_as_they_were() {
    let keys = ["berry", "apple", "", "berries"].map(|key| OwnedKey::Bytes(key.into()));
    assert_eq!(
        hex(&sidecar(KeyKind::Bytes, &keys)),
        "544c4b490101000003000002000036000000056170706c6500076265727269657304017961e1\
         3a8f040101000420000008000000000000009fee64b8544c4b49"
    );
}

#[test]
fn long_keys_and_many_blocks_come_back() {
    let key =
        |i: usize| OwnedKey::Bytes([&[b'k'; 9000][..], &i.to_be_bytes(), &[i as u8; 300]].concat());
    let keys: Vec<OwnedKey> = (0..40).map(key).collect();
    let bytes = sidecar(KeyKind::Bytes, &keys);
    let meta = layout::read(&bytes).unwrap();
    assert_eq!(meta.fences.len(), 10, "four keys fill a block");
    let index = Index::new(KeyKind::Bytes);
    let index = index
        .with_sidecar(&IndexHome::memory(), "0".into(), bytes)
        .unwrap();
    let mut found = Vec::new();
    let mut each = |key: KeyRef<'_>, _, _| {
        found.push(OwnedKey::of(key));
        true
    };
    index
        .range(Bound::Unbounded, Bound::Unbounded, &slot, &mut each)
        .unwrap();
    assert_eq!(found, keys);
}
