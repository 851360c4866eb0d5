"""Blocking calls over real servers: spread, never-sent calls that go elsewhere, deadlines counted once, what the errors say."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.errors import DeadlineExceededError, NoEndpointError, ResolveError, ServiceNotFoundError
from meshlb.grpc import stock
from meshlb.grpc.marks import endpoint_of
from tests.support.channels import PATIENCE_S, Bench, LooseBinding, bench, echo_servers, eventually, request, unused_port


def nobody(number: int = 0) -> Endpoint:
    """An endpoint at which nothing listens."""
    return Endpoint(host="127.0.0.1", port=unused_port(), name=f"nobody-{number}")


def pods(channel: Bench, count: int, **fields: Any) -> Counter[str]:
    return Counter(channel.stub.Get(request(**fields)).pod for _ in range(count))


def pretend_ready(channel: Bench, *names: str, seen: bool = True) -> list[Subchannel]:
    """The view takes these for ready, and nobody looks at the connections any more: only calls can find out.

    ``seen``: a call that looks finds them ready too, and then they are lost before it is sent.
    """
    connections, stopped = channel.connections, threading.Event()
    view = connections.open()
    assert view is not None
    gone = [sub for sub in channel.binding.subchannels if sub.endpoint.name in names]
    eventually(lambda: all(view.state_of(sub) is Connectivity.TRANSIENT_FAILURE for sub in gone), "they were tried")

    def stop() -> None:
        connections.wake = connections._arm = lambda: None  # type: ignore[method-assign]
        if connections._timer is not None:
            connections._timer.cancel()
        for sub in gone:
            if seen:
                connections.links[sub].look = lambda connect: stock.READY
        stopped.set()

    channel.binding.scheduler.call_soon(stop)
    assert stopped.wait(PATIENCE_S)
    view.set_states([(sub, Connectivity.READY) for sub in gone])
    return gone


# --- where calls go ------------------------------------------------------------------------------------------------------------------


def test_calls_are_spread_over_the_endpoints() -> None:
    """Round robin over three gives each its third."""
    with echo_servers(3) as servers, bench(*servers) as channel:
        channel.ready(3)
        assert pods(channel, 30) == {"pod-0": 10, "pod-1": 10, "pod-2": 10}


def test_arguments_may_be_given_by_position() -> None:
    """As grpc allows: timeout, metadata, credentials, wait_for_ready, compression."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        arguments = (PATIENCE_S, (("x-a", "1"),), None, True, grpc.Compression.Gzip)
        assert channel.stub.Get(request(), *arguments).pod == "pod-0"
        assert channel.stub.Get(request(), *arguments).pod == "pod-0"
        assert channel.stub.Get.future(request(), *arguments).result().pod == "pod-0"
        assert [reply.pod for reply in channel.stub.Watch(request(count=1), *arguments)] == ["pod-0"]
        assert channel.stub.Collect(iter([request()]), *arguments).pod == "pod-0"
        assert [reply.pod for reply in channel.stub.Chat(iter([request()]), *arguments)] == ["pod-0"]


