//! The gateway and the query service as this program talks to them.

use std::path::Path;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tidelake_core::{TableName, TenantId};

use crate::failure::{Exit, Failure, chain};
use crate::output::note;
use crate::profile::Secret;
use crate::{Global, Key};

const TENANT_HEADER: &str = "x-tidelake-tenant";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a page that costs next to nothing.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Talks HTTP for one tenant.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    gateway: String,
    query: String,
    tenant: Option<TenantId>,
    key: Option<Key>,
}

/// A table's name in a path; checked here, so that a slip is told without a round trip.
pub(crate) fn table_name(name: &str) -> Result<TableName, Failure> {
    TableName::new(name).map_err(|error| Failure::usage(error.to_string()))
}

impl Client {
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let tenant = global.tenant.as_deref().map(TenantId::new).transpose();
        let tenant = tenant.map_err(|error| Failure::usage(error.to_string()))?;
        let (gateway, query) = (base(&global.url)?, base(&global.query_url)?);
        let mut client = Self {
            http: http(global.ca_file.as_deref())?,
            ..Self::to(gateway, query, tenant)?
        };
        if let Some(key) = &global.key {
            let services = key.services.as_ref().map(|services| {
                let each = services.iter().map(|url| base(url));
                each.collect::<Result<Vec<_>, _>>()
            });
            client.key = Some(Key {
                secret: key.secret.clone(),
                services: services.transpose()?,
            });
            for service in [&client.gateway, &client.query] {
                if client.key_for(service).is_some() && is_open(service) {
                    note(&format!(
                        "the key goes to {service} as clear text: use https"
                    ));
                }
            }
        }
        Ok(client)
    }

    pub(crate) fn to(
        gateway: String,
        query: String,
        tenant: Option<TenantId>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            http: http(None)?,
            gateway,
            query,
            tenant,
            key: None,
        })
    }

    pub(crate) fn gateway(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &self.gateway, path)
    }

    pub(crate) fn query(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &self.query, path)
    }

    fn request(&self, method: Method, base: &str, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{base}{path}"));
        if let Some(secret) = self.key_for(base) {
            request = request.bearer_auth(secret.expose());
        }
        match &self.tenant {
            Some(tenant) => request.header(TENANT_HEADER, tenant.as_str()),
            None => request,
        }
    }

    /// The key, where it is for this service.
    fn key_for(&self, base: &str) -> Option<&Secret> {
        let key = self.key.as_ref()?;
        let services = key.services.as_ref();
        let is_for = services.is_none_or(|services| services.iter().any(|known| known == base));
        is_for.then_some(&key.secret)
    }

    /// The tenant that is acted for.
    pub(crate) fn tenant(&self) -> TenantId {
        self.tenant.clone().unwrap_or_default()
    }

    /// A page of another service than the two.
    pub(crate) async fn text_at(&self, url: &str, path: &str) -> Result<String, Failure> {
        let text = send(self.get_at(url, path)?).await?.text().await;
        text.map_err(|error| unreachable(&error))
    }

    /// A request for such a page.
    pub(crate) fn get_at(&self, url: &str, path: &str) -> Result<RequestBuilder, Failure> {
        let request = self.request(Method::GET, &base(url)?, path);
        Ok(request.timeout(PAGE_TIMEOUT))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        json_of(send(self.gateway(Method::GET, path)).await?).await
    }

    /// All of the tenant's tables, which come page by page; with or without dead-letter tables.
    pub(crate) async fn tables(&self, dead_letters: bool) -> Result<Vec<Value>, Failure> {
        let mut tables = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/v1/tables?all={dead_letters}{after}");
            let mut page = self.get(&path).await?;
            if let Value::Array(some) = page["tables"].take() {
                tables.extend(some);
            }
            match page["next_after"].as_str() {
                Some(last) => after = format!("&after={last}"),
                None => return Ok(tables),
            }
        }
    }

    /// Runs SQL, for an answer that fits in memory.
    pub(crate) async fn sql(&self, sql: &str) -> Result<Value, Failure> {
        self.sql_body(&json!({ "sql": sql })).await
    }

    /// Runs SQL as the body says, for an answer that fits in memory.
    pub(crate) async fn sql_body(&self, body: &Value) -> Result<Value, Failure> {
        let request = self.query(Method::POST, "/v1/sql").json(body);
        json_of(send(request).await?).await
    }
}

fn http(ca_file: Option<&Path>) -> Result<reqwest::Client, Failure> {
    // Proxies of the environment are for the outside world, not for these services.
    let mut http = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .no_proxy();
    if let Some(path) = ca_file {
        let failed = |why: String| Failure::usage(format!("ca_file {}: {why}", path.display()));
        let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let authorities = reqwest::Certificate::from_pem_bundle(&pem);
        for authority in authorities.map_err(|error| failed(chain(&error)))? {
            http = http.add_root_certificate(authority);
        }
    }
    http.build().map_err(|error| Failure::failed(chain(&error)))
}

/// True where others may listen.
fn is_open(base: &str) -> bool {
    let url = url::Url::parse(base).ok();
    url.is_none_or(|url| {
        let local = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        url.scheme() != "https" && !local
    })
}

