//! Executions that do not end by themselves, and readers that do not read.

use std::time::Duration;

use super::*;
use crate::engine::Answer;
use crate::error::QueryError;
use crate::moment;

/// Hours of comparing without a match.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 3000000) a, \
    generate_series(1, 3000000) b WHERE a.value + b.value = 7";
const LONG: &str = "SELECT * FROM generate_series(1, 500000000)";
/// Nothing waits for so long unless it hangs.
const HANGS: Duration = Duration::from_secs(60);

async fn pause(millis: u64) {
    moment::reach(moment::now() + Duration::from_millis(millis)).await;
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, work).await.expect("it hangs")
}

async fn world_of(settings: QuerySettings) -> World {
    let world = World::new(settings).await;
    soon(world.rows("SELECT 1")).await;
    world
}

async fn ask(world: &World, sql: &str, timeout_ms: u64) -> Result<Answer, QueryError> {
    let mut request = Request::new(sql, world.engine.settings());
    request.timeout = Duration::from_millis(timeout_ms);
    let (tenant, id) = (TenantId::default(), world.engine.fresh_id());
    soon(world.engine.query(&tenant, id, &request)).await
}

/// Waits until no query is listed.
async fn ended(world: &World) {
    soon(async {
        while !world.engine.queries(&TenantId::default()).is_empty() {
            pause(2).await;
        }
    })
    .await;
}

fn outcomes(world: &World, outcome: &str) -> u64 {
    let queries = &world.engine.metrics().queries;
    queries.with_label_values(&[outcome]).get()
}

#[tokio::test]
async fn a_join_that_finds_nothing_ends_at_its_deadline() {
    for sql in [
        ENDLESS,
        "SELECT count(*) FROM generate_series(1, 3000000) a, generate_series(1, 3000000) b",
        "SELECT count(*) FROM generate_series(1, 400000) a JOIN generate_series(1, 400000) b \
            ON a.value % 2 = b.value % 2 WHERE a.value + b.value = 7",
        "WITH RECURSIVE r AS (SELECT 1 n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
    ] {
        // One turn: the next statement needs it back.
        let settings = QuerySettings {
            running_max: 1,
            queue_ms_max: 60_000,
            ..QuerySettings::default()
        };
        let world = world_of(settings).await;
        let body = json!({"sql": sql, "timeout_ms": 200});
        let found = soon(world.code(body)).await;
        assert_eq!(found, (504, "QUERY_TIMEOUT".into()), "{sql}");
        assert_eq!(soon(world.rows("SELECT 1")).await, json!([[1]]), "{sql}");
    }
}

#[tokio::test]
async fn endless_queries_hold_up_nobody_and_can_be_cancelled() {
    let world = world_of(QuerySettings::default()).await;
    let tenant = TenantId::default();
    let endless = (0..3).map(|n| {
        let request = Request::new(ENDLESS, world.engine.settings());
        let id = crate::admission::QueryId::parse(&format!("endless-{n}")).unwrap();
        let (engine, tenant) = (world.engine.clone(), tenant.clone());
        tokio::spawn(async move {
            let mut answer = engine.query(&tenant, id, &request).await?;
            answer.rows.next().await
        })
    });
    let endless: Vec<_> = endless.collect();
    soon(async {
        while world.engine.queries(&tenant).len() < 3 {
            pause(2).await;
        }
    })
    .await;
    pause(100).await;
    assert_eq!(soon(world.rows("SELECT 2")).await, json!([[2]]));
    for (n, query) in endless.into_iter().enumerate() {
        let id = crate::admission::QueryId::parse(&format!("endless-{n}")).unwrap();
        world.engine.cancel(&id, &tenant).unwrap();
        let ended = soon(query).await.unwrap();
        assert!(matches!(ended, Err(QueryError::Cancelled)), "{ended:?}");
    }
    ended(&world).await;
    assert_eq!(outcomes(&world, "cancelled"), 3);
}

#[tokio::test]
async fn when_the_process_stops_its_queries_end() {
    let world = world_of(QuerySettings::default()).await;
    let reading = ask(&world, LONG, 60_000).await.unwrap();
    let endless = ask(&world, ENDLESS, 60_000).await.unwrap();
    world.engine.close();
    for mut answer in [reading, endless] {
        let why = soon(async {
            loop {
                match answer.rows.next().await {
                    Ok(Some(_)) => {}
                    other => break other.map(|_| ()),
                }
            }
        })
        .await;
        assert!(matches!(why, Err(QueryError::Closed)), "{why:?}");
    }
    let late = world.code(json!({"sql": "SELECT 1"})).await;
    assert_eq!(late, (503, "SHUTTING_DOWN".to_owned()));
}

#[tokio::test]
async fn an_answer_that_nobody_reads_gives_its_turn_back_and_is_cut_off() {
    let settings = QuerySettings {
        running_max: 1,
        stall_ms_max: 150,
        ..QuerySettings::default()
    };
    let world = world_of(settings).await;
    let mut unread = ask(&world, LONG, 60_000).await.unwrap();
    // It stalls: its turn is free, long before it is cut off.
    assert_eq!(soon(world.rows("SELECT 1")).await, json!([[1]]));
    ended(&world).await;
    let why = soon(async {
        loop {
            match unread.rows.next().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        }
    })
    .await;
    assert!(matches!(why, Err(QueryError::Stalled(150))), "{why:?}");
    assert_eq!(outcomes(&world, "stalled"), 1);
}

