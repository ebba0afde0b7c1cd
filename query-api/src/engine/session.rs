//! What DataFusion is given: functions, limits, one object store, and a query's tables.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, SchemaProvider, TableFunction, TableProvider,
};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, TrackConsumersPool};
use datafusion::execution::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateDefaults};
use datafusion::logical_expr::planner::{ExprPlanner, TypePlanner};
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast::{DataType as SqlType, TimezoneInfo};
use object_store::ObjectStore;
use tidelake_core::TenantId;
use tidelake_schema::arrow::UTC;
use url::Url;

use super::merged::MergedJoins;
use super::pushdown;
use crate::error::QueryError;
use crate::functions;
use crate::provider::about::{CATALOG, INFORMATION_SCHEMA};
use crate::provider::decimals::DecimalsBesideFloats;
use crate::provider::fields::{FieldsOfNullsAreNull, UnnestedFieldsOfNullsAreNull};
use crate::provider::unopened::optimizer_rules;
use crate::provider::uuids::UuidsInAnyCase;
use crate::provider::zeros::ZerosOfBothSigns;
use crate::settings::QuerySettings;
use crate::sql::TimeZone;

/// Scheme of the only store there is. Not one that a user's URL could have a meaning for.
const STORE_URL: &str = "tidelake://store";
/// Consumers named when memory runs out.
const CONSUMERS_NAMED: NonZeroUsize = NonZeroUsize::new(3).expect("three is not zero");

/// A session without tables, copied for each query.
#[derive(Debug)]
pub(super) struct Template {
    state: SessionState,
    store_url: ObjectStoreUrl,
}

/// The tables of one query, by schema and name.
pub(super) type Tables = HashMap<(String, String), Arc<dyn TableProvider>>;

impl Template {
    pub(super) fn new(
        settings: &QuerySettings,
        store: Arc<dyn ObjectStore>,
    ) -> Result<Self, QueryError> {
        let mode = match (&settings.spill_folder, settings.spill_bytes_max) {
            (_, 0) => DiskManagerMode::Disabled,
            (Some(folder), _) => DiskManagerMode::Directories(vec![folder.clone()]),
            (None, _) => DiskManagerMode::OsTmpDirectory,
        };
        let disk = DiskManagerBuilder::default()
            .with_mode(mode)
            .with_max_temp_directory_size(settings.spill_bytes_max);
        let memory = usize::try_from(settings.memory_bytes_max).unwrap_or(usize::MAX);
        let pool = TrackConsumersPool::new(FairSpillPool::new(memory), CONSUMERS_NAMED);
        let runtime = RuntimeEnvBuilder::new()
            .with_disk_manager_builder(disk)
            .with_memory_pool(Arc::new(pool))
            .with_object_store_registry(Arc::new(OneStore(store)))
            .build_arc()?;
        let mut config = SessionConfig::new()
            .with_target_partitions(settings.target_partitions.max(1))
            .with_batch_size(settings.batch_rows.max(1))
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false);
        let options = config.options_mut();
        options.catalog.default_catalog = CATALOG.to_owned();
        options.execution.time_zone = Some(UTC.to_owned());
        options.execution.parquet.pushdown_filters = settings.pushdown_filters;
        // A union's columns have the metadata (field ids, declared types) of one side in a logical
        // plan and of another in a physical one: the check refuses what is right.
        options.execution.skip_physical_aggregate_schema_check = true;
        // `max(s || 'x'), min(t)` would read only rows that can have a new least t: arguments that
        // are no columns are overlooked.
        options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
        let series = SessionStateDefaults::default_table_functions();
        let series: HashMap<String, Arc<TableFunction>> = series
            .into_iter()
            .map(|function| (function.name().to_owned(), functions::series(function)))
            .collect();
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_type_planner(Arc::new(OurTypes::in_zone(None)))
            .with_relation_planners(vec![Arc::new(MergedJoins)])
            .with_expr_planners(expr_planners())
            .with_scalar_functions(functions::bounded(
                SessionStateDefaults::default_scalar_functions(),
                settings.memory_bytes_max,
            ))
            .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
            .with_aggregate_functions(functions::exact(
                SessionStateDefaults::default_aggregate_functions(),
            ))
            .with_window_functions(SessionStateDefaults::default_window_functions())
            .with_table_functions(series)
            .with_analyzer_rules(functions::analyzer_rules(settings.memory_bytes_max))
            .with_optimizer_rule(Arc::new(functions::LargeConstants {
                bytes_max: functions::bytes_max(settings.memory_bytes_max),
                batch_rows: settings.batch_rows.max(1),
            }))
            .with_analyzer_rule(Arc::new(UnnestedFieldsOfNullsAreNull))
            .with_physical_optimizer_rules(pushdown::guarded(optimizer_rules()))
            .build();
        state.register_function_rewrite(Arc::new(FieldsOfNullsAreNull))?;
        state.register_function_rewrite(Arc::new(UuidsInAnyCase))?;
        state.register_function_rewrite(Arc::new(ZerosOfBothSigns))?;
        state.register_function_rewrite(Arc::new(DecimalsBesideFloats))?;
        state.register_function_rewrite(Arc::new(functions::RoundedCasts))?;
        Ok(Self {
            state,
            store_url: ObjectStoreUrl::parse(STORE_URL)?,
        })
    }

    /// Under which URL plans refer to the store.
    pub(super) fn store_url(&self) -> &ObjectStoreUrl {
        &self.store_url
    }

    /// What all queries' operators take their memory from.
    pub(super) fn memory_pool(&self) -> Arc<dyn MemoryPool> {
        Arc::clone(&self.state.runtime_env().memory_pool)
    }

    /// A session that sees these tables, in a zone.
    pub(super) fn state_in(
        &self,
        tenant: &TenantId,
        tables: Tables,
        zone: Option<&TimeZone>,
    ) -> Result<SessionState, QueryError> {
        let mut state = self.state(tenant, tables);
        if let Some(zone) = zone {
            let options = state.config_mut().options_mut();
            options.execution.time_zone = Some(zone.name().to_owned());
            // Functions of now keep the zone that they were made with.
            let options = Arc::clone(state.config_options());
            let functions = state.scalar_functions().values();
            let meant = functions.filter_map(|known| known.inner().with_updated_config(&options));
            for function in meant.collect::<Vec<_>>() {
                state.register_udf(Arc::new(function))?;
            }
        }
        Ok(state)
    }

    /// A session that sees these tables.
    pub(super) fn state(&self, tenant: &TenantId, tables: Tables) -> SessionState {
        let mut state = self.state.clone();
        state.config_mut().options_mut().catalog.default_schema = tenant.to_string();
        state.register_catalog_list(Arc::new(OneCatalog(Arc::new(tables))));
        state
    }
}

