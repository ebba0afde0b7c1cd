//! Filters that plans push down, where names tell columns apart.
//!
//! DataFusion hands a filter from a step to the one below by its columns' names (`FilterRemapper`):
//! of two columns with one name, as a join of a table with itself has them, the first one is taken
//! for both, and rows are lost. So the rule runs apart on each part of the plan in which no step
//! below the first has two columns of one name. What is pushed down within a query's text is not
//! touched by this: that rule knows whose columns they are.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::replace_children_if_necessary;

/// The rule that pushes filters down; also the one that pushes filters which come to be on the way.
const RULE: &str = "FilterPushdown";

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// The rules, with those that push filters down where that is safe only.
pub(super) fn guarded(rules: Vec<Rule>) -> Vec<Rule> {
    let guarded = |rule: Rule| -> Rule {
        match rule.name().starts_with(RULE) {
            true => Arc::new(WhereNamesDiffer(rule)),
            false => rule,
        }
    };
    rules.into_iter().map(guarded).collect()
}

/// A rule for plans whose steps have no two columns of one name.
#[derive(Debug)]
struct WhereNamesDiffer(Arc<dyn PhysicalOptimizerRule + Send + Sync>);

/// Steps by their address: whether no step from there down has two columns of one name.
type Clear = HashMap<*const (), bool>;

impl WhereNamesDiffer {
    fn apply(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        clear: &Clear,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // Nothing comes to the first step from above.
        let mut below = plan.children().into_iter();
        if below.all(|child| clear.get(&address(child)) == Some(&true)) {
            return self.0.optimize(plan, config);
        }
        let children = plan.children().into_iter().map(Arc::clone);
        let children = children.map(|child| self.apply(child, clear, config));
        let children = children.collect::<Result<Vec<_>>>()?;
        replace_children_if_necessary(plan, children)
    }
}

fn address(plan: &Arc<dyn ExecutionPlan>) -> *const () {
    Arc::as_ptr(plan).cast()
}

fn look(plan: &Arc<dyn ExecutionPlan>, clear: &mut Clear) -> bool {
    let mut names = HashSet::new();
    let schema = plan.schema();
    let mut is_clear = schema
        .fields()
        .iter()
        .all(|field| names.insert(field.name()));
    for child in plan.children() {
        is_clear &= look(child, clear);
    }
    clear.insert(address(plan), is_clear);
    is_clear
}

impl PhysicalOptimizerRule for WhereNamesDiffer {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut clear = Clear::new();
        look(&plan, &mut clear);
        self.apply(plan, &clear, config)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::settings::QuerySettings;
    use crate::testing::World;

    #[tokio::test]
    async fn a_filter_is_of_the_side_that_it_names() {
        let world = World::new(QuerySettings::default()).await;
        let rows = "WITH t AS (SELECT 1 k, value id, value = 1 b FROM generate_series(1, 2) \
            UNION ALL SELECT 2, value, true FROM generate_series(3, 3))";
        for (join, more) in [("", None), ("LEFT", None), ("RIGHT", None), ("FULL", None)]
            .into_iter()
            .chain([("RIGHT", Some("LIMIT 10")), ("LEFT", Some("LIMIT 10"))])
        {
            let t = format!("(SELECT * FROM t {})", more.unwrap_or_default());
            let sql = format!(
                "{rows} SELECT a.id, b.id FROM {t} a {join} JOIN {t} b ON a.k = b.k \
                 WHERE a.b OR b.b ORDER BY 1, 2"
            );
            let wanted = json!([[1, 1], [1, 2], [2, 1], [3, 3]]);
            assert_eq!(world.rows(&sql).await, wanted, "{sql}");
        }
        // Where names differ filters are pushed down as before.
        let sql = format!(
            "EXPLAIN {rows} SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY k) r FROM t) \
             WHERE k = 2"
        );
        let plan = world.rows(&sql).await.to_string();
        assert!(
            plan.contains("FilterExec: k") || plan.contains("k@"),
            "{plan}"
        );
    }
}
