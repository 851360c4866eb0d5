"""What a server says when it says no: a Status object, in an answer's body or in an ERROR event, or the plain text of a proxy.

Spec: apimachinery meta/v1 Status; API Priority and Fairness for the plain-text 429.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from meshlb.resolve.kubernetes.fields import WireError, document, read

_MESSAGE_LENGTH: Final = 500  # a proxy may answer with a whole page
_LONGEST_S: Final = 86400  # nobody means more; a number of 400 digits is no float

# A Status may lack its code; its reason then tells.
_CODES: Final[Mapping[str, int]] = {
    "BadRequest": 400, "Unauthorized": 401, "Forbidden": 403, "NotFound": 404, "Expired": 410, "Gone": 410, "Invalid": 422,
    "TooManyRequests": 429, "InternalError": 500, "ServiceUnavailable": 503, "Timeout": 504,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server said no: a Status, as an answer's body or as an ERROR event."""

    code: int
    reason: str = ""
    message: str = ""
    retry_after_s: float = 0.0
    too_large_version: bool = False

    @property
    def expired(self) -> bool:
        return self.code == 410 or self.reason in ("Expired", "Gone")

    def __str__(self) -> str:
        return f"{self.code} {self.reason}: {self.message}" if self.reason else f"{self.code}: {self.message}"


def parse_refusal(body: bytes, code: int, retry_after: str = "") -> Refusal:
    """An answer that is not 200: a Status, or the plain text of an overloaded server or of a proxy; never raises.

    ``retry_after``: the header. Only its form in seconds is known; the API server has no other.
    """
    try:
        refusal = of_status(document(body))
    except WireError:
        refusal = Refusal(0, "", " ".join(body.decode("utf-8", "replace").split())[:_MESSAGE_LENGTH])
    seconds = min(float(retry_after), _LONGEST_S) if retry_after.isascii() and retry_after.isdigit() else 0.0
    return Refusal(code, refusal.reason, refusal.message, max(seconds, refusal.retry_after_s), refusal.too_large_version)


def of_status(status: dict[str, Any]) -> Refusal:
    details = read(status, "details", dict, {})
    reason = read(status, "reason", str, "")
    message = read(status, "message", str, "")[:_MESSAGE_LENGTH]
    causes = [read(cause, "reason", str, "") for cause in read(details, "causes", list, ())]
    return Refusal(
        read(status, "code", int, 0) or _CODES.get(reason, 500),
        reason,
        message,
        float(max(0, min(read(details, "retryAfterSeconds", int, 0), _LONGEST_S))),
        "ResourceVersionTooLarge" in causes or "Too large resource version" in message,
    )
