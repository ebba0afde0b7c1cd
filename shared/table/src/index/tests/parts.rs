use super::*;
use crate::index::bits::{SLACK_BYTES, Taker, pack, packed_at, packed_bytes, put_varint, unpack};

fn key_lists() -> impl Strategy<Value = (KeyKind, Vec<OwnedKey>)> {
    kinds().prop_flat_map(|kind| (Just(kind), prop::collection::vec(key_of(kind), 0..700)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_order_is_that_of_a_stable_sort((kind, list) in key_lists()) {
        let order = sorted_order(&keys_of(kind, &list));
        let mut expected: Vec<u32> = (0..list.len() as u32).collect();
        expected.sort_by_key(|&place| &list[place as usize]);
        prop_assert_eq!(order, expected);
    }

    #[test]
    fn heads_never_fall_as_keys_rise((_, mut list) in key_lists()) {
        list.sort();
        prop_assert!(list.is_sorted_by_key(|key| key.as_ref().head_behind(0)));
    }

    #[test]
    fn a_column_of_keys_gives_back_what_it_took((kind, list) in key_lists()) {
        let mut keys = keys_of(kind, &list);
        keys.append(&keys_of(kind, &list));
        prop_assert_eq!(keys.len(), 2 * list.len());
        let twice = list.iter().chain(&list);
        prop_assert!(keys.iter().eq(twice.map(|key| key.as_ref())));
        let places: Vec<u32> = (0..list.len() as u32).rev().collect();
        let taken = keys.take(&places);
        prop_assert!(taken.iter().eq(list.iter().rev().map(|key| key.as_ref())));
    }

    #[test]
    fn packed_integers_come_back(
        width in 0..=64_u32,
        values in prop::collection::vec(any::<u64>(), 1..200),
    ) {
        let mask = if width == 0 { 0 } else { u64::MAX >> (64 - width) };
        let values: Vec<u64> = values.into_iter().map(|value| value & mask).collect();
        let mut bytes = Vec::new();
        pack(&mut bytes, width, values.iter().copied());
        prop_assert_eq!(bytes.len(), packed_bytes(width, values.len()));
        bytes.resize(bytes.len() + SLACK_BYTES, 0xAA);
        let mut found = vec![0; values.len()];
        unpack(&bytes, width, &mut found);
        prop_assert_eq!(&found, &values);
        if width > 0 {
            for (i, value) in values.iter().enumerate() {
                prop_assert_eq!(packed_at(&bytes, width, i), *value);
            }
        }
    }

    #[test]
    fn variable_length_integers_come_back(value in any::<u128>(), shift in 0..128_u32) {
        let value = value >> shift;
        let mut bytes = Vec::new();
        put_varint(&mut bytes, value);
        let mut taker = Taker::new(&bytes);
        prop_assert_eq!(taker.varint128(), Ok(value));
        prop_assert_eq!(taker.left(), 0);
        for end in 0..bytes.len() {
            prop_assert!(Taker::new(&bytes[..end]).varint128().is_err());
        }
    }
}

/// Many keys of every shape that the radix passes treat differently.
#[test]
fn large_columns_sort_as_well() {
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        u128::from(state >> 32)
    };
    let count = 20_000;
    let wide = |a: u128, b: u128, c: u128, d: u128| a << 96 | b << 64 | c << 32 | d;
    let shapes: Vec<Vec<u128>> = vec![
        (0..count)
            .map(|_| wide(random(), random(), random(), random()))
            .collect(),
        (0..count).map(|_| wide(0, 0, random(), random())).collect(),
        (0..count).map(|_| wide(7, 7, 7, random() % 100)).collect(),
        // Nearly all in one group of leading bits.
        (0..count)
            .map(|i| if i == 9 { u128::MAX } else { random() })
            .collect(),
        (0..count)
            .map(|_| wide(random() % 2, 0, 0, random() % 3))
            .collect(),
    ];
    for shape in shapes {
        let fixed = Keys::of_fixed(16, shape.clone());
        let mut expected: Vec<u32> = (0..count).collect();
        expected.sort_by_key(|&place| shape[place as usize]);
        assert_eq!(sorted_order(&fixed), expected);
        let mut bytes = Keys::new(KeyKind::Bytes);
        for key in &shape {
            bytes.push(KeyRef::Bytes(
                &[b"a shared beginning", &key.to_be_bytes()[..]].concat(),
            ));
        }
        assert_eq!(sorted_order(&bytes), expected);
    }
}
