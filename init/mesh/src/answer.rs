//! Our own answers: a status code and one line of plain text.

use hyper::Response;
use hyper::http::StatusCode;
use hyper::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};

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
