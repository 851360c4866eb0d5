"""What is wrong with what the API server says: counted always, logged once per object and reason, and never more than ``MAX_WARNED``
lines a stream, so that neither the log nor the memory of it grows with a server's mistakes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Final

from meshlb.resolve.kubernetes.requests import Resource
from meshlb.resolve.kubernetes.transport import SourceError
from meshlb.resolve.kubernetes.wire import Passed, SliceRecord, Unreadable

MAX_WARNED: Final = 50

_log = logging.getLogger("meshlb.resolve.kubernetes")


class Complaints:
    """Of one stream. Belongs to the discovery thread; ``counts`` may be copied from any."""

    def __init__(self, namespace: str, resource: Resource) -> None:
        self.counts: Counter[str] = Counter()
        self._namespace = namespace
        self._resource = resource
        self._warned: set[tuple[str, str]] = set()
        self._told: SourceError | None = None  # the trouble that was logged

    def passed(self, passed: Passed) -> None:
        self.counts[f"skipped: {passed.why}"] += 1

    def unreadable(self, unreadable: Unreadable) -> None:
        self.counts["unreadable"] += 1
        self._warn(unreadable.name, "", f"cannot be read and is skipped: {unreadable.problem}")

    def flaws(self, records: Iterable[SliceRecord]) -> None:
        for record in records:
            for flaw in record.flaws:
                self.counts[f"left out: {flaw}"] += 1
                self._warn(record.name, flaw, f"has {flaw}, which are left out")

    def trouble(self, trouble: SourceError | None) -> None:
        """One line when it begins or changes its kind, one when it is over."""
        if (trouble.kind if trouble else None) == (self._told.kind if self._told else None):
            return
        self._told = trouble
        what = f"{self._resource.value} of namespace {self._namespace}"
        if trouble is None:
            _log.info("%s are watched again", what)
        elif trouble.kind == "forbidden":  # who depends on it warns, with the Role that is missing
            _log.info("%s: %s", what, trouble)
        else:
            _log.warning("%s: %s", what, trouble)

    def _warn(self, name: str, reason: str, text: str) -> None:
        if (name, reason) in self._warned or len(self._warned) >= MAX_WARNED:
            return
        self._warned.add((name, reason))
        last = "; further ones are only counted" if len(self._warned) == MAX_WARNED else ""
        _log.warning("%s %s/%s %s%s", self._resource.value, self._namespace, name or "?", text, last)
