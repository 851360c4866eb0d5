"""What ``meshlb.server`` sends, over real loopback servers of both kinds: every kind of call, however it ends, and out of band."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from meshlb.core.report import LoadReport
from meshlb.errors import ConfigError
from meshlb.grpc.oob import METHOD
from meshlb.load.orca import TRAILER, of_trailers, parse
from meshlb.load.orca_wire import decode, encode_request
from meshlb.server import LoadReporter, record_request_cost
from meshlb.server.cpu import LOOK_S, cores
from meshlb.server.oob import MAX_INTERVAL_S, MAX_SENT, MAX_THREADS, _Stream, _Streams, interval_s_of
from meshlb.server.reporter import MAX_METRICS
from tests.contract.grpc_aio_driver import LoopThread
from tests.support.channels import PATIENCE_S, eventually

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
UNAVAILABLE, NOT_FOUND = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND


class Handlers:
    """One for each kind; what the first request says is done. ``hold``: waits, and says when."""

    def __init__(self) -> None:
        self.holding = threading.Event()
        self.go = threading.Event()
        self.calls = 0
        self.takes_s = 0.0

    def _act(self, word: bytes, context: Any) -> None:
        if word == b"trailers":
            context.set_trailing_metadata((("mine", "1"), ("mine-bin", b"\x00")))
        elif word == b"own":
            context.set_trailing_metadata(((TRAILER, "TEXT eps:42"),))
        elif word == b"cost":
            record_request_cost("rows", 7)
        elif word == b"abort":
            context.abort(UNAVAILABLE, "aborted")
        elif word == b"code":
            context.set_code(NOT_FOUND)
        elif word == b"raise":
            raise RuntimeError("raised")
        elif word == b"hold":
            self.holding.set()
            self.go.wait(PATIENCE_S)
        elif word == b"slow":
            self.calls += 1
            threading.Event().wait(self.takes_s)

    def unary_unary(self, request: bytes, context: Any) -> bytes:
        self._act(request, context)
        return request

    def unary_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield request
        self._act(request, context)
        yield request

    def stream_unary(self, requests: Iterator[bytes], context: Any) -> bytes:
        return self.unary_unary(next(requests), context)

    def stream_stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from self.unary_stream(next(requests), context)


class AioHandlers:
    """The same with ``async``."""

    def __init__(self) -> None:
        self.holding = threading.Event()
        self.go = asyncio.Event()

    async def _act(self, word: bytes, context: Any) -> None:
        if word == b"abort":
            await context.abort(UNAVAILABLE, "aborted")
        elif word == b"hold":
            self.holding.set()
            await asyncio.wait_for(self.go.wait(), PATIENCE_S)
        else:
            Handlers()._act(word, context)

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        await self._act(request, context)
        return request

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await self._act(request, context)
        yield request

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return await self.unary_unary(await anext(requests), context)

    async def stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        word = await anext(requests)
        await context.write(word)
        await self._act(word, context)
        await context.write(word)


def _generic(handlers: Any) -> Any:
    made = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(getattr(handlers, kind)) for kind in KINDS}
    return grpc.method_handlers_generic_handler("test.Kinds", made)


class Server:
    """A server, its channel, and how to end a call of it."""

    def __init__(self, port: int, reporter: LoadReporter, handlers: Any) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.name = ""
        self.port = port
        self.reporter = reporter
        self.handlers = handlers

    def start(self, kind: str, word: bytes = b"") -> Any:
        invoke = getattr(self.channel, kind)(f"/test.Kinds/{kind}")
        sent = iter([word]) if kind.startswith("stream") else word
        return invoke(sent) if kind.endswith("stream") else invoke.future(sent)

    def ended(self, kind: str, word: bytes = b"") -> tuple[grpc.StatusCode, dict[str, Any]]:
        """How it ended, and its trailers."""
        call = self.start(kind, word)
        with contextlib.suppress(grpc.RpcError):
            if kind.endswith("stream"):
                list(call)
            else:
                call.result(PATIENCE_S)
        return call.code(), dict(call.trailing_metadata() or ())

    def ask(self, interval_s: float = 0.0) -> Any:
        """Out of band."""
        return self.channel.unary_stream(METHOD)(encode_request(interval_s) if interval_s else b"", PATIENCE_S)


@contextlib.contextmanager
def sync_server(reporter: LoadReporter, workers: int = 8) -> Iterator[Server]:
    pool = futures.ThreadPoolExecutor(workers)
    handlers = Handlers()
    server = grpc.server(pool, (_generic(handlers),), interceptors=[reporter.interceptor], options=[("grpc.so_reuseport", 0)])
    reporter.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    made = Server(port, reporter, handlers)
    try:
        yield made
    finally:
        handlers.go.set()
        made.channel.close()
        server.stop(None).wait()
        pool.shutdown(wait=False)


@contextlib.contextmanager
def aio_server(reporter: LoadReporter, handlers: Any = None) -> Iterator[Server]:
    loop = LoopThread(asyncio.new_event_loop)

    async def start() -> tuple[Any, int, Any]:
        served = handlers or AioHandlers()
        server = grpc.aio.server(interceptors=[reporter.aio_interceptor], options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((_generic(served),))
        reporter.add_to(server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port, served

    server, port, served = loop.run(start())
    made = Server(port, reporter, served)
    try:
        yield made
    finally:
        made.channel.close()
        loop.run(server.stop(None))
        loop.stop()


UNTOLD = "threads in asyncio"  # grpc does not say there which trailers are set
SERVERS: dict[str, Callable[[LoadReporter], Any]] = {
    "threads": sync_server,
    "asyncio": aio_server,
    UNTOLD: lambda reporter: aio_server(reporter, Handlers()),
}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with SERVERS[request.param](LoadReporter(max_workers=8, min_oob_interval_s=0.02)) as served:
        served.name = request.param
        yield served


@pytest.mark.parametrize("kind", KINDS)
def test_every_call_carries_a_report(server: Server, kind: str) -> None:
    """With its calls a second and the share of workers in use; the binary form is taken off by gRPC on its way to Python."""
    for _ in range(3):
        code, trailers = server.ended(kind)
        assert code is grpc.StatusCode.OK
        assert trailers.keys() == {TRAILER}
        report = parse(trailers[TRAILER])
        assert report.problem == ""
        assert report.qps > 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_handler_says_itself_stays(server: Server, kind: str) -> None:
    """Its own trailers stand beside the report; one of its own stands instead."""
    code, trailers = server.ended(kind, b"trailers")
    assert (code, trailers["mine"], trailers["mine-bin"]) == (grpc.StatusCode.OK, "1", b"\x00")
    assert (TRAILER in trailers) is (server.name != UNTOLD)
    assert server.ended(kind, b"own")[1] == {TRAILER: "TEXT eps:42"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("word", "code"),
    [(b"abort", UNAVAILABLE), (b"code", NOT_FOUND), (b"raise", grpc.StatusCode.UNKNOWN)],
    ids=["abort", "code", "raise"],
)
def test_a_call_that_fails_ends_as_without_it_and_carries_a_report_too(
    server: Server, kind: str, word: bytes, code: grpc.StatusCode
) -> None:
    """The handler's code and words; failures that are the server's count as such."""
    if server.name == UNTOLD and word == b"abort" and kind.endswith("stream"):
        pytest.skip("grpc's own servers never end such a call (1.85)")
    ended, trailers = server.ended(kind, word)
    assert ended is code
    assert trailers.keys() == {TRAILER}
    if server.name != UNTOLD or word != b"abort":  # grpcio 1.60 tells nobody there that a handler aborted
        eventually(lambda: bool(server.reporter.report().eps) is (word != b"code"), "it counts, or not")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_call_cost_is_said_with_it_and_with_no_other(server: Server, kind: str) -> None:
    """By ``record_request_cost``, wherever the handler runs."""
    assert dict(parse(server.ended(kind, b"cost")[1][TRAILER]).request_cost) == ({} if server.name == UNTOLD else {"rows": 7.0})
    assert not parse(server.ended(kind)[1][TRAILER]).request_cost
    record_request_cost("rows", 1)  # nobody's: nothing happens
    assert not parse(server.ended(kind)[1][TRAILER]).request_cost


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_is_given_up_is_counted_until_its_handler_ends(server: Server, kind: str) -> None:
    """Not as a failure; and nothing stays behind."""
    call = server.start(kind, b"hold")
    if kind.endswith("stream"):
        next(call)
    assert server.handlers.holding.wait(PATIENCE_S)
    assert server.reporter._meter.running == 1
    call.cancel()
    server.handlers.go.set()
    eventually(lambda: server.reporter._meter.running == 0, "it is over")
    assert server.reporter.report().eps == 0.0


# --- what it says ----------------------------------------------------------------------------------------------------------------


def test_the_share_of_workers_is_what_ran_on_average() -> None:
    """Two of four workers are held: a half, whatever the moment."""
    reporter = LoadReporter(max_workers=4)
    with sync_server(reporter) as server:
        held = [server.start("unary_unary", b"hold") for _ in range(2)]
        eventually(lambda: reporter._meter.running == 2, "both run")
        eventually(lambda: reporter.report().application_utilization > 0.25, "most of the time since the start")
        assert reporter.report().application_utilization <= 0.5
        server.handlers.go.set()
        for call in held:
            call.result(PATIENCE_S)


def test_a_programs_own_measures_are_sent_and_what_is_wrong_with_them_is_no_calls_affair(caplog: pytest.LogCaptureFixture) -> None:
    """A function that raises or says nonsense is left out, and logged once."""
    said: list[Any] = [0.7, float("nan"), -1, "x"]
    reporter = LoadReporter(application_utilization=lambda: said[0], cpu_utilization=lambda: 0.3)
    reporter.set("queue", 0.4)
    with sync_server(reporter) as server:
        report = parse(server.ended("unary_unary")[1][TRAILER])
        assert (report.application_utilization, report.cpu_utilization, dict(report.utilization)) == (0.7, 0.3, {"queue": 0.4})
        for _ in range(3):
            said.pop(0)
            reporter.set("queue", 0.5)  # makes a new one
            report = parse(server.ended("unary_unary")[1][TRAILER])
            assert (report.problem, report.application_utilization, report.cpu_utilization) == ("", 0.0, 0.3)
        reporter.set("queue", None)
        assert not parse(server.ended("unary_unary")[1][TRAILER]).utilization
    assert len([record for record in caplog.records if "application_utilization failed" in record.message]) == 1


def test_a_process_that_works_says_so() -> None:
    """Its own processor time, over what its container may have."""
    reporter = LoadReporter()
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            sum(range(1000))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        eventually(lambda: reporter.report().cpu_utilization > 0.02, "it shows")
    finally:
        over.set()
        worker.join()


def test_what_a_container_may_have_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes resizes pods in place."""
    reporter = LoadReporter()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1), raising=False)
    now = cores()
    reporter._cores = 1000.0  # as if it had been resized since
    for ago_s, looked in ((0.0, False), (LOOK_S, True)):
        reporter._looked_s -= ago_s
        reporter.set("queue", ago_s)  # the next report is a new one
        reporter.report()
        assert (reporter._cores == now) is looked


