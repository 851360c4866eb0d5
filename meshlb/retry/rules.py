"""What holds for one method, worked out once: the config's words, and a gRPC service config's, in order of their strength."""

from __future__ import annotations

from typing import Any, Final

from meshlb.retry.backoff import Backoff
from meshlb.retry.settings import Decides, MethodRetry, Retry
from meshlb.retry.throttle import Throttling

_NOT = ("0", "false", "no")


class Rules:
    """Immutable. ``retries``: an attempt that was sent may be followed by another, also without a word in the call's metadata."""

    __slots__ = (
        "backoff",
        "codes",
        "enabled",
        "idempotent",
        "max_attempts",
        "metadata_key",
        "per_try_timeout_s",
        "retries",
        "stop",
        "throttling",
        "wait",
    )

    def __init__(
        self,
        *,
        backoff: Backoff,
        enabled: bool = True,
        idempotent: bool = False,
        codes: frozenset[str] = frozenset(),
        max_attempts: int = 3,
        metadata_key: str = "",
        per_try_timeout_s: float = 0.0,
        stop: Decides | None = None,
        wait: Decides | None = None,
        throttling: Throttling | None = None,
    ) -> None:
        self.backoff = backoff
        self.enabled = enabled
        self.idempotent = idempotent
        self.codes = codes
        self.max_attempts = max_attempts
        self.metadata_key = metadata_key if enabled else ""
        self.per_try_timeout_s = per_try_timeout_s
        self.stop = stop
        self.wait = wait
        self.throttling = throttling
        self.retries = enabled and (idempotent or bool(codes)) and (max_attempts > 1 or stop is not None)

    def is_idempotent(self, metadata: Any) -> bool:
        """Declared for the method, or by this call: its metadata has the last word."""
        said = [value for key, value in metadata or () if key == self.metadata_key] if self.metadata_key else []
        return said[-1] not in _NOT if said else self.idempotent

    def may_retry(self, metadata: Any) -> bool:
        """An attempt of this call that was sent may be followed by another."""
        return self.retries or (bool(self.metadata_key) and self.is_idempotent(metadata))

    @property
    def plain(self) -> bool:
        """A call that succeeds at once needs none of this."""
        return not self.per_try_timeout_s and self.throttling is None

    def __repr__(self) -> str:
        return (
            f"<Rules enabled={self.enabled} idempotent={self.idempotent} codes={sorted(self.codes)} max_attempts={self.max_attempts} "
            f"per_try_timeout_s={self.per_try_timeout_s:g} {self.backoff!r}>"
        )


def rules_of(
    retry: Retry, method: str, lifted: MethodRetry | None = None, throttling: Throttling | None = None, *, per_try: bool = True
) -> Rules:
    """``lifted``: the ``retryPolicy`` of gRPC's service config for this method. ``per_try=False``: a stream's answers have no limit."""
    entries = [*retry.entries_for(method)]
    said = [*entries, lifted] if lifted is not None else entries
    backoff_is_grpcs = lifted is not None and not any(entry.base_s is not None or entry.max_s is not None for entry in entries)

    def word(field: str) -> Any:
        return next((value for entry in said if (value := getattr(entry, field)) is not None), getattr(retry, field))

    base_s, max_s = word("base_s"), word("max_s")
    return Rules(
        backoff=Backoff(base_s, max(base_s, max_s), word("multiplier"), full_jitter=not backoff_is_grpcs),
        enabled=retry.enabled,
        idempotent=retry.is_idempotent(method),
        codes=frozenset(word("codes")),
        max_attempts=word("max_attempts"),
        metadata_key=retry.idempotent_metadata,
        per_try_timeout_s=word("per_try_timeout_s") if per_try and retry.enabled else 0.0,
        stop=retry.stop,
        wait=retry.wait,
        throttling=throttling if lifted is not None else None,
    )


NEVER_SENT_ONLY: Final = rules_of(Retry(), "")
