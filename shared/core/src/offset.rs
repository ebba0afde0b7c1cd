//! Positions: [`Offset`], [`Sequence`], [`Watermark`] and the [`Token`] made of them.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::Bucket;
use crate::limits::{BUCKETS_MAX, TOKEN_BYTES_MAX};

/// A Kafka offset: the position of one message in its bucket.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// (offset, row within the message): the total order of a bucket, the MVCC version of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence {
    pub offset: Offset,
    pub row: u32,
}

/// The next offset that is not covered yet (exclusive end). `Watermark(0)` covers nothing.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Watermark(pub i64);

impl Watermark {
    /// The watermark that covers everything up to and including `offset`.
    pub fn after(offset: Offset) -> Self {
        Self(offset.0 + 1)
    }

    pub fn covers(self, offset: Offset) -> bool {
        offset.0 < self.0
    }
}

impl From<Offset> for Watermark {
    /// The watermark at `offset`: everything before it is covered.
    fn from(offset: Offset) -> Self {
        Self(offset.0)
    }
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an acknowledged write returns: the watermarks that a reader must have reached to see it.
///
/// Text form: URL-safe base64 of a version byte (1) and, bucket by bucket in rising order,
/// LEB128 numbers: bucket minus the previous one, then the watermark.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Token(BTreeMap<Bucket, Watermark>);

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid token: {0}; pass the `token` of a write's answer as it came")]
pub struct TokenError(&'static str);

const TOKEN_FORMAT: u8 = 1;

impl Token {
    /// Of a bucket named twice, the higher watermark counts.
    pub fn new(marks: impl IntoIterator<Item = (Bucket, Watermark)>) -> Self {
        let mut token = Self::default();
        for (bucket, mark) in marks {
            token.raise(bucket, mark);
        }
        token
    }

    /// Asks for at least `mark` of `bucket`.
    pub fn raise(&mut self, bucket: Bucket, mark: Watermark) {
        let held = self.0.entry(bucket).or_default();
        *held = mark.max(*held);
    }

    pub fn iter(&self) -> impl Iterator<Item = (Bucket, Watermark)> + '_ {
        self.0.iter().map(|(bucket, mark)| (*bucket, *mark))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True where `reached(bucket)` is at or past every watermark of the token.
    pub fn is_covered_by(&self, reached: impl Fn(Bucket) -> Watermark) -> bool {
        self.iter().all(|(bucket, mark)| reached(bucket) >= mark)
    }

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError("too long"));
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| TokenError("not base64"))?;
        let Some((&TOKEN_FORMAT, mut rest)) = bytes.split_first() else {
            return Err(TokenError("unknown format"));
        };
        let mut marks = BTreeMap::new();
        let mut bucket = 0u64;
        while !rest.is_empty() {
            let step = take_varint(&mut rest).ok_or(TokenError("cut short"))?;
            let mark = take_varint(&mut rest).ok_or(TokenError("cut short"))?;
            if !marks.is_empty() && step == 0 {
                return Err(TokenError("a bucket stands in it twice"));
            }
            bucket = bucket
                .checked_add(step)
                .filter(|bucket| *bucket < u64::from(BUCKETS_MAX))
                .ok_or(TokenError("bucket out of range"))?;
            let mark = i64::try_from(mark).map_err(|_| TokenError("offset out of range"))?;
            let bucket = u32::try_from(bucket).map_err(|_| TokenError("bucket out of range"))?;
            marks.insert(Bucket(bucket), Watermark(mark));
        }
        Ok(Self(marks))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![TOKEN_FORMAT];
        let mut previous = 0;
        for (bucket, mark) in self.iter() {
            put_varint(&mut bytes, u64::from(bucket.0 - previous));
            put_varint(&mut bytes, u64::try_from(mark.0).unwrap_or(0));
            previous = bucket.0;
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value as u8) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_survives_its_text_form(
            marks in prop::collection::btree_map(0u32..BUCKETS_MAX, 0i64..=i64::MAX, 0..50),
        ) {
            let token = Token::new(marks.into_iter().map(|(b, w)| (Bucket(b), Watermark(w))));
            prop_assert_eq!(Token::parse(&token.to_string()), Ok(token));
        }

        #[test]
        fn any_text_is_a_token_or_an_error(text in ".{0,60}") {
            let _ = Token::parse(&text);
        }
    }

    #[test]
    fn a_cut_token_is_refused() {
        let text = Token::new([(Bucket(3), Watermark(70_000))]).to_string();
        assert!(Token::parse(&text[..text.len() - 2]).is_err());
        assert!(Token::parse("").is_err());
    }

    #[test]
    fn covering_needs_every_bucket() {
        let token = Token::new([(Bucket(0), Watermark(5)), (Bucket(1), Watermark(7))]);
        assert!(token.is_covered_by(|_| Watermark(7)));
        assert!(!token.is_covered_by(|b| if b == Bucket(1) {
            Watermark(6)
        } else {
            Watermark(9)
        }));
    }
}
