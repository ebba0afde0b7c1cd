//! Headers of Parquet pages: a strict reader of the thrift compact protocol, for what they hold;
//! and how many levels a page has.
//!
//! Never panics, never reads beyond its bytes, keeps nothing that it does not know.

use parquet::basic::Encoding;
use parquet::errors::{ParquetError, Result};

/// Structs within structs, at most.
const DEPTH_MAX: u8 = 16;

/// Types of fields.
const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes of the page when decompressed, without this header.
    pub plain_bytes: usize,
    /// Bytes that follow this header.
    pub stored_bytes: usize,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data {
        values: u32,
        encoding: Encoding,
        definition: Encoding,
        repetition: Encoding,
    },
    DataV2 {
        values: u32,
        nulls: u32,
        rows: u32,
        encoding: Encoding,
        definition_bytes: u32,
        repetition_bytes: u32,
        is_compressed: bool,
    },
    Dictionary {
        values: u32,
        encoding: Encoding,
        is_sorted: bool,
    },
}

impl Kind {
    /// True for a data page whose values stand in the dictionary.
    pub(super) fn needs_dictionary(&self) -> bool {
        let (Self::Data { encoding, .. } | Self::DataV2 { encoding, .. }) = self else {
            return false;
        };
        is_by_dictionary(*encoding)
    }
}

pub(super) fn is_by_dictionary(encoding: Encoding) -> bool {
    matches!(
        encoding,
        Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY
    )
}

/// The header that a page begins with, and its length.
pub(super) fn parse(page: &[u8]) -> Result<(Header, usize)> {
    let mut input = Compact { left: page };
    let mut numbers = [None; 4];
    let mut kind = [None; 9];
    input.fields(|input, id, of| {
        match (id, of) {
            (1..=3, I32) => numbers[id as usize] = Some(input.number()?),
            (5, STRUCT) => kind[5] = Some(data(input)?),
            (7, STRUCT) => kind[7] = Some(dictionary(input)?),
            (8, STRUCT) => kind[8] = Some(data_v2(input)?),
            _ => input.skip(of, DEPTH_MAX)?,
        }
        Ok(())
    })?;
    let page_type = numbers[1].ok_or_else(|| damaged("no type"))?;
    let kind = match page_type {
        0 => kind[5],
        2 => kind[7],
        3 => kind[8],
        other => return Err(damaged(&format!("page type {other} is not known"))),
    };
    let header = Header {
        plain_bytes: size(numbers[2])? as usize,
        stored_bytes: size(numbers[3])? as usize,
        kind: kind.ok_or_else(|| damaged("the part of its type is missing"))?,
    };
    Ok((header, page.len() - input.left.len()))
}

/// How many levels of `bits` bits stand in these runs (RLE or packed); no more than `enough` are
/// counted for sure.
pub(super) fn levels(runs: &[u8], bits: usize, enough: usize) -> usize {
    let mut input = Compact { left: runs };
    let mut count = 0_usize;
    while count < enough {
        let Ok(head) = input.varint() else {
            break;
        };
        let run = usize::try_from(head >> 1).unwrap_or(usize::MAX);
        let (length, bytes) = match head & 1 {
            0 => (run, bits.div_ceil(8)),
            // Groups of eight.
            _ => (run.saturating_mul(8), run.saturating_mul(bits)),
        };
        if input.pass(bytes as u64).is_err() {
            let cut = if head & 1 == 0 {
                0
            } else {
                input.left.len() * 8 / bits.max(1)
            };
            return count.saturating_add(cut);
        }
        count = count.saturating_add(length);
    }
    count
}

fn data(input: &mut Compact<'_>) -> Result<Kind> {
    let numbers = input.numbers::<5>()?;
    Ok(Kind::Data {
        values: size(numbers[1])?,
        encoding: encoding(numbers[2])?,
        definition: encoding(numbers[3])?,
        repetition: encoding(numbers[4])?,
    })
}

fn data_v2(input: &mut Compact<'_>) -> Result<Kind> {
    let numbers = input.numbers::<8>()?;
    Ok(Kind::DataV2 {
        values: size(numbers[1])?,
        nulls: size(numbers[2])?,
        rows: size(numbers[3])?,
        encoding: encoding(numbers[4])?,
        definition_bytes: size(numbers[5])?,
        repetition_bytes: size(numbers[6])?,
        is_compressed: numbers[7] != Some(0),
    })
}