def test_a_handler_that_grpc_does_not_wait_for_is_left_as_it_is() -> None:
    """It has a third argument, and its end is not the call's."""

    def behavior(request: bytes, context: Any, send: Callable[[bytes | None], None]) -> None:
        send(request)
        send(None)

    behavior.experimental_non_blocking = True  # type: ignore[attr-defined]
    handler = grpc.unary_stream_rpc_method_handler(behavior)
    interceptor = LoadReporter().interceptor
    details = SimpleNamespace(method="/a.B/C")
    assert interceptor.intercept_service(lambda _: handler, details) is handler


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LoadReporter(max_workers=0), "max_workers=0: must be >= 1"),
        (lambda: LoadReporter(max_workers=2, application_utilization=lambda: 0.1), "max_workers=2: is not read where"),
        (lambda: LoadReporter(cpu_utilization=0.5), "cpu_utilization=0.5: must be a function without arguments"),  # type: ignore[arg-type]
        (lambda: LoadReporter(min_oob_interval_s=0), "min_oob_interval_s=0: must be > 0 seconds"),
        (lambda: LoadReporter().set("a,b", 0.1), "'a,b': a metric's name has"),
        (lambda: LoadReporter().set("", 0.1), "'': a metric's name has"),
        (lambda: LoadReporter().set("queue", float("nan")), "queue=nan: must be a number from 0"),
        (lambda: LoadReporter().set("queue", -0.1), "queue=-0.1: must be a number from 0"),
        (lambda: record_request_cost("rows", float("inf")), "rows=inf: must be a number from -1e+12"),
        (lambda: record_request_cost("rö", 1.0), "'rö': a metric's name has"),
    ],
)
def test_what_is_wrong_is_refused_with_field_value_and_rule(make: Callable[[], Any], said: str) -> None:
    """At once, where the mistake is."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(said)


def test_no_more_metrics_are_kept_than_can_be_sent() -> None:
    """A name made of a request's id must not fill the memory, nor the trailers."""
    reporter = LoadReporter()
    with pytest.raises(ConfigError, match="at most"):
        for number in range(1000):
            reporter.set(f"m{number}", 0.1)
    assert of_trailers(reporter.trailers({})) == LoadReport(
        cpu_utilization=of_trailers(reporter.trailers({})).cpu_utilization,  # type: ignore[union-attr]
        utilization=dict.fromkeys(reporter.report().utilization, 0.1),
    )


