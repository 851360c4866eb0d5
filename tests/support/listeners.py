"""A resolver's listener that keeps what it hears."""

from __future__ import annotations

from meshlb.core.endpoint import EndpointSet
from meshlb.errors import ResolveError


class Recorder:
    """``sets`` and ``errors``, in the order in which they were told."""

    def __init__(self) -> None:
        self.sets: list[EndpointSet] = []
        self.errors: list[ResolveError] = []

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self.sets.append(endpoints)

    def on_error(self, error: ResolveError, /) -> None:
        self.errors.append(error)

    @property
    def hosts(self) -> list[str] | None:
        """Of the last set; None if there was none."""
        return [endpoint.host for endpoint in self.sets[-1].endpoints] if self.sets else None

    @property
    def addresses(self) -> list[str]:
        """Of the last set."""
        return [endpoint.address for endpoint in self.sets[-1].endpoints]
