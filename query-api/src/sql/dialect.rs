//! The SQL that users write: DataFusion's generic dialect, with table versions and without the
//! clauses that DataFusion would read and then ignore.

use std::any::{Any, TypeId};
use std::cell::Cell;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, SetExpr, Visit, Visitor};
use datafusion::sql::sqlparser::dialect::{Dialect, GenericDialect};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// Expressions that the parser may begin for each token of a statement.
const BEGINNINGS_PER_TOKEN: usize = 16;
/// Expressions within each other, and set operations of a query, on the left of `IS DISTINCT FROM`.
const LEFT_MAX: usize = 300;

/// Generic SQL with `VERSION AS OF` and `TIMESTAMP AS OF`, for one statement.
///
/// The parser tries one reading of `position(…`, `case …` or `(…` and then another, each of them
/// with all that is within: what nests thirty of these would take it years. It asks the dialect
/// wherever an expression begins, so the dialect counts, and gives up in time.
#[derive(Debug)]
pub(crate) struct TidelakeDialect {
    left: Cell<usize>,
}

impl TidelakeDialect {
    /// For a statement of that many tokens.
    pub(crate) fn of(tokens: usize) -> Self {
        let left = Cell::new((tokens + BEGINNINGS_PER_TOKEN) * BEGINNINGS_PER_TOKEN);
        Self { left }
    }

    /// Whether the parser was stopped.
    pub(crate) fn gave_up(&self) -> bool {
        self.left.get() == 0
    }

    fn count(&self) {
        self.left.set(self.left.get().saturating_sub(1));
    }

    /// Whether the expression may be copied: not where that takes long, or more stack than is there.
    fn may_copy(&self, expr: &Expr) -> bool {
        let mut copy = Copying {
            dialect: self,
            depth: 0,
        };
        expr.visit(&mut copy).is_continue()
    }
}

/// What copying an expression would cost.
struct Copying<'a> {
    dialect: &'a TidelakeDialect,
    depth: usize,
}

impl Copying<'_> {
    fn bounded(&self, found: usize) -> ControlFlow<()> {
        self.dialect.count();
        match found > LEFT_MAX || self.dialect.gave_up() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

impl Visitor for Copying<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let (mut operations, mut rest) = (0, vec![&*query.body]);
        while let Some(body) = rest.pop() {
            if let SetExpr::SetOperation { left, right, .. } = body {
                operations += 1;
                self.bounded(operations)?;
                rest.push(left);
                rest.push(right);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.depth += 1;
        self.bounded(self.depth)
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }
}

macro_rules! yes {
    ($($name:ident)*) => { $(fn $name(&self) -> bool { true })* };
}

impl Dialect for TidelakeDialect {
    /// The parser asks by type in places where it has no method to ask.
    fn dialect(&self) -> TypeId {
        GenericDialect.type_id()
    }

    fn parse_prefix(&self, _: &mut Parser) -> Option<Result<Expr, ParserError>> {
        self.count();
        // No other error ends its attempts.
        self.gave_up()
            .then_some(Err(ParserError::RecursionLimitExceeded))
    }

    /// The parser would take all that follows `IS DISTINCT FROM` for its right side, `AND` and `OR`
    /// too.
    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        use Keyword::{DISTINCT, FROM, IS, NOT};
        let differs = parser.parse_keywords(&[IS, DISTINCT, FROM]);
        if !differs && !parser.parse_keywords(&[IS, NOT, DISTINCT, FROM]) {
            return None;
        }
        if !self.may_copy(expr) {
            return Some(Err(ParserError::RecursionLimitExceeded));
        }
        let left = Box::new(expr.clone());
        let both = parser.parse_subexpr(precedence).map(|right| {
            let right = Box::new(right);
            match differs {
                true => Expr::IsDistinctFrom(left, right),
                false => Expr::IsNotDistinctFrom(left, right),
            }
        });
        Some(both)
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        GenericDialect.is_delimited_identifier_start(ch)
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    /// Of a table in parentheses, too, there are two readings.
    fn supports_parens_around_table_factor(&self) -> bool {
        !self.gave_up()
    }

    yes! {
        supports_table_versioning
        allow_extract_custom
        allow_extract_single_quotes
        support_map_literal_syntax
        supports_array_typedef_with_brackets
        supports_bitwise_shift_operators
        supports_comma_separated_trim
        supports_dictionary_syntax
        supports_empty_projections
        supports_explain_with_utility_options
        supports_extract_comma_syntax
        supports_filter_during_aggregation
        supports_from_first_select
        supports_group_by_expr
        supports_group_by_with_modifier
        supports_left_associative_joins_without_parens
        supports_limit_comma
        supports_multiline_comment_hints
        supports_named_fn_args_with_assignment_operator
        supports_nested_comments
        supports_pipe_operator
        supports_projection_trailing_commas
        supports_select_wildcard_except
        supports_select_wildcard_exclude
        supports_select_wildcard_rename
        supports_select_wildcard_replace
        supports_string_escape_constant
        supports_struct_literal
        supports_try_convert
        supports_unicode_string_literal
        supports_values_as_table_factor
        supports_window_clause_named_window_reference
        supports_window_function_null_treatment_arg
    }
}
