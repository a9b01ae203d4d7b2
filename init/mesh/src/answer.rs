//! Our own answers: a status code and one line of plain text.

use hyper::Response;
use hyper::http::StatusCode;
use hyper::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};

use crate::body::ResponseBody;

pub(crate) fn text(status: StatusCode, line: impl std::fmt::Display) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::from(format!("{line}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// 405, with the methods that are offered.
pub(crate) fn other_method(offered: &'static str) -> Response<ResponseBody> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format_args!("only {offered} is offered"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(offered));
    response
}
