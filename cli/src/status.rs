//! `tidelake status`: whether the services are ready, and which tables stand still.

use reqwest::Method;
use serde_json::{Value, json};

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::lag::told;
use crate::output::Grid;
use crate::standing::Standings;

pub(crate) async fn run(global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let gateway = look(client.gateway(Method::GET, "/health")).await;
    let query = look(client.query(Method::GET, "/health")).await;
    let mut grid = Grid::new(&["service", "url", "status", "version", "detail"]);
    grid.rows.push(row("gateway", &global.url, &gateway));
    grid.rows.push(row("query", &global.query_url, &query));
    let ready = |health: &Option<Value>| health.as_ref().is_some_and(|h| h["status"] == "ready");
    let mut all_ready = ready(&gateway) && ready(&query);
    for url in &global.flusher_url {
        let flusher = look_at(&client, url).await;
        grid.rows.push(flusher_row(&client, url, &flusher).await);
        all_ready &= ready(&flusher);
    }
    if global.flusher_url.is_empty() {
        // One process for all tells of its flusher where it tells of its gateway.
        let row = match within(&gateway) {
            Some(health) => flusher_row(&client, &global.url, &Some(health)).await,
            None => not_asked(),
        };
        grid.rows.push(row);
    }
    if gateway.is_some() || !global.flusher_url.is_empty() {
        let standings = Standings::ask(&client, global).await;
        let wanted = global.tenant.as_deref();
        for (tenant, table, stopped) in standings.stopped() {
            if wanted.is_some_and(|wanted| wanted != tenant) {
                continue;
            }
            let name = format!("{tenant}.{table}");
            grid.rows.push(vec![
                json!(format!("table {name}")),
                Value::Null,
                json!("stopped"),
                Value::Null,
                json!(told(&name, stopped)),
            ]);
            all_ready = false;
        }
    }
    if gateway.is_some() {
        for found in changed_topics(&client).await {
            all_ready = false;
            // A flusher may have named it already.
            if grid.rows.iter().all(|row| row[0] != found[0]) {
                grid.rows.push(found);
            }
        }
    }
    grid.print(global.output)?;
    if all_ready {
        return Ok(());
    }
    let failure = Failure::failed("not everything is ready");
    Err(match (gateway, query) {
        (None, None) => failure.hint("start it with `tidelake local`"),
        _ => failure,
    })
}

/// The tenant's tables whose topic is not there, or another one by now, as the gateway finds them: a
/// topic that is not there is in no flusher's hands.
async fn changed_topics(client: &Client) -> Vec<Vec<Value>> {
    let tables = client.tables(false).await.unwrap_or_default();
    let changed = tables
        .iter()
        .filter(|table| !table["topic_changed"].is_null());
    let row = |table: &Value| {
        let name = table["name"].as_str().unwrap_or_default();
        vec![
            json!(format!("table {}.{name}", client.tenant())),
            Value::Null,
            json!("stopped"),
            Value::Null,
            table["topic_changed"]["detail"].clone(),
        ]
    };
    changed.map(row).collect()
}

/// The health of a flusher in the gateway's process, as a service of its own would tell it.
fn within(gateway: &Option<Value>) -> Option<Value> {
    let gateway = gateway.as_ref()?;
    let part = gateway["components"].get("flusher")?;
    let status = match part["ready"] == true {
        true => "ready",
        false => "not ready",
    };
    Some(json!({
        "status": status, "version": gateway["version"], "components": { "flusher": part },
    }))
}

/// A flusher that nobody named.
fn not_asked() -> Vec<Value> {
    let detail = "not asked: say where it is with --flusher-url";
    vec![
        json!("flusher"),
        Value::Null,
        json!("unknown"),
        Value::Null,
        json!(detail),
    ]
}

/// A flusher, with how many buckets it has and how many of them stand still.
async fn flusher_row(client: &Client, url: &str, health: &Option<Value>) -> Vec<Value> {
    let mut row = row("flusher", url, health);
    let Ok(page) = client.text_at(url, "/metrics").await else {
        return row;
    };
    if let Some(told) = buckets_told(&page) {
        let detail = row[4].as_str().map(|detail| format!("{told}; {detail}"));
        row[4] = json!(detail.unwrap_or(told));
    }
    row
}

/// In words; none where the page is no flusher's.
fn buckets_told(page: &str) -> Option<String> {
    let gauge = |name: &str| {
        let value = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value?.trim().parse::<f64>().ok()
    };
    let buckets = gauge("tidelake_flusher_buckets")?;
    let stopped = gauge("tidelake_flusher_buckets_stopped").unwrap_or(0.0);
    Some(match stopped > 0.0 {
        true => format!("{buckets} buckets, {stopped} of them stand still"),
        false => format!("{buckets} buckets"),
    })
}

/// What the service says of itself; it answers 503 with a body while it is not ready.
async fn look(request: reqwest::RequestBuilder) -> Option<Value> {
    request.send().await.ok()?.json().await.ok()
}

async fn look_at(client: &Client, url: &str) -> Option<Value> {
    look(client.get_at(url, "/health").ok()?).await
}

fn row(name: &str, url: &str, health: &Option<Value>) -> Vec<Value> {
    let Some(health) = health else {
        return vec![
            json!(name),
            json!(url),
            json!("no answer"),
            Value::Null,
            Value::Null,
        ];
    };
    let reasons: Vec<String> = health["components"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, part)| Some(format!("{name}: {}", part["reason"].as_str()?)))
        .collect();
    let detail = if reasons.is_empty() {
        Value::Null
    } else {
        json!(reasons.join("; "))
    };
    vec![
        json!(name),
        json!(url),
        health["status"].clone(),
        health["version"].clone(),
        detail,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flusher_of_one_process_is_told_by_its_gateway() {
        let gateway = json!({
            "status": "not ready", "version": "1",
            "components": {
                "flusher": { "ready": false, "reason": "t.1 is stopped" }, "log": { "ready": true },
            },
        });
        let health = within(&Some(gateway));
        assert_eq!(
            row("flusher", "http://g", &health),
            [
                json!("flusher"),
                json!("http://g"),
                json!("not ready"),
                json!("1"),
                json!("flusher: t.1 is stopped")
            ]
        );
        assert_eq!(within(&Some(json!({ "components": {} }))), None);
        assert_eq!(within(&None), None);
    }

    #[test]
    fn buckets_that_stand_still_are_counted() {
        let page = "# HELP x\ntidelake_flusher_buckets 7\ntidelake_flusher_buckets_stopped 2\n";
        assert_eq!(
            buckets_told(page).unwrap(),
            "7 buckets, 2 of them stand still"
        );
        let page = "tidelake_flusher_buckets 7\ntidelake_flusher_buckets_stopped 0\n";
        assert_eq!(buckets_told(page).unwrap(), "7 buckets");
        assert_eq!(buckets_told("process_threads 5\n"), None);
    }
}
