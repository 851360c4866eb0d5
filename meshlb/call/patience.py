"""How long a call waits for what it needs before it can be sent: discovery's first answer, then a connection.

A deadline, or ``wait_for_ready``, is its own limit. Without one, each is waited for at most as long as the configuration says, counted
from the first time that the call asked; and not at all when no source can say where the endpoints are.
"""

from __future__ import annotations

import copy

from meshlb.errors import NoEndpointError, ResolveError
from meshlb.pool.view import View


class Patience:
    """One call's; used by one thread or task at a time."""

    __slots__ = ("_connect_timeout_s", "_connecting_until_s", "_first_answer_timeout_s", "_resolving_until_s", "_view")

    def __init__(self, view: View, first_answer_timeout_s: float, connect_timeout_s: float) -> None:
        self._view = view
        self._first_answer_timeout_s = first_answer_timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._resolving_until_s: float | None = None
        self._connecting_until_s: float | None = None

    def for_first_answer_s(self, now_s: float, deadline_s: float | None, wait_for_ready: bool) -> float | None:
        """Until when to wait; None: without limit. Raises ResolveError when that is pointless, or over."""
        error = self._view.error
        if error is not None:
            self._view.pool.resolve_now()
        if error is not None and (not wait_for_ready or self._view.pool.over):
            raise copy.copy(error)  # raised itself, one object would collect the frames of every call that it fails
        if deadline_s is not None or wait_for_ready:
            return deadline_s
        if self._resolving_until_s is None:
            self._resolving_until_s = now_s + self._first_answer_timeout_s
        if now_s >= self._resolving_until_s:
            waited = f"no answer within first_answer_timeout_s={self._first_answer_timeout_s:g}"
            raise ResolveError(self._view.pool.target, (self._view.explain(),), summary=waited)
        return self._resolving_until_s

    def for_connection_s(self, now_s: float, deadline_s: float | None) -> float:
        """The same, once the endpoints are known; raises NoEndpointError when it is over."""
        if deadline_s is not None:
            return deadline_s
        if self._connecting_until_s is None:
            self._connecting_until_s = now_s + self._connect_timeout_s
        if now_s >= self._connecting_until_s:
            waited = f"no connection within connect_timeout_s={self._connect_timeout_s:g}"
            raise NoEndpointError(self._view.pool.target, f"{waited}: {self._view.explain()}")
        return self._connecting_until_s