/// `http://host:port` without what hinders joining paths.
fn base(url: &str) -> Result<String, Failure> {
    let full = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let parsed = url::Url::parse(&full)
        .map_err(|error| Failure::usage(format!("{url:?} is not a URL: {error}")))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
        let message = format!("{url:?}: expected http://HOST:PORT or https://HOST");
        return Err(Failure::usage(message));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        // It would show in every message that names the URL.
        let message = "a URL must not hold a password: use TIDELAKE_KEY or a profile's key";
        return Err(Failure::usage(message));
    }
    Ok(full.trim_end_matches('/').to_owned())
}

/// Sends, and turns an error answer into a failure.
pub(crate) async fn send(request: RequestBuilder) -> Result<Response, Failure> {
    let response = request.send().await.map_err(|error| unreachable(&error))?;
    if response.status().is_success() {
        Ok(response)
    } else {
        Err(failure_of(response).await)
    }
}

/// What an error answer says.
pub(crate) async fn failure_of(response: Response) -> Failure {
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    of_problem(status, &text)
}

pub(crate) async fn json_of(response: Response) -> Result<Value, Failure> {
    response
        .json()
        .await
        .map_err(|error| Failure::failed(chain(&error)))
}

/// What it means that no answer came.
pub(crate) fn unreachable(error: &reqwest::Error) -> Failure {
    let at = error
        .url()
        .map(|url| url.origin().ascii_serialization())
        .unwrap_or_default();
    if error.is_connect() && is_refused(error) {
        return Failure::failed(format!("nothing answers at {at}"))
            .hint("start it with `tidelake local`, or say where it is: --url, --query-url");
    }
    Failure::failed(format!("{at}: {}", chain(error)))
}

/// True where nobody listens, rather than somebody who is not understood: a certificate that is not
/// trusted, for one.
fn is_refused(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A problem answer as this program tells it.
pub(crate) fn of_problem(status: StatusCode, text: &str) -> Failure {
    let exit = match status.as_u16() {
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        401 | 403 => Exit::Denied,
        _ => Exit::Failed,
    };
    let problem: Value = serde_json::from_str(text).unwrap_or_default();
    let part = |name: &str| problem[name].as_str().filter(|part| !part.is_empty());
    let Some(detail) = part("detail").or_else(|| part("title")) else {
        return Failure::new(exit, format!("{status} {text}").trim().to_owned());
    };
    let mut message = detail.to_owned();
    if let Some(code) = part("code") {
        message.push_str(&format!(" ({code})"));
    }
    let mut failure = Failure::new(exit, message);
    failure.hint = part("hint").map(str::to_owned);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_keep_their_message_hint_and_exit_code() {
        let text = json!({
            "title": "there is no such table", "detail": "no table ordrs", "code": "TABLE_NOT_FOUND",
            "hint": "did you mean orders?", "status": 404,
        });
        let failure = of_problem(StatusCode::NOT_FOUND, &text.to_string());
        assert_eq!(failure.exit, Exit::NotFound);
        assert_eq!(failure.message, "no table ordrs (TABLE_NOT_FOUND)");
        assert_eq!(failure.hint.as_deref(), Some("did you mean orders?"));
        assert_eq!(of_problem(StatusCode::CONFLICT, "{}").exit, Exit::Conflict);
        assert_eq!(
            of_problem(StatusCode::BAD_GATEWAY, "<html>").exit,
            Exit::Failed
        );
    }

    #[test]
    fn urls_are_taken_as_people_write_them() {
        assert_eq!(base("localhost:8080").unwrap(), "http://localhost:8080");
        assert_eq!(base("http://h:1/").unwrap(), "http://h:1");
        assert_eq!(base("https://h/").unwrap(), "https://h");
        for bad in ["ftp://h", "http://", "https://me:secret@h"] {
            let failure = base(bad).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(!failure.message.contains("secret"));
        }
    }

    #[test]
    fn a_key_goes_to_the_services_that_it_is_for() {
        let (gateway, query) = ("https://g".to_owned(), "http://other".to_owned());
        let mut client = Client::to(gateway, query, None).unwrap();
        client.key = Some(Key {
            secret: Secret::new("tl_1"),
            services: Some(vec!["https://g".into(), "https://q".into()]),
        });
        let header = |request: RequestBuilder| {
            let request = request.build().unwrap();
            let value = request.headers().get("authorization").cloned();
            value.map(|value| (value.to_str().unwrap().to_owned(), value.is_sensitive()))
        };
        let sent = header(client.gateway(Method::GET, "/x"));
        assert_eq!(sent, Some(("Bearer tl_1".to_owned(), true)));
        assert_eq!(header(client.query(Method::GET, "/x")), None);
        let flusher = client.get_at("http://flusher:9", "/x").unwrap();
        assert_eq!(header(flusher), None);
        assert!(is_open("http://h:1") && !is_open("http://[::1]:1") && !is_open("https://h"));
    }

    #[tokio::test]
    async fn nothing_there_says_what_to_do() {
        let client = Client::to(
            "http://127.0.0.1:1".into(),
            "http://127.0.0.1:1".into(),
            None,
        );
        let failure = client.unwrap().get("/v1/tables").await.unwrap_err();
        assert_eq!(failure.message, "nothing answers at http://127.0.0.1:1");
        assert!(failure.hint.unwrap().contains("tidelake local"));
    }
}