def test_a_report_that_is_too_large_for_a_call_is_sent_without_the_programs_own(caplog: pytest.LogCaptureFixture) -> None:
    """gRPC fails calls whose trailers are beyond 8 kB; the log says it once."""
    reporter = LoadReporter()
    for number in range(MAX_METRICS):
        reporter.set("x" * 120 + str(number), 0.5)
    with sync_server(reporter) as server:
        for _ in range(2):
            code, trailers = server.ended("unary_unary", b"cost")
            assert code is grpc.StatusCode.OK
            report = parse(trailers[TRAILER])
            assert report.qps > 0.0
            assert not report.utilization
    assert caplog.text.count("more than 4096 bytes") == 1


# --- out of band -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["threads", "asyncio"])
def asked(request: pytest.FixtureRequest) -> Iterator[Server]:
    with SERVERS[request.param](LoadReporter(max_workers=8, min_oob_interval_s=0.02)) as served:
        yield served


def test_reports_come_at_once_and_then_again_and_again(asked: Server) -> None:
    """Whether or not anybody calls; what was set shows in the next."""
    stream = asked.ask(0.001)
    assert decode(next(stream)) is not None
    asked.reporter.set("queue", 0.25)
    while not (report := decode(next(stream))).utilization:
        pass
    assert dict(report.utilization) == {"queue": 0.25}
    stream.cancel()


