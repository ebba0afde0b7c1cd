use std::io::Write;

use arrow::ipc::reader::StreamReader;

use super::*;

fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

fn bodies(source: Source, body_bytes: usize) -> Vec<(String, u64)> {
    bodies_behind(source, body_bytes, 0)
}

fn bodies_behind(source: Source, body_bytes: usize, skip: u64) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let taken = source.bodies(body_bytes, skip, |body| {
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
    let cut = bodies(Source::open(&path, None, &[]).unwrap(), 9);
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
        let whole = bodies(Source::open(&path, None, &[]).unwrap(), 1000);
        assert_eq!(whole, [(String::from_utf8_lossy(lines).into_owned(), 0)]);
    }
}

#[test]
fn an_array_is_cut_between_records() {
    let (_dir, path) = file("a.json", b"[{\"a\":1},\n {\"a\":[1,2]},{\"a\":3}]");
    let cut = bodies(Source::open(&path, None, &[]).unwrap(), 10);
    assert_eq!(
        cut,
        [
            ("[{\"a\":1},{\"a\":[1,2]}]".into(), 0),
            ("[{\"a\":3}]".into(), 2)
        ]
    );
    let (_dir, path) = file("a.json", b"{\"a\":1}\n{\"a\":2}\n");
    let lines = bodies(Source::open(&path, None, &[]).unwrap(), 8);
    assert_eq!(
        lines,
        [("{\"a\":1}\n".into(), 0), ("{\"a\":2}\n".into(), 1)]
    );
    let (_dir, path) = file("a.json", b"[{\"a\":1}");
    let taken = Source::open(&path, None, &[])
        .unwrap()
        .bodies(10, 0, |_| true);
    assert!(taken.unwrap_err().message.contains("not closed"));
}

#[test]
fn csv_becomes_arrow_streams_without_what_is_skipped() {
    let (_dir, path) = file("a.csv", b"id,name\n1,x\n2,y\n");
    let (schema, source) = Source::open(&path, None, &[]).unwrap().infer().unwrap();
    assert_eq!(schema["fields"][0]["type"], "long");
    let mut rows = 0;
    let taken = source.bodies(1, 1, |body| {
        let stream = StreamReader::try_new(&body.bytes[..], None).unwrap();
        rows += stream.map(|batch| batch.unwrap().num_rows()).sum::<usize>();
        true
    });
    taken.unwrap();
    assert_eq!(rows, 1);
}

#[test]
fn a_schema_is_read_off_json_without_losing_records() {
    let (_dir, path) = file(
        "a.ndjson",
        b"{\"a\":1,\"b\":\"x\"}\n{\"a\":2.5,\"c\":[true]}\n",
    );
    let (schema, source) = Source::open(&path, None, &[]).unwrap().infer().unwrap();
    assert_eq!(schema["fields"][0]["type"], "double");
    assert_eq!(schema["fields"][2]["type"]["type"], "list");
    assert_eq!(bodies(source, 1000).len(), 1);
}

#[test]
fn records_that_are_in_the_table_are_left_out_and_the_count_goes_on() {
    let lines = b"{\"a\":1}\n\n{\"a\":2}\n{\"a\":3}\n";
    let array = b"[{\"a\":1},{\"a\":2},{\"a\":3}]";
    for (name, content, expected) in [
        ("a.ndjson", &lines[..], "{\"a\":3}\n"),
        ("a.json", &array[..], "[{\"a\":3}]"),
    ] {
        let (_dir, path) = file(name, content);
        let open = || Source::open(&path, None, &[]).unwrap();
        assert_eq!(bodies_behind(open(), 1000, 2), [(expected.to_owned(), 2)]);
        assert_eq!(bodies_behind(open(), 1000, 3), []);
        let failure = open().bodies(1000, 4, |_| true).unwrap_err();
        assert!(
            failure.message.contains("has 3 records, fewer than --skip"),
            "{failure:?}"
        );
    }
}

#[test]
fn a_file_that_is_not_there_says_so_whatever_its_name() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["gone", "gone.bin", "gone.ndjson", "gone.parquet"] {
        let failure = Source::open(&dir.path().join(name), None, &[]).unwrap_err();
        let expected = format!("there is no file {}", dir.path().join(name).display());
        assert_eq!(failure.message, expected);
    }
    let failure = Source::open(dir.path(), None, &[]).unwrap_err();
    assert!(failure.message.ends_with("is a folder: name a file"));
}

#[test]
fn a_file_of_no_known_kind_says_how_to_name_it() {
    let (_dir, path) = file("data.bin", b"");
    let failure = Source::open(&path, None, &[]).unwrap_err();
    assert!(failure.hint.unwrap().contains("--format"));
}
