//! Clauses that the parser knows and the planner drops: their answer would be another question's.
//!
//! Every struct is taken apart field by field, without `..`: what the parser learns next year does
//! not compile until somebody has decided about it. `_` stands where the planner heeds the field,
//! or refuses it itself.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, Cte, DataType, Expr, Function, FunctionArguments, Join,
    NamedWindowExpr, ObjectNamePart, OrderBy, OrderByExpr, OrderByKind, PipeOperator, Query,
    Select, SetExpr, SetOperator, SetQuantifier, TableAlias, TableAliasColumnDef, TableFactor,
    TableWithJoins, Visit, Visitor, WindowSpec, WindowType, With,
};

use super::grouping;
use crate::error::QueryError;

/// What would be dropped is not supported; what would write or lock is not allowed, as is what is
/// too large.
pub(super) type Checked = Result<(), QueryError>;

/// Items or bytes of a type of a fixed size.
const FIXED_MAX: u64 = 65_536;
/// Queries within the expressions of each other: the planner visits what is within twice, so one
/// more doubles its time.
const EXPRESSION_QUERIES_MAX: usize = 10;
const SAMPLE: &str = "TABLESAMPLE is not supported; WHERE random() < 0.1 samples";

pub(super) fn query(query: &Query) -> Checked {
    let Query {
        with,
        body,
        order_by,
        limit_clause: _,
        fetch: _,
        locks,
        for_clause,
        settings,
        format_clause,
        pipe_operators,
    } = query;
    forbidden_if(
        !locks.is_empty(),
        "FOR UPDATE and FOR SHARE are not allowed: queries take no locks",
    )?;
    refused_if(
        for_clause.is_some() || settings.is_some() || format_clause.is_some(),
        "FOR, SETTINGS and FORMAT clauses are not supported",
    )?;
    if let Some(with) = with {
        let With {
            with_token: _,
            recursive: _,
            cte_tables,
        } = with;
        cte_tables.iter().try_for_each(with_query)?;
    }
    if let Some(OrderBy {
        kind,
        // Refused by the planner.
        interpolate: _,
    }) = order_by
    {
        match kind {
            OrderByKind::All(_) => {}
            OrderByKind::Expressions(exprs) => ordered(exprs)?,
        }
    }
    pipe_operators.iter().try_for_each(pipe)?;
    set(body)
}

fn with_query(with: &Cte) -> Checked {
    let Cte {
        alias: name,
        query: _,
        from,
        // Whether it is computed once changes no answer.
        materialized: _,
        closing_paren_token: _,
    } = with;
    refused_if(from.is_some(), "WITH … FROM is not supported")?;
    alias(name)
}

fn pipe(operator: &PipeOperator) -> Checked {
    match operator {
        PipeOperator::OrderBy { exprs } => ordered(exprs),
        PipeOperator::Join(join) => self::join(join),
        PipeOperator::Union { .. }
        | PipeOperator::Intersect { .. }
        | PipeOperator::Except { .. }
        | PipeOperator::Where { .. }
        | PipeOperator::Limit { .. }
        | PipeOperator::Select { .. }
        | PipeOperator::Extend { .. }
        | PipeOperator::As { .. }
        | PipeOperator::Aggregate { .. } => Ok(()),
        other => Err(unsupported(format!("|> {other:.60} is not supported"))),
    }
}

/// What a query consists of; what is nested is visited as a query or select of its own.
fn set(body: &SetExpr) -> Checked {
    match body {
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => Ok(()),
        SetExpr::SetOperation {
            left,
            op,
            set_quantifier,
            right,
        } => {
            let counts = matches!(
                set_quantifier,
                SetQuantifier::All | SetQuantifier::AllByName
            );
            refused_if(
                counts && *op != SetOperator::Union,
                "EXCEPT ALL and INTERSECT ALL are not supported: number the equal rows with \
                 row_number() and leave ALL out",
            )?;
            set(left)?;
            set(right)
        }
        SetExpr::Table(_) => Err(unsupported(
            "TABLE t is not supported; write SELECT * FROM t",
        )),
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => Err(
            forbidden("INSERT, UPDATE, DELETE and MERGE are not allowed: queries only read"),
        ),
    }
}