def test_the_minimum_interval_holds() -> None:
    """For who asks for less, and for who asks for none; a stream of an hour's interval has its first report at once."""
    reporter = LoadReporter(min_oob_interval_s=3600.0)
    for make in (sync_server, aio_server):
        with make(reporter) as server:
            streams = [server.ask(interval_s) for interval_s in (0.0, 0.001, 7200.0)]
            for stream in streams:
                next(stream)
            got = [futures.ThreadPoolExecutor(1).submit(next, stream, None) for stream in streams]
            assert not futures.wait(got, 0.2).done
            for stream in streams:
                stream.cancel()
            assert all(future.exception(PATIENCE_S) is not None for future in got)


def test_streams_hold_no_worker_of_a_server_of_threads() -> None:
    """Twenty clients that listen, one worker, and calls go on; few threads send to all of them."""
    reporter, before = LoadReporter(min_oob_interval_s=0.05), set(threading.enumerate())
    with sync_server(reporter, workers=1) as server:
        streams = [server.ask() for _ in range(20)]
        for _ in range(3):
            for stream in streams:
                next(stream)
            assert server.ended("unary_unary")[0] is grpc.StatusCode.OK
        senders = [thread for thread in set(threading.enumerate()) - before if thread.name == "meshlb-server-oob"]
        assert 1 <= len(senders) <= MAX_THREADS
        for stream in streams:
            stream.cancel()


class Unread:
    """What grpc hands to a handler that it does not wait for, of a client that has stopped reading."""

    def __init__(self) -> None:
        self.sending = threading.Event()
        self.go = threading.Event()

    def add_callback(self, over: Callable[[], None]) -> bool:
        self.over = over
        return True

    def send(self, _: bytes | None) -> None:
        self.sending.set()
        self.go.wait(PATIENCE_S)


