"""Servers that say for themselves whether they are fit (grpc.health.v1, gRFC A17), sync and asyncio alike."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Coroutine, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from meshlb._proto import echo_pb2_grpc
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.testing.pod_server import EchoService
from tests.support import aio
from tests.support.channels import Bench, LooseBinding, bench, echo_servers, eventually, request

health = pytest.importorskip("grpc_health.v1.health")
health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
health_pb2_grpc = pytest.importorskip("grpc_health.v1.health_pb2_grpc")

Run = Callable[[Coroutine[Any, Any, None]], None]
Status = health_pb2.HealthCheckResponse
SERVICE = "shop.Orders"


class Pod:
    """A server with the health service of grpcio-health-checking, or one given."""

    def __init__(self, name: str, servicer: Any = None) -> None:
        self._watchers = futures.ThreadPoolExecutor(4)
        self.health = servicer or health.HealthServicer(experimental_non_blocking=True, experimental_thread_pool=self._watchers)
        self.server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        echo_pb2_grpc.add_EchoServicer_to_server(EchoService(pod=name, version="v1"), self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.endpoint = Endpoint(host="127.0.0.1", port=port, name=name, uid=f"uid-{name}")
        self.server.start()

    def say(self, word: str, service: str = SERVICE) -> None:
        self.health.set(service, Status.ServingStatus.Value(word))

    def stop(self) -> None:
        self.server.stop(None).wait()
        self._watchers.shutdown(wait=False)


@pytest.fixture
def pods() -> Iterator[list[Pod]]:
    """Two that serve."""
    made = [Pod(f"pod-{number}") for number in range(2)]
    for pod in made:
        pod.say("SERVING")
    yield made
    for pod in made:
        pod.stop()


def watching(service: str | None = SERVICE) -> LooseBinding:
    return LooseBinding(connection={"health_check": service})


def endpoints(pods: list[Pod]) -> list[Endpoint]:
    return [pod.endpoint for pod in pods]


def whys(channel: Bench) -> list[Any]:
    return [channel.connections.describe(sub).get("why", "") for sub in channel.binding.pool.snapshot.listed]


@pytest.mark.parametrize("word", ["NOT_SERVING", "UNKNOWN", "SERVICE_UNKNOWN"])
def test_only_one_that_serves_gets_calls(pods: list[Pod], word: str) -> None:
    """In whatever words it says that it does not; it gets calls again when it does again, and its status says why it got none."""
    with bench(*endpoints(pods), binding=watching()) as channel:
        channel.ready(2)
        pods[0].say(word)
        channel.ready(1)
        assert {channel.stub.Get(request()).pod for _ in range(10)} == {"pod-1"}
        eventually(lambda: any("backend unhealthy" in why for why in whys(channel)), "status says why")
        pods[0].say("SERVING")
        channel.ready(2)
        assert {channel.stub.Get(request()).pod for _ in range(10)} == {"pod-0", "pod-1"}
        eventually(lambda: whys(channel) == ["", ""], "there is nothing to be said any more")


@pytest.mark.parametrize("word", ["NOT_SERVING", "UNKNOWN", "SERVICE_UNKNOWN"])
def test_only_one_that_serves_gets_asyncio_calls(run: Run, pods: list[Pod], word: str) -> None:
    """The same in an event loop."""

    async def case() -> None:
        async with aio.bench(*endpoints(pods), binding=watching()) as channel:

            def said() -> list[Any]:
                return [channel.driver.connections.describe(sub).get("why", "") for sub in channel.binding.pool.snapshot.listed]

            await channel.ready(2)
            pods[0].say(word)
            await channel.ready(1)
            assert {(await channel.stub.Get(request())).pod for _ in range(10)} == {"pod-1"}
            await aio.eventually(lambda: any("backend unhealthy" in why for why in said()), "status says why")
            pods[0].say("SERVING")
            await channel.ready(2)
            assert {(await channel.stub.Get(request())).pod for _ in range(10)} == {"pod-0", "pod-1"}
            await aio.eventually(lambda: said() == ["", ""], "there is nothing to be said any more")

    run(case())


def test_the_whole_server_may_be_asked_for_and_nothing_is_by_default(pods: list[Pod]) -> None:
    """``""`` is the server's own health; another service's word does not count; without the option no word does."""
    pods[0].say("NOT_SERVING")
    with bench(*endpoints(pods), binding=watching("")) as channel:
        channel.ready(2)
        pods[1].say("NOT_SERVING", "")
        channel.ready(1)
        assert {channel.stub.Get(request()).pod for _ in range(4)} == {"pod-0"}
    with bench(*endpoints(pods)) as channel:
        channel.ready(2)


def test_the_users_own_service_config_wins(pods: list[Pod]) -> None:
    """Its healthCheckConfig names another service; it alone is explained as well."""
    pods[0].say("NOT_SERVING")
    pods[1].say("NOT_SERVING", "other")
    for pod in pods[:1]:
        pod.say("SERVING", "other")
    config = ("grpc.service_config", json.dumps({"healthCheckConfig": {"serviceName": "other"}}))
    with bench(*endpoints(pods), binding=watching(), options=[config]) as channel:
        channel.ready(1)
        assert channel.stub.Get(request()).pod == "pod-0"
        eventually(lambda: any("backend unhealthy" in why for why in whys(channel)), "status says why")


def test_if_nobody_serves_a_call_hears_it(pods: list[Pod]) -> None:
    """UNAVAILABLE with gRPC's reason; one that waits for ready gets its answer when somebody does."""
    for pod in pods:
        pod.say("NOT_SERVING")
    with bench(*endpoints(pods), binding=watching()) as channel:
        view = channel.connections.open()
        assert view is not None
        eventually(lambda: view.state is Connectivity.TRANSIENT_FAILURE, "both have said so")
        with pytest.raises(grpc.RpcError) as ended:
            channel.stub.Get(request(), timeout=5)
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "unhealthy" in ended.value.details()
        call = channel.stub.Get.future(request(), timeout=10, wait_for_ready=True)
        pods[1].say("SERVING")
        assert call.result().pod == "pod-1"


