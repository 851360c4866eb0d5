"""A plain HTTP client for the fake API server: no library between the test and the bytes."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from meshlb.testing import FakeCluster

DEADLINE_S = 10.0
SLICES = "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices"


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Watch:
    """An open watch. ``lines()`` yields parsed lines until a clean end; a broken stream raises, as http.client has it."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self.response = response

    def lines(self) -> Iterator[Any]:
        while line := self.response.readline():
            yield json.loads(line)

    def next(self) -> Any:
        """The next event. `TimeoutError` after the client's timeout of silence."""
        return next(self.lines())

    def until(self, condition: Callable[[Any], bool]) -> Any:
        """The first event for which the condition holds."""
        return next(event for event in self.lines() if condition(event))

    def close(self) -> None:
        self._connection.close()
        self.response.close()

    __del__ = close


class Api:
    """Sends requests with the cluster's token, or with another one; ``token=None`` sends none."""

    def __init__(self, cluster: FakeCluster, *, token: str | None = "", timeout_s: float = DEADLINE_S) -> None:
        self._host, self._port = cluster.api.host, cluster.api.port
        self._headers = {} if token is None else {"Authorization": f"Bearer {token or cluster.token}"}
        self._timeout_s = timeout_s

    def get(self, path: str, query: Mapping[str, str] | None = None, **headers: str) -> Answer:
        connection, response = self._send(path, query or {}, headers)
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        connection.close()
        return answer

    def watch(self, path: str, **query: str) -> Watch:
        return Watch(*self._send(path, {"watch": "true", **query}, {}))

    def _send(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        url = path + ("?" + urllib.parse.urlencode(query) if query else "")
        try:
            connection.request("GET", url, headers={**self._headers, **headers})
            return connection, connection.getresponse()
        except OSError:
            connection.close()
            raise


def eventually(condition: Callable[[], Any], *, timeout_s: float = DEADLINE_S) -> Any:
    """Wait for a condition to hold and return its value."""
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, "the condition did not hold in time"
        time.sleep(0.005)
    return value
