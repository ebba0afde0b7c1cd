//! The codes of refusals: stable words that clients branch on, the same in every service.
//!
//! A code is added here before it is used; what it once meant it means for ever.

pub const NO_SUCH_ROUTE: &str = "NO_SUCH_ROUTE";
pub const METHOD_NOT_ALLOWED: &str = "METHOD_NOT_ALLOWED";
pub const TOPIC_REPLACED: &str = "TOPIC_REPLACED";
pub const TOPIC_PARTITIONS_CHANGED: &str = "TOPIC_PARTITIONS_CHANGED";
pub const TOPIC_REFUSES: &str = "TOPIC_REFUSES";
pub const LOG_CUT_BACK: &str = "LOG_CUT_BACK";

/// Every code, and what it tells.
pub const ALL: &[(&str, &str)] = &[
    // Any request.
    (
        "ANSWER_NOT_READ",
        "an answer was not read in time: read on without long breaks",
    ),
    ("NO_SUCH_ROUTE", "the path is no route"),
    ("METHOD_NOT_ALLOWED", "the route does not take the method"),
    (
        "NOT_ACCEPTABLE",
        "the answer can't be given in a form that the client takes",
    ),
    ("INVALID", "the request is not valid"),
    (
        "INVALID_REQUEST",
        "the body's fields are not what the route takes",
    ),
    ("INVALID_QUERY", "a query parameter is unknown or wrong"),
    ("INVALID_TENANT", "the tenant header is not valid"),
    ("INVALID_TOKEN", "the token is not one of this table"),
    ("INVALID_NAME", "the name is not one"),
    ("MALFORMED_BODY", "the body can't be read"),
    ("MALFORMED_JSON", "the body is not JSON"),
    ("NOT_FOUND", "it is not there, or not yours to see"),
    ("CONFLICT", "something else excludes it"),
    ("DENIED", "it is not allowed"),
    ("READ_ONLY", "the route only reads"),
    ("TOO_LARGE", "it is, or decoded would be, too large"),
    ("OVERLOADED", "too much is being done at a time: retry"),
    ("UNAVAILABLE", "something it needs is away: retry"),
    ("FENCED", "another worker has taken over: retry"),
    ("SHUTTING_DOWN", "the process stops: retry elsewhere"),
    (
        "LOG_UNAVAILABLE",
        "the log does not answer as it should: retry",
    ),
    (
        "STORE_UNAVAILABLE",
        "the object store does not answer as it should: retry",
    ),
    ("CORRUPT", "stored data contradicts itself"),
    ("INTERNAL", "a mistake of Tidelake's"),
    ("NOT_SUPPORTED", "it is not supported yet"),
    // Bodies.
    ("EMPTY_BODY", "the body is empty"),
    ("BODY_CUT_SHORT", "the body ended before its end"),
    ("BODY_TIMEOUT", "the body stood still, or came too slowly"),
    ("BODY_TOO_LARGE", "the body is too large"),
    ("UNSUPPORTED_MEDIA_TYPE", "the content type is not taken"),
    ("UNSUPPORTED_ENCODING", "the content encoding is not taken"),
    ("MALFORMED_ENCODING", "the body can't be decompressed"),
    // Tables.
    (
        "TABLE_NOT_FOUND",
        "there is no such table, or it is not yours to see",
    ),
    ("TABLE_EXISTS", "the name is taken"),
    (
        "TABLE_REPLACED",
        "the table was dropped and created anew meanwhile",
    ),
    (
        "TABLE_BEING_DROPPED",
        "an earlier table of the name is in the way: retry",
    ),
    (
        "TABLE_UNAVAILABLE",
        "the table exists, and its log can't be used now",
    ),
    (
        "SCHEMA_CHANGED",
        "the table's schema changed while records came, or since a statement was prepared: retry",
    ),
    ("TOPIC_EXISTS", "a topic of the table's name is in the way"),
    ("TOPIC_REPLACED", "the table's topic is gone or another one"),
    (
        "TOPIC_REFUSES",
        "the topic's settings keep the table's records out",
    ),
    (
        "TOPIC_PARTITIONS_CHANGED",
        "the topic's partitions are not what the table can read",
    ),
    (
        "LOG_CUT_BACK",
        "the topic ends before what the table has of it",
    ),
    (
        "LOCATION_TAKEN",
        "a folder of the table's name is in the way",
    ),
    (
        "DEAD_LETTER_TABLE",
        "Tidelake alone does that to a dead-letter table",
    ),
    ("MISSING_FIELD", "a field is missing"),
    ("INVALID_MODE", "the mode is not one"),
    ("INVALID_BUCKETS", "no table has so many buckets"),
    ("INVALID_SCHEMA", "the schema is not valid"),
    ("INVALID_PROPERTY", "the property can't be set so"),
    ("RESERVED_NAME", "the name is kept for Tidelake"),
    (
        "FLUSH_TIMEOUT",
        "the flush did not end in time, and goes on",
    ),
    ("TOO_MANY_LETTERS", "too many dead letters at a time"),
    ("INVALID_KEY", "the key is none of this table"),
    ("NO_PRIMARY_KEY", "the table has no primary key"),
    // Records, and dead letters of them.
    ("RECORD_TOO_LARGE", "a record is too large"),
    ("INVALID_UTF8", "text is not UTF-8"),
    ("NOT_AN_OBJECT", "a record is no JSON object"),
    ("UNKNOWN_FIELD", "the table has no such column"),
    ("DUPLICATE_FIELD", "a field is given twice"),
    ("DUPLICATE_KEY", "a map has a key twice"),
    ("NULL_IN_REQUIRED", "null where the table requires a value"),
    ("WRONG_TYPE", "a value of another type"),
    ("NOT_AN_INTEGER", "a number that is no integer"),
    ("OUT_OF_RANGE", "a value that the type does not hold"),
    ("INEXACT", "a value that would be changed by keeping it"),
    ("INVALID_VALUE", "a value that the type does not take"),
    ("TOO_DEEP", "nested too deep"),
    (
        "TOMBSTONE",
        "a record without a value for a table without a key",
    ),
    ("MISSING_KEY", "a record with neither value nor key"),
    (
        "WRONG_BUCKET",
        "a batch came through another bucket than its keys'",
    ),
    (
        "UNKNOWN_OPERATION",
        "an operation that is neither upsert nor delete",
    ),
    (
        "OPERATION_TWICE",
        "column and request both say what is done",
    ),
    ("UNSUPPORTED", "an encoding that is not taken yet"),
    ("CORRUPT_ARROW", "not a valid Arrow stream"),
    (
        "CUT_SHORT",
        "a dead letter that was too large, of which a part was kept",
    ),
    (
        "NO_SOURCE",
        "a dead letter that does not say which record it is about",
    ),
    (
        "NOT_A_RECORD",
        "a dead letter that is no record of the table",
    ),
    // Queries.
    ("SQL_SYNTAX", "the SQL can't be parsed"),
    ("SQL_INVALID", "the SQL says nothing that can be done"),
    (
        "SQL_NOT_ALLOWED",
        "the statement is none that may be sent here",
    ),
    ("SQL_NOT_SUPPORTED", "the statement is not supported yet"),
    ("TYPE_MISMATCH", "a value is of another type than its place"),
    ("QUERY_FAILED", "the query failed by its data"),
    ("QUERY_TIMEOUT", "the query took too long"),
    ("QUERY_CANCELLED", "the query was cancelled"),
    ("QUERY_NOT_FOUND", "no such query runs"),
    ("QUERY_ID_IN_USE", "a query of this id runs"),
    (
        "QUERY_MEMORY_EXCEEDED",
        "the query needs more memory than it may have",
    ),
    ("TOO_MANY_QUERIES", "too many queries at a time: retry"),
    ("RESULT_TOO_LARGE", "the answer is larger than allowed"),
    ("ROW_NOT_FOUND", "the key has no row"),
    (
        "TOKEN_NOT_COVERED",
        "what was written is not readable in time",
    ),
    ("TAIL_BEHIND", "the tail is not as far as asked in time"),
    (
        "TAIL_TOO_LARGE",
        "too much is in the log and not in the table",
    ),
    ("LOG_GAP", "the log has lost what the table does not have"),
    ("FILE_GONE", "a file of the version is gone"),
    (
        "POSITION_GONE",
        "the log has lost what followed the version that was asked for",
    ),
    ("VERSION_NOT_FOUND", "the table has no such version"),
    ("SNAPSHOT_NOT_FOUND", "no snapshot has this name"),
    ("SNAPSHOT_EXISTS", "the snapshot's name is taken"),
    (
        "TOO_MANY_SNAPSHOTS",
        "the table has as many named snapshots as it may",
    ),
];

