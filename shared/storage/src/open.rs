//! From a URL to a [`Store`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::SpawnedReqwestConnector;
use object_store::memory::InMemory;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use tokio::runtime::Handle;
use url::{Host, Url};

use crate::local::DurableFiles;
use crate::{Result, RetryPolicy, StorageError, Store};

/// What a URL does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// S3 settings by their environment names (`aws_endpoint_url`, `aws_region`, …); they override
    /// the environment.
    pub s3: BTreeMap<String, String>,
    /// How long one S3 request may take.
    pub request_timeout: Duration,
    /// How long S3 requests are repeated after transient errors.
    pub retry_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            s3: BTreeMap::new(),
            request_timeout: Duration::from_secs(30),
            retry_timeout: Duration::from_secs(60),
        }
    }
}

pub(crate) fn open(text: &str, options: &StoreOptions) -> Result<Store> {
    let invalid = |reason: String| StorageError::InvalidUrl {
        url: text.to_owned(),
        reason,
    };
    let url = Url::parse(text).map_err(|error| {
        invalid(format!(
            "{error}; use file:///folder, memory:/// or s3://bucket/prefix"
        ))
    })?;
    match url.scheme() {
        "file" => open_folder(&url, &invalid),
        "memory" => {
            let store = Store::new(Arc::new(InMemory::new()), "memory:///");
            Ok(scoped(store, url.path()))
        }
        "s3" | "s3a" => open_s3(&url, options, &invalid),
        other => Err(invalid(format!(
            "unknown scheme {other:?}; known are file, memory and s3"
        ))),
    }
}

fn scoped(store: Store, prefix: &str) -> Store {
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() {
        store
    } else {
        store.scoped(prefix)
    }
}

fn open_folder(url: &Url, invalid: &dyn Fn(String) -> StorageError) -> Result<Store> {
    let folder = url
        .to_file_path()
        .map_err(|()| invalid("it must name an absolute folder: file:///folder".into()))?;
    let at = format!("file://{}", folder.display());
    let files = DurableFiles::open(&folder).map_err(|error| {
        let source = object_store::Error::Generic {
            store: "file",
            source: error.into(),
        };
        StorageError::from_store(at.clone(), source)
    })?;
    Ok(Store::new(Arc::new(files), &at))
}

fn open_s3(
    url: &Url,
    options: &StoreOptions,
    invalid: &dyn Fn(String) -> StorageError,
) -> Result<Store> {
    let bucket = url
        .host_str()
        .filter(|bucket| !bucket.is_empty())
        .ok_or_else(|| invalid("it must name a bucket: s3://bucket/prefix".into()))?;
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries: 8,
        retry_timeout: options.retry_timeout,
    };
    let mut builder = AmazonS3Builder::from_env();
    for (key, value) in &options.s3 {
        let key: AmazonS3ConfigKey = key
            .to_ascii_lowercase()
            .parse()
            .map_err(|_| invalid(format!("unknown S3 option {key:?}")))?;
        builder = builder.with_config(key, value);
    }
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    let http = endpoint
        .as_deref()
        .map(|endpoint| plain_http_allowed(endpoint, invalid));
    let mut client = ClientOptions::new()
        .with_timeout(options.request_timeout)
        .with_connect_timeout(Duration::from_secs(5));
    if http.transpose()? == Some(true) {
        client = client.with_allow_http(true);
    }
    // Connections are driven by the runtime that opened the store, whichever thread asks: one that
    // computes for long would hold up everybody's requests.
    if let Ok(runtime) = Handle::try_current() {
        builder = builder.with_http_connector(SpawnedReqwestConnector::new(runtime));
    }
    let store = builder
        .with_client_options(client)
        .with_bucket_name(bucket)
        .with_retry(retry)
        .build()
        .map_err(|error| invalid(error.to_string()))?;
    let at = format!("s3://{bucket}");
    // The S3 client repeats by itself; only put-if-absent has rounds of its own.
    let store = Store::with_policies(
        Arc::new(store),
        &at,
        RetryPolicy::NONE,
        RetryPolicy::default(),
    );
    Ok(scoped(store, url.path()))
}

/// True for plain HTTP that may be used: on this machine, or where the operator insists.
fn plain_http_allowed(endpoint: &str, invalid: &dyn Fn(String) -> StorageError) -> Result<bool> {
    let url = Url::parse(endpoint)
        .map_err(|error| invalid(format!("AWS_ENDPOINT_URL {endpoint:?}: {error}")))?;
    if url.scheme() != "http" {
        return Ok(false);
    }
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    let insisted = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true");
    if loopback || insisted {
        return Ok(true);
    }
    Err(invalid(format!(
        "endpoint {endpoint:?} is plain HTTP to another machine; use https, or set \
         AWS_ALLOW_HTTP=true to send data unencrypted"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str, s3: &[(&str, &str)]) -> String {
        let s3 = s3
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let options = StoreOptions {
            s3,
            ..StoreOptions::default()
        };
        Store::open(url, &options).unwrap_err().to_string()
    }

    #[test]
    fn unusable_urls_say_what_to_write_instead() {
        assert!(refusal("/data/lake", &[]).contains("file:///folder"));
        assert!(refusal("ftp://x/y", &[]).contains("known are file, memory and s3"));
        assert!(refusal("s3:///prefix", &[]).contains("s3://bucket/prefix"));
        let far = [("aws_endpoint_url", "http://10.1.2.3:9000")];
        assert!(refusal("s3://b/p", &far).contains("AWS_ALLOW_HTTP=true"));
        assert!(refusal("s3://b/p", &[("aws_nonsense", "1")]).contains("aws_nonsense"));
    }

    #[test]
    fn a_store_knows_where_it_is() {
        let open = |url: &str| Store::open(url, &StoreOptions::default()).unwrap();
        assert_eq!(open("memory:///").url(), "memory:///");
        assert_eq!(
            open("memory:///lake").scoped("t/orders").url(),
            "memory:///lake/t/orders"
        );
        assert_eq!(
            open("s3://bucket/lake/").scoped("t").url_of("x"),
            "s3://bucket/lake/t/x"
        );
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}/made/here", folder.path().display());
        assert_eq!(open(&url).url_of("x"), format!("{url}/x"));
        assert!(folder.path().join("made/here").is_dir());
    }

    #[test]
    fn names_stay_below_the_prefix() {
        let store = Store::open("memory:///a", &StoreOptions::default()).unwrap();
        assert_eq!(store.path("../../etc").as_ref(), "a/%2E%2E/%2E%2E/etc");
        let path = store.path("x/y z%20.parquet");
        assert_eq!(path.as_ref(), "a/x/y z%20.parquet");
        assert_eq!(store.relative(&path).as_deref(), Some("x/y z%20.parquet"));
        assert_eq!(store.relative(&"ab/x".into()), None);
    }
}