/// Checks the clauses; `GROUP BY … WITH ROLLUP` becomes `GROUP BY ROLLUP (…)`.
pub(super) fn select(select: &mut Select) -> Checked {
    let Select {
        select_token: _,
        // Comments.
        optimizer_hints: _,
        distinct: _,
        select_modifiers,
        // Refused by the planner.
        top: _,
        top_before_distinct: _,
        projection,
        exclude,
        into,
        from,
        // Refused by the planner.
        lateral_views: _,
        prewhere,
        selection: _,
        connect_by,
        group_by,
        // Refused by the planner, as is SORT BY; what is distributed is the same rows.
        cluster_by: _,
        distribute_by: _,
        sort_by: _,
        having: _,
        named_window,
        qualify: _,
        window_before_qualify: _,
        value_table_mode,
        flavor: _,
    } = select;
    forbidden_if(
        into.is_some(),
        "SELECT INTO is not allowed: queries only read",
    )?;
    refused_if(
        prewhere.is_some() || !connect_by.is_empty(),
        "PREWHERE and CONNECT BY are not supported",
    )?;
    refused_if(
        exclude.is_some(),
        "EXCLUDE stands behind the asterisk: SELECT * EXCLUDE (a) FROM t",
    )?;
    refused_if(
        value_table_mode.is_some(),
        "SELECT AS STRUCT and AS VALUE are not supported; write named_struct(…)",
    )?;
    refused_if(
        select_modifiers.as_ref().is_some_and(|it| it.is_any_set()),
        "HIGH_PRIORITY, STRAIGHT_JOIN and SQL_… after SELECT are not supported",
    )?;
    for window in named_window.iter() {
        if let NamedWindowExpr::WindowSpec(spec) = &window.1 {
            window_spec(spec)?;
        }
    }
    for table in from.iter() {
        let TableWithJoins { relation: _, joins } = table;
        joins.iter().try_for_each(join)?;
    }
    grouping::grouped(group_by, projection)
}

pub(super) fn join(join: &Join) -> Checked {
    let Join {
        relation: _,
        global,
        // Those that it does not know are refused by the planner.
        join_operator: _,
    } = join;
    refused_if(*global, "GLOBAL JOIN is not supported; leave GLOBAL out")
}

pub(super) fn factor(factor: &TableFactor) -> Checked {
    let name = match factor {
        TableFactor::Table {
            name: _,
            alias,
            args: _,
            with_hints,
            version: _,
            with_ordinality,
            partitions,
            json_path,
            sample,
            index_hints,
        } => {
            refused_if(sample.is_some(), SAMPLE)?;
            refused_if(
                !with_hints.is_empty()
                    || *with_ordinality
                    || !partitions.is_empty()
                    || json_path.is_some()
                    || !index_hints.is_empty(),
                "hints, partitions and paths after a table are not supported",
            )?;
            alias
        }
        TableFactor::Derived {
            lateral: _,
            subquery: _,
            alias,
            sample,
        } => {
            refused_if(sample.is_some(), SAMPLE)?;
            alias
        }
        TableFactor::Function {
            lateral: _,
            name: _,
            args: _,
            with_ordinality,
            alias,
        } => {
            refused_if(
                *with_ordinality,
                "WITH ORDINALITY is not supported; use row_number()",
            )?;
            alias
        }
        TableFactor::NestedJoin {
            table_with_joins,
            alias,
        } => {
            let TableWithJoins { relation: _, joins } = table_with_joins.as_ref();
            joins.iter().try_for_each(join)?;
            alias
        }
        // The planner refuses offsets and ordinality.
        TableFactor::UNNEST {
            alias,
            array_exprs: _,
            with_offset: _,
            with_offset_alias: _,
            with_ordinality: _,
        }
        | TableFactor::TableFunction { expr: _, alias } => alias,
        other => {
            let words = super::allow::first_words(other);
            return Err(unsupported(format!("{words} is not supported")));
        }
    };
    name.iter().try_for_each(alias)
}

fn alias(alias: &TableAlias) -> Checked {
    let TableAlias {
        explicit: _,
        name: _,
        columns,
        at,
    } = alias;
    refused_if(at.is_some(), "AT after a table's alias is not supported")?;
    let typed = columns.iter().any(|column| {
        let TableAliasColumnDef { name: _, data_type } = column;
        data_type.is_some()
    });
    refused_if(
        typed,
        "types in a list of column aliases are not supported; CAST in the SELECT list",
    )
}

pub(super) fn expr(expr: &Expr) -> Checked {
    if has_query(expr) {
        // What is within is visited again for each query that it is in, ten times at most.
        let nesting = expr.visit(&mut Nesting::default());
        forbidden_if(nesting.is_break(), &too_nested())?;
    }
    match expr {
        Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => refused_if(
            matches!(right.as_ref(), Expr::Subquery(_)),
            "ANY and ALL of a query are not supported; write IN (SELECT …), NOT IN (SELECT …), or \
             compare with (SELECT min(…) …) or (SELECT max(…) …)",
        ),
        Expr::Function(function) => self::function(function),
        Expr::Cast {
            kind: _,
            expr: _,
            data_type,
            array,
            // Refused by the planner.
            format: _,
        } => fixed(data_type).and_then(|()| {
            refused_if(
                *array,
                "CAST … ARRAY is not supported; write CAST(x AS type[])",
            )
        }),
        Expr::Substring {
            substring_from: None,
            substring_for: None,
            ..
        } => Err(unsupported(
            "substr takes a text and where to begin, and how many characters where not all",
        )),
        Expr::BinaryOp {
            op: BinaryOperator::BitwiseXor,
            ..
        } => Err(unsupported(
            "^ is not supported, as it means a power here and an exclusive or there: write \
             power(a, b), or (a | b) - (a & b)",
        )),
        Expr::SimilarTo { .. } => Err(unsupported(
            "SIMILAR TO is not supported; write LIKE, or a regular expression for all of the text: \
             a ~ '^(…)$'",
        )),
        Expr::Trim {
            trim_where: _,
            trim_what,
            expr: _,
            trim_characters,
        } => refused_if(
            trim_what.is_some() && trim_characters.is_some(),
            "TRIM takes its characters once",
        ),
        _ => Ok(()),
    }
}