def test_private_arguments_of_generated_code_are_tolerated() -> None:
    """``_registered_method`` is passed on, what a later grpcio may add is not a TypeError, a method may be bytes."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            getattr(channel.channel, kind)("/a/b", None, None, True, _something_new=3)
        call = channel.channel.unary_unary(b"/meshlb.testing.v1.Echo/Get", _registered_method=True, _something_new=3)
        assert b"pod-0" in call(request().SerializeToString())


def test_a_method_that_is_no_text_is_refused_where_it_is_named() -> None:
    """As grpc does."""
    with bench() as channel, pytest.raises(AttributeError):
        channel.channel.unary_unary(None)


# --- what certainly never left ---------------------------------------------------------------------------------------------------------


def test_a_call_that_never_left_goes_to_another_endpoint() -> None:
    """The caller does not notice that one of the endpoints is gone, and the view hears of it from the call."""
    with echo_servers(2) as servers, bench(*servers, nobody()) as channel:
        channel.ready(2)
        (gone,) = pretend_ready(channel, "nobody-0")
        assert set(pods(channel, 6)) == {"pod-0", "pod-1"}
        assert gone.failed == 1
        assert gone.in_flight == 0


def test_with_call_goes_elsewhere_too() -> None:
    """And says where it ended."""
    with echo_servers(1) as servers, bench(*servers, nobody()) as channel:
        channel.ready(1)
        pretend_ready(channel, "nobody-0")
        ends = {endpoint_of(channel.stub.Get.with_call(request())[1]) for _ in range(3)}
        assert {endpoint.name for endpoint in ends if endpoint is not None} == {"pod-0"}


def test_a_call_goes_elsewhere_at_most_twice() -> None:
    """Three attempts in all, each on another endpoint, though a fourth might have been found; then the wire's own error."""
    dead = [nobody(number) for number in range(5)]
    with bench(*dead) as channel:
        pretend_ready(channel, *(endpoint.name for endpoint in dead))
        with pytest.raises(grpc.RpcError) as caught:
            channel.stub.Get(request(), timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert sum(sub.failed for sub in channel.binding.subchannels) == 3
        assert endpoint_of(caught.value) in dead


def test_a_stream_of_requests_that_was_read_stays_where_it_is() -> None:
    """grpc reads it at once, and what was read cannot be put back: the wire's own error, and no message is lost or doubled."""
    with bench(nobody()) as channel:
        pretend_ready(channel, "nobody-0")
        taken: list[int] = []

        def requests() -> Iterator[Any]:
            for number in range(3):
                taken.append(number)
                yield request()

        with pytest.raises(grpc.RpcError) as caught:
            channel.stub.Collect(requests(), timeout=PATIENCE_S)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert taken in ([], [0])


def test_an_endpoint_that_swallows_packets_holds_up_no_call() -> None:
    """The view still takes it for ready; grpc would queue the call on it for as long as a connect may take."""
    with echo_servers(1) as servers, bench(*servers) as channel, SwallowingSocket() as swallowing:
        channel.ready(1)
        channel.binding.update([*servers, swallowing.endpoint])
        view = channel.connections.open()
        assert view is not None
        eventually(lambda: len(channel.connections.links) == 2, "it is being connected")
        (stuck,) = (sub for sub in channel.binding.subchannels if sub.endpoint.name == "swallowing")
        for _ in range(20):
            view.set_states([(stuck, Connectivity.READY)])
            started_s = time.monotonic()
            assert channel.stub.Get(request(), timeout=PATIENCE_S).pod == "pod-0"
            assert time.monotonic() - started_s < 1.0
        assert stuck.started > 0


def test_an_empty_bucket_pays_for_nothing() -> None:
    """What bounds a lasting fault: without a token the first error is the last."""
    with echo_servers(1) as servers, bench(*servers, nobody()) as channel:
        channel.ready(1)
        while channel.binding.limits.budget.withdraw():
            pass
        pretend_ready(channel, "nobody-0")
        ended = Counter(_code(channel) for _ in range(2))
        assert ended == {grpc.StatusCode.OK: 1, grpc.StatusCode.UNAVAILABLE: 1}


def test_what_may_have_been_processed_is_not_sent_again() -> None:
    """UNAVAILABLE from the server itself goes to the caller."""
    with echo_servers(2) as servers, bench(*servers) as channel:
        channel.ready(2)
        with pytest.raises(grpc.RpcError) as caught:
            channel.stub.Get(request(fail_code=14))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert sum(sub.started for sub in channel.binding.subchannels) == 1


def test_a_stream_of_requests_goes_elsewhere_while_nobody_read_it() -> None:
    """``Collect`` looks at the connection before it lends the iterator, so a gone endpoint costs nothing."""
    with echo_servers(1) as servers, bench(*servers, nobody()) as channel:
        channel.ready(1)
        pretend_ready(channel, "nobody-0", seen=False)
        for _ in range(3):
            assert channel.stub.Collect(iter([request(), request()])).sequence == 2


def test_a_server_that_dies_costs_only_the_calls_it_had() -> None:
    """Under load: every failed call was on the wire, everything else went elsewhere."""
    with echo_servers(3) as servers, bench(*servers) as channel:
        channel.ready(3)
        codes: list[Any] = []
        over = threading.Event()

        def load() -> None:
            while not over.is_set():
                codes.append(_code(channel))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(codes) > 50, "calls flow")
        servers[0].stop()
        seen = len(codes)
        eventually(lambda: len(codes) > seen + 200, "calls flow on")
        over.set()
        for thread in threads:
            thread.join()
        # A server that is being stopped answers CANCELLED to what reaches it before its GOAWAY reaches us.
        assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert len(codes) - Counter(codes)[grpc.StatusCode.OK] <= 4, "one a thread"