/// What a code tells; none where there is no such code.
pub fn meaning(code: &str) -> Option<&'static str> {
    let known = ALL.iter().find(|(known, _)| *known == code);
    known.map(|(_, meaning)| *meaning)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_code_stands_once() {
        let mut codes: Vec<_> = ALL.iter().map(|(code, _)| code).collect();
        codes.sort_unstable();
        assert!(codes.windows(2).all(|pair| pair[0] != pair[1]));
    }

    /// What a refusal with status 400 may say: the request itself is malformed, whatever table it is
    /// about, or the statement that it brings asks for what can't be computed. A table that can't take a request that is fine is 409 or 503.
    const MALFORMED: &[&str] = &[
        "BODY_CUT_SHORT",
        "EMPTY_BODY",
        "INVALID_NAME",
        "INVALID_QUERY",
        "INVALID_REQUEST",
        "INVALID_TENANT",
        "INVALID_TOKEN",
        "MALFORMED_BODY",
        "MALFORMED_ENCODING",
        "MALFORMED_JSON",
        "QUERY_FAILED",
        "SQL_INVALID",
        "SQL_NOT_ALLOWED",
        "SQL_NOT_SUPPORTED",
        "SQL_SYNTAX",
        "TYPE_MISMATCH",
        "UNKNOWN_FIELD",
    ];

    fn is_code(text: &str) -> bool {
        text.contains('_')
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
    }

    /// Words of `source`'s production code that look like codes.
    fn codes_in(source: &str) -> Vec<String> {
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let texts = source.lines().filter(|line| !line.contains("env!("));
        let texts = texts.flat_map(|line| line.split('"').skip(1).step_by(2));
        texts
            .filter(|text| is_code(text))
            .map(str::to_owned)
            .collect()
    }

    /// The codes that are refused with 400.
    fn malformed_in(source: &str) -> Vec<String> {
        let made = ["Problem::new(400,", "(400,"].map(|made| source.split(made).skip(1));
        let codes = made.into_iter().flatten().filter_map(|rest| {
            let code = rest.trim_start().strip_prefix('"')?;
            Some(code.split_once('"')?.0.to_owned())
        });
        codes.filter(|code| is_code(code)).collect()
    }

    fn visit(folder: &Path, see: &mut impl FnMut(&Path, &str)) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy();
            if name.starts_with("test") || name.ends_with("_tests") {
                continue;
            }
            if path.is_dir() {
                visit(&path, see);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                see(&path, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    fn visit_services(see: &mut impl FnMut(&Path, &str)) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        for sources in [
            "ingest-gateway/src",
            "query-api/src",
            "shared/codec/src/reject.rs",
            "shared/intake/src",
            "shared/service/src/http/problem.rs",
        ] {
            let sources = root.join(sources);
            match sources.is_dir() {
                true => visit(&sources, see),
                false => see(&sources, &std::fs::read_to_string(&sources).unwrap()),
            }
        }
    }

    #[test]
    fn services_refuse_with_codes_of_this_list_only() {
        let mut found = 0;
        visit_services(&mut |path, source| {
            for code in codes_in(source) {
                let known = meaning(&code).is_some();
                assert!(known, "{code} of {} is not listed", path.display());
                found += 1;
            }
        });
        assert!(found > 60, "{found} codes found");
    }

    #[test]
    fn a_request_that_is_fine_is_never_called_malformed() {
        let mut found = 0;
        visit_services(&mut |path, source| {
            for code in malformed_in(source) {
                let is_malformed = MALFORMED.contains(&code.as_str());
                // The kind alone says nothing else.
                let of_kind = code == "INVALID" && path.ends_with("http/problem.rs");
                assert!(is_malformed || of_kind, "{code} of {}", path.display());
                found += 1;
            }
        });
        assert!(found > 5, "{found} codes found");
    }
}
