//! Errors as clients see them: `application/problem+json` after RFC 9457, with a word for programs and the mend.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use baton_model::{CallId, FunctionId};
use serde::Serialize;
use serde_json::{Value, json};

use crate::request::{CALL_ID, location};

/// One refusal or failure. In a box: answers that are none are the rule, and should not carry its size.
#[derive(Debug)]
pub(crate) struct Problem(Box<Facts>);

#[derive(Debug)]
struct Facts {
    status: StatusCode,
    kind: &'static str,
    code: Option<String>,
    detail: String,
    retry_after: Option<Duration>,
    /// What `WWW-Authenticate` says.
    challenge: Option<&'static str>,
    /// The call that this is about, with its place.
    call: Option<(CallId, String)>,
}

#[derive(Serialize)]
struct Wire<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a CallId>,
}

impl Problem {
    /// A problem of the kind that `kind` names, in one word.
    ///
    /// # Panics
    /// If `status` is no HTTP status; every caller gives a constant.
    pub(crate) fn new(status: u16, kind: &'static str) -> Self {
        let status = StatusCode::from_u16(status).expect("a constant of this crate is an HTTP status");
        let facts =
            Facts { status, kind, code: None, detail: String::new(), retry_after: None, challenge: None, call: None };
        Self(Box::new(facts))
    }

    /// A request that breaks a rule.
    pub(crate) fn bad(kind: &'static str, detail: impl Into<String>) -> Self {
        Self::new(400, kind).detail(detail)
    }

    /// What is wrong, the rule and the mend, for people.
    pub(crate) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = detail.into();
        self
    }

    /// A word of the function's own in place of the kind.
    pub(crate) fn code(mut self, code: String) -> Self {
        self.0.code = Some(code);
        self
    }

    pub(crate) fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// How a client shows who it is.
    pub(crate) fn challenge(mut self, challenge: &'static str) -> Self {
        self.0.challenge = Some(challenge);
        self
    }

    /// The call that this is about; the answer names it.
    pub(crate) fn about(mut self, function: &FunctionId, id: &CallId) -> Self {
        self.0.call = Some((id.clone(), location(function, id)));
        self
    }

    /// The same about one of several calls, of which others may have no problem.
    pub(crate) fn of_one(&self) -> Value {
        json!({ "code": self.0.code.as_deref().unwrap_or(self.0.kind), "detail": self.0.detail })
    }

    /// A title for each kind would only say the code again; the status has one already.
    fn title(&self) -> &'static str {
        self.0.status.canonical_reason().unwrap_or("Error")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let facts = &*self.0;
        let wire = Wire {
            r#type: format!("urn:baton:problem:{}", facts.kind),
            title: self.title(),
            status: facts.status.as_u16(),
            detail: &facts.detail,
            code: facts.code.as_deref().unwrap_or(facts.kind),
            id: facts.call.as_ref().map(|(id, _)| id),
        };
        let body = serde_json::to_vec(&wire).expect("a problem has only fields that JSON can hold");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = facts.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(after) = facts.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some(challenge) = facts.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some((id, place)) = &facts.call {
            headers.insert(CALL_ID, HeaderValue::from_str(id.as_str()).expect("a call id is printable ASCII"));
            headers.insert(LOCATION, HeaderValue::from_str(place).expect("a location is ASCII"));
        }
        response
    }
}
