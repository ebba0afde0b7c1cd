//! The gateway and the query service as this program talks to them.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tidelake_core::{TableName, TenantId};

use crate::Global;
use crate::failure::{Exit, Failure, chain};

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
}

/// A table's name in a path; checked here, so that a slip is told without a round trip.
pub(crate) fn table_name(name: &str) -> Result<TableName, Failure> {
    TableName::new(name).map_err(|error| Failure::usage(error.to_string()))
}

impl Client {
    pub(crate) fn new(global: &Global) -> Result<Self, Failure> {
        let tenant = global.tenant.as_deref().map(TenantId::new).transpose();
        let tenant = tenant.map_err(|error| Failure::usage(error.to_string()))?;
        Self::to(base(&global.url)?, base(&global.query_url)?, tenant)
    }

    pub(crate) fn to(
        gateway: String,
        query: String,
        tenant: Option<TenantId>,
    ) -> Result<Self, Failure> {
        // Proxies of the environment are for the outside world, not for these services.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .build();
        let http = http.map_err(|error| Failure::failed(chain(&error)))?;
        Ok(Self {
            http,
            gateway,
            query,
            tenant,
        })
    }

    pub(crate) fn gateway(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &self.gateway, path)
    }

    pub(crate) fn query(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, &self.query, path)
    }

    fn request(&self, method: Method, base: &str, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{base}{path}"));
        match &self.tenant {
            Some(tenant) => request.header(TENANT_HEADER, tenant.as_str()),
            None => request,
        }
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

/// `http://host:port` without what hinders joining paths.
fn base(url: &str) -> Result<String, Failure> {
    let full = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let parsed = url::Url::parse(&full)
        .map_err(|error| Failure::usage(format!("{url:?} is not a URL: {error}")))?;
    if parsed.scheme() != "http" {
        return Err(Failure::usage(format!(
            "{url}: only http:// is supported yet"
        )));
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
    if error.is_connect() {
        return Failure::failed(format!("nothing answers at {at}"))
            .hint("start it with `tidelake local`, or say where it is: --url, --query-url");
    }
    Failure::failed(format!("{at}: {}", chain(error)))
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
        assert_eq!(base("https://h").unwrap_err().exit, Exit::Usage);
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
