//! The shell's own commands, carried out.

use std::time::Duration;

use serde_json::{Value, json};

use super::Session;
use crate::client::table_name;
use crate::failure::{Exit, Failure};
use crate::output::{Format, Grid};
use crate::schema;
use crate::sql::meta::{self, Meta};

impl Session<'_> {
    /// True where the session is to end. `before` stood before the command and was not ended.
    pub(super) async fn command(&mut self, text: &str, before: String) -> Result<bool, Failure> {
        let meta = meta::parse(text)?;
        if !before.is_empty() {
            // What stands before a command and was not ended is the statement that it is about.
            match meta {
                Meta::Watch(_) | Meta::Print => self.last = Some(before),
                Meta::Reset | Meta::Quit => {}
                _ => {
                    let message = format!("the statement before \\{text} is not ended");
                    return Err(
                        Failure::failed(message).hint("end it with ; or forget it with \\r")
                    );
                }
            }
        }
        match meta {
            Meta::Quit => return Ok(true),
            Meta::Help => self.screen.show(&format!("{}\n", meta::HELP))?,
            Meta::Reset => {}
            Meta::Print => {
                let last = self.last.clone().unwrap_or_default();
                self.screen.show(&format!("{last}\n"))?;
            }
            Meta::Tables(pattern) => self.tables(pattern.as_deref()).await?,
            Meta::Describe(table) => self.describe(&table).await?,
            Meta::Watch(interval) => self.watch(interval).await?,
            Meta::Output(file) => self.screen.redirect(file.as_deref())?,
            Meta::Format(format) => {
                self.format = format;
                self.expanded = false;
            }
            Meta::Expanded(on) => {
                self.expanded = on.unwrap_or(!self.expanded);
                self.told("rows one below the other", self.expanded);
            }
            Meta::Timing(on) => {
                self.timing = on.unwrap_or(!self.timing);
                self.told("timing", self.timing);
            }
            Meta::TimeZone(zone) => self.time_zone(zone).await?,
            Meta::Pager(on) => {
                let on = on.unwrap_or(!self.screen.has_pager());
                self.screen.set_pager(on);
                self.told("pager", on);
            }
            Meta::Rows(rows) => {
                self.rows_max = rows.unwrap_or(self.rows_max);
                let told = match self.rows_max {
                    0 => "all rows are fetched".to_owned(),
                    rows => format!("{rows} rows are fetched at most"),
                };
                self.screen.note(&told);
            }
        }
        Ok(false)
    }

    fn told(&mut self, what: &str, on: bool) {
        if self.interactive {
            let state = if on { "on" } else { "off" };
            self.screen.note(&format!("{what}: {state}"));
        }
    }

    /// From now on statements are meant in the zone, if the service knows it.
    async fn time_zone(&mut self, zone: Option<String>) -> Result<(), Failure> {
        if let Some(zone) = zone {
            let body = json!({ "sql": "SELECT 1", "time_zone": zone });
            self.client.sql_body(&body).await?;
            self.reads.time_zone = Some(zone);
        }
        let zone = self.reads.time_zone.as_deref().unwrap_or("UTC");
        self.screen.note(&format!("time zone: {zone}"));
        Ok(())
    }

    /// Runs the last statement until it fails or is interrupted.
    async fn watch(&mut self, interval: Duration) -> Result<(), Failure> {
        let Some(sql) = self.last.clone() else {
            return Err(Failure::failed("there is no statement to watch yet"));
        };
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.interrupts.forget();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.interrupts.next() => return Ok(()),
            }
            let at = clock_text(self.clock.now_ms());
            self.screen
                .note(&format!("{at}, every {} s", interval.as_secs_f64()));
            self.execute(&sql).await?;
        }
    }

    async fn tables(&mut self, pattern: Option<&str>) -> Result<(), Failure> {
        let columns = ["name", "mode", "buckets", "version", "rows", "lag_records"];
        let mut grid = Grid::new(&columns);
        match self.client.tables(false).await {
            Ok(tables) => {
                let row = |table: &Value| columns.map(|name| table[name].clone()).to_vec();
                grid.rows = tables.iter().map(row).collect();
            }
            // The query service knows their names, too.
            Err(failure) => {
                let sql = "SELECT table_name FROM information_schema.tables \
                           WHERE table_type = 'BASE TABLE' ORDER BY table_name";
                let answer = self.client.sql(sql).await.map_err(|_| failure)?;
                grid = Grid::of_query(&answer);
            }
        }
        if let Some(pattern) = pattern {
            let name = |row: &Vec<Value>| meta::matches(pattern, row[0].as_str().unwrap_or(""));
            grid.rows.retain(name);
        }
        if grid.rows.is_empty() {
            self.screen.note("no tables");
            return Ok(());
        }
        self.grid(&grid)
    }

    async fn describe(&mut self, table: &str) -> Result<(), Failure> {
        let name = table_name(table.trim_matches('"'))?;
        let told = self.client.get(&format!("/v1/tables/{name}")).await;
        match told {
            Ok(told) => {
                self.grid(&schema::columns(&told))?;
                self.screen.note(&summary(name.as_str(), &told));
            }
            Err(failure) if failure.exit == Exit::NotFound => return Err(failure),
            Err(failure) => {
                let body = json!({
                    "sql": "SELECT column_name AS \"column\", data_type AS type, required \
                            FROM information_schema.columns WHERE table_name = $1 \
                            ORDER BY ordinal_position",
                    "params": [name.as_str()],
                });
                let answer = self.client.sql_body(&body).await.map_err(|_| failure)?;
                let found = Grid::of_query(&answer);
                if found.rows.is_empty() {
                    return Err(Failure::new(
                        Exit::NotFound,
                        format!("there is no table {name}"),
                    ));
                }
                self.grid(&found)?;
            }
        }
        Ok(())
    }

    fn grid(&mut self, grid: &Grid) -> Result<(), Failure> {
        let columns = self.screen.terminal().map(|size| size.columns);
        let drawn = grid.render(Format::Table, columns)?;
        self.screen.show(&drawn.text)
    }
}

fn summary(name: &str, told: &Value) -> String {
    let part = |part: &str| told[part].to_string().trim_matches('"').to_owned();
    format!(
        "{} table {name}: {} rows at version {}, {} buckets of topic {}",
        part("mode"),
        part("rows"),
        part("version"),
        part("buckets"),
        part("topic")
    )
}

fn clock_text(ms: i64) -> String {
    let at = arrow::temporal_conversions::timestamp_s_to_datetime(ms.div_euclid(1000));
    at.map_or_else(|| format!("{ms} ms"), |at| format!("{at} UTC"))
}
