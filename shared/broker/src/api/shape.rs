//! Checks that a request is as long as it claims, before it is decoded.
//!
//! The generated decoder reserves memory for whatever length an array claims to have, so a frame of a
//! few bytes could ask for gigabytes and take the process down. Walking the frame along its shape
//! first costs next to nothing (records are skipped as a whole) and bounds what decoding can reserve
//! by what was really sent.

use kafka_protocol::messages::ApiKey;

use super::shapes::{Field, Kind, shape};

/// Why a frame does not have its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ShapeError {
    #[error("it ends within a field")]
    Short,
    #[error("a length is not possible")]
    Length,
    #[error("its shape is not known")]
    Unknown,
}

/// Checks the body of a request, after its header; gives the number of its arrays' elements. Bytes after the last field are let pass, as Kafka
/// does: librdkafka sends some with a metadata request for all topics.
pub(super) fn check(api: ApiKey, version: i16, body: &[u8]) -> Result<usize, ShapeError> {
    let fields = shape(api).ok_or(ShapeError::Unknown)?;
    let flexible = api.request_header_version(version) >= 2;
    let mut walk = Walk {
        version,
        flexible,
        rest: body,
        elements: 0,
    };
    walk.structure(fields)?;
    Ok(walk.elements)
}

struct Walk<'a> {
    version: i16,
    flexible: bool,
    rest: &'a [u8],
    elements: usize,
}

impl Walk<'_> {
    fn skip(&mut self, bytes: usize) -> Result<(), ShapeError> {
        self.rest = self.rest.get(bytes..).ok_or(ShapeError::Short)?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ShapeError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(ShapeError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    fn varint(&mut self) -> Result<usize, ShapeError> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(value).map_err(|_| ShapeError::Length);
            }
        }
        Err(ShapeError::Length)
    }

    /// A length, 0 for null.
    fn length(&mut self, short: bool) -> Result<usize, ShapeError> {
        if self.flexible {
            return Ok(self.varint()?.saturating_sub(1));
        }
        let length = match short {
            true => i32::from(i16::from_be_bytes(self.take()?)),
            false => i32::from_be_bytes(self.take()?),
        };
        if length < -1 {
            return Err(ShapeError::Length);
        }
        Ok(usize::try_from(length).unwrap_or(0))
    }

    fn field(&mut self, kind: &Kind) -> Result<(), ShapeError> {
        match kind {
            Kind::Fixed(bytes) => self.skip(*bytes),
            Kind::Text => {
                let length = self.length(true)?;
                self.skip(length)
            }
            Kind::Bytes => {
                let length = self.length(false)?;
                self.skip(length)
            }
            Kind::Plain(kind) => {
                let count = self.length(false)?;
                (0..count).try_for_each(|_| {
                    self.elements += 1;
                    self.field(kind)
                })
            }
            Kind::List(fields) => {
                let count = self.length(false)?;
                (0..count).try_for_each(|_| {
                    self.elements += 1;
                    self.structure(fields)
                })
            }
        }
    }

    fn structure(&mut self, fields: &[Field]) -> Result<(), ShapeError> {
        for Field(first, last, kind) in fields {
            if (*first..=*last).contains(&self.version) {
                self.field(kind)?;
            }
        }
        if self.flexible {
            for _ in 0..self.varint()? {
                // Unknown tags are kept by the decoder.
                self.elements += 1;
                self.varint()?;
                let bytes = self.varint()?;
                self.skip(bytes)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
