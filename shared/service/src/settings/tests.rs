use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Example {
    store: String,
    listen: String,
    kafka: Kafka,
    flush: Flush,
    admins: Vec<String>,
    api_token: Option<String>,
    limit: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Kafka {
    bootstrap: String,
    properties: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Flush {
    bytes_max: u64,
    eager: bool,
}

impl Default for Flush {
    fn default() -> Self {
        Self {
            bytes_max: 64,
            eager: false,
        }
    }
}

impl Default for Example {
    fn default() -> Self {
        Self {
            store: "file:///tmp/x".to_owned(),
            listen: "127.0.0.1:8080".to_owned(),
            kafka: Kafka::default(),
            flush: Flush::default(),
            admins: Vec::new(),
            api_token: None,
            limit: None,
        }
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    pairs.into_iter()
}

fn load_all(
    yaml: Option<&str>,
    vars: &[(&str, &str)],
    flags: Value,
) -> Result<Example, SettingsError> {
    let file = yaml.map(file);
    load(file.as_ref().map(|file| file.path()), env(vars), flags)
}

#[test]
fn later_sources_win_key_by_key() {
    let yaml = "# ours\nstore: s3://a/b\nflush:\n  bytes_max: 7\n  eager: true\nlisten: h:1\n";
    let vars = [
        ("TIDELAKE__FLUSH__BYTES_MAX", "8"),
        ("TIDELAKE__STORE", "s3://env/x"),
    ];
    let flags = json!({ "store": "s3://flag/x", "listen": null });
    let settings = load_all(Some(yaml), &vars, flags).unwrap();
    assert_eq!(settings.store, "s3://flag/x");
    assert_eq!(settings.listen, "h:1");
    assert_eq!(
        settings.flush,
        Flush {
            bytes_max: 8,
            eager: true
        }
    );
}

#[test]
fn nothing_given_gives_the_defaults() {
    assert_eq!(load_all(None, &[], json!({})).unwrap(), Example::default());
    assert_eq!(
        load_all(Some("# only a comment\n"), &[], json!({})).unwrap(),
        Example::default()
    );
}

#[test]
fn foreign_variables_are_not_ours() {
    let vars = [
        ("TIDELAKE_CACHE", "/x"),
        ("PATH", "/bin"),
        ("TÏDELAKE__STORE", "x"),
    ];
    assert_eq!(
        load_all(None, &vars, json!({})).unwrap(),
        Example::default()
    );
}

#[test]
fn an_unknown_key_in_the_file_is_named_with_its_line_and_the_nearest_key() {
    let file = file("store: file:///x\nkafka:\n  # where\n  bootstrp: h:1\n");
    let error = load::<Example>(Some(file.path()), env(&[]), json!({})).unwrap_err();
    let place = format!("{}:4", file.path().display());
    let expected =
        format!("unknown setting \"kafka.bootstrp\" ({place}); did you mean \"kafka.bootstrap\"?");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn an_unknown_variable_is_named_with_the_nearest_key() {
    let error = load_all(None, &[("TIDELAKE__FLUSH__BYTE_MAX", "1")], json!({})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown setting \"flush.byte_max\" (environment TIDELAKE__FLUSH__BYTE_MAX); \
         did you mean \"flush.bytes_max\"?"
    );
}

#[test]
fn the_right_key_in_the_wrong_section_is_found() {
    let error = load_all(Some("bootstrap: h:1\n"), &[], json!({})).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("did you mean \"kafka.bootstrap\"?"),
        "{error}"
    );
    let error = load_all(Some("zzz: 1\n"), &[], json!({})).unwrap_err();
    assert!(!error.to_string().contains("did you mean"), "{error}");
}

#[test]
fn a_wrong_value_is_named_with_its_place() {
    let error = load_all(Some("flush:\n  bytes_max: many\n"), &[], json!({})).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("setting \"flush.bytes_max\" ("), "{text}");
    assert!(text.contains(".yaml:2)") && text.contains("many"), "{text}");
    let error = load_all(None, &[("TIDELAKE__FLUSH__EAGER", "perhaps")], json!({})).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("environment TIDELAKE__FLUSH__EAGER"),
        "{error}"
    );
}

#[test]
fn text_stays_text_even_where_it_looks_like_a_number() {
    let vars = [
        ("TIDELAKE__STORE", "12"),
        ("TIDELAKE__API_TOKEN", "34"),
        ("TIDELAKE__LIMIT", "56"),
        ("TIDELAKE__ADMINS", "a, b"),
    ];
    let settings = load_all(None, &vars, json!({})).unwrap();
    assert_eq!(settings.store, "12");
    assert_eq!(settings.api_token.as_deref(), Some("34"));
    assert_eq!(settings.limit, Some(56));
    assert_eq!(settings.admins, ["a", "b"]);
}

#[test]
fn a_free_form_map_takes_any_key_and_dots_are_underscores_outside() {
    let yaml = "kafka:\n  properties:\n    security.protocol: SASL_SSL\n";
    let vars = [("TIDELAKE__KAFKA__PROPERTIES__SASL_PASSWORD", "p")];
    let properties = load_all(Some(yaml), &vars, json!({}))
        .unwrap()
        .kafka
        .properties;
    assert_eq!(properties["security.protocol"], "SASL_SSL");
    assert_eq!(properties["sasl.password"], "p");
}

#[test]
fn a_secret_can_stand_in_a_file() {
    let secret = file("hunter2\n");
    let path = secret.path().to_str().unwrap();
    let vars = [
        ("TIDELAKE__API_TOKEN_FILE", path),
        ("TIDELAKE__KAFKA__PROPERTIES__SASL_PASSWORD_FILE", path),
    ];
    let settings = load_all(None, &vars, json!({})).unwrap();
    assert_eq!(settings.api_token.as_deref(), Some("hunter2"));
    assert_eq!(settings.kafka.properties["sasl.password"], "hunter2");
    let error = load_all(None, &[("TIDELAKE__API_TOKEN_FILE", "/no/such")], json!({})).unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
}

#[test]
fn broken_yaml_and_a_missing_file_are_errors() {
    let error = load_all(Some("store: [1\n"), &[], json!({})).unwrap_err();
    assert!(matches!(error, SettingsError::ParseFile { .. }), "{error}");
    let error = load::<Example>(Some(Path::new("/no/such.yaml")), env(&[]), json!({})).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn shown_settings_have_no_secrets_and_can_be_read_back() {
    let mut settings = Example {
        api_token: Some("s3cr3t".into()),
        ..Example::default()
    };
    settings.store = "https://me:s3cr3t@host/path".into();
    settings.listen = "127.0.0.1:0".into();
    settings.admins = vec!["a b".into()];
    for (key, value) in [
        ("sasl.password", "s3cr3t"),
        ("sasl.mechanism", "PLAIN"),
        ("client.rack", "no"),
    ] {
        settings.kafka.properties.insert(key.into(), value.into());
    }
    let yaml = redacted_yaml(&settings);
    assert!(!yaml.contains("s3cr3t"), "{yaml}");
    let back = load_all(Some(&yaml), &[], json!({})).unwrap();
    assert_eq!(back.kafka.properties["sasl.mechanism"], "PLAIN");
    assert_eq!(back.kafka.properties["client.rack"], "no");
    assert_eq!(back.store, "https://(redacted)@host/path");
    assert_eq!(back.flush, settings.flush);
    assert_eq!(back.admins, settings.admins);
}
