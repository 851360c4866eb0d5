"""A reader that is ended from within is the end of a request, not of a stream: whoever owns it hears, and asks again."""

from __future__ import annotations

import random
from collections.abc import Generator

import pytest

from meshlb.resolve.kubernetes.backoff import Waits
from meshlb.resolve.kubernetes.reading import Parsers, read_list, read_watch
from meshlb.resolve.kubernetes.requests import ListRequest, Query, WatchRequest
from meshlb.resolve.kubernetes.transport import ApiError, Interrupt
from meshlb.resolve.kubernetes.watch import ListWatch


class Deadly:
    """A transport in which something raises what nobody expects: an exec plugin, a signal's handler, a greenlet's end."""

    server = "https://127.0.0.1:1"

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def get(self, path: str, query: Query, interrupt: Interrupt) -> bytes:
        raise self._error

    def watch(self, path: str, query: Query, interrupt: Interrupt, *, read_timeout_s: float) -> Generator[list[bytes]]:
        yield []
        raise self._error

    def renew_credentials(self) -> None: ...

    def close(self) -> None: ...


def list_watch() -> ListWatch:
    return ListWatch("shop", Waits.load(), random.Random(1))


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), MemoryError(), GeneratorExit(), RecursionError()])
def test_whatever_ends_a_reader_is_told_as_the_end_of_its_request(error: BaseException) -> None:
    """A list gives an error, a watch ends with one; the next request is made after a back-off and not at once."""
    machine = list_watch()
    machine.add("orders")
    request = machine.next(0.0)
    assert isinstance(request, ListRequest)
    answer = read_list(request, Interrupt(), Deadly(error), Parsers.of(request.resource))
    assert isinstance(answer, ApiError)
    assert type(error).__name__ in str(answer)
    machine.on_list_failed(answer, 0.0)
    delay_s = machine.next(0.0)
    assert isinstance(delay_s, float)
    assert delay_s > 0.5
    watch = WatchRequest(namespace="shop", services=request.services, resource_version="1", timeout_s=300)
    ended = read_watch(watch, Interrupt(), Deadly(error), Parsers.of(watch.resource), lambda events: None)
    assert isinstance(ended, ApiError)
