//! The format of deletion vectors: which rows of a data file no longer count.
//!
//! ```text
//! file:   [version = 1: u8]  ( [size: i32 BE] [data: size bytes] [CRC-32 of data: u32 BE] )*
//! data:   [magic = 1681511377: i32 LE]  64-bit Roaring bitmap, portable format
//! inline: Z85 text of data, padded with zero bytes to a multiple of four
//! ```
//!
//! All vectors of a commit lie in one file. Those that stand in the log itself are read, and written
//! by nobody here: Spark's vacuum does not know them.
//!
//! New files lie in `_tidelake`: an engine that vacuums everything that its listing finds passes
//! over folders that begin with an underscore, and so over vectors that are in use. Older ones, at
//! the table's root, are read where they are.
//!
//! A descriptor's `offset` points at the size field (the first vector's is 1), `sizeInBytes` counts
//! data alone. Source: Delta protocol, "Deletion Vectors".

use roaring::RoaringTreemap;
use uuid::Uuid;

use crate::action::VectorDescriptor;

const FILE_VERSION: u8 = 1;
const MAGIC: i32 = 1_681_511_377;
/// Bytes before and after the data of a vector in a file.
const SIZE_BYTES: usize = 4;
const CRC_BYTES: usize = 4;
/// The folder of new files.
const FOLDER: &str = "_tidelake";
/// Bytes of a file after which the next one is begun: offsets are 32-bit numbers with a sign.
const FILE_BYTES_MAX: usize = 1 << 30;
/// Characters of a UUID in Z85.
const UUID_CHARS: usize = 20;

/// Why a vector can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VectorError {
    #[error("storage type {0:?} is none of u, i and p")]
    StorageType(String),
    #[error("{0:?} does not name a vector file of this table")]
    Name(String),
    #[error("text is not Z85")]
    Text,
    #[error("{found} bytes where {expected} were expected")]
    Size { expected: usize, found: usize },
    #[error("magic number is {0}, expected {MAGIC}")]
    Magic(i32),
    #[error("checksum does not match its data")]
    Checksum,
    #[error("bitmap is malformed: {0}")]
    Bitmap(String),
    #[error("descriptor says that {expected} rows are deleted, the vector has {found}")]
    Cardinality { expected: i64, found: u64 },
}

/// Deleted row positions of one data file.
pub type DeletedRows = RoaringTreemap;

/// The data of a vector.
pub fn encode(rows: &DeletedRows) -> Vec<u8> {
    let mut data = Vec::with_capacity(4 + rows.serialized_size());
    data.extend_from_slice(&MAGIC.to_le_bytes());
    rows.serialize_into(&mut data)
        .expect("writing to memory does not fail");
    data
}

/// Reads the data of a vector.
pub fn decode(data: &[u8]) -> Result<DeletedRows, VectorError> {
    let Some((magic, mut bitmap)) = data.split_first_chunk() else {
        return Err(VectorError::Size {
            expected: 4,
            found: data.len(),
        });
    };
    let magic = i32::from_le_bytes(*magic);
    if magic != MAGIC {
        return Err(VectorError::Magic(magic));
    }
    DeletedRows::deserialize_from(&mut bitmap).map_err(|e| VectorError::Bitmap(e.to_string()))
}

/// The descriptor of a vector that stands in the log, as other engines and earlier versions make
/// them.
pub fn inline(rows: &DeletedRows) -> VectorDescriptor {
    let data = encode(rows);
    VectorDescriptor {
        storage_type: "i".into(),
        path_or_inline_dv: z85_encode(&data),
        offset: None,
        size_in_bytes: data.len() as i32,
        cardinality: rows.len() as i64,
    }
}

/// True where everything that `older` takes away stays taken away under `newer`. Must hold for each
/// vector that replaces another one: a row that comes back is a row that was superseded.
pub fn keeps(newer: &DeletedRows, older: &DeletedRows) -> bool {
    older.is_subset(newer)
}

