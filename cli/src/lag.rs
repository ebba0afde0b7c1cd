//! `tidelake lag`: how far tables are behind the log.
//!
//! Positions come from the gateway, which knows the table's log and the topic's ends; ages and
//! reasons come from the flushers. Either is shown where the other is away.

use clap::Args;
use serde_json::{Value, json};

use crate::Global;
use crate::client::{Client, table_name};
use crate::failure::Failure;
use crate::output::{Grid, note};
use crate::standing::{Standing, Standings};

#[derive(Args, Debug)]
pub(crate) struct LagArgs {
    /// Only this table, bucket by bucket
    table: Option<String>,
}

pub(crate) async fn run(args: LagArgs, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let standings = Standings::ask(&client, global).await;
    let tenant = client.tenant();
    match &args.table {
        Some(table) => {
            let name = table_name(table)?;
            let answer = client.get(&format!("/v1/tables/{name}")).await?;
            by_bucket(&answer).print(global.output)?;
            let standing = standings.of(tenant.as_str(), name.as_str());
            if let Some(stopped) = standing.filter(|found| !found.stopped.is_empty()) {
                note(&told(name.as_str(), stopped));
            }
            Ok(())
        }
        None => {
            let tables = client.tables(false).await?;
            let grid = by_table(&tables, tenant.as_str(), &standings);
            if grid.rows.is_empty() && global.output.is_drawn() {
                note("no tables yet");
                return Ok(());
            }
            grid.print(global.output)
        }
    }
}

/// Why a table stands still, in one line; `status` says what to do about it.
pub(crate) fn told(table: &str, stopped: &Standing) -> String {
    let age = stopped.freshness_s.unwrap_or_default();
    let reasons = stopped.stopped.iter().map(String::as_str);
    format!(
        "table {table} stands still ({}); its oldest uncommitted record is {age:.0} s old",
        reasons.collect::<Vec<_>>().join(", ")
    )
}

fn by_table(tables: &[Value], tenant: &str, standings: &Standings) -> Grid {
    let columns = ["name", "version", "rows", "lag_records"];
    let mut grid = Grid::new(&[
        "table",
        "version",
        "rows",
        "lag_records",
        "freshness_seconds",
        "stopped",
    ]);
    for table in tables {
        let standing = table["name"]
            .as_str()
            .and_then(|name| standings.of(tenant, name));
        let mut row: Vec<_> = columns.iter().map(|name| table[*name].clone()).collect();
        // The flusher counts partitions, too, that a table has no bucket for.
        let (counted, read) = (
            table["lag_records"].as_u64(),
            standing.and_then(|s| s.lag_records),
        );
        row[3] = counted.max(read).map_or(Value::Null, |lag| json!(lag));
        row.push(standing.map_or(Value::Null, Standing::freshness));
        row.push(stopped(table, standing));
        grid.rows.push(row);
    }
    grid
}

/// Why a table stands still: the flushers' words, or the gateway's where its topic is in no
/// flusher's hands.
fn stopped(table: &Value, standing: Option<&Standing>) -> Value {
    match standing.filter(|found| !found.stopped.is_empty()) {
        Some(found) => found.reasons(),
        None => table["topic_changed"]["code"].clone(),
    }
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
    fn a_table_that_stands_still_is_shown_with_its_reason_while_others_are_not() {
        let page = "tidelake_table_stopped{reason=\"partitions_added\",table=\"u\",tenant=\"a\"} 1\n\
            tidelake_table_lag_records{table=\"u\",tenant=\"a\"} 20\n\
            tidelake_table_freshness_seconds{table=\"u\",tenant=\"a\"} 7.12\n";
        let standings = Standings::of_page(page);
        let tables = [
            json!({"name": "t", "version": 3, "rows": 9, "lag_records": 2}),
            json!({"name": "u", "version": 1, "rows": 1, "lag_records": 0}),
        ];
        let rows = by_table(&tables, "a", &standings).rows;
        assert_eq!(rows[0][3..], [json!(2), Value::Null, Value::Null]);
        assert_eq!(
            rows[1][3..],
            [json!(20), json!(7.1), json!("partitions_added")]
        );
        let stopped = standings.of("a", "u").unwrap();
        assert_eq!(
            told("u", stopped),
            "table u stands still (partitions_added); its oldest uncommitted record is 7 s old"
        );
    }

    #[test]
    fn a_table_whose_topic_is_in_no_flusher_s_hands_is_shown_with_what_the_gateway_found() {
        let tables = [json!({
            "name": "t", "version": 3, "rows": 9, "lag_records": null,
            "topic_changed": { "code": "TOPIC_REPLACED", "detail": "its topic is not there" },
        })];
        let rows = by_table(&tables, "a", &Standings::default()).rows;
        assert_eq!(rows[0][5], json!("TOPIC_REPLACED"));
    }

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
