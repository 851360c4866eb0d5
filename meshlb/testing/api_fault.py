"""What `ApiServer.fail` asks for: a refusal, for some verbs and resources, a number of times or for good."""

from __future__ import annotations

from collections.abc import Collection

from meshlb.testing.api_requests import Route
from meshlb.testing.status import injected


class ApiFault:
    """Raises ValueError for what no server could answer; ``in_stream``: the refusal of a watch comes on an accepted stream."""

    def __init__(
        self,
        status: int,
        *,
        retry_after_s: int | None,
        verbs: Collection[str],
        resources: Collection[str] | None,
        times: int | None,
        in_stream: bool | None,
    ) -> None:
        if isinstance(verbs, str) or not set(verbs) <= {"list", "watch", "get"}:
            raise ValueError(f"verbs={verbs!r}: must be a collection of 'list', 'watch', 'get'")
        if isinstance(resources, str):
            raise ValueError(f"resources={resources!r}: must be a collection of names, not one string")
        if not 400 <= status <= 599:
            raise ValueError(f"status={status!r}: must be an HTTP error, 400..599")
        self.in_stream = status == 410 if in_stream is None else in_stream
        self._error = injected(status, retry_after_s)
        self._verbs = frozenset(verbs)
        self._resources = None if resources is None else frozenset(resources)
        self._left = times

    def check(self, where: Route) -> None:
        """Raises StatusError if it is this request's turn."""
        if where.verb not in self._verbs or self._left == 0:
            return
        if self._resources is not None and where.resource.plural not in self._resources:
            return
        if self._left is not None:
            self._left -= 1
        raise self._error
