//! Where the rows of inputs are in the outputs.
//!
//! Rows keep their order, so a row's place is a count: those of the inputs before its own, and those
//! of its own before it that were not deleted. One bit a row, and a number for each 64 of them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::rowset::{Ranks, RowSet};

/// See the module. Inputs and outputs are told in their order.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    inputs: HashMap<String, Input>,
    /// The first row of each output, among the rows of all.
    outputs: Vec<u64>,
    rows_in: u64,
    rows_out: u64,
}

#[derive(Debug)]
struct Input {
    /// Its first row, among those of all.
    first: u64,
    rows: u64,
    /// Rows that are in no output.
    deleted: Ranks<Arc<RowSet>>,
}

impl Mapping {
    /// The next input: its name, how many rows it has, and which of them are left out.
    pub(super) fn input(&mut self, path: &str, rows: u64, deleted: Arc<RowSet>) {
        let kept = rows.saturating_sub(deleted.len().into());
        let input = Input {
            first: self.rows_in,
            rows,
            deleted: Ranks::of(deleted),
        };
        self.inputs.insert(path.to_owned(), input);
        self.rows_in += kept;
    }

    /// The next output has so many rows.
    pub(super) fn output(&mut self, rows: u64) {
        self.outputs.push(self.rows_out);
        self.rows_out += rows;
    }

    /// True where the outputs have the rows of the inputs, no more and no fewer.
    pub(super) fn is_whole(&self) -> bool {
        self.rows_in == self.rows_out
    }

    /// Which rows of an input were left out.
    pub(super) fn left_out(&self, path: &str) -> Option<&RowSet> {
        Some(self.inputs.get(path)?.deleted.set())
    }

    /// The output and the row in it of an input's row; none where it was left out.
    pub(super) fn place(&self, path: &str, row: u32) -> Option<(usize, u32)> {
        let input = self.inputs.get(path)?;
        if u64::from(row) >= input.rows || input.deleted.set().contains(row) {
            return None;
        }
        let kept = u64::from(row) - u64::from(input.deleted.before(row));
        let among_all = input.first + kept;
        let output = self.outputs.partition_point(|first| *first <= among_all) - 1;
        let row = u32::try_from(among_all - self.outputs[output]).ok()?;
        Some((output, row))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_row_is_found_where_it_was_written(
            inputs in prop::collection::vec((0u32..300, prop::collection::btree_set(0u32..300, 0..200)), 1..6),
            cut in 1usize..200,
        ) {
            let mut mapping = Mapping::default();
            let mut written = Vec::new();
            for (number, (rows, deleted)) in inputs.iter().enumerate() {
                let deleted: RowSet = deleted.iter().copied().filter(|row| row < rows).collect();
                let kept = (0..*rows).filter(|row| !deleted.contains(*row));
                written.extend(kept.map(|row| (number.to_string(), row)));
                mapping.input(&number.to_string(), u64::from(*rows), Arc::new(deleted));
            }
            for output in written.chunks(cut) {
                mapping.output(output.len() as u64);
            }
            prop_assert!(mapping.is_whole());
            let mut expected = std::collections::HashMap::new();
            for (output, rows) in written.chunks(cut).enumerate() {
                for (row, from) in rows.iter().enumerate() {
                    expected.insert(from.clone(), (output, row as u32));
                }
            }
            for (number, (rows, _)) in inputs.iter().enumerate() {
                for row in 0..*rows + 70 {
                    let key = (number.to_string(), row);
                    prop_assert_eq!(mapping.place(&key.0, row), expected.get(&key).copied());
                }
            }
        }
    }
}
