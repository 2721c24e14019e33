//! The `Status` objects in which the API says what went wrong.
//!
//! Codes, reasons and the beginnings of messages are those of Kubernetes' `apimachinery`
//! (`pkg/api/errors/errors.go`), which clients decide by.

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use serde_json::{Value, json};

use super::resource::Resource;

/// An answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status, also in the object.
    pub code: u16,
    /// `reason`
    pub reason: &'static str,
    /// `message`
    pub message: String,
    /// `details.retryAfterSeconds`, also the header.
    pub retry_after: Option<u32>,
    /// `details.causes[0].reason`
    pub cause: Option<&'static str>,
}

impl Status {
    /// Any.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            retry_after: None,
            cause: None,
        }
    }

    /// Nothing is served there, or a kind is not known.
    #[must_use]
    pub fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message)
    }

    /// There is no object of this name.
    #[must_use]
    pub fn no_such_object(resource: Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.qualified());
        Self::new(404, "NotFound", message)
    }

    /// There is one already.
    #[must_use]
    pub fn exists(resource: Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message)
    }

    /// The object was changed since it was read.
    #[must_use]
    pub fn conflict(resource: Resource, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the object has been modified; please \
             apply your changes to the latest version and try again",
            resource.qualified()
        );
        Self::new(409, "Conflict", message)
    }

    /// No token, or one that is not valid any more.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// The role does not allow it.
    #[must_use]
    pub fn forbidden(resource: Resource, verb: &str) -> Self {
        let message = format!(
            "{} is forbidden: User \"system:serviceaccount:kube-system:weir\" cannot {verb} \
             resource {:?} in API group {:?} at the cluster scope",
            resource.qualified(),
            resource.plural(),
            resource.group()
        );
        Self::new(403, "Forbidden", message)
    }

    /// A watch from a version whose successors are forgotten.
    #[must_use]
    pub fn too_old(asked: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(410, "Expired", message)
    }

    /// A page of a list that is forgotten.
    #[must_use]
    pub fn continue_expired() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list \
                       result. You must start a new list without the continue parameter.";
        Self::new(410, "Expired", message)
    }

    /// A version that is not there yet.
    #[must_use]
    pub fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        Self {
            retry_after: Some(1),
            cause: Some("ResourceVersionTooLarge"),
            ..Self::new(504, "Timeout", message)
        }
    }

    /// A parameter that cannot be read.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// Parameters, or an object, that do not go together.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// The object that says so.
    #[must_use]
    pub fn object(&self) -> Value {
        let mut object = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(seconds) = self.retry_after {
            object["details"]["retryAfterSeconds"] = json!(seconds);
        }
        if let Some(reason) = self.cause {
            object["details"]["causes"] = json!([{ "reason": reason }]);
        }
        object
    }

    /// The answer that says so.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json_response(code, &self.object());
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// An answer that is an object.
#[must_use]
pub fn json_response(code: StatusCode, object: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(object.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}
