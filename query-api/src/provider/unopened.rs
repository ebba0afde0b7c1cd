//! A scan of all files of a version before anybody has looked which these are.
//!
//! A plan that only asks for counts and ends of a table takes them from the statistics of all files
//! together, whatever their number. So a scan without filters stands for its files until that was
//! tried ([`OpenScans`] runs behind DataFusion's rule for it), and only then becomes a plan with an
//! entry for each of them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Statistics, internal_err};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PhysicalExpr, PlanProperties,
    SendableRecordBatchStream,
};

use super::scan::PinnedRows;
use crate::table::files::Files;

/// The rule that opens scans has to run right behind this one.
const TRIED_BY: &str = "aggregate_statistics";

/// See the module.
#[derive(Debug)]
pub(super) struct Unopened {
    pub rows: PinnedRows,
    pub files: Arc<Files>,
    pub projection: Option<Vec<usize>>,
    pub columns: BTreeSet<usize>,
    pub batch_rows: usize,
    statistics: OnceLock<Arc<Statistics>>,
    properties: Arc<PlanProperties>,
}

impl Unopened {
    pub(super) fn new(
        rows: PinnedRows,
        files: &Arc<Files>,
        projection: Option<&Vec<usize>>,
        columns: BTreeSet<usize>,
        batch_rows: usize,
        partitions: usize,
    ) -> Result<Self> {
        let partitions = partitions.clamp(1, files.len().max(1));
        let schema = rows.projected(projection)?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            rows,
            files: Arc::clone(files),
            projection: projection.cloned(),
            columns,
            batch_rows,
            statistics: OnceLock::new(),
            properties: Arc::new(properties),
        })
    }
}

impl DisplayAs for Unopened {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unopened: files={}", self.files.len())
    }
}

impl ExecutionPlan for Unopened {
    fn name(&self) -> &'static str {
        "Unopened"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a scan of {} files was never opened", self.files.len())
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        if args.partition().is_some() {
            // Which files a partition has is not known yet.
            return Ok(Arc::new(Statistics::new_unknown(&self.schema())));
        }
        let all = self.statistics.get_or_init(|| {
            let all = self.files.statistics(&self.columns);
            Arc::new(match &self.projection {
                Some(_) => all.project(self.projection.as_ref()),
                None => all,
            })
        });
        Ok(Arc::clone(all))
    }
}

/// Opens the scans that are left once statistics were tried.
#[derive(Debug)]
struct OpenScans;

impl PhysicalOptimizerRule for OpenScans {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let opened = plan.transform_up(|plan| match plan.downcast_ref::<Unopened>() {
            Some(scan) => Ok(Transformed::yes(scan.rows.opened(scan, config)?)),
            None => Ok(Transformed::no(plan)),
        });
        Ok(opened?.data)
    }

    fn name(&self) -> &str {
        "open_scans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// DataFusion's rules with ours among them.
pub(crate) fn optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let tried = rules.iter().position(|rule| rule.name() == TRIED_BY);
    rules.insert(tried.map_or(0, |place| place + 1), Arc::new(OpenScans));
    rules
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::settings::QuerySettings;
    use crate::testing::World;

    const SCHEMA: &str = r#"{"type": "struct", "fields": [
        {"name": "id", "type": "long", "required": true},
        {"name": "n", "type": "long", "required": false},
        {"name": "x", "type": "double", "required": false}]}"#;

    #[test]
    fn scans_are_opened_once_statistics_were_tried() {
        let rules = optimizer_rules();
        let names: Vec<&str> = rules.iter().map(|rule| rule.name()).collect();
        let at = names.iter().position(|name| *name == "open_scans").unwrap();
        assert_eq!(names[at - 1], TRIED_BY);
    }

    #[tokio::test]
    async fn counts_and_ends_of_columns_read_no_file() {
        let world = World::new(QuerySettings::default()).await;
        let mut table = world.table("t", SCHEMA, 1).await;
        let rows: Vec<_> = (0..40)
            .map(|id| json!({"id": id, "n": if id < 10 { json!(null) } else { json!(-id) }, "x": 1.5}))
            .collect();
        table.push(0, &rows);
        for end in [10, 20, 30, 40] {
            table.flush(0, end).await;
        }
        let committed = |sql: &str| json!({"sql": sql, "consistency": "committed"});
        let scanned = || world.engine.metrics().files_scanned.get();
        let sql = "SELECT count(*), min(id), max(id), min(n), max(n), count(n) FROM t";
        let expected = json!([[40, 0, 39, -39, -10, 30]]);
        let before = scanned();
        assert_eq!(world.rows_of(committed(sql)).await, expected);
        assert_eq!(scanned(), before);
        // Bounds of floats are wide.
        let floats = "SELECT min(x), max(x) FROM t";
        assert_eq!(world.rows_of(committed(floats)).await, json!([[1.5, 1.5]]));
        assert_eq!(scanned(), before + 4);
        let both = "SELECT a.id FROM t a JOIN t b ON a.id = b.id ORDER BY 1 DESC LIMIT 2";
        assert_eq!(world.rows_of(committed(both)).await, json!([[39], [38]]));
        // The greatest value of all is deleted, and other engines' bounds leave NaN out.
        table.delete("part-00004.parquet", &[9]).await;
        let expected = json!([[39, 0, 38, -38, -10, 29]]);
        assert_eq!(world.rows_of(committed(sql)).await, expected);
    }
}
