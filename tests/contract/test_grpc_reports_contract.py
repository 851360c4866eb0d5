"""Load reports on their way to the pool, for threads and asyncio alike: from trailers and out of band, over real loopback servers."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from meshlb.core.report import LoadReport
from meshlb.grpc.oob import Restarts
from meshlb.load.orca_wire import decode_request, encode
from tests.contract.grpc_aio_driver import LoopThread
from tests.picking import seeded
from tests.support import aio
from tests.support.channels import PATIENCE_S, Bench, LooseBinding, eventually
from tests.support.reporting import KINDS, ReportingServer, reporting_servers

SAID = "TEXT rps_fractional:100,cpu_utilization:0.25"
QUICK = {"source": "a58", "blackout_s": 0.0, "update_s": 0.1}
OOB = {**QUICK, "oob": True, "oob_interval_s": 0.1}
MESSAGE = encode(LoadReport(qps=100.0, cpu_utilization=0.25))
UNIMPLEMENTED, UNAVAILABLE = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE


class Client:
    """A channel of ours over some servers; blocks until a call is over. How it is used is the same for threads and asyncio."""

    def __init__(self, binding: LooseBinding) -> None:
        self.binding = binding

    def call(self, kind: str, request: bytes = b"x", via: str = "") -> Any:
        """The code."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def forget(self) -> weakref.ref[Any]:
        """Drop the channel without closing it; what must be freed."""
        raise NotImplementedError

    def weight(self, key: str) -> int:
        return int(self.binding.pool.describe()["weight"][key])

    def reported(self, at: int = 0) -> dict[str, Any]:
        said: dict[str, Any] = self.binding.pool.describe()["endpoints"][at].get("reported", {})
        return said


class SyncClient(Client):
    def __init__(self, binding: LooseBinding, options: Any = ()) -> None:
        super().__init__(binding)
        self._bench: Bench | None = Bench(binding, options=options)

    def call(self, kind: str, request: bytes = b"x", via: str = "") -> Any:
        assert self._bench is not None
        invoke = getattr(self._bench.channel, kind)(f"/test.Kinds/{kind}")
        sent = iter([request]) if kind.startswith("stream_") else request
        try:
            if kind.endswith("_stream"):
                list(invoke(sent, timeout=PATIENCE_S))
            elif via:
                answer = getattr(invoke, via)(sent, timeout=PATIENCE_S)
                if via == "future":
                    answer.result()
            else:
                invoke(sent, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def close(self) -> None:
        if self._bench is not None:
            self._bench.channel.close()
        self.binding.scheduler.stop(1.0)

    def forget(self) -> weakref.ref[Any]:
        assert self._bench is not None
        connections = weakref.ref(self._bench.connections)
        self._bench = None
        return connections


class AioClient(Client):
    def __init__(self, binding: LooseBinding, options: Any = ()) -> None:
        super().__init__(binding)
        self.loop = LoopThread(asyncio.new_event_loop)
        self._channel: Any = aio.channel_of(binding, options=options)

    def call(self, kind: str, request: bytes = b"x", via: str = "") -> Any:
        async def whole() -> Any:
            async def requests() -> Any:
                yield request

            invoke = getattr(self._channel, kind)(f"/test.Kinds/{kind}")
            call = invoke(requests() if kind.startswith("stream_") else request, timeout=PATIENCE_S)
            try:
                if kind.endswith("_stream"):
                    async for _ in call:
                        pass
                else:
                    await call
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        return self.loop.run(whole())

    def close(self) -> None:
        if self._channel is not None:
            self.loop.run(self._channel.close(PATIENCE_S))
        left = self.loop.run(_our_tasks())
        self.loop.stop()
        assert left == []
        self.binding.scheduler.stop(1.0)

    def forget(self) -> weakref.ref[Any]:
        (driver,) = self._channel.drivers.values()
        ref = weakref.ref(driver)
        del driver
        self._channel = None
        return ref


async def _our_tasks() -> list[Any]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "meshlb-load-reports"]


CLIENTS: dict[str, Callable[..., Client]] = {"threads": SyncClient, "asyncio": AioClient}
Make = Callable[..., Client]


