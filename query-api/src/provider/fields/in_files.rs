//! Fields in files: where the reader of Parquet gives a field its parents' nulls.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::functions::core::getfield::GetFieldFunc;
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};
use datafusion::physical_plan::PhysicalExpr;

use super::FieldOf;

/// Fits expressions to a file; takes DataFusion's `get_field` where the path through the file has
/// no required field: of such a path the scan reads the leaf alone, and its reader gives optional
/// fields their parents' nulls. Of other paths it reads the path alone where nothing else of the
/// column is asked for.
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
        let fitted = self.inner.rewrite(leaves.data()?)?;
        let narrowed = fitted.transform_up(|expr| {
            let call = ScalarFunctionExpr::try_downcast_func::<FieldOf>(expr.as_ref());
            Ok(match call.and_then(|call| narrowed(&self.file, call)) {
                Some(narrowed) => Transformed::yes(narrowed),
                None => Transformed::no(expr),
            })
        });
        narrowed.data()
    }
}

/// The call on no more of a column than its path: where a whole struct is cast to the table's type,
/// the scan would read all of it.
fn narrowed(file: &SchemaRef, call: &ScalarFunctionExpr) -> Option<Arc<dyn PhysicalExpr>> {
    let (base, keys) = call.args().split_first()?;
    let cast = base.downcast_ref::<CastExpr>()?;
    let column = cast.expr().downcast_ref::<Column>()?;
    let path: Vec<&str> = keys.iter().map(key).collect::<Option<_>>()?;
    // What the file lacks is for the whole cast to fill up.
    only(file.field_with_name(column.name()).ok()?.data_type(), &path)?;
    let target = only(cast.cast_type(), &path)?;
    let options = Some(cast.cast_options().clone());
    let base = CastExpr::new(Arc::clone(cast.expr()), target, options);
    let args = std::iter::once(Arc::new(base) as Arc<dyn PhysicalExpr>);
    let args = args.chain(keys.iter().cloned()).collect();
    Some(with_args(call, call.fun().clone(), args))
}

/// A struct with nothing but the path; none where there is no such path.
fn only(data_type: &DataType, path: &[&str]) -> Option<DataType> {
    let Some((name, rest)) = path.split_first() else {
        return Some(data_type.clone());
    };
    let DataType::Struct(fields) = data_type else {
        return None;
    };
    let field = fields.iter().find(|field| field.name() == name)?;
    let inside = only(field.data_type(), rest)?;
    let field = field.as_ref().clone().with_data_type(inside);
    Some(DataType::Struct(Fields::from(vec![field])))
}

/// The name of a field, where it is known.
fn key(expr: &Arc<dyn PhysicalExpr>) -> Option<&str> {
    expr.downcast_ref::<Literal>()?.value().try_as_str()?
}

fn with_args(
    call: &ScalarFunctionExpr,
    function: ScalarUDF,
    args: Vec<Arc<dyn PhysicalExpr>>,
) -> Arc<dyn PhysicalExpr> {
    let field = call.return_field(&Schema::empty());
    Arc::new(ScalarFunctionExpr::new(
        call.name(),
        Arc::new(function),
        args,
        field.unwrap_or_else(|_| unreachable!("a call knows its field")),
        Arc::new(call.config_options().clone()),
    ))
}

fn theirs(call: &ScalarFunctionExpr) -> Arc<dyn PhysicalExpr> {
    let theirs = ScalarUDF::new_from_impl(GetFieldFunc::new());
    with_args(call, theirs, call.args().to_vec())
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
        let (DataType::Struct(fields), Some(name)) = (data_type, self::key(key)) else {
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
    use datafusion::arrow::datatypes::Field;
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
