//! `tidelake doctor`: proves a table, mends its index.

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use crate::Global;
use crate::client::{Client, json_of, send, table_name};
use crate::failure::{Exit, Failure};
use crate::output::{Format, Grid, print_object, say};

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    table: String,
    /// Write index sidecars anew that are lost or damaged
    #[arg(long)]
    repair: bool,
}

/// Exit code 1 where something is wrong and was not mended.
pub(crate) async fn run(args: DoctorArgs, global: &Global) -> Result<(), Failure> {
    let (client, format) = (Client::new(global)?, global.output);
    let name = table_name(&args.table)?;
    let path = format!("/v1/tables/{name}/check?repair={}", args.repair);
    let answer = json_of(send(client.query(Method::POST, &path)).await?).await?;
    let (report, sound) = (&answer["report"], answer["sound"] == true);
    if format == Format::Table {
        let mut summary = report.clone();
        if let Some(summary) = summary.as_object_mut() {
            summary.remove("findings");
        }
        print_object(&summary, format)?;
        let findings = report["findings"].as_array().map_or(&[][..], Vec::as_slice);
        if findings.is_empty() {
            say("sound: every key lives once, vectors, index and log agree with the files")?;
        } else {
            let names = ["check", "at", "detail", "repaired"];
            let columns = names.map(|name| json!({ "name": name }));
            let rows = findings
                .iter()
                .map(|found| json!(names.map(|name| found[name].clone())));
            let rows: Value = rows.collect();
            Grid::of_query(&json!({"columns": columns, "rows": rows})).print(format)?;
        }
    } else {
        print_object(&answer, format)?;
    }
    if sound {
        return Ok(());
    }
    let problems = &report["problems"];
    let what = format!("table {name} has {problems} problems");
    Err(Failure::new(Exit::Failed, what)
        .hint("index sidecars are mended by --repair; for anything else keep the table's folder and the log's topic, and report it"))
}
