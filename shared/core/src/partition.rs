//! Which bucket a key belongs to: Kafka's default partitioner, bit for bit.
//!
//! Java producers, librdkafka with `partitioner=murmur2_random`, the gateway and the flusher must
//! all agree on it, for ever: every version of a key lives in one bucket.

use crate::Bucket;

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// MurmurHash2 as `org.apache.kafka.common.utils.Utils.murmur2` computes it.
#[inline]
pub fn murmur2(bytes: &[u8]) -> u32 {
    // Kafka's lengths are Java ints; longer keys than that do not exist.
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// The bucket of a key's text (DESIGN section 4) among `buckets`.
///
/// # Panics
/// Where `buckets` is 0: no table has none.
#[inline]
pub fn bucket_of(key_text: &[u8], buckets: u32) -> Bucket {
    Bucket((murmur2(key_text) & 0x7fff_ffff) % buckets)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_are_those_that_kafka_tests_for() {
        let cases: [(&str, i32); 7] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
            ("", 275_646_681),
        ];
        for (text, expected) in cases {
            assert_eq!(murmur2(text.as_bytes()) as i32, expected, "{text:?}");
        }
    }

    #[test]
    fn a_negative_hash_is_made_positive_by_its_sign_bit_alone() {
        // Kafka: `toPositive(murmur2(key)) % partitions`, with toPositive(x) = x & 0x7fffffff.
        assert_eq!(
            bucket_of(b"foobar", 7).0,
            (-790_332_482_i32 & i32::MAX) as u32 % 7
        );
        assert_eq!(bucket_of(b"anything", 1), Bucket(0));
    }
}
