//! Acknowledgements and the readers of the same process.

use std::time::Duration;

use tidelake_core::{Bucket, Offset};
use tidelake_testkit::wait_until;

use super::*;

const TOPIC: &str = "tidelake.default.orders";

/// Seconds for which acknowledgements were held back so far.
fn paced(harness: &Harness) -> f64 {
    let text = harness.runtime.metrics.render();
    let name = "tidelake_gateway_paced_seconds_total ";
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().parse().unwrap()
}

async fn write(harness: &Harness) -> String {
    let answer = harness.post(JSON, r#"{"id": 1}"#).await.answered();
    answer["token"].as_str().unwrap().to_owned()
}

async fn status(harness: &Harness, token: &str) -> Value {
    let path = format!("/v1/tables/orders/status?token={token}");
    harness.get(&path).await.answered()
}

#[tokio::test]
async fn acknowledgements_wait_for_readers_that_fall_behind() {
    let harness = with_orders().await;
    let token = write(&harness).await;
    assert_eq!(paced(&harness), 0.0, "nobody reads");
    let reader = harness.gateway.pace.follow(TOPIC);
    write(&harness).await;
    assert_eq!(paced(&harness), 0.0, "it is near enough");
    // As a reader that is as far behind as it may be.
    reader.filled(1.0);
    assert_eq!(status(&harness, &token).await["paced"], true);
    write(&harness).await;
    let waited = paced(&harness);
    assert!(waited > 0.0);
    reader.reached((0..3).map(|bucket| (Bucket(bucket), Offset(100))));
    drop(reader);
    let status = status(&harness, &token).await;
    assert_eq!(status["paced"], false);
    assert_eq!(status["reader_lag_ms"], 0);
    write(&harness).await;
    assert_eq!(paced(&harness), waited);
}

#[tokio::test]
async fn a_reader_that_stands_still_does_not_stop_writers() {
    let harness = Harness::with(|settings| settings.ingest.reader_lag_ms_max = 4).await;
    harness.create(orders()).await.answered();
    let _reader = harness.gateway.pace.follow(TOPIC);
    let token = write(&harness).await;
    let lag = async || {
        let status = status(&harness, &token).await;
        status["reader_lag_ms"].as_u64().unwrap()
    };
    let time = Duration::from_secs(20);
    let behind = async || (lag().await > 4).then_some(());
    wait_until("the lag to grow", time, behind).await.unwrap();
    write(&harness).await;
    let waited = paced(&harness);
    assert!(waited > 0.0 && waited < 0.1, "{waited} s of at most 8 ms");
    // It takes some seconds until nobody counts on it any more.
    let given_up = async || (lag().await == 0).then_some(());
    let what = "the reader to be given up";
    wait_until(what, time, given_up).await.unwrap();
    write(&harness).await;
    assert_eq!(paced(&harness), waited);
}
