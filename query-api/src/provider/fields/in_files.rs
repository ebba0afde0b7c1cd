//! Fields in files: where the reader of Parquet gives a field its parents' nulls.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::functions::core::getfield::GetFieldFunc;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};
use datafusion::physical_plan::PhysicalExpr;

use super::FieldOf;

/// Fits expressions to a file; takes DataFusion's `get_field` where the path through the file has
/// no required field: of such a path the scan reads the leaf alone, and its reader gives optional
/// fields their parents' nulls.
#[derive(Debug)]
pub(in crate::provider) struct FieldsInFiles;

impl PhysicalExprAdapterFactory for FieldsInFiles {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let inner = DefaultPhysicalExprAdapterFactory.create(table, Arc::clone(&file))?;
        Ok(Arc::new(InFile { file, inner }))
    }
}

#[derive(Debug)]
struct InFile {
    file: SchemaRef,
    inner: Arc<dyn PhysicalExprAdapter>,
}

impl PhysicalExprAdapter for InFile {
    fn rewrite(&self, expr: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let leaves = expr.transform_up(|expr| {
            let call = ScalarFunctionExpr::try_downcast_func::<FieldOf>(expr.as_ref());
            Ok(match call {
                Some(call) if reader_sets_nulls(&self.file, call) => Transformed::yes(theirs(call)),
                _ => Transformed::no(expr),
            })
        });
        self.inner.rewrite(leaves.data()?)
    }
}

fn theirs(call: &ScalarFunctionExpr) -> Arc<dyn PhysicalExpr> {
    Arc::new(ScalarFunctionExpr::new(
        call.name(),
        Arc::new(ScalarUDF::new_from_impl(GetFieldFunc::new())),
        call.args().to_vec(),
        call.return_field(&Schema::empty())
            .unwrap_or_else(|_| unreachable!("a call knows its field")),
        Arc::new(call.config_options().clone()),
    ))
}

/// True where the call goes from a column down fields of which the file requires none.
fn reader_sets_nulls(file: &SchemaRef, call: &ScalarFunctionExpr) -> bool {
    let Some((base, keys)) = call.args().split_first() else {
        return false;
    };
    let Some(column) = base.downcast_ref::<Column>() else {
        return false;
    };
    let Ok(root) = file.field_with_name(column.name()) else {
        return false;
    };
    let mut data_type = root.data_type();
    for key in keys {
        let name = key.downcast_ref::<Literal>();
        let name = name.and_then(|literal| literal.value().try_as_str().flatten());
        let (DataType::Struct(fields), Some(name)) = (data_type, name) else {
            return false;
        };
        match fields.iter().find(|field| field.name() == name) {
            Some(field) if field.is_nullable() => data_type = field.data_type(),
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{Field, Fields};
    use datafusion::common::ScalarValue;

    use super::*;

    fn nested(name: &str, fields: Vec<Field>) -> Field {
        Field::new(name, DataType::Struct(Fields::from(fields)), true)
    }

    fn call(schema: &SchemaRef, path: &[&str]) -> Arc<dyn PhysicalExpr> {
        let root: Arc<dyn PhysicalExpr> =
            Arc::new(Column::new_with_schema(path[0], schema).unwrap());
        let keys = path[1..].iter().map(|key| -> Arc<dyn PhysicalExpr> {
            Arc::new(Literal::new(ScalarValue::from(*key)))
        });
        let args = std::iter::once(root).chain(keys).collect();
        let ours = Arc::new(ScalarUDF::new_from_impl(FieldOf::default()));
        Arc::new(ScalarFunctionExpr::try_new(ours, args, schema, Arc::default()).unwrap())
    }

    #[test]
    fn only_paths_of_optional_fields_are_left_to_the_reader() {
        let long = |name: &str, nullable| Field::new(name, DataType::Int64, nullable);
        let inner = nested("in", vec![long("opt", true), long("req", false)]);
        let st = nested("st", vec![long("opt", true), long("req", false), inner]);
        let file: SchemaRef = Arc::new(Schema::new(vec![long("id", false), st]));
        let adapter = FieldsInFiles
            .create(Arc::clone(&file), Arc::clone(&file))
            .unwrap();
        for (path, left) in [
            (&["st", "opt"][..], true),
            (&["st", "req"], false),
            (&["st", "in"], true),
            (&["st", "in", "opt"], true),
            (&["st", "in", "req"], false),
        ] {
            let fitted = adapter.rewrite(call(&file, path)).unwrap();
            let theirs = ScalarFunctionExpr::try_downcast_func::<GetFieldFunc>(fitted.as_ref());
            assert_eq!(theirs.is_some(), left, "{path:?}");
            assert_eq!(
                fitted.return_field(&file).unwrap(),
                call(&file, path).return_field(&file).unwrap()
            );
        }
    }
}