/// A file of many vectors, being written; several where one would become too large.
#[derive(Debug)]
pub struct VectorFile {
    id: Uuid,
    bytes: Vec<u8>,
    bytes_max: usize,
    full: Vec<(String, Vec<u8>)>,
}

impl VectorFile {
    /// The file is named by `id`, further ones by the numbers after it.
    pub fn new(id: Uuid) -> Self {
        Self {
            id,
            bytes: vec![FILE_VERSION],
            bytes_max: FILE_BYTES_MAX,
            full: Vec::new(),
        }
    }

    /// True where no vector was added: then there is nothing to upload.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == 1 && self.full.is_empty()
    }

    /// Adds a vector, however small it is.
    pub fn push(&mut self, rows: &DeletedRows) -> VectorDescriptor {
        self.append(&encode(rows), rows.len())
    }

    fn append(&mut self, data: &[u8], cardinality: u64) -> VectorDescriptor {
        let room = self.bytes_max.saturating_sub(self.bytes.len());
        if self.bytes.len() > 1 && SIZE_BYTES + data.len() + CRC_BYTES > room {
            let next = Uuid::from_u128(self.id.as_u128().wrapping_add(1));
            let id = std::mem::replace(&mut self.id, next);
            let bytes = std::mem::replace(&mut self.bytes, vec![FILE_VERSION]);
            self.full.push((file_name(FOLDER, id), bytes));
        }
        let offset = self.bytes.len() as i32;
        self.bytes
            .extend_from_slice(&(data.len() as i32).to_be_bytes());
        self.bytes.extend_from_slice(data);
        self.bytes
            .extend_from_slice(&crc32fast::hash(data).to_be_bytes());
        VectorDescriptor {
            storage_type: "u".into(),
            path_or_inline_dv: format!("{FOLDER}{}", z85_encode(self.id.as_bytes())),
            offset: Some(offset),
            size_in_bytes: data.len() as i32,
            cardinality: cardinality as i64,
        }
    }

    /// Adds a vector, once it is known to be readable.
    ///
    /// # Errors
    /// Where what was written does not read as what it was written from: a version with such a
    /// vector could be read by nobody, and nothing could take it back.
    pub fn place(&mut self, rows: &DeletedRows) -> Result<VectorDescriptor, VectorError> {
        let data = encode(rows);
        if data.len() > FILE_BYTES_MAX {
            return Err(VectorError::Size {
                expected: FILE_BYTES_MAX,
                found: data.len(),
            });
        }
        if decode(&data)? != *rows {
            return Err(VectorError::Bitmap("it reads as other rows".into()));
        }
        Ok(self.append(&data, rows.len()))
    }

    /// The files: names relative to the table, and contents. None where no vector was added.
    pub fn finish(self) -> Vec<(String, Vec<u8>)> {
        let mut files = self.full;
        if self.bytes.len() > 1 {
            files.push((file_name(FOLDER, self.id), self.bytes));
        }
        files
    }
}

fn file_name(prefix: &str, id: Uuid) -> String {
    let slash = if prefix.is_empty() { "" } else { "/" };
    format!("{prefix}{slash}deletion_vector_{id}.bin")
}

/// Where the bytes of a vector are to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// They were in the descriptor.
    Inline(Vec<u8>),
    /// `range` of the file `name` (relative to the table): size, data and checksum.
    File {
        name: String,
        range: std::ops::Range<u64>,
    },
}

