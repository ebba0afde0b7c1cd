//! An error as a client sees it: `application/problem+json` (RFC 9457).
//!
//! Owns the shape and the mapping from [`ErrorKind`] to a status. Which error deserves which code is
//! each service's own `problem.rs`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidelake_core::ErrorKind;

/// An error answer. `code` is a stable upper-snake word that clients may branch on; the rest is for
/// people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub status: u16,
    pub code: &'static str,
    pub title: String,
    pub detail: String,
    /// The row within the request's body, counted from 0.
    pub row: Option<u64>,
    /// The field's path within the row, such as `pt.x` or `tags[2]`.
    pub field: Option<String>,
    /// Of a statement: where in its text.
    pub position: Option<Position>,
    /// Of a statement: the class and condition that SQL has for it (ISO 9075, as PostgreSQL).
    pub sqlstate: Option<&'static str>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Seconds after which a retry makes sense; sent as `retry-after`.
    pub retry_after_s: Option<u32>,
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Position {
    /// From 1.
    pub line: u64,
    /// Characters within the line, from 1.
    pub column: u64,
    /// Characters from the text's beginning, from 0, where the text was at hand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl Position {
    /// None for line or column 0, which stand for no place.
    pub fn at(line: u64, column: u64) -> Option<Self> {
        (line > 0 && column > 0).then_some(Self {
            line,
            column,
            offset: None,
        })
    }

    /// Behind the text's last character.
    pub fn at_end(text: &str) -> Self {
        let last = text.rsplit('\n').next().unwrap_or(text);
        Self {
            line: text.matches('\n').count() as u64 + 1,
            column: last.chars().count() as u64 + 1,
            offset: Some(text.chars().count() as u64),
        }
    }

    /// The place with its offset in `text`; as it is where the text has no such line.
    #[must_use]
    pub fn in_text(self, text: &str) -> Self {
        let skipped = usize::try_from(self.line - 1).unwrap_or(usize::MAX);
        let mut before = 0;
        for (number, line) in text.split('\n').enumerate() {
            if number == skipped {
                let offset = before + self.column - 1;
                return Self {
                    offset: Some(offset),
                    ..self
                };
            }
            before += line.chars().count() as u64 + 1;
        }
        self
    }
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

impl Problem {
    pub fn new(status: u16, code: &'static str, title: impl Into<String>) -> Self {
        Self {
            status,
            code,
            title: title.into(),
            detail: String::new(),
            row: None,
            field: None,
            position: None,
            sqlstate: None,
            hint: None,
            retry_after_s: None,
        }
    }

    /// The answer that follows from the kind alone. [`ErrorKind::Bug`] and [`ErrorKind::Corrupt`]
    /// are logged in full and told to the client in a sentence, so no internals leak.
    pub fn from_kind(kind: ErrorKind, detail: impl Into<String>) -> Self {
        let (status, code, title) = match kind {
            ErrorKind::Invalid => (400, "INVALID", "the request is not valid"),
            ErrorKind::NotFound => (404, "NOT_FOUND", "not there, or not yours to see"),
            ErrorKind::Conflict => (409, "CONFLICT", "something else excludes this"),
            ErrorKind::TooLarge => (413, "TOO_LARGE", "too large"),
            ErrorKind::Denied => (403, "DENIED", "not allowed"),
            ErrorKind::Fenced => (503, "FENCED", "another worker has taken over: retry"),
            ErrorKind::Unavailable => (503, "UNAVAILABLE", "not available now: retry"),
            ErrorKind::Closed => (503, "SHUTTING_DOWN", "shutting down: retry elsewhere"),
            ErrorKind::Corrupt => (500, "CORRUPT", "stored data contradicts itself"),
            ErrorKind::Bug => (500, "INTERNAL", "internal error"),
        };
        let mut problem = Self::new(status, code, title);
        let detail = detail.into();
        match kind {
            ErrorKind::Bug | ErrorKind::Corrupt => {
                tracing::error!(code, detail, "request failed");
                problem.detail = "the server's log has the details".to_owned();
            }
            _ => problem.detail = detail,
        }
        if status == 503 {
            problem.retry_after_s = Some(1);
        }
        problem
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn row(mut self, row: u64) -> Self {
        self.row = Some(row);
        self
    }

    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    #[must_use]
    pub fn position(mut self, position: Option<Position>) -> Self {
        self.position = position;
        self
    }

    #[must_use]
    pub fn sqlstate(mut self, sqlstate: &'static str) -> Self {
        self.sqlstate = Some(sqlstate);
        self
    }

    #[must_use]
    pub fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = Body {
            r#type: format!("urn:tidelake:problem:{}", self.code.to_ascii_lowercase()),
            title: &self.title,
            status: status.as_u16(),
            code: self.code,
            detail: if self.detail.is_empty() {
                &self.title
            } else {
                &self.detail
            },
            row: self.row,
            field: self.field.as_deref(),
            position: self.position,
            sqlstate: self.sqlstate,
            hint: self.hint.as_deref(),
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        let media_type = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, media_type);
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body_of(problem: Problem) -> (Response<()>, serde_json::Value) {
        let (parts, body) = problem.into_response().into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 16).await.unwrap();
        (
            Response::from_parts(parts, ()),
            serde_json::from_slice(&bytes).unwrap(),
        )
    }

    #[tokio::test]
    async fn a_problem_names_row_field_and_what_to_do() {
        let problem = Problem::new(422, "TYPE_MISMATCH", "does not fit the schema")
            .detail("expected int, found string \"abc\"")
            .row(3)
            .field("pt.x")
            .hint("send a number");
        let (response, body) = body_of(problem).await;
        assert_eq!(response.status(), 422);
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "application/problem+json"
        );
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:tidelake:problem:type_mismatch",
                "title": "does not fit the schema", "status": 422, "code": "TYPE_MISMATCH",
                "detail": "expected int, found string \"abc\"",
                "row": 3, "field": "pt.x", "hint": "send a number",
            })
        );
    }

    #[tokio::test]
    async fn a_place_in_a_text_counts_characters() {
        let text = "SELECT 'ü',\n  x";
        let place = Position::at(2, 3).unwrap().in_text(text);
        assert_eq!(place.offset, Some(14));
        assert_eq!(Position::at_end(text).offset, Some(15));
        assert_eq!(Position::at(3, 1).unwrap().in_text(text).offset, None);
        assert_eq!(Position::at(0, 0), None);
        let problem = Problem::new(400, "SQL_SYNTAX", "no SQL");
        let problem = problem.position(Some(place)).sqlstate("42601");
        let (_, body) = body_of(problem).await;
        let shown = serde_json::json!({ "line": 2, "column": 3, "offset": 14 });
        assert_eq!(body["position"], shown);
        assert_eq!(body["sqlstate"], "42601");
    }

    #[tokio::test]
    async fn what_may_be_retried_says_when() {
        let (response, body) = body_of(Problem::from_kind(
            ErrorKind::Unavailable,
            "no broker answers",
        ))
        .await;
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(body["detail"], "no broker answers");
    }

    #[tokio::test]
    async fn internals_do_not_leak() {
        let (response, body) = body_of(Problem::from_kind(ErrorKind::Bug, "index 7 of 3")).await;
        assert_eq!(response.status(), 500);
        assert!(!body.to_string().contains("index 7"), "{body}");
    }
}