@pytest.fixture(params=CLIENTS)
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """A client over these servers; closed at the end, with nothing in flight and no bug hidden."""
    made: list[Client] = []

    def opened(servers: list[ReportingServer], weight: Any, options: Any = (), **settings: Any) -> Client:
        binding = LooseBinding(weight=weight, **settings)
        binding.update([server.endpoint for server in servers])
        made.append(CLIENTS[request.param](binding, options))
        return made[-1]

    yield opened
    for client in made:
        try:
            eventually(lambda client=client: gc.collect() >= 0 and client.binding.in_flight == 0, "nothing is in flight")
            assert client.binding.internal_errors == []
        finally:
            client.close()


# --- from trailers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("request_", [b"x", b"fail"], ids=["well", "failed"])
@pytest.mark.parametrize("via", ["", "with_call", "future"])
def test_the_report_of_every_call_is_heard_however_it_ends(make: Make, kind: str, request_: bytes, via: str) -> None:
    """Once for each attempt."""
    if via and kind.endswith("_stream"):
        pytest.skip("streams have one way")
    with reporting_servers(SAID) as servers:
        client = make(servers, QUICK)
        for count in (1, 2, 3):
            assert client.call(kind, request_, via) is (grpc.StatusCode.OK if request_ == b"x" else UNAVAILABLE)
            eventually(lambda count=count: client.weight("reports") == count, "heard")  # grpc's thread may be a moment behind
        assert client.reported()["qps"] == 100.0
        assert client.reported()["utilization"] == 0.25


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
def test_attempts_that_are_followed_by_others_are_heard_too(make: Make, kind: str) -> None:
    """Each of three."""
    with reporting_servers(SAID, SAID, SAID) as servers:
        retry = {"codes": ["UNAVAILABLE"], "idempotent": ["*"], "max_attempts": 3, "base_s": 0.001, "max_s": 0.002}
        client = make(servers, QUICK, retry=retry)
        assert client.call(kind, b"fail") is UNAVAILABLE
        eventually(lambda: client.weight("reports") == sum(server.calls for server in servers) > 1, "all were heard")


@pytest.mark.parametrize("kind", KINDS)
def test_calls_that_wait_and_calls_with_limits_are_heard(make: Make, kind: str) -> None:
    """Whatever object of ours stands around grpc's."""
    with reporting_servers(SAID) as servers:
        for settings in ({"limits": {"max_in_flight": 4}}, {"retry": {"per_try_timeout_s": 5.0}}):
            client = make(servers, QUICK, **settings)
            assert client.call(kind) is grpc.StatusCode.OK
            eventually(lambda client=client: client.weight("reports") == 1, "heard")


@pytest.mark.parametrize(
    "said", [None, "", "TEXT cpu_utilization:nan", "JSON [[[[", "BIN ***", "TEXT " + "a:1," * 1500, "TEXT rps_fractional:-1"]
)
def test_no_report_and_absurd_ones_cost_a_call_nothing(make: Make, said: str | None) -> None:
    """They are counted, and the pool says what was wrong."""
    with reporting_servers(said) as servers:
        client = make(servers, QUICK)
        for kind in KINDS:
            assert client.call(kind) is grpc.StatusCode.OK
        if said is not None:
            eventually(lambda: client.weight("rejected") == 4, "counted")
            assert client.reported()["problem"]
        assert client.weight("reports") == 0


@pytest.mark.parametrize("weight", ["static", OOB], ids=["static", "oob"])
def test_trailers_are_not_looked_at_where_nobody_asked(make: Make, weight: Any) -> None:
    """Nothing stands around grpc's multicallables then: no call pays. A58: nor while reports come out of band."""
    with reporting_servers(SAID, oob=[]) as servers:
        client = make(servers, weight)
        for kind in KINDS:
            assert client.call(kind) is grpc.StatusCode.OK
        if weight is OOB:
            assert client.weight("reports") == 0
        else:
            assert "weight" not in client.binding.pool.describe()


def test_nothing_stands_around_grpcs_multicallables_without_reports() -> None:
    """Neither for threads nor for asyncio."""
    with reporting_servers(None) as servers:
        for weight, plain in (("static", True), (QUICK, False)):
            binding = LooseBinding(weight=weight)
            binding.update([servers[0].endpoint])
            bench = Bench(binding)
            invoke = bench.channel.unary_unary("/test.Kinds/unary_unary")
            invoke(b"x")
            (inner,) = invoke._inner.values()
            assert isinstance(inner[0], grpc.UnaryUnaryMultiCallable) is plain
            bench.channel.close()
            binding.scheduler.stop(1.0)


