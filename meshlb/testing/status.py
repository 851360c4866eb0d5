"""The Status objects a kube-apiserver answers with when it refuses: bodies, codes and headers as recorded from 1.36.

Each function returns a `StatusError` to raise; the API server turns it into an HTTP answer, or into the ERROR event of a watch.
429 and 500 are not among the recordings; they follow apimachinery's ``NewTooManyRequests`` and ``NewInternalError``.
"""

from __future__ import annotations

from typing import Any


class StatusError(Exception):
    """A refusal: the Status body, its HTTP code and the seconds of the Retry-After header, if there is one."""

    def __init__(self, status: dict[str, Any], retry_after_s: int | None = None) -> None:
        self.status = status
        self.code: int = status["code"]
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.code} {status.get('reason', '')}: {status['message']}")


def _status(code: int, reason: str | None, message: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    status: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    if reason is not None:
        status["reason"] = reason
    if details is not None:
        status["details"] = details
    status["code"] = code
    return status


def bad_request(message: str) -> StatusError:
    return StatusError(_status(400, "BadRequest", message))


def unauthorized() -> StatusError:
    return StatusError(_status(401, "Unauthorized", "Unauthorized"))


def forbidden(*, user: str, verb: str, resource: str, group: str, namespace: str | None, name: str | None) -> StatusError:
    """RBAC said no. ``namespace`` None means the whole cluster, ``name`` None a list or watch."""
    qualified = f"{resource}.{group}" if group else resource
    subject = f'{qualified} "{name}"' if name else qualified
    scope = f'in the namespace "{namespace}"' if namespace is not None else "at the cluster scope"
    message = f'{subject} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}" {scope}'
    details = {key: value for key, value in (("name", name), ("group", group), ("kind", resource)) if value}
    return StatusError(_status(403, "Forbidden", message, details))


def no_such_path() -> StatusError:
    return StatusError(_status(404, "NotFound", "the server could not find the requested resource", {}))


def not_found(*, resource: str, group: str, name: str) -> StatusError:
    qualified = f"{resource}.{group}" if group else resource
    details = {key: value for key, value in (("name", name), ("group", group), ("kind", resource)) if value}
    return StatusError(_status(404, "NotFound", f'{qualified} "{name}" not found', details))


def method_not_allowed() -> StatusError:
    message = "the server does not allow this method on the requested resource"
    return StatusError(_status(405, "MethodNotAllowed", message, {}))


def expired(message: str) -> StatusError:
    """The resource version or continue token is too old."""
    return StatusError(_status(410, "Expired", message))


def invalid_list_options(field: str, message: str) -> StatusError:
    """The combination of list or watch parameters is not allowed (a server without the WatchList feature, for one)."""
    details = {
        "group": "meta.k8s.io",
        "kind": "ListOptions",
        "causes": [{"reason": "FieldValueForbidden", "message": f"Forbidden: {message}", "field": field}],
    }
    return StatusError(_status(422, "Invalid", f'ListOptions.meta.k8s.io "" is invalid: {field}: Forbidden: {message}', details))


def too_many_requests(retry_after_s: int | None) -> StatusError:
    details = {"retryAfterSeconds": retry_after_s} if retry_after_s else {}
    message = "Too many requests, please try again later."
    return StatusError(_status(429, "TooManyRequests", message, details), retry_after_s)


def internal_error(message: str) -> StatusError:
    details = {"causes": [{"message": message}]}
    return StatusError(_status(500, "InternalError", f"Internal error occurred: {message}", details))


def malformed_watch_version(value: str) -> StatusError:
    """A watch from a version that is no number: a 500 without a reason, where a list answers 400. Recorded, not a slip."""
    return StatusError(_status(500, None, f"resourceVersion: {_not_a_number(value)}"))


def malformed_list_version(value: str) -> StatusError:
    return bad_request(f"invalid resource version: resourceVersion: {_not_a_number(value)}")


def _not_a_number(value: str) -> str:
    return f'Invalid value: "{value}": strconv.ParseUint: parsing "{value}": invalid syntax'


def version_too_large(requested: int, current: int) -> StatusError:
    """The client has seen a newer version than this server: wait a second and ask again."""
    details = {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }
    message = f"Timeout: Too large resource version: {requested}, current: {current}"
    return StatusError(_status(504, "Timeout", message, details), 1)


def injected(code: int, retry_after_s: int | None) -> StatusError:
    """The refusal a test asked for with ``ApiServer.fail``: in the shape the real server has for that code."""
    match code:
        case 401:
            return unauthorized()
        case 404:
            return no_such_path()
        case 410:
            return expired("The resourceVersion for the provided list is too old.")
        case 429:
            return too_many_requests(retry_after_s)
        case 500:
            return internal_error("injected by the test")
        case 503:
            details = {"retryAfterSeconds": retry_after_s} if retry_after_s else {}
            message = "the server is currently unable to handle the request"
            return StatusError(_status(503, "ServiceUnavailable", message, details), retry_after_s)
        case 504:
            details = {"retryAfterSeconds": retry_after_s} if retry_after_s else {}
            message = "Timeout: request did not complete within the allotted timeout"
            return StatusError(_status(504, "Timeout", message, details), retry_after_s)
        case _:
            return StatusError(_status(code, None, "injected by the test"), retry_after_s)
