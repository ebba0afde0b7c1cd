//! `tidelake lag`

use clap::Args;
use serde_json::{Value, json};

use crate::Global;
use crate::client::{Client, table_name};
use crate::failure::Failure;
use crate::output::{Format, Grid, note};

#[derive(Args, Debug)]
pub(crate) struct LagArgs {
    /// Only this table, bucket by bucket
    table: Option<String>,
}

pub(crate) async fn run(args: LagArgs, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    match &args.table {
        Some(table) => {
            let name = table_name(table)?;
            by_bucket(&client.get(&format!("/v1/tables/{name}")).await?).print(global.output)
        }
        None => {
            let answer = client.get("/v1/tables").await?;
            let grid = by_table(&answer);
            if grid.rows.is_empty() && global.output == Format::Table {
                note("no tables yet");
                return Ok(());
            }
            grid.print(global.output)
        }
    }
}

fn by_table(answer: &Value) -> Grid {
    let mut grid = Grid::new(&["table", "version", "rows", "lag_records"]);
    for table in answer["tables"].as_array().into_iter().flatten() {
        let columns = ["name", "version", "rows", "lag_records"];
        grid.rows
            .push(columns.iter().map(|name| table[*name].clone()).collect());
    }
    grid
}

fn by_bucket(table: &Value) -> Grid {
    let mut grid = Grid::new(&["bucket", "committed", "end", "lag_records"]);
    let mut marks: Vec<_> = table["watermarks"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(bucket, mark)| (bucket.parse::<u32>().unwrap_or(u32::MAX), bucket, mark))
        .collect();
    marks.sort_by_key(|(number, ..)| *number);
    for (number, bucket, mark) in marks {
        let end = &table["end_offsets"][bucket];
        let lag = match (mark.as_i64(), end.as_i64()) {
            (Some(mark), Some(end)) => json!((end - mark).max(0)),
            _ => Value::Null,
        };
        grid.rows
            .push(vec![json!(number), mark.clone(), end.clone(), lag]);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_stand_in_the_order_of_their_numbers() {
        let table = json!({
            "watermarks": { "10": 5, "2": 7 }, "end_offsets": { "10": 9, "2": 7 },
        });
        let rows = by_bucket(&table).rows;
        assert_eq!(rows[0], [json!(2), json!(7), json!(7), json!(0)]);
        assert_eq!(rows[1], [json!(10), json!(5), json!(9), json!(4)]);
        // A log that does not answer leaves the ends out.
        let table = json!({ "watermarks": { "0": 5 }, "end_offsets": null });
        assert_eq!(by_bucket(&table).rows[0][3], Value::Null);
    }
}