# --- what becomes of them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "source"),
    [("weighted_round_robin", "a58"), ("p2c", "reported"), ("round_robin", "reported"), ("least_request", "a58")],
)
def test_a_server_at_twice_the_utilization_gets_half_the_calls(make: Make, policy: str, source: str) -> None:
    """Of three that serve the same number of calls."""
    twice = SAID.replace("0.25", "0.5")
    with reporting_servers(SAID, SAID, twice) as servers:
        client = make(servers, {**QUICK, "source": source}, policy=policy)

        def share() -> float:
            before = [server.calls for server in servers]
            for _ in range(150):
                client.call("unary_unary")
            calls = [server.calls - count for server, count in zip(servers, before, strict=True)]
            return calls[2] / sum(calls)

        eventually(lambda: abs(share() - 0.2) < 0.04, "a fifth of all")


# --- out of band ------------------------------------------------------------------------------------------------------------------


def heard(client: Client) -> Client:
    """Once it is connected, and the first report came."""
    client.call("unary_unary")
    eventually(lambda: client.weight("reports") >= 1, "a report")
    return client


def test_reports_are_asked_for_on_every_connection_at_the_interval(make: Make) -> None:
    """Without a call, on each; no attempt is counted for it, and what is asked for is the interval."""
    with reporting_servers(None, None, oob=[MESSAGE]) as servers:
        client = heard(make(servers, OOB))
        eventually(lambda: all(client.reported(at) for at in range(2)), "both are known")
        assert client.binding.in_flight == 0
        assert sum(endpoint["started"] for endpoint in client.binding.pool.describe()["endpoints"]) == 1
        assert {decode_request(request) for server in servers for request in server.requests} == {0.1}


def test_one_report_after_the_other_is_heard(make: Make) -> None:
    """On a stream that goes on, or on one stream after the other."""
    with reporting_servers(None, oob=[MESSAGE, MESSAGE, MESSAGE]) as servers:
        client = make(servers, OOB)
        client.call("unary_unary")
        eventually(lambda: client.weight("reports") >= 3, "three reports")


def test_a_server_that_sends_without_pause_is_not_read_without_pause(make: Make) -> None:
    """At most two reports an interval are looked at, or one of its servers has the client's event loop for itself."""
    with reporting_servers(None, oob=[MESSAGE] * 10_000) as servers:
        client = heard(make(servers, {**OOB, "oob_interval_s": 60.0}))
        for _ in range(300):  # many a turn of the loop: without a pause it would have read hundreds
            client.call("unary_unary")
        assert client.weight("reports") <= 2


