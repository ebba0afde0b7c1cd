//! Random SQL: answers do not depend on where rows are, and are DuckDB's. `scripts/soak sql` asks for
//! longer, with new dice.

use tidelake_testkit::Readers;
use tidelake_tests::Installation;

const SCRIPT: &str = include_str!("sql_fuzz.py");

fn setting(name: &str, usual: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| usual.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_do_not_depend_on_where_rows_are() {
    let Some(python) = Readers::new().unwrap() else {
        return;
    };
    let seconds = setting("TIDELAKE_FUZZ_SECONDS", "20");
    let seed = setting("TIDELAKE_FUZZ_SEED", "20261130");
    // Nothing is flushed but by request.
    let by_request = [("TIDELAKE__FLUSHER__FLUSH_AGE_MS", "600000")];
    let own = Installation::start_with(&[], &by_request).await.unwrap();
    let client = &own.client;
    let folder = own.data().display().to_string();
    let arguments = [
        client.gateway.as_str(),
        &client.query,
        &seconds,
        &seed,
        &folder,
    ];
    let said = python.python(SCRIPT, &arguments).await;
    let said = said.unwrap_or_else(|breach| panic!("{breach:#}"));
    let counts: serde_json::Value = serde_json::from_str(said.trim()).unwrap();
    println!("{counts}");
    for part in ["asked", "compared", "partitioned", "added up"] {
        assert!(counts[part].as_u64() > Some(0), "none {part}: {counts}");
    }
}
