//! Plans joins that make one column of two: `USING` and `NATURAL`, where the text marks them
//! ([`crate::sql`], `merged`).
//!
//! ```text
//!  a FULL JOIN b USING (k) ─► a FULL JOIN b ON a.k = b.k ─► coalesce(a.k, b.k), rest of a, rest of b
//! ```
//! The merged column stands in the place of the left side's: it is that one, of a RIGHT JOIN the right
//! side's, of a FULL JOIN the one of both that is there. Invariant: nobody names what is gone, which
//! the text was checked for.

use std::collections::HashSet;

use datafusion::common::metadata::FieldMetadata;
use datafusion::common::{Column, ExprSchema, JoinType, plan_err};
use datafusion::error::Result;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::logical_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::sql::sqlparser::ast::{JoinConstraint, JoinOperator, ObjectNamePart, TableFactor};

/// See the module.
#[derive(Debug)]
pub(super) struct MergedJoins;

impl RelationPlanner for MergedJoins {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let (table, alias) = match relation {
            TableFactor::NestedJoin {
                table_with_joins,
                alias,
            } if table_with_joins.joins.iter().any(|join| join.global) => (table_with_joins, alias),
            other => return Ok(RelationPlanning::Original(Box::new(other))),
        };
        let mut plan = context.plan(table.relation)?;
        for join in table.joins {
            let right = context.plan(join.relation)?;
            let (kind, constraint) = kind_of(join.join_operator)?;
            let names = names(&constraint, &plan, &right, context)?;
            plan = merged(plan, right, kind, &names)?;
        }
        let planned = PlannedRelation::new(plan, alias);
        Ok(RelationPlanning::Planned(Box::new(planned)))
    }
}

fn kind_of(operator: JoinOperator) -> Result<(JoinType, JoinConstraint)> {
    use JoinOperator as Op;
    Ok(match operator {
        Op::Join(constraint) | Op::Inner(constraint) => (JoinType::Inner, constraint),
        Op::Left(constraint) | Op::LeftOuter(constraint) => (JoinType::Left, constraint),
        Op::Right(constraint) | Op::RightOuter(constraint) => (JoinType::Right, constraint),
        Op::FullOuter(constraint) => (JoinType::Full, constraint),
        _ => return plan_err!("a join of this kind merges no columns"),
    })
}

/// The columns that both sides have, and are joined by.
fn names(
    constraint: &JoinConstraint,
    left: &LogicalPlan,
    right: &LogicalPlan,
    context: &dyn RelationPlannerContext,
) -> Result<Vec<String>> {
    let mut seen = HashSet::new();
    match constraint {
        JoinConstraint::Using(names) => names
            .iter()
            .map(|name| match name.0.as_slice() {
                [ObjectNamePart::Identifier(name)] => Ok(context.normalize_ident(name.clone())),
                _ => plan_err!("USING names columns without their table: {name}"),
            })
            .filter(|name| !matches!(name, Ok(name) if !seen.insert(name.clone())))
            .collect(),
        JoinConstraint::Natural => {
            let names = |plan: &LogicalPlan| -> Vec<String> {
                let fields = plan.schema().fields().iter();
                fields.map(|field| field.name().clone()).collect()
            };
            let there: HashSet<String> = names(left).into_iter().collect();
            let mut common = names(right);
            common.retain(|name| there.contains(name) && seen.insert(name.clone()));
            Ok(common)
        }
        JoinConstraint::On(_) | JoinConstraint::None => plan_err!("a join without columns"),
    }
}

fn merged(
    left: LogicalPlan,
    right: LogicalPlan,
    kind: JoinType,
    names: &[String],
) -> Result<LogicalPlan> {
    let columns_of = |plan: &LogicalPlan| -> Result<Vec<Column>> {
        let merged = plan.using_columns()?;
        let of = |name: &String| {
            let column = Column::new_unqualified(name);
            column.normalize_with_schemas_and_ambiguity_check(&[&[plan.schema()]], &merged)
        };
        names.iter().map(of).collect()
    };
    let (left_keys, right_keys) = (columns_of(&left)?, columns_of(&right)?);
    let (left_schema, right_schema) = (left.schema().clone(), right.schema().clone());
    let joined = LogicalPlanBuilder::from(left);
    let joined = match names.is_empty() {
        true => joined.join_on(right, kind, [lit(true)])?,
        false => joined.join(right, kind, (left_keys.clone(), right_keys.clone()), None)?,
    };
    let mut shown = Vec::new();
    for column in left_schema.columns() {
        let key = left_keys.iter().position(|key| *key == column);
        shown.push(match (key, kind) {
            (Some(key), JoinType::Right) => Expr::Column(right_keys[key].clone()),
            (Some(key), JoinType::Full) => {
                let other = right_keys[key].clone();
                // What a column is declared as, where both sides say the same.
                let of_other = right_schema.field_from_column(&other)?.metadata();
                let mut kept = left_schema.field_from_column(&column)?.metadata().clone();
                kept.retain(|name, value| of_other.get(name) == Some(value));
                let kept = Some(FieldMetadata::from(kept));
                let both = coalesce(vec![Expr::Column(column.clone()), Expr::Column(other)]);
                both.alias_qualified_with_metadata(column.relation, column.name, kept)
            }
            _ => Expr::Column(column),
        });
    }
    let rest = right_schema.columns().into_iter();
    let rest = rest.filter(|column| !right_keys.contains(column));
    shown.extend(rest.map(Expr::Column));
    joined.project(shown)?.build()
}
