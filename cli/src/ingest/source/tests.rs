use std::io::Write;

use super::*;

fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

fn bodies(source: Source, body_bytes: usize) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let taken = source.bodies(body_bytes, |body| {
        found.push((
            String::from_utf8_lossy(&body.bytes).into_owned(),
            body.first_record,
        ));
        true
    });
    taken.unwrap();
    found
}

#[test]
fn lines_are_never_torn_and_records_are_counted_on() {
    let (_dir, path) = file("a.ndjson", b"{\"a\":1}\n\n{\"a\":2}\n{\"a\":3}");
    let cut = bodies(Source::open(&path, None).unwrap(), 9);
    assert_eq!(
        cut,
        [
            ("{\"a\":1}\n\n".into(), 0),
            ("{\"a\":2}\n{\"a\":3}".into(), 1)
        ]
    );
}

#[test]
fn compressed_text_is_told_from_its_bytes() {
    let lines = b"{\"a\":1}\n{\"a\":2}\n";
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(lines).unwrap();
    for packed in [
        gz.finish().unwrap(),
        zstd::encode_all(&lines[..], 1).unwrap(),
    ] {
        let (_dir, path) = file("a.jsonl.zst", &packed);
        let whole = bodies(Source::open(&path, None).unwrap(), 1000);
        assert_eq!(whole, [(String::from_utf8_lossy(lines).into_owned(), 0)]);
    }
}

#[test]
fn an_array_is_cut_between_records() {
    let (_dir, path) = file("a.json", b"[{\"a\":1},\n {\"a\":[1,2]},{\"a\":3}]");
    let cut = bodies(Source::open(&path, None).unwrap(), 10);
    assert_eq!(
        cut,
        [
            ("[{\"a\":1},{\"a\":[1,2]}]".into(), 0),
            ("[{\"a\":3}]".into(), 2)
        ]
    );
    let (_dir, path) = file("a.json", b"{\"a\":1}\n{\"a\":2}\n");
    let lines = bodies(Source::open(&path, None).unwrap(), 8);
    assert_eq!(
        lines,
        [("{\"a\":1}\n".into(), 0), ("{\"a\":2}\n".into(), 1)]
    );
    let (_dir, path) = file("a.json", b"[{\"a\":1}");
    let taken = Source::open(&path, None).unwrap().bodies(10, |_| true);
    assert!(taken.unwrap_err().message.contains("not closed"));
}

#[test]
fn csv_and_parquet_become_arrow_streams() {
    let (_dir, path) = file("a.csv", b"id,name\n1,x\n2,y\n");
    let (schema, source) = Source::open(&path, None).unwrap().infer().unwrap();
    assert_eq!(schema["fields"][0]["type"], "long");
    let mut rows = 0;
    let taken = source.bodies(1, |body| {
        let stream = StreamReader::try_new(&body.bytes[..], None).unwrap();
        rows += stream.map(|batch| batch.unwrap().num_rows()).sum::<usize>();
        true
    });
    taken.unwrap();
    assert_eq!(rows, 2);
}

#[test]
fn a_schema_is_read_off_json_without_losing_records() {
    let (_dir, path) = file(
        "a.ndjson",
        b"{\"a\":1,\"b\":\"x\"}\n{\"a\":2.5,\"c\":[true]}\n",
    );
    let (schema, source) = Source::open(&path, None).unwrap().infer().unwrap();
    assert_eq!(schema["fields"][0]["type"], "double");
    assert_eq!(schema["fields"][2]["type"]["type"], "list");
    assert_eq!(bodies(source, 1000).len(), 1);
}

#[test]
fn a_file_of_no_known_kind_says_how_to_name_it() {
    let failure = Source::open(Path::new("data.bin"), None).unwrap_err();
    assert!(failure.hint.unwrap().contains("--format"));
}
