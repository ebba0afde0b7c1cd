//! `tidelake table create`, and the making of tables for whoever needs one.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::cell;
use crate::client::{Client, json_of, send, table_name};
use crate::failure::Failure;
use crate::output::{Format, note, print_object, say};

#[derive(Args, Debug)]
pub(crate) struct CreateArgs {
    table: String,
    /// File with the schema as Iceberg schema JSON; - reads standard input
    #[arg(long, value_name = "FILE", required_unless_present = "column")]
    schema: Option<PathBuf>,
    /// A column: name:type, or name:type! where it must not be null (repeat for each)
    #[arg(long, value_name = "NAME:TYPE", conflicts_with = "schema")]
    column: Vec<String>,
    /// A column of the primary key, in key order (repeat for each): makes an upsert table
    #[arg(long, value_name = "COLUMN", conflicts_with = "schema")]
    key: Vec<String>,
    /// Partitions of the table's topic
    #[arg(long)]
    buckets: Option<u32>,
    /// A property of the table (repeat for each)
    #[arg(long, value_name = "KEY=VALUE")]
    property: Vec<String>,
    /// It is fine if a table of this name is there
    #[arg(long)]
    if_not_exists: bool,
}

pub(super) async fn run(client: &Client, args: CreateArgs, format: Format) -> Result<(), Failure> {
    let schema = match &args.schema {
        Some(path) => read_schema(path)?,
        None => schema_of(&args.column, &args.key)?,
    };
    let mut properties = BTreeMap::new();
    for property in &args.property {
        let (key, value) = property
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("property {property:?}: expected KEY=VALUE")))?;
        properties.insert(key, value);
    }
    let name = table_name(&args.table)?;
    let made = create_table(
        client,
        name.as_str(),
        schema,
        args.buckets,
        json!(properties),
    )
    .await;
    match made {
        Ok(table) if format == Format::Table => say(&format!(
            "created table {name} on topic {}",
            cell(&table["topic"])
        )),
        Ok(table) => print_object(&table, format),
        Err(failure) if args.if_not_exists && failure.message.contains("TABLE_EXISTS") => {
            note(&format!("table {name} is there already"));
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

/// `POST /v1/tables`: a schema with a primary key makes an upsert table, one without an append table.
pub(crate) async fn create_table(
    client: &Client,
    name: &str,
    schema: Value,
    buckets: Option<u32>,
    properties: Value,
) -> Result<Value, Failure> {
    let key = schema["identifier-field-ids"].as_array();
    let mode = match key.is_some_and(|key| !key.is_empty()) {
        true => "upsert",
        false => "append",
    };
    let mut body =
        json!({ "name": name, "mode": mode, "schema": schema, "properties": properties });
    if let Some(buckets) = buckets {
        body["buckets"] = json!(buckets);
    }
    json_of(send(client.gateway(Method::POST, "/v1/tables").json(&body)).await?).await
}

fn read_schema(path: &std::path::Path) -> Result<Value, Failure> {
    let mut text = String::new();
    let shown = path.display();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| Failure::failed(format!("{shown}: {error}")))?;
    serde_json::from_str(&text).map_err(|error| Failure::failed(format!("{shown}: {error}")))
}

/// Iceberg schema JSON of `name:type[!]` columns, of which `key` are the primary key.
pub(crate) fn schema_of(columns: &[String], key: &[String]) -> Result<Value, Failure> {
    let fields = columns.iter().enumerate().map(|(place, column)| {
        let (name, ty) = column.split_once(':').ok_or_else(|| {
            Failure::usage(format!("column {column:?}: expected NAME:TYPE"))
                .hint("for example --column id:long! --column name:string")
        })?;
        let (name, ty) = (name.trim(), ty.trim());
        let (ty, required) = match ty.strip_suffix('!') {
            Some(ty) => (ty, true),
            None => (ty, key.iter().any(|column| column == name)),
        };
        Ok(json!({ "id": place + 1, "name": name, "type": ty, "required": required }))
    });
    let fields = fields.collect::<Result<Vec<_>, Failure>>()?;
    let ids = key.iter().map(|column| {
        let found = fields.iter().find(|field| field["name"] == column.as_str());
        found
            .map(|field| field["id"].clone())
            .ok_or_else(|| Failure::usage(format!("key column {column:?} is none of the --column")))
    });
    let ids = ids.collect::<Result<Vec<_>, Failure>>()?;
    let mut schema = json!({ "type": "struct", "fields": fields });
    if !ids.is_empty() {
        schema["identifier-field-ids"] = json!(ids);
    }
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn columns_make_a_schema_that_is_valid() {
        let columns = ["id:long!", "name:string", "price:decimal(10,2)"].map(str::to_owned);
        let upsert = schema_of(&columns, &["name".into(), "id".into()]).unwrap();
        let upsert = tidelake_schema::TableSchema::from_iceberg_value(&upsert).unwrap();
        let key: Vec<_> = upsert
            .identifier_fields()
            .iter()
            .map(|f| f.name.as_str())
            .collect();
        assert_eq!(key, ["name", "id"]);
        let none = schema_of(&columns, &["nothing".into()]).unwrap_err();
        assert_eq!(none.exit, Exit::Usage);
        let schema = schema_of(&columns, &[]).unwrap();
        let schema = tidelake_schema::TableSchema::from_iceberg_value(&schema).unwrap();
        assert!(schema.field("id").unwrap().required);
        assert!(!schema.field("price").unwrap().required);
        assert_eq!(
            schema_of(&["id".to_owned()], &[]).unwrap_err().exit,
            Exit::Usage
        );
    }
}