def _code(channel: Bench) -> grpc.StatusCode:
    try:
        channel.stub.Get(request(), timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


# --- waiting, and how long --------------------------------------------------------------------------------------------------------------


def test_the_deadline_is_counted_once_over_resolving_waiting_and_sending() -> None:
    """Discovery answers late and the server is slow: together they may not take longer than the timeout."""
    with echo_servers(1) as servers, bench() as channel:
        timer = threading.Timer(0.3, lambda: channel.binding.update(servers))
        timer.start()
        started_s = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            channel.stub.Get(request(delay_s=30.0), timeout=0.6)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert endpoint_of(caught.value) is not None
        assert 0.5 < time.monotonic() - started_s < 0.85


def test_the_deadline_comes_while_nothing_is_known() -> None:
    """DEADLINE_EXCEEDED that says what was waited for, an RpcError and a TimeoutError."""
    with bench() as channel, pytest.raises(DeadlineExceededError, match="no source has answered yet") as caught:
        channel.stub.Get(request(), timeout=0.05)
    assert isinstance(caught.value, grpc.RpcError)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_without_a_deadline_the_first_answer_is_waited_for_within_bounds() -> None:
    """``first_answer_timeout_s``, then UNAVAILABLE that names it and the target."""
    binding = LooseBinding(first_answer_timeout_s=0.1)
    with bench(binding=binding) as channel, pytest.raises(ResolveError, match=r"orders.shop.*first_answer_timeout_s=0.1") as caught:
        channel.stub.Get(request())
    assert isinstance(caught.value, grpc.RpcError)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_without_a_deadline_a_connection_is_waited_for_within_bounds() -> None:
    """``connect_timeout_s``, then UNAVAILABLE; an address that swallows packets costs no more."""
    binding = LooseBinding(connect_timeout_s=0.2)
    with bench(binding=binding) as channel, SwallowingSocket() as swallowing:
        binding.update([swallowing.endpoint])
        started_s = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            channel.stub.Get(request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - started_s < 2.0


def test_what_each_source_said_is_in_the_error() -> None:
    """At once, in one line, an RpcError and a ServiceNotFoundError; no frames of ours behind it."""
    with bench() as channel:
        channel.binding.pool.on_error(ServiceNotFoundError("orders.shop:50051", ["kubernetes: no Service", "dns: NXDOMAIN"]))
        with pytest.raises(ServiceNotFoundError) as caught:
            channel.stub.Get(request())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert "kubernetes: no Service; dns: NXDOMAIN" in caught.value.details()  # type: ignore[attr-defined]
        assert caught.value.__suppress_context__


def test_zero_ready_pods_is_unavailable_and_says_so() -> None:
    """With the note of the source."""
    with bench() as channel:
        channel.binding.update([], note="3 endpoints, none ready")
        with pytest.raises(NoEndpointError, match=r"none ready \(3 endpoints, none ready\)"):
            channel.stub.Get(request())


def test_wait_for_ready_waits_for_the_first_pod() -> None:
    """Zero ready pods are no error then; a scale-up ends the waiting."""
    with echo_servers(1) as servers, bench() as channel:
        channel.binding.update([])
        threading.Timer(0.1, lambda: channel.binding.update(servers)).start()
        assert channel.stub.Get(request(), wait_for_ready=True, timeout=PATIENCE_S).pod == "pod-0"


def test_the_service_configs_wait_for_ready_counts() -> None:
    """Unless the caller says otherwise."""
    config = '{"methodConfig": [{"name": [{}], "waitForReady": true}]}'
    with bench(options=[("grpc.service_config", config)]) as channel:
        channel.binding.update([])
        with pytest.raises(DeadlineExceededError):
            channel.stub.Get(request(), timeout=0.05)
        with pytest.raises(NoEndpointError):
            channel.stub.Get(request(), timeout=0.05, wait_for_ready=False)


def test_the_service_configs_timeout_counts_while_waiting() -> None:
    """Not only on the wire."""
    config = '{"methodConfig": [{"name": [{}], "timeout": "0.05s"}]}'
    with bench(options=[("grpc.service_config", config)]) as channel, pytest.raises(DeadlineExceededError):
        channel.stub.Get(request(), timeout=PATIENCE_S)


def test_an_interrupt_ends_the_waiting() -> None:
    """Ctrl-C reaches a main thread that waits for an endpoint; nothing stays in flight."""
    with bench() as channel:
        main, started_s = threading.get_ident(), time.monotonic()
        threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            channel.stub.Get(request(), wait_for_ready=True, timeout=PATIENCE_S)
        assert time.monotonic() - started_s < PATIENCE_S / 2


def test_closing_ends_the_waiting() -> None:
    """CANCELLED with grpc's words, as a call that grpc had queued."""
    with bench() as channel:
        threading.Timer(0.1, channel.channel.close).start()
        with pytest.raises(grpc.RpcError) as caught:
            channel.stub.Get(request(), wait_for_ready=True, timeout=PATIENCE_S)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.CANCELLED, "Channel closed!")


def test_many_threads_wait_and_all_are_served() -> None:
    """One change wakes all of them, none is forgotten."""
    with echo_servers(2, workers=64) as servers, bench() as channel:
        served: list[str] = []
        threads = [
            threading.Thread(target=lambda: served.append(channel.stub.Get(request(), timeout=PATIENCE_S).pod)) for _ in range(50)
        ]
        for thread in threads:
            thread.start()
        channel.binding.update(servers)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert len(served) == 50


# --- bugs of ours ------------------------------------------------------------------------------------------------------------------------


class BrokenPicker:
    def pick(self, info: PickInfo, now_s: float, /) -> Subchannel | None:
        raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("kind", ["Get", "Get.with_call", "Get.future", "Watch", "Collect", "Collect.future", "Chat"])
def test_a_bug_of_ours_costs_no_call(kind: str) -> None:
    """Counted; the call goes out over the stock channel for the original target."""
    with echo_servers(2) as (listed, stock):
        binding = LooseBinding(stock_target=f"127.0.0.1:{stock.port}")
        with bench(listed, binding=binding) as channel:
            channel.ready(1)
            view = channel.connections.open()
            assert view is not None
            view.picker = BrokenPicker()
            method, _, verb = kind.partition(".")
            sent: Any = iter([request()]) if method in ("Collect", "Chat") else request(count=1)
            answer = getattr(getattr(channel.stub, method), verb or "__call__")(sent, timeout=PATIENCE_S)
            if verb == "with_call":
                answer = answer[0]
            elif verb == "future":
                answer = answer.result()
            elif method in ("Watch", "Chat"):
                answer = next(answer)
            assert answer.pod == "pod-1"
            assert [type(error) for error in binding.internal_errors] == [ZeroDivisionError]
            binding.internal_errors.clear()


def test_a_bug_while_waiting_costs_no_call() -> None:
    """The same for a future that waits for an endpoint."""
    with echo_servers(2) as (listed, stock):
        binding = LooseBinding(stock_target=f"127.0.0.1:{stock.port}")
        with bench(binding=binding) as channel:
            view = channel.connections.open()
            assert view is not None
            view.picker = BrokenPicker()
            assert channel.stub.Get(request(), timeout=PATIENCE_S).pod == "pod-1"
            assert channel.stub.Get.future(request(), timeout=PATIENCE_S).result().pod == "pod-1"
            binding.internal_errors.clear()
            binding.update([listed])


def test_a_bug_in_counting_costs_no_answer() -> None:
    """The answer is there; the bug is counted."""
    with echo_servers(1) as servers, bench(*servers) as channel:
        channel.ready(1)
        assert channel.stub.Get(request()).pod == "pod-0"
        (subchannel,) = channel.binding.subchannels
        healthy = subchannel.metric
        subchannel.metric = type("Broken", (), {"on_start": lambda *_: None, "on_end": lambda *_: 1 / 0, "load": lambda *_: 0.0})()
        assert channel.stub.Get(request()).pod == "pod-0"
        assert channel.stub.Get.future(request()).result().pod == "pod-0"
        subchannel.metric = healthy
        eventually(lambda: len(channel.binding.internal_errors) == 2, "both were counted")
        channel.binding.internal_errors.clear()


def test_an_option_that_only_grpc_knows_to_be_wrong_fails_the_call_as_grpc_does() -> None:
    """Not a hang: the endpoint's channel cannot be made, so the stock channel raises what it raises."""
    with bench(nobody(), options=[("grpc.primary_user_agent", object())]) as channel:
        with pytest.raises(TypeError):
            channel.stub.Get(request(), timeout=PATIENCE_S)
        assert channel.binding.internal_errors
        channel.binding.internal_errors.clear()


class SwallowingSocket:
    """Listens, and its backlog is full: connects get no answer."""

    def __enter__(self) -> SwallowingSocket:
        import socket

        self._server = socket.socket()
        self._server.bind(("127.0.0.1", 0))
        self._server.listen(0)
        self._fill = []
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(self._server.getsockname())
            self._fill.append(client)
        return self

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host="127.0.0.1", port=self._server.getsockname()[1], name="swallowing")

    def __exit__(self, *exc: object) -> None:
        for each in (*self._fill, self._server):
            each.close()