fn dictionary(input: &mut Compact<'_>) -> Result<Kind> {
    let numbers = input.numbers::<4>()?;
    Ok(Kind::Dictionary {
        values: size(numbers[1])?,
        encoding: encoding(numbers[2])?,
        is_sorted: numbers[3] == Some(1),
    })
}

fn size(number: Option<i32>) -> Result<u32> {
    let number = number.ok_or_else(|| damaged("a size is missing"))?;
    u32::try_from(number).map_err(|_| damaged("a size is negative"))
}

fn encoding(number: Option<i32>) -> Result<Encoding> {
    #[expect(deprecated, reason = "old files name it where there are no levels")]
    let bit_packed = Encoding::BIT_PACKED;
    Ok(match number {
        Some(0) => Encoding::PLAIN,
        Some(2) => Encoding::PLAIN_DICTIONARY,
        Some(3) => Encoding::RLE,
        Some(4) => bit_packed,
        Some(5) => Encoding::DELTA_BINARY_PACKED,
        Some(6) => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        Some(7) => Encoding::DELTA_BYTE_ARRAY,
        Some(8) => Encoding::RLE_DICTIONARY,
        Some(9) => Encoding::BYTE_STREAM_SPLIT,
        _ => return Err(damaged("its encoding is not known")),
    })
}

fn damaged(reason: &str) -> ParquetError {
    ParquetError::General(format!("page header: {reason}"))
}

struct Compact<'a> {
    left: &'a [u8],
}

impl Compact<'_> {
    fn byte(&mut self) -> Result<u8> {
        let (&byte, left) = self
            .left
            .split_first()
            .ok_or_else(|| damaged("cut short"))?;
        self.left = left;
        Ok(byte)
    }

    fn pass(&mut self, count: u64) -> Result<()> {
        let count = usize::try_from(count).ok();
        let left = count.and_then(|count| self.left.get(count..));
        self.left = left.ok_or_else(|| damaged("cut short"))?;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damaged("a number is too long"))
    }

    fn signed(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn number(&mut self) -> Result<i32> {
        i32::try_from(self.signed()?).map_err(|_| damaged("a number is too big"))
    }

    /// Calls `each` with id and type of every field of a struct; it reads the value.
    fn fields(&mut self, mut each: impl FnMut(&mut Self, i64, u8) -> Result<()>) -> Result<()> {
        let mut id = 0_i64;
        loop {
            let byte = self.byte()?;
            let of = byte & 0x0F;
            if of == STOP {
                return Ok(());
            }
            id = match byte >> 4 {
                0 => self.signed()?,
                delta => id.saturating_add(delta.into()),
            };
            each(self, id, of)?;
        }
    }

    /// The numbers and booleans of a struct by their ids, which are less than `N`.
    fn numbers<const N: usize>(&mut self) -> Result<[Option<i32>; N]> {
        let mut numbers = [None; N];
        self.fields(|input, id, of| {
            let known = usize::try_from(id).ok().filter(|id| *id < N);
            match (known, of) {
                (Some(id), I32) => numbers[id] = Some(input.number()?),
                (Some(id), TRUE) => numbers[id] = Some(1),
                (Some(id), FALSE) => numbers[id] = Some(0),
                _ => input.skip(of, DEPTH_MAX)?,
            }
            Ok(())
        })?;
        Ok(numbers)
    }

    /// Passes over the value of a field.
    fn skip(&mut self, of: u8, depth: u8) -> Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(damaged("too deep"));
        };
        match of {
            TRUE | FALSE => Ok(()),
            BYTE => self.pass(1),
            I16 | I32 | I64 => self.varint().map(|_| ()),
            DOUBLE => self.pass(8),
            BINARY => {
                let length = self.varint()?;
                self.pass(length)
            }
            LIST | SET => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.varint()?,
                    count => count.into(),
                };
                for _ in 0..count {
                    match head & 0x0F {
                        // Within a list a boolean takes a byte.
                        TRUE | FALSE => self.pass(1)?,
                        of => self.skip(of, depth)?,
                    }
                }
                Ok(())
            }
            STRUCT => self.fields(|input, _, of| input.skip(of, depth)),
            other => Err(damaged(&format!("field type {other} is not known"))),
        }
    }
}

#[cfg(test)]
mod tests;
