//! How many bytes one batch may become.
//!
//! A few bytes of input can stand for any number of them: a dictionary's value that every row
//! repeats, a column of nulls that has only a length, a buffer that several columns share, a
//! compressed one, `{}` within a list of structs. Whoever decodes a batch therefore hands an
//! [`Allowance`] through, and every step takes what it is about to allocate before it allocates.
//!
//! Counted are a batch as it came, its buffers decompressed, and the table's columns that are made
//! of them; growing vectors are counted by what stands in them. Memory in use while a batch is
//! decoded stays below three times the allowance.

use tidelake_core::limits::MESSAGE_BYTES_MAX;

use crate::reject::{Fault, Reason};

/// What one message of the log may become. The largest message is 8 MiB of LZ4, which shrinks
/// columns to an eighth at the utmost where rows differ at all; the gateway's own messages are of
/// 4 MiB of columns, or of one row of at most half of this.
pub const MESSAGE_DECODED_BYTES_MAX: usize = 8 * MESSAGE_BYTES_MAX;

/// Bytes that one batch may still take. A copy is an allowance of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    bytes_max: usize,
    left: usize,
}

/// The allowance was not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exceeded {
    bytes_max: usize,
}

impl Allowance {
    /// Nothing of it taken.
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            left: bytes_max,
        }
    }

    /// That of a message of the log.
    pub const fn of_message() -> Self {
        Self::new(MESSAGE_DECODED_BYTES_MAX)
    }

    /// What is not taken yet.
    pub fn left(&self) -> usize {
        self.left
    }

    /// What is taken.
    pub(crate) fn taken(&self) -> usize {
        self.bytes_max - self.left
    }

    /// Takes `bytes`, or leaves all as it is where they are too many.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Exceeded> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.exceeded()),
        }
    }

    /// [`Self::take`] for `count` values of `bytes` each.
    pub(crate) fn take_each(&mut self, count: usize, bytes: usize) -> Result<(), Exceeded> {
        self.take(count.saturating_mul(bytes))
    }

    /// What was taken for a while only.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        self.left = self.left.saturating_add(bytes).min(self.bytes_max);
    }

    /// All of it is there again.
    #[inline]
    pub(crate) fn renew(&mut self) {
        self.left = self.bytes_max;
    }

    pub(crate) fn exceeded(&self) -> Exceeded {
        let bytes_max = self.bytes_max;
        Exceeded { bytes_max }
    }
}

impl From<Exceeded> for Reason {
    fn from(Exceeded { bytes_max }: Exceeded) -> Self {
        Self::DecodedTooLarge { max: bytes_max }
    }
}

impl From<Exceeded> for Box<Fault> {
    #[cold]
    fn from(exceeded: Exceeded) -> Self {
        Fault::new(exceeded.into())
    }
}