def test_three_clients_that_do_not_read_hold_up_nobody_else() -> None:
    """Each may hold one thread, and there is a fourth."""
    streams = _Streams(LoadReporter())
    clients = [Unread() for _ in range(4)]
    for client in clients:
        streams.add(_Stream(client, client.send, 3600.0, streams.sweep))
        assert client.sending.wait(PATIENCE_S)
    for client in clients:
        client.go.set()
        client.over()


def test_streams_that_were_cancelled_are_not_kept_until_they_are_due() -> None:
    """However long an interval they asked for; each lets go of grpc's call at once."""
    streams = _Streams(LoadReporter())
    clients = [Unread() for _ in range(100)]
    made = []
    for client in clients:
        client.go.set()
        made.append(_Stream(client, client.send, 3600.0, streams.sweep))
        streams.add(made[-1])
    eventually(lambda: len(streams._due) == 100 and all(due_s for due_s, *_ in streams._due), "all wait")
    assert all(client.sending.wait(PATIENCE_S) for client in clients)
    eventually(lambda: streams._free == streams._threads, "all were served")
    clients[60].over()
    assert made[60].send is None
    for client in clients[61:]:
        client.over()
    assert len(streams._due) == 100
    for client in clients[40:60]:
        client.over()
    assert 40 <= len(streams._due) < 60
    for client in clients[:40]:
        client.over()
    assert not streams._due


def test_an_interval_has_an_hour_at_most() -> None:
    """Unless the minimum is more."""
    assert interval_s_of(LoadReporter(), encode_request(2.0**39)) == MAX_INTERVAL_S == 3600.0
    assert interval_s_of(LoadReporter(min_oob_interval_s=7200.0), encode_request(2.0**39)) == 7200.0


def test_a_stream_ends_before_an_unread_one_could_block() -> None:
    """With OK, after as many bytes as HTTP/2 takes without anybody reading; whoever asks anew is answered."""
    reporter = LoadReporter(min_oob_interval_s=0.0001)
    for number in range(60):
        reporter.set(f"metric-with-a-long-name-{number:03}", 0.5)
    with sync_server(reporter) as server:
        stream = server.ask()
        sent = sum(len(message) for message in stream)
        assert stream.code() is grpc.StatusCode.OK
        assert MAX_SENT <= sent < MAX_SENT + 10_000
        assert next(server.ask())


def test_questions_about_health_and_load_are_no_load(asked: Server) -> None:
    """Nothing runs and nothing was called, however many listen."""
    streams = [asked.ask() for _ in range(3)]
    for stream in streams:
        next(stream)
    report = asked.reporter.report()
    assert (asked.reporter._meter.running, report.qps, report.application_utilization) == (0, 0.0, 0.0)
    assert not asked.reporter.counts("/grpc.health.v1.Health/Watch")
    for stream in streams:
        stream.cancel()


# --- gRPC's own client -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("oob", [False, True], ids=["trailers", "out of band"])
def test_grpcs_own_weighted_round_robin_goes_by_our_reports(oob: bool) -> None:
    """The peer's check of both binary forms: of two servers, one at twice the utilization for the same calls gets half as many."""
    wrr = {"enableOobLoadReport": oob, "oobReportingPeriod": "0.1s", "blackoutPeriod": "0s", "weightUpdatePeriod": "0.1s"}
    config = json.dumps({"loadBalancingConfig": [{"weighted_round_robin": wrr}]})
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(sync_server(LoadReporter(max_workers=8, min_oob_interval_s=0.05))) for _ in range(2)]
        for server, takes_s in zip(servers, (0.004, 0.008), strict=True):
            server.handlers.takes_s = takes_s
        target = "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)
        channel = stack.enter_context(grpc.insecure_channel(target, [("grpc.service_config", config)]))
        call = channel.unary_unary("/test.Kinds/unary_unary")

        def share() -> float:
            before = [server.handlers.calls for server in servers]
            for _ in range(120):
                call(b"slow", PATIENCE_S)
            first, second = (server.handlers.calls - count for server, count in zip(servers, before, strict=True))
            return first / second

        eventually(lambda: 1.6 < share() < 2.5, "twice as many calls go where a call takes half as long", 3 * PATIENCE_S)