def test_a_server_without_the_health_service_is_fit() -> None:
    """UNIMPLEMENTED is no verdict (A17)."""
    with echo_servers(1) as servers, bench(*servers, binding=watching()) as channel:
        channel.ready(1)
        assert channel.stub.Get(request()).pod == "pod-0"


def test_a_watch_that_fails_is_tried_again() -> None:
    """Until its first word the server is not used (A17: the stream's failure is the connection's, with back-off)."""

    class Flaky(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
        watches = 0

        def Watch(self, asked: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self.watches += 1
            if self.watches == 1:
                context.abort(grpc.StatusCode.INTERNAL, "not yet")
            yield Status(status=Status.SERVING)
            over = futures.Future[None]()
            if context.add_callback(lambda: over.set_result(None)):
                over.result()

    servicer = Flaky()
    pod = Pod("pod-0", servicer)
    with contextlib.closing(_Stopping(pod)), bench(pod.endpoint, binding=watching()) as channel:
        channel.ready(1)
        assert servicer.watches == 2
        assert channel.stub.Get(request()).pod == "pod-0"


class _Stopping:
    def __init__(self, pod: Pod) -> None:
        self.close = pod.stop


def test_a_graceful_stop_is_not_held_up_by_our_watch(pods: list[Pod]) -> None:
    """The server's GOAWAY ends it, so the server need not wait out its grace."""
    with bench(*endpoints(pods), binding=watching()) as channel:
        channel.ready(2)
        stopped = pods[0].server.stop(30)
        assert stopped.wait(5)
        assert {channel.stub.Get(request()).pod for _ in range(4)} == {"pod-1"}


def test_a_renewed_connection_takes_over_when_its_server_says_that_it_serves(pods: list[Pod]) -> None:
    """Not before: while it does not, the old one is used no more either, and the next word counts for both."""
    binding = LooseBinding(connection={"health_check": SERVICE, "max_age_s": 1})
    with bench(pods[0].endpoint, binding=binding) as channel:
        channel.ready(1)
        (sub,) = binding.pool.snapshot.listed
        eventually(lambda: channel.connections.describe(sub)["replaced"], "it is renewed")
        assert channel.stub.Get(request()).pod == "pod-0"
        pods[0].say("NOT_SERVING")
        channel.ready(0)
        pods[0].say("SERVING")
        channel.ready(1)
        assert channel.stub.Get(request()).pod == "pod-0"