/// Whether a query is a part of the expression itself.
fn has_query(expr: &Expr) -> bool {
    match expr {
        // That of ANY and ALL is a `Subquery`, too.
        Expr::Exists { .. } | Expr::InSubquery { .. } | Expr::Subquery(_) => true,
        Expr::Function(function) => matches!(function.args, FunctionArguments::Subquery(_)),
        _ => false,
    }
}

fn too_nested() -> String {
    format!(
        "the statement has more than {EXPRESSION_QUERIES_MAX} queries within the expressions of \
         each other; {EXPRESSION_QUERIES_MAX} is the most: join what they read, or name them in \
         one WITH list"
    )
}

/// Counts queries that are open in expressions, and gives up where there are too many.
#[derive(Debug, Default)]
struct Nesting {
    open: usize,
}

impl Visitor for Nesting {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.open += usize::from(has_query(expr));
        match self.open > EXPRESSION_QUERIES_MAX {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.open -= usize::from(has_query(expr));
        ControlFlow::Continue(())
    }
}

/// A list of a fixed size takes its memory whether there are items or not.
fn fixed(data_type: &DataType) -> Checked {
    let mut inner = data_type;
    while let DataType::Array(ArrayElemTypeDef::SquareBracket(item, size)) = inner {
        forbidden_if(
            size.is_some_and(|size| size > FIXED_MAX),
            "a type of a fixed size has at most 65536 items or bytes",
        )?;
        inner = item;
    }
    Ok(())
}

fn function(function: &Function) -> Checked {
    let Function {
        name,
        uses_odbc_syntax: _,
        parameters,
        args,
        filter: _,
        null_treatment: _,
        over,
        within_group,
    } = function;
    let cast = |part: &ObjectNamePart| {
        part.as_ident().is_some_and(|name| {
            let names = ["arrow_cast", "arrow_try_cast"];
            names
                .iter()
                .any(|cast| name.value.eq_ignore_ascii_case(cast))
        })
    };
    if name.0.iter().any(cast)
        && let FunctionArguments::List(list) = args
    {
        // The type is a text there, behind what is cast.
        let types = list.args.iter().skip(1).map(ToString::to_string);
        let types: String = types.collect();
        let mut numbers = types.split(|sign: char| !sign.is_ascii_digit());
        forbidden_if(
            numbers.any(|number| number.parse().unwrap_or(0) > FIXED_MAX)
                && types.contains("FixedSize"),
            "a type of a fixed size has at most 65536 items or bytes",
        )?;
    }
    refused_if(
        *parameters != FunctionArguments::None,
        "a function takes one list of arguments",
    )?;
    if let Some(WindowType::WindowSpec(spec)) = over {
        window_spec(spec)?;
    }
    ordered(within_group)
}

fn window_spec(spec: &WindowSpec) -> Checked {
    let WindowSpec {
        window_name,
        partition_by: _,
        order_by,
        window_frame: _,
    } = spec;
    refused_if(
        window_name.is_some(),
        "a window that is built on a named one (OVER (w …)): write OVER w, or all of it",
    )?;
    ordered(order_by)
}

fn ordered(exprs: &[OrderByExpr]) -> Checked {
    let filled = exprs.iter().any(|ordered| {
        let OrderByExpr {
            expr: _,
            options: _,
            with_fill,
        } = ordered;
        with_fill.is_some()
    });
    refused_if(
        filled,
        "WITH FILL is not supported; join generate_series(…) for the rows that are missing",
    )
}

pub(super) fn refused_if(refused: bool, reason: &str) -> Checked {
    match refused {
        true => Err(unsupported(reason)),
        false => Ok(()),
    }
}

pub(super) fn forbidden_if(refused: bool, reason: &str) -> Checked {
    match refused {
        true => Err(forbidden(reason)),
        false => Ok(()),
    }
}

pub(super) fn unsupported(reason: impl Into<String>) -> QueryError {
    QueryError::Unsupported(reason.into())
}

pub(super) fn forbidden(reason: impl Into<String>) -> QueryError {
    QueryError::NotAllowed(reason.into())
}