@pytest.mark.parametrize("kind", [Exception, BaseException])
@pytest.mark.parametrize("place", ["on_start", "on_end"])
def test_what_a_signals_handler_raises_reaches_the_caller_and_leaves_nothing(kind: type[BaseException], place: str) -> None:
    """In the middle of meshlb: not counted as a bug, not swallowed, nothing left in flight (``bench`` looks)."""

    class Interrupt(kind):  # type: ignore[misc, valid-type]
        pass

    def handler(number: int, frame: object) -> None:
        raise Interrupt

    class Interrupted:
        def on_start(self, now_s: float) -> None:
            self.reach("on_start")

        def on_end(self, now_s: float, took_s: float, outcome: object) -> None:
            self.reach("on_end")

        def reach(self, where: str) -> None:
            if where == place:
                signal.raise_signal(signal.SIGTERM)

    with echo_servers(1) as servers, bench(*servers) as channel:
        channel.stub.Get(request())
        (subchannel,) = channel.binding.subchannels
        metric, subchannel.metric = subchannel.metric, Interrupted()  # type: ignore[assignment]
        before = signal.signal(signal.SIGTERM, handler)
        try:
            for _ in range(3):
                with pytest.raises(Interrupt):
                    channel.stub.Get(request())
        finally:
            signal.signal(signal.SIGTERM, before)
            subchannel.metric = metric
        assert channel.stub.Get(request()).pod == "pod-0"
