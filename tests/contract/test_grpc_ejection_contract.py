"""What channels tell ejection, and what they spare it, for threads and asyncio, over real loopback servers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest

from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.grpc.marks import endpoint_of
from meshlb.pool.view import View
from tests.support import aio
from tests.support.channels import PATIENCE_S, EchoServer, LooseBinding, bench, echo_servers, eventually, request

GET = "/meshlb.testing.v1.Echo/Get"
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
SHORT = {"base_ejection_s": 0.01, "ejection_jitter_ratio": 0.0}


@pytest.fixture(scope="module")
def servers() -> Iterator[list[EchoServer]]:
    with echo_servers(2) as served:
        yield served


def _is_ejected(binding: LooseBinding, view: View, bad: Subchannel) -> bool:
    """A few more calls, of which those to this one fail."""
    for _ in range(10):
        attempt = view.begin(PickInfo(GET))
        assert attempt is not None
        view.end(attempt, Outcome.FAILURE if attempt.subchannel is bad else Outcome.SUCCESS)
    return bad in binding.pool.snapshot.ejected


@pytest.mark.parametrize("method", ["Watch", "Chat"])
@pytest.mark.parametrize("retry", ["on", {"idempotent": ["*"]}])
def test_the_first_message_of_a_stream_brings_an_endpoint_back_while_it_lasts(
    method: str, retry: Any, servers: list[EchoServer]
) -> None:
    """Where an endpoint serves nothing but streams, none may end for hours."""
    binding = LooseBinding(outlier=SHORT, retry=retry)
    over = threading.Event()

    def requests() -> Iterator[Any]:
        yield request("0")
        over.wait(PATIENCE_S)

    with bench(*servers, binding=binding) as channel:
        channel.ready(2)
        view = channel.connections.view
        assert view is not None
        bad = binding.pool.snapshot.eligible[0]
        eventually(lambda: _is_ejected(binding, view, bad), "it is ejected")

        def probing_stream() -> Any:
            stream = getattr(channel.stub, method)(request("0", count=2, interval_s=60) if method == "Watch" else requests())
            if endpoint_of(stream) == bad.endpoint:
                return stream
            stream.cancel()
            return None

        probe = eventually(probing_stream, "a stream is the probe")
        assert next(probe).pod == bad.endpoint.name
        eventually(lambda: bad not in binding.pool.snapshot.ejected, "it is back")
        assert len(bad.streams) == 1
        assert not probe.done()
        probe.cancel()
        over.set()


@pytest.mark.parametrize("method", ["Watch", "Chat", "read"])
@pytest.mark.parametrize("retry", ["on", {"idempotent": ["*"]}])
async def test_the_first_message_of_an_asyncio_stream_brings_an_endpoint_back_while_it_lasts(
    method: str, retry: Any, servers: list[EchoServer]
) -> None:
    """The same by iteration and by ``read``."""
    binding = LooseBinding(outlier=SHORT, retry=retry)
    over = asyncio.Event()

    async def requests() -> AsyncIterator[Any]:
        yield request("0")
        await over.wait()

    async with aio.bench(*servers, binding=binding) as channel:
        await channel.ready(2)
        bad, view = binding.pool.snapshot.eligible[0], channel.driver.view
        await aio.eventually(lambda: _is_ejected(binding, view, bad), "it is ejected")

        def probing_stream() -> Any:
            sends_one = method != "Chat"
            begin = channel.stub.Watch if sends_one else channel.stub.Chat
            stream = begin(request("0", count=2, interval_s=60) if sends_one else requests())
            if endpoint_of(stream) == bad.endpoint:
                return stream
            stream.cancel()
            return None

        probe = await aio.eventually(probing_stream, "a stream is the probe")
        message = await (probe.read() if method == "read" else anext(aiter(probe)))
        assert message.pod == bad.endpoint.name
        await aio.eventually(lambda: bad not in binding.pool.snapshot.ejected, "it is back")
        assert len(bad.streams) == 1
        assert not probe.done()
        over.set()
        probe.cancel()


IGNORES = [("ignored", {"ignore_methods": [GET]}, 0), ("counted", {"ignore_methods": ["/shop.Orders/*"]}, 1)]


@pytest.mark.parametrize(("name", "outlier", "counted"), IGNORES, ids=[name for name, *_ in IGNORES])
def test_calls_of_ignored_methods_do_not_count_for_ejection(
    name: str, outlier: dict[str, Any], counted: int, servers: list[EchoServer]
) -> None:
    """Blocking, with its call, as a future; whether they succeed or fail."""
    with bench(*servers, binding=LooseBinding(outlier=outlier)) as channel:
        channel.ready(2)
        get = channel.stub.Get
        for ways in (lambda one: get(one), lambda one: get.with_call(one), lambda one: get.future(one).result(PATIENCE_S)):
            ways(request())
            with contextlib.suppress(grpc.RpcError):
                ways(request(fail_code=UNAVAILABLE.value[0]))
        channel.idle()
        subs = channel.binding.subchannels
        assert (sum(sub.succeeded for sub in subs), sum(sub.failed for sub in subs)) == (3 * counted, 3 * counted), name


@pytest.mark.parametrize(("name", "outlier", "counted"), IGNORES, ids=[name for name, *_ in IGNORES])
async def test_asyncio_calls_of_ignored_methods_do_not_count_for_ejection(
    name: str, outlier: dict[str, Any], counted: int, servers: list[EchoServer]
) -> None:
    """The same."""
    async with aio.bench(*servers, binding=LooseBinding(outlier=outlier)) as channel:
        await channel.ready(2)
        await channel.stub.Get(request())
        with contextlib.suppress(grpc.RpcError):
            await channel.stub.Get(request(fail_code=UNAVAILABLE.value[0]))
        await channel.idle()
        subs = channel.binding.subchannels
        assert (sum(sub.succeeded for sub in subs), sum(sub.failed for sub in subs)) == (counted, counted), name
