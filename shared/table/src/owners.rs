//! Which bucket a key belongs to, as a value that the caller passes in.
//!
//! The rule itself (a key's text, and the hash of it) is the codec's, which this crate must not
//! use. It is needed here for files that name no single bucket of their own, those of other
//! engines: each bucket may count only its own keys of them, or a row would be found once for every
//! bucket.
//!
//! Invariant: every row belongs to exactly one bucket, also one whose key no message could carry.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::TableError;

/// Why keys have no buckets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unowned {
    /// The rule has no bucket for the key of one of the rows: no message can carry it.
    #[error("a key that no message can carry")]
    Key,
    /// The columns are not those of the table's key.
    #[error("{0}")]
    Columns(String),
}

/// The bucket of each row of the key's columns, which are in key order and of logical types.
type Rule = dyn Fn(&RecordBatch) -> Result<Vec<u32>, Unowned> + Send + Sync;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Owners {
    buckets: u32,
    rule: Arc<Rule>,
}

impl Owners {
    /// `rule` must be the one by which records are put into buckets.
    pub fn new(
        buckets: u32,
        rule: impl Fn(&RecordBatch) -> Result<Vec<u32>, Unowned> + Send + Sync + 'static,
    ) -> Self {
        let rule = Arc::new(rule);
        Self { buckets, rule }
    }

    /// Of a table with one bucket.
    pub fn single() -> Self {
        Self::new(1, |keys| Ok(vec![0; keys.num_rows()]))
    }

    /// The bucket of each row's key. A key that no message can carry is never superseded; bucket 0
    /// shows it.
    pub fn of(&self, keys: &RecordBatch) -> Result<Vec<u32>, TableError> {
        let rows = keys.num_rows();
        if self.buckets <= 1 {
            return Ok(vec![0; rows]);
        }
        let owners = match (self.rule)(keys) {
            Ok(owners) => owners,
            Err(Unowned::Columns(problem)) => return Err(TableError::Encode(problem)),
            Err(Unowned::Key) => {
                let each = (0..rows).map(|row| match (self.rule)(&keys.slice(row, 1)) {
                    Ok(owner) => Ok(owner.first().copied().unwrap_or(0)),
                    Err(Unowned::Key) => Ok(0),
                    Err(Unowned::Columns(problem)) => Err(TableError::Encode(problem)),
                });
                each.collect::<Result<_, _>>()?
            }
        };
        if owners.len() != rows {
            let found = owners.len();
            let problem =
                format!("{found} buckets for {rows} keys: the rule must name one for each");
            return Err(TableError::Encode(problem));
        }
        Ok(owners)
    }
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owners")
            .field("buckets", &self.buckets)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn keys(values: Vec<i64>) -> RecordBatch {
        let column = Arc::new(Int64Array::from(values));
        RecordBatch::try_from_iter([("k", column as _)]).unwrap()
    }

    /// Every key but 13 has a bucket.
    fn owners(short: bool) -> Owners {
        Owners::new(4, move |keys| {
            let values = keys.column(0).as_primitive::<Int64Type>().values();
            if values.contains(&13) {
                return Err(Unowned::Key);
            }
            if values.contains(&-1) {
                return Err(Unowned::Columns("not a key".into()));
            }
            let of = values.iter().map(|key| *key as u32 % 4);
            Ok(of.skip(usize::from(short)).collect())
        })
    }

    #[test]
    fn every_row_has_one_bucket_also_where_no_message_could_carry_its_key() {
        let found = owners(false).of(&keys(vec![5, 13, 6, 13, 7])).unwrap();
        assert_eq!(found, [1, 0, 2, 0, 3]);
        assert_eq!(Owners::single().of(&keys(vec![13, 13])).unwrap(), [0, 0]);
    }

    #[test]
    fn a_rule_that_fails_is_an_error() {
        let error = owners(false).of(&keys(vec![13, -1])).unwrap_err();
        assert!(error.to_string().contains("not a key"), "{error}");
        let error = owners(true).of(&keys(vec![1, 2])).unwrap_err();
        assert!(
            error.to_string().contains("1 buckets for 2 keys"),
            "{error}"
        );
    }
}
