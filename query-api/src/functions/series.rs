//! `FROM generate_series(…)` and `range(…)` of timestamps in microseconds.

use std::sync::Arc;

use datafusion::catalog::{TableFunction, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{ScalarValue, plan_datafusion_err};
use datafusion::error::Result;
use datafusion::logical_expr::Expr;

/// DataFusion's takes nanoseconds only; our literals have microseconds.
#[derive(Debug)]
struct Series {
    function: Arc<TableFunction>,
}

/// The function, for our timestamps too.
pub(crate) fn series(function: Arc<TableFunction>) -> Arc<TableFunction> {
    let name = function.name().to_owned();
    Arc::new(TableFunction::new(name, Arc::new(Series { function })))
}

impl TableFunctionImpl for Series {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let exprs = args.exprs().iter().map(nanos).collect::<Result<Vec<_>>>()?;
        let args = TableFunctionArgs::new(&exprs, args.session());
        self.function.create_table_provider_with_args(args)
    }
}

fn nanos(expr: &Expr) -> Result<Expr> {
    let Expr::Literal(ScalarValue::TimestampMicrosecond(at, zone), metadata) = expr else {
        return Ok(expr.clone());
    };
    let nanos = |at: i64| {
        at.checked_mul(1_000).ok_or_else(|| {
            plan_datafusion_err!(
                "a series of timestamps reaches from year 1678 to 2261; add intervals to a date \
                 and a series of numbers instead"
            )
        })
    };
    let at = at.map(nanos).transpose()?;
    let at = ScalarValue::TimestampNanosecond(at, zone.clone());
    Ok(Expr::Literal(at, metadata.clone()))
}