#[tokio::test]
async fn a_stall_is_no_longer_than_the_query_may_take() {
    let world = world_of(QuerySettings::default()).await;
    let _unread = ask(&world, LONG, 100).await.unwrap();
    ended(&world).await;
    assert_eq!(outcomes(&world, "stalled"), 1);
}

#[tokio::test]
async fn who_reads_steadily_is_not_cut_off_by_the_time_out() {
    let world = world_of(QuerySettings::default()).await;
    let sql = "SELECT * FROM generate_series(1, 160000)";
    let mut answer = ask(&world, sql, 700).await.unwrap();
    let mut rows = 0;
    while let Some(batch) = soon(answer.rows.next()).await.unwrap() {
        rows += batch.num_rows();
        pause(80).await;
    }
    assert_eq!(rows, 160_000);
}

#[tokio::test]
async fn dropping_an_answer_ends_its_query() {
    let world = world_of(QuerySettings::default()).await;
    let answer = ask(&world, LONG, 60_000).await.unwrap();
    assert_eq!(world.engine.queries(&TenantId::default()).len(), 1);
    drop(answer);
    ended(&world).await;
    assert_eq!(outcomes(&world, "disconnected"), 1);
}

#[tokio::test]
async fn the_largest_number_of_rows_is_one() {
    let world = world_of(QuerySettings::default()).await;
    let body = json!({"sql": "SELECT 1", "max_rows": u64::MAX});
    assert_eq!(world.rows_of(body).await, json!([[1]]));
}

#[tokio::test]
async fn a_condition_that_doubles_with_every_query_is_refused() {
    let world = world_of(QuerySettings::default()).await;
    let doubling = |levels: usize| {
        let mut sql = "WITH a0 AS (SELECT value AS x FROM generate_series(1, 2))".to_owned();
        for level in 1..levels {
            let below = level - 1;
            sql.push_str(&format!(", a{level} AS (SELECT x + x AS x FROM a{below})"));
        }
        format!("{sql} SELECT x FROM a{} WHERE x > 5 ORDER BY x", levels - 1)
    };
    let body = json!({"sql": doubling(39)});
    assert_eq!(soon(world.code(body)).await, (400, "SQL_INVALID".into()));
    assert_eq!(soon(world.rows(&doubling(4))).await, json!([[8], [16]]));
}

#[tokio::test]
async fn many_joins_come_to_an_end() {
    let world = world_of(QuerySettings::default()).await;
    let mut sql = "SELECT count(*) FROM (VALUES (1)) AS t0(n)".to_owned();
    for join in 1..150 {
        sql.push_str(&format!(
            " JOIN (VALUES (1)) AS t{join}(n) ON t{join}.n = t0.n"
        ));
    }
    assert_eq!(soon(world.rows(&sql)).await, json!([[1]]));
}

#[tokio::test]
async fn large_values_are_handed_over_in_pieces_that_are_counted() {
    let settings = QuerySettings {
        json_bytes_max: 3 << 20,
        ..QuerySettings::default()
    };
    let world = world_of(settings).await;
    let sql = "SELECT repeat('x', 5000) FROM generate_series(1, 8000)";
    let mut answer = ask(&world, sql, 60_000).await.unwrap();
    let (mut rows, mut largest) = (0, 0);
    while let Some(batch) = soon(answer.rows.next()).await.unwrap() {
        rows += batch.num_rows();
        largest = largest.max(batch.num_rows());
    }
    assert_eq!(rows, 8000);
    assert!(largest * 5000 <= 1 << 20, "{largest} rows at a time");
    let body = json!({"sql": sql});
    assert_eq!(
        soon(world.code(body)).await,
        (413, "RESULT_TOO_LARGE".into())
    );
}

#[tokio::test]
async fn a_tenant_has_room_again_when_its_threads_have() {
    let settings = QuerySettings {
        running_per_tenant_max: 1,
        ..QuerySettings::default()
    };
    let world = world_of(settings).await;
    // A step that looks at no flag for a second or more.
    let sql = "SELECT max(m) FROM (SELECT min(value) OVER (ORDER BY value ROWS BETWEEN 500000 \
        PRECEDING AND 500000 FOLLOWING) m FROM generate_series(1, 1000000))";
    let body = json!({"sql": sql, "timeout_ms": 200});
    assert_eq!(soon(world.code(body)).await.0, 504);
    assert!(world.engine.queries(&TenantId::default()).is_empty());
    // Refused or not by how fast the step was; never hangs, and there is room in the end.
    soon(async {
        loop {
            let (answer, rows) = world.sql(json!({"sql": "SELECT 1"})).await;
            match answer.status.as_u16() {
                429 => pause(5).await,
                status => break assert_eq!((status, &rows["rows"]), (200, &json!([[1]]))),
            }
        }
    })
    .await;
}