/// What operators mean: ours first, which say of what kind their sides are.
fn expr_planners() -> Vec<Arc<dyn ExprPlanner>> {
    let ours: [Arc<dyn ExprPlanner>; 2] = [
        Arc::new(functions::DatesWithHours),
        Arc::new(DecimalsBesideFloats),
    ];
    let others = SessionStateDefaults::default_expr_planners();
    ours.into_iter().chain(others).collect()
}

/// SQL types as our tables have them: times and timestamps count microseconds, unless their
/// precision says more. DataFusion's nanoseconds can't be compared with a `time`, and end in 2262.
#[derive(Debug)]
pub(super) struct OurTypes {
    /// Of timestamps that have one, where the text does not say which.
    zone: Arc<str>,
}

impl OurTypes {
    /// For a session in this zone, or in UTC.
    pub(super) fn in_zone(zone: Option<&str>) -> Self {
        let zone = zone.unwrap_or(UTC).into();
        Self { zone }
    }
}

impl TypePlanner for OurTypes {
    fn plan_type_field(&self, sql_type: &SqlType) -> DfResult<Option<FieldRef>> {
        let unit = |precision: &Option<u64>| match precision {
            Some(7..) => TimeUnit::Nanosecond,
            _ => TimeUnit::Microsecond,
        };
        let zoned =
            |zone: &TimezoneInfo| matches!(zone, TimezoneInfo::Tz | TimezoneInfo::WithTimeZone);
        let data_type = match sql_type {
            SqlType::Time(precision, zone) if !zoned(zone) => DataType::Time64(unit(precision)),
            SqlType::Timestamp(precision, zone) => {
                DataType::Timestamp(unit(precision), zoned(zone).then(|| Arc::clone(&self.zone)))
            }
            SqlType::Uuid => DataType::Utf8View,
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}

/// The store under its one URL; no other can be added.
#[derive(Debug)]
struct OneStore(Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for OneStore {
    fn register_store(&self, _: &Url, _: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> DfResult<Arc<dyn ObjectStore>> {
        if url.as_str().starts_with(STORE_URL) {
            return Ok(Arc::clone(&self.0));
        }
        Err(DataFusionError::from(QueryError::NotAllowed(format!(
            "{url} can't be read"
        ))))
    }
}

#[derive(Debug, Clone)]
pub(super) struct OneCatalog(pub Arc<Tables>);

impl CatalogProviderList for OneCatalog {
    fn register_catalog(
        &self,
        _: String,
        _: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![CATALOG.to_owned()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == CATALOG).then(|| Arc::new(self.clone()) as Arc<dyn CatalogProvider>)
    }
}

impl CatalogProvider for OneCatalog {
    fn schema_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.keys().map(|(schema, _)| schema.clone()).collect();
        names.push(INFORMATION_SCHEMA.to_owned());
        names.sort();
        names.dedup();
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        Some(Arc::new(OneSchema {
            name: name.to_owned(),
            tables: Arc::clone(&self.0),
        }))
    }
}

#[derive(Debug)]
struct OneSchema {
    name: String,
    tables: Arc<Tables>,
}

impl OneSchema {
    fn find(&self, name: &str) -> Option<&Arc<dyn TableProvider>> {
        self.tables.get(&(self.name.clone(), name.to_owned()))
    }
}

#[async_trait]
impl SchemaProvider for OneSchema {
    fn table_names(&self) -> Vec<String> {
        let own = self
            .tables
            .keys()
            .filter(|(schema, _)| *schema == self.name);
        own.map(|(_, name)| name.clone()).collect()
    }

    async fn table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.find(name).cloned())
    }

    fn table_exist(&self, name: &str) -> bool {
        self.find(name).is_some()
    }
}