def test_a_server_without_the_service_is_asked_once_for_each_connection(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log; a new connection is asked again."""
    with reporting_servers(None, oob=[UNIMPLEMENTED]) as servers, caplog.at_level(logging.WARNING):
        client = make(servers, OOB)
        client.call("unary_unary")
        eventually(lambda: servers[0].asked == 1, "asked")
        eventually(lambda: "OpenRcaService" in caplog.text, "it is said")
        for _ in range(100):
            client.call("unary_unary")
        assert servers[0].asked == 1
        assert len([record for record in caplog.records if "OpenRcaService" in record.message]) == 1
        servers[0].restart()
        eventually(
            lambda: client.call("unary_unary") is grpc.StatusCode.OK and servers[0].asked == 2, "asked on the new connection"
        )


def test_a_lost_connection_is_asked_again_when_it_is_back(make: Make) -> None:
    """Whatever ended before."""
    with reporting_servers(None, oob=[MESSAGE]) as servers:
        client = heard(make(servers, OOB))
        servers[0].restart()
        before = client.weight("reports")
        eventually(lambda: client.call("unary_unary") is grpc.StatusCode.OK, "it is back")
        eventually(lambda: client.weight("reports") > before, "a report of the new connection")


@pytest.mark.parametrize("messages", [[b"\xff\xff"], [encode(LoadReport(qps=1e-300, cpu_utilization=1.0))], [b"\x00" * 70000]])
def test_absurd_messages_are_counted(make: Make, messages: list[bytes]) -> None:
    """And asked for again, at the interval."""
    with reporting_servers(None, oob=messages) as servers:
        client = make(servers, OOB)
        client.call("unary_unary")
        eventually(lambda: client.weight("rejected") >= 1, "counted")
        assert client.call("unary_unary") is grpc.StatusCode.OK


def test_closing_ends_what_is_asked_and_waits_for_nothing(make: Make) -> None:
    """``close(10)`` of an asyncio channel waits for calls; a stream of reports is none."""
    with reporting_servers(None, oob=[MESSAGE]) as servers:
        client = heard(make(servers, OOB))
        over = threading.Event()

        def close() -> None:
            client.close()
            over.set()

        closing = threading.Thread(target=close)
        closing.start()
        assert over.wait(PATIENCE_S / 2)
        eventually(lambda: servers[0].listening == 0, "the server is rid of it")
        client.close = lambda: None  # type: ignore[method-assign]


def test_a_server_that_stops_gracefully_is_not_held_up_by_who_listens(make: Make) -> None:
    """A51: the stream ends with the GOAWAY."""
    with reporting_servers(None, oob=[MESSAGE]) as servers:
        heard(make(servers, OOB))
        over = threading.Event()
        stopping = threading.Thread(target=lambda: [servers[0].stop(3 * PATIENCE_S), over.set()])
        stopping.start()
        assert over.wait(PATIENCE_S)
        stopping.join()


def test_a_forgotten_channel_is_freed_with_its_streams(make: Make) -> None:
    """The stream keeps neither the channel nor its pool."""
    with reporting_servers(None, oob=[MESSAGE]) as servers:
        client = heard(make(servers, OOB))
        freed = client.forget()
        eventually(lambda: gc.collect() >= 0 and freed() is None, "it is freed")
        eventually(lambda: servers[0].listening == 0, "the server is rid of it")


def test_an_endpoint_that_is_gone_is_not_asked_any_more(make: Make) -> None:
    """Its connection is let go as it would be without reports."""
    with reporting_servers(None, None, oob=[MESSAGE]) as servers:
        client = heard(make(servers, OOB))
        eventually(lambda: all(client.reported(at) for at in range(2)), "both are known")
        client.binding.update([servers[0].endpoint])
        eventually(lambda: servers[1].listening == 0, "its stream ended")
        asked = servers[1].asked
        reports = client.weight("reports")
        eventually(lambda: client.weight("reports") >= reports + 2 or servers[0].listening, "the other goes on")
        assert servers[1].asked == asked


def test_a_connection_is_renewed_in_spite_of_its_stream(make: Make) -> None:
    """The old one carries no call; the new one is asked."""
    with reporting_servers(None, oob=[MESSAGE]) as servers:
        client = heard(make(servers, OOB, connection={"max_age_s": 1.0}))
        oldest_s, asked = [0.0], servers[0].asked

        def renewed() -> bool:
            (link,) = client.binding.pool.describe()["endpoints"][0]["links"]
            oldest_s[0] = max(oldest_s[0], link["connected_for_s"] or 0.0)
            return bool(link["connected_for_s"] is not None and link["connected_for_s"] < oldest_s[0] and not link["replaced"])

        eventually(renewed, "it is another one, and the old one is gone")
        eventually(lambda: servers[0].asked > asked, "the new one is asked")
        eventually(lambda: servers[0].listening <= 1, "no old stream is left")


def test_restarts_back_off_as_grpc_does_and_not_after_a_report() -> None:
    """1 s times 1.6 up to 120 s, +-20 %, from the first failure; after a report as soon as the interval is over."""
    rng, restarts = seeded(), Restarts(10.0, 0.0)

    def due_s(code: grpc.StatusCode | None, now_s: float) -> float:
        restarts.ended(code, "orders.shop", "10.0.0.1:80", now_s, rng)
        return restarts.due_s

    for number in range(15):
        restarts.opened(0.0)
        assert 0.8 <= (due_s(UNAVAILABLE, 1.0) - 1.0) / min(1.6**number, 120.0) <= 1.2
    restarts.opened(100.0)
    restarts.heard()
    assert (due_s(None, 104.0), due_s(None, 200.0)) == (110.0, 200.0)
    restarts.opened(200.0)
    assert 0.8 <= due_s(UNAVAILABLE, 201.0) - 201.0 <= 1.2
    assert not restarts.over
    assert due_s(UNIMPLEMENTED, 202.0) == float("inf")
    assert restarts.over