/// Finds the bytes of a vector.
pub fn locate(descriptor: &VectorDescriptor) -> Result<Place, VectorError> {
    let text = descriptor.path_or_inline_dv.as_str();
    let size = usize::try_from(descriptor.size_in_bytes).map_err(|_| VectorError::Size {
        expected: 4,
        found: 0,
    })?;
    match descriptor.storage_type.as_str() {
        "i" => {
            let mut data = z85_decode(text).ok_or(VectorError::Text)?;
            if data.len() < size {
                return Err(VectorError::Size {
                    expected: size,
                    found: data.len(),
                });
            }
            data.truncate(size);
            Ok(Place::Inline(data))
        }
        "u" => {
            let split = text
                .len()
                .checked_sub(UUID_CHARS)
                .filter(|at| text.is_char_boundary(*at));
            let (prefix, id) = text.split_at(split.ok_or(VectorError::Text)?);
            let id = z85_decode(id).and_then(|bytes| bytes.try_into().ok());
            let id = Uuid::from_bytes(id.ok_or(VectorError::Text)?);
            let from = u64::try_from(descriptor.offset.unwrap_or(1))
                .map_err(|_| VectorError::Name(text.to_owned()))?;
            let to = from + (SIZE_BYTES + size + CRC_BYTES) as u64;
            Ok(Place::File {
                name: file_name(prefix, id),
                range: from..to,
            })
        }
        "p" => Err(VectorError::Name(text.to_owned())),
        other => Err(VectorError::StorageType(other.to_owned())),
    }
}

/// Reads the range of a file that [`locate`] named.
pub fn decode_in_file(bytes: &[u8]) -> Result<DeletedRows, VectorError> {
    let wrong = || VectorError::Size {
        expected: SIZE_BYTES + CRC_BYTES,
        found: bytes.len(),
    };
    let (size, rest) = bytes.split_first_chunk().ok_or_else(wrong)?;
    let (data, crc) = rest.split_last_chunk().ok_or_else(wrong)?;
    let size = i32::from_be_bytes(*size);
    if usize::try_from(size) != Ok(data.len()) {
        return Err(VectorError::Size {
            expected: size.max(0) as usize,
            found: data.len(),
        });
    }
    if crc32fast::hash(data) != u32::from_be_bytes(*crc) {
        return Err(VectorError::Checksum);
    }
    decode(data)
}

/// Checks a vector against its descriptor.
pub fn checked(rows: DeletedRows, by: &VectorDescriptor) -> Result<DeletedRows, VectorError> {
    if u64::try_from(by.cardinality) == Ok(rows.len()) {
        Ok(rows)
    } else {
        Err(VectorError::Cardinality {
            expected: by.cardinality,
            found: rows.len(),
        })
    }
}

/// Alphabet of ZeroMQ's RFC 32.
const Z85: &[u8; 85] =
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";

fn z85_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(4) * 5);
    for chunk in bytes.chunks(4) {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for power in [85u32.pow(4), 85u32.pow(3), 85u32.pow(2), 85, 1] {
            text.push(char::from(Z85[(word / power % 85) as usize]));
        }
    }
    text
}

