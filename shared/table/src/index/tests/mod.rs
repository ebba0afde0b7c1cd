//! What the key index promises, against simple models.

mod damage;
mod format;
mod homes;
mod model;
mod parts;
mod ranged;
mod spec;

use proptest::prelude::*;

use super::*;

/// Files are named by their slots.
fn slot(path: &str) -> Option<u32> {
    path.parse().ok()
}

/// A key that owns its bytes, for models.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum OwnedKey {
    Fixed(u128),
    Bytes(Vec<u8>),
}

impl OwnedKey {
    fn of(key: KeyRef<'_>) -> Self {
        match key {
            KeyRef::Fixed(key) => Self::Fixed(key),
            KeyRef::Bytes(key) => Self::Bytes(key.to_vec()),
        }
    }

    fn as_ref(&self) -> KeyRef<'_> {
        match self {
            Self::Fixed(key) => KeyRef::Fixed(*key),
            Self::Bytes(key) => KeyRef::Bytes(key),
        }
    }
}

fn keys_of<'a>(kind: KeyKind, from: impl IntoIterator<Item = &'a OwnedKey>) -> Keys {
    let mut keys = Keys::new(kind);
    from.into_iter().for_each(|key| keys.push(key.as_ref()));
    keys
}

fn kinds() -> impl Strategy<Value = KeyKind> {
    prop_oneof![
        (1..=16_usize).prop_map(|bytes| KeyKind::Fixed { bytes }),
        Just(KeyKind::Fixed { bytes: 8 }),
        Just(KeyKind::Bytes),
    ]
}

/// Keys of a kind: dense ones, which meet often, and extreme ones.
fn key_of(kind: KeyKind) -> BoxedStrategy<OwnedKey> {
    match kind {
        KeyKind::Fixed { bytes } => {
            let max = u128::MAX >> (128 - 8 * bytes);
            prop_oneof![
                6 => (0..3000_u128).prop_map(move |key| key & max),
                2 => any::<u128>().prop_map(move |key| key & max),
                1 => prop::sample::select(vec![0, 1, max / 2, max - 1, max]),
            ]
            .prop_map(OwnedKey::Fixed)
            .boxed()
        }
        KeyKind::Bytes => {
            let prefix = prop::sample::select(vec![
                &b""[..],
                b"\0",
                b"exactly sixteen.",
                b"https://example.com/catalog/items/",
            ]);
            let few = prop::sample::select(vec![0, 1, b'a', b'b', 0xFF]);
            let rest = prop_oneof![
                3 => prop::collection::vec(few, 0..6),
                1 => prop::collection::vec(any::<u8>(), 0..24),
                2 => (0..2000_u32).prop_map(|number| number.to_string().into_bytes()),
            ];
            let key = (prefix, rest).prop_map(|(prefix, rest)| [prefix, &rest].concat());
            key.prop_map(OwnedKey::Bytes).boxed()
        }
    }
}

#[test]
fn an_index_can_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Index>();
    shared::<IndexHome>();
    shared::<MergeJob>();
}
