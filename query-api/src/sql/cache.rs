//! Statements that were read before.
//!
//! What a text is read as depends on nothing but the text, unless a parameter says which version or
//! rows a relation shows: such a statement is read anew each time. Nothing of a table, a session or a
//! moment goes into it, so nothing makes it stale. Plans are not kept: DataFusion folds the time, the
//! tables' statistics and the parameters into them while it optimizes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Query, View};

/// Memory of all statements, and of one; estimated.
const BYTES_MAX: usize = 16 << 20;
const STATEMENT_BYTES_MAX: usize = BYTES_MAX / 8;
/// What a byte of text comes to as a tree, and what any statement takes.
const BYTES_PER_BYTE: usize = 128;
const BYTES_BESIDE: usize = 2048;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    by_text: HashMap<Arc<str>, Known>,
    /// Texts by when they were used last.
    by_use: BTreeMap<u64, Arc<str>>,
    bytes: usize,
    uses: u64,
}

#[derive(Debug)]
struct Known {
    query: Arc<Query>,
    used: u64,
}

impl Statements {
    pub(crate) fn get(&self, text: &str) -> Option<Arc<Query>> {
        let mut held = self.held.lock();
        let Held {
            by_text,
            by_use,
            uses,
            ..
        } = &mut *held;
        let known = by_text.get_mut(text)?;
        *uses += 1;
        if let Some(text) = by_use.remove(&known.used) {
            by_use.insert(*uses, text);
        }
        known.used = *uses;
        Some(Arc::clone(&known.query))
    }

    /// Keeps what the text was read as, where it is always read so.
    pub(crate) fn put(&self, text: &str, query: &Arc<Query>) {
        if weight(text) > STATEMENT_BYTES_MAX || depends_on_parameters(text, query) {
            return;
        }
        let mut held = self.held.lock();
        if held.by_text.contains_key(text) {
            return;
        }
        held.uses += 1;
        let (used, text) = (held.uses, Arc::<str>::from(text));
        held.bytes += weight(&text);
        held.by_use.insert(used, Arc::clone(&text));
        let query = Arc::clone(query);
        held.by_text.insert(text, Known { query, used });
        while held.bytes > BYTES_MAX
            && let Some((_, oldest)) = held.by_use.pop_first()
        {
            held.by_text.remove(&oldest);
            held.bytes -= weight(&oldest);
        }
    }
}

fn weight(text: &str) -> usize {
    BYTES_BESIDE + text.len().saturating_mul(BYTES_PER_BYTE)
}

fn depends_on_parameters(text: &str, query: &Query) -> bool {
    let mut relations = query.relations.values();
    let is_plain =
        relations.all(|relation| relation.view == View::Rows && relation.as_of.is_none());
    !is_plain && text.contains('$')
}

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::*;
    use crate::sql;

    fn put(statements: &Statements, text: &str) {
        let query = sql::parse(text, &[ScalarValue::from(1i64)]).unwrap();
        statements.put(text, &Arc::new(query));
    }

    #[test]
    fn a_statement_is_known_by_its_text_unless_a_parameter_changes_it() {
        let statements = Statements::default();
        for (text, is_kept) in [
            ("SELECT * FROM t WHERE a = $1", true),
            ("SELECT * FROM t VERSION AS OF 1", true),
            ("SELECT * FROM t VERSION AS OF $1", false),
            ("SELECT * FROM key_history('t', $1)", false),
        ] {
            put(&statements, text);
            assert_eq!(statements.get(text).is_some(), is_kept, "{text}");
        }
        let known = statements.get("SELECT * FROM t WHERE a = $1").unwrap();
        assert_eq!(known.relations.len(), 1);
        assert!(statements.get("SELECT * FROM t where a = $1").is_none());
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let statements = Statements::default();
        let filler = "x".repeat(4000);
        let text = |number: usize| format!("SELECT '{filler}{number}'");
        for number in 0..100 {
            put(&statements, &text(number));
            assert!(statements.get(&text(0)).is_some(), "{number}");
        }
        assert!(statements.get(&text(1)).is_none());
        assert!(statements.get(&text(99)).is_some());
        let held = statements.held.lock();
        assert!(held.bytes <= BYTES_MAX && held.by_text.len() == held.by_use.len());
        drop(held);
        put(&statements, &format!("SELECT '{}'", "x".repeat(20_000)));
        assert!(statements.held.lock().by_text.len() < 100);
    }
}
