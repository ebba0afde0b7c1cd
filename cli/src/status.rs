//! `tidelake status`

use reqwest::Method;
use serde_json::{Value, json};

use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::Grid;

pub(crate) async fn run(global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let gateway = look(client.gateway(Method::GET, "/health")).await;
    let query = look(client.query(Method::GET, "/health")).await;
    let mut grid = Grid::new(&["service", "url", "status", "version", "detail"]);
    grid.rows.push(row("gateway", &global.url, &gateway));
    grid.rows.push(row("query", &global.query_url, &query));
    grid.print(global.output)?;
    let ready = |health: &Option<Value>| health.as_ref().is_some_and(|h| h["status"] == "ready");
    if ready(&gateway) && ready(&query) {
        return Ok(());
    }
    let failure = Failure::failed("not everything is ready");
    Err(match (gateway, query) {
        (None, None) => failure.hint("start it with `tidelake local`"),
        _ => failure,
    })
}

/// What the service says of itself; it answers 503 with a body while it is not ready.
async fn look(request: reqwest::RequestBuilder) -> Option<Value> {
    request.send().await.ok()?.json().await.ok()
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
