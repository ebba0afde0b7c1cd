//! `tidelake schema show`, and the columns of a table as every command shows them.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::Global;
use crate::client::{Client, table_name};
use crate::failure::Failure;
use crate::output::{Format, Grid, print_object};

#[derive(Subcommand, Debug)]
pub(crate) enum SchemaCommand {
    /// Show a table's columns; as JSON its schema as Iceberg has it
    Show { table: String },
}

pub(crate) async fn run(command: SchemaCommand, global: &Global) -> Result<(), Failure> {
    let SchemaCommand::Show { table } = command;
    let name = table_name(&table)?;
    let told = Client::new(global)?
        .get(&format!("/v1/tables/{name}"))
        .await?;
    match global.output {
        Format::Json => print_object(&told["schema"], global.output),
        format => columns(&told).print(format),
    }
}

/// The columns of a table that the gateway describes, with their places in the primary key.
pub(crate) fn columns(told: &Value) -> Grid {
    let mut grid = Grid::new(&["id", "column", "type", "required", "key"]);
    let key = told["primary_key"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for field in told["schema"]["fields"].as_array().into_iter().flatten() {
        let place = key.iter().position(|column| *column == field["name"]);
        grid.rows.push(vec![
            field["id"].clone(),
            field["name"].clone(),
            match &field["type"] {
                name @ Value::String(_) => name.clone(),
                // In one line.
                nested => json!(nested.to_string()),
            },
            field["required"].clone(),
            place.map_or(Value::Null, |place| json!(place + 1)),
        ]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_shown_with_their_places_in_the_key() {
        let told = json!({
            "primary_key": ["region", "id"],
            "schema": { "fields": [
                { "id": 1, "name": "id", "type": "long", "required": true },
                { "id": 2, "name": "region", "type": "string", "required": true },
                { "id": 3, "name": "pt", "type": { "type": "struct" }, "required": false },
            ] },
        });
        let rows = columns(&told).rows;
        assert_eq!(rows[0][4], json!(2));
        assert_eq!(rows[1][4], json!(1));
        assert_eq!(
            rows[2][2..],
            [json!("{\"type\":\"struct\"}"), json!(false), Value::Null]
        );
    }
}
