//! A sidecar read by ranges says what the whole of it says.

use super::*;

/// The rows of the keys, by reading `end` last bytes at first and then only blocks that are asked
/// for.
fn read(
    kind: KeyKind,
    bytes: &Bytes,
    end: u64,
    keys: &Keys,
) -> Result<Vec<(usize, u32)>, IndexError> {
    let len = bytes.len() as u64;
    let last = |count: u64| &bytes[(len - count.min(len)) as usize..];
    let name = Arc::from("1");
    let sidecar = match Sidecar::open(&name, kind, len, last(end.max(Sidecar::END_BYTES_MIN)))? {
        Ended::Whole(sidecar) => sidecar,
        Ended::Longer(more) => match Sidecar::open(&name, kind, len, last(more))? {
            Ended::Whole(sidecar) => sidecar,
            Ended::Longer(_) => panic!("so many it said"),
        },
    };
    let probe = sidecar.plan(keys);
    assert!(probe.blocks().is_sorted_by(|a, b| a < b));
    let blocks = probe.blocks().iter().map(|block| {
        let range = sidecar.range(*block);
        bytes.slice(range.start as usize..range.end as usize)
    });
    let blocks: Vec<Bytes> = blocks.collect();
    let mut found = Vec::new();
    sidecar.probe(&probe, keys, &blocks, &mut |key, row| {
        found.push((key, row))
    })?;
    found.sort_unstable();
    Ok(found)
}

fn whole(kind: KeyKind, bytes: &Bytes, keys: &Keys) -> Vec<(usize, u32)> {
    let index = Index::new(kind);
    let index = index.with_sidecar(&IndexHome::memory(), "1".into(), bytes.clone());
    let mut found = Vec::new();
    let hit = &mut |key, _, row| found.push((key, row));
    index.unwrap().probe(keys, &slot, hit).unwrap();
    found.sort_unstable();
    found
}

fn case() -> impl Strategy<Value = (KeyKind, Vec<OwnedKey>, Vec<OwnedKey>, u64)> {
    kinds().prop_flat_map(|kind| {
        let stored = prop::collection::vec(key_of(kind), 0..600);
        let asked = prop::collection::vec(key_of(kind), 0..20);
        (Just(kind), stored, asked, 0..4000_u64)
    })
}

proptest! {
    #[test]
    fn ranges_say_what_the_whole_says((kind, stored, asked, end) in case()) {
        let stored_keys = keys_of(kind, &stored);
        let entries = Entries::of_rows(&stored_keys);
        let bytes = encode_sidecar(&entries);
        let mut asked: Vec<OwnedKey> = asked;
        asked.extend(stored.iter().step_by(37).cloned());
        asked.sort();
        asked.dedup();
        let keys = keys_of(kind, &asked);
        let found = read(kind, &bytes, end, &keys).unwrap();
        prop_assert_eq!(found, whole(kind, &bytes, &keys));
    }

    #[test]
    fn damage_is_noticed_or_harmless(
        (kind, stored, asked, end) in case(),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
        cut in any::<bool>(),
    ) {
        let entries = Entries::of_rows(&keys_of(kind, &stored));
        let bytes = encode_sidecar(&entries);
        let mut asked = [asked, stored].concat();
        asked.sort();
        asked.dedup();
        let keys = keys_of(kind, &asked);
        let mut damaged = bytes.to_vec();
        let at = at.index(damaged.len());
        match cut {
            true => damaged.truncate(at),
            false => damaged[at] ^= flip,
        }
        if let Ok(found) = read(kind, &damaged.into(), end, &keys) {
            prop_assert_eq!(found, whole(kind, &bytes, &keys));
        }
    }
}

#[test]
fn a_sidecar_of_other_keys_is_refused() {
    let stored = ["a", "b"].map(|key| OwnedKey::Bytes(key.into()));
    let bytes = encode_sidecar(&Entries::of_rows(&keys_of(KeyKind::Bytes, &stored)));
    let kind = KeyKind::Fixed { bytes: 8 };
    let error = read(kind, &bytes, 100, &keys_of(kind, &[])).unwrap_err();
    assert_eq!(error.kind(), tidelake_core::ErrorKind::Corrupt);
}