fn z85_decode(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(5) {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 5 * 4);
    for chunk in text.as_bytes().chunks_exact(5) {
        let mut word = 0u64;
        for letter in chunk {
            let digit = Z85.iter().position(|known| known == letter)?;
            word = word * 85 + digit as u64;
        }
        bytes.extend_from_slice(&u32::try_from(word).ok()?.to_be_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn descriptor(storage: &str, text: &str, offset: Option<i32>, size: i32) -> VectorDescriptor {
        VectorDescriptor {
            storage_type: storage.into(),
            path_or_inline_dv: text.into(),
            offset,
            size_in_bytes: size,
            cardinality: 6,
        }
    }

    #[test]
    fn a_vector_of_another_implementation_is_read_and_written_alike() {
        let text = "^Bg9^0rr910000000000iXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L";
        let Place::Inline(data) = locate(&descriptor("i", text, None, 44)).unwrap() else {
            panic!("not inline")
        };
        let rows = decode(&data).unwrap();
        assert_eq!(rows.iter().collect::<Vec<_>>(), [3, 4, 7, 11, 18, 29]);
        assert_eq!(
            inline(&rows).path_or_inline_dv,
            text,
            "and written the same way"
        );
    }

    #[test]
    fn the_protocol_s_file_example_is_located() {
        let place = locate(&descriptor("u", "ab^-aqEH.-t@S}K{vb[*k^", Some(4), 40)).unwrap();
        let name = "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin".to_owned();
        assert_eq!(place, Place::File { name, range: 4..52 });
        let named = descriptor("u", "ab^-aqEH.-t@S}K{vb[*k^", Some(4), 40);
        assert_eq!(named.unique_id(), "uab^-aqEH.-t@S}K{vb[*k^@4");
    }

    #[test]
    fn z85_is_that_of_the_rfc() {
        let bytes = [0x86, 0x4f, 0xd2, 0x6f, 0xb5, 0x59, 0xf7, 0x5b];
        assert_eq!(z85_encode(&bytes), "HelloWorld");
        assert_eq!(z85_decode("HelloWorld").unwrap(), bytes);
        assert_eq!(z85_decode("#####"), None, "more than 32 bits");
    }

    #[test]
    fn damage_is_noticed() {
        let mut file = VectorFile::new(Uuid::from_u128(7));
        file.push(&(0..10_000).step_by(3).collect());
        let (_, mut bytes) = file.finish().remove(0);
        assert!(decode_in_file(&bytes[1..]).is_ok());
        bytes[100] ^= 1;
        assert_eq!(decode_in_file(&bytes[1..]), Err(VectorError::Checksum));
        assert!(decode_in_file(&bytes[1..bytes.len() - 1]).is_err());
        assert!(matches!(decode(&[0; 12]), Err(VectorError::Magic(0))));
    }

    fn rows() -> impl Strategy<Value = DeletedRows> {
        let row = prop_oneof![0..500u64, 0..100_000u64, (1u64 << 32)..(1 << 32) + 50];
        prop::collection::vec(row, 0..300).prop_map(|rows| rows.into_iter().collect())
    }

    /// Roaring 0.11.5 writes a container of 4,096 values that was made from bits so that it can't
    /// be read.
    #[test]
    fn what_would_be_unreadable_is_refused() {
        let bitmap = roaring::RoaringBitmap::from_lsb0_bytes(0, &[0x55; 1024]);
        for rows in [bitmap.clone(), bitmap.iter().collect()] {
            let rows = DeletedRows::from_bitmaps([(0, rows)]);
            let mut file = VectorFile::new(Uuid::from_u128(7));
            match file.place(&rows) {
                Ok(placed) => {
                    assert_eq!(placed.cardinality, 4096);
                    assert_eq!(decode(&encode(&rows)).unwrap(), rows);
                }
                Err(error) => {
                    assert!(matches!(error, VectorError::Bitmap(_)));
                    assert!(file.is_empty(), "nothing of it was kept");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn many_vectors_share_a_file(
            vectors in prop::collection::vec(rows(), 1..6),
            bytes_max in prop_oneof![Just(FILE_BYTES_MAX), 1..2000usize],
        ) {
            let mut file = VectorFile::new(Uuid::from_u128(0x1234_5678));
            file.bytes_max = bytes_max;
            let placed: Vec<_> = vectors.iter().map(|rows| file.place(rows).unwrap()).collect();
            let empty = file.is_empty();
            let files: std::collections::BTreeMap<_, _> = file.finish().into_iter().collect();
            prop_assert_eq!(empty, files.is_empty());
            for (rows, descriptor) in vectors.iter().zip(&placed) {
                // Small ones, too: Spark can't vacuum a table with one that stands in the log.
                let Place::File { name, range } = locate(descriptor).unwrap() else {
                    panic!("it is not in a file: {descriptor:?}");
                };
                prop_assert!(name.starts_with("_tidelake/deletion_vector_"), "{}", name);
                let bytes = &files[&name];
                // Only a vector that is larger by itself makes a file larger.
                prop_assert!(bytes.len() <= bytes_max || range.start == 1);
                let found = decode_in_file(&bytes[range.start as usize..range.end as usize]);
                let found = found.unwrap();
                prop_assert_eq!(&checked(found, descriptor).unwrap(), rows);
            }
        }

        #[test]
        fn a_vector_keeps_what_it_has_grown_from(older in rows(), more in rows()) {
            let newer = &older | &more;
            prop_assert!(keeps(&newer, &older));
            prop_assert_eq!(keeps(&older, &newer), older == newer);
        }

        #[test]
        fn any_bytes_are_a_vector_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
            let _ = decode_in_file(&bytes);
        }
    }
}
