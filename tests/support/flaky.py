"""Pods that fail as a test wants, and callers that make the same calls from threads and from asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import grpc

from meshlb._proto import echo_pb2
from meshlb.core.connectivity import Connectivity
from meshlb.core.endpoint import Endpoint
from meshlb.grpc.marks import endpoint_of
from meshlb.testing.pod_server import EchoService
from tests.support import aio, channels
from tests.support.channels import PATIENCE_S, EchoServer, LooseBinding

Script = Callable[["Seen", grpc.ServicerContext], None]
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Seen:
    """One attempt as a pod saw it; ``number`` counts from 1 over all pods."""

    def __init__(self, pod: str, number: int, metadata: dict[str, Any], request: Any) -> None:
        self.pod = pod
        self.number = number
        self.metadata = metadata
        self.request = request


class Log:
    """What all pods saw, in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.attempts: list[Seen] = []

    def add(self, pod: str, context: grpc.ServicerContext, request: Any) -> Seen:
        with self._lock:
            seen = Seen(pod, len(self.attempts) + 1, dict(context.invocation_metadata()), request)
            self.attempts.append(seen)
        return seen

    @property
    def pods(self) -> list[str]:
        return [seen.pod for seen in self.attempts]


class FlakyService(EchoService):
    """Runs the script before it answers."""

    def __init__(self, pod: str, log: Log, script: Script) -> None:
        super().__init__(pod=pod, version="v1")
        self._log = log
        self._script = script

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._script(self._log.add(self._pod, context, request), context)
        return super().Get(request, context)

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._script(self._log.add(self._pod, context, request), context)
        yield from super().Watch(request, context)


class FlakyServer(EchoServer):
    """A pod with a script."""

    def __init__(self, name: str, log: Log, script: Script) -> None:
        self._log = log
        self._script = script
        super().__init__(name)

    def start(self) -> None:
        self.service = FlakyService(self.name, self._log, self._script)
        super().start()


@contextlib.contextmanager
def flaky_servers(count: int, script: Script) -> Iterator[tuple[list[FlakyServer], Log]]:
    """``pod-0`` and so on, all with this script."""
    log = Log()
    servers = [FlakyServer(f"pod-{number}", log, script) for number in range(count)]
    try:
        yield servers, log
    finally:
        for server in servers:
            server.stop()


def failing(times: int, code: grpc.StatusCode = UNAVAILABLE, details: str = "not yet", **trailers: str) -> Script:
    """The first ``times`` attempts end so, whichever pod they reach."""

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        if seen.number <= times:
            context.set_trailing_metadata(tuple((key.replace("_", "-"), value) for key, value in trailers.items()))
            context.abort(code, details)

    return script


class Ended:
    """How a call ended. ``call``: what the caller was given to ask, if anything."""

    def __init__(self, replies: list[Any], error: Any, endpoint: Any, call: Any = None) -> None:
        self.replies = replies
        self.error = error
        self.endpoint = endpoint
        self.call = call

    @property
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK if self.error is None else self.error.code()


class Caller(Protocol):
    """A channel over some endpoints; every call waits for its end."""

    streams: bool
    binding: LooseBinding

    def call(self, **arguments: Any) -> Ended: ...


class SyncCaller:
    def __init__(self, bench: channels.Bench, verb: str) -> None:
        self.bench = bench
        self.binding = bench.binding
        self.streams = verb == "stream"
        self._verb = verb

    def call(self, count: int = 2, *, initial: bool = False, pause_s: float = 0.0, **arguments: Any) -> Ended:
        """A stream: ``initial`` asks for the server's metadata before it reads, ``pause_s`` is how long it does not."""
        fields = arguments.pop("fields", {})
        arguments.setdefault("timeout", PATIENCE_S)
        stub, replies = self.bench.stub, []
        call: Any = None
        try:
            if self._verb == "blocking":
                reply, call = stub.Get.with_call(echo_pb2.EchoRequest(**fields), **arguments)
                replies.append(reply)
            elif self._verb == "fast":
                replies.append(stub.Get(echo_pb2.EchoRequest(**fields), **arguments))
            elif self._verb == "future":
                call = stub.Get.future(echo_pb2.EchoRequest(**fields), **arguments)
                replies.append(call.result(2 * PATIENCE_S))
            else:
                call = stub.Watch(echo_pb2.EchoRequest(count=count, **fields), **arguments)
                if initial:
                    call.initial_metadata()
                threading.Event().wait(pause_s)
                for message in call:
                    replies.append(message)  # one by one: those before an error count
        except grpc.RpcError as error:
            return Ended(replies, error, endpoint_of(error), call)
        return Ended(replies, None, endpoint_of(call), call)

    def pretend_ready(self, endpoint: Endpoint) -> None:
        """The view takes this endpoint too, at which nobody listens, for ready."""
        binding, connections = self.binding, self.bench.connections
        binding.update([*binding.endpoints, endpoint])
        (gone,) = [sub for sub in binding.subchannels if sub.endpoint is endpoint]
        channels.eventually(lambda: gone in connections.links, "it was opened")
        connections.links[gone].look = lambda connect: 2
        view = connections.view
        assert view is not None
        channels.eventually(lambda: view.state_of(gone) is Connectivity.READY, "it looks ready")


class AioCaller:
    def __init__(self, bench: aio.Bench, runner: asyncio.Runner, *, streams: bool) -> None:
        self.bench = bench
        self.binding = bench.binding
        self.streams = streams
        self._runner = runner

    def call(self, count: int = 2, **arguments: Any) -> Ended:
        return self._runner.run(asyncio.wait_for(self.acall(count, **arguments), 3 * PATIENCE_S))

    async def acall(self, count: int = 2, *, initial: bool = False, pause_s: float = 0.0, **arguments: Any) -> Ended:
        fields = arguments.pop("fields", {})
        arguments.setdefault("timeout", PATIENCE_S)
        stub, replies = self.bench.stub, []
        verb = stub.Watch if self.streams else stub.Get
        call = verb(echo_pb2.EchoRequest(count=count, **fields), **arguments)
        try:
            if self.streams:
                if initial:
                    await call.initial_metadata()
                await asyncio.sleep(pause_s)
                async for message in call:
                    replies.append(message)
            else:
                replies.append(await call)
        except grpc.aio.AioRpcError as error:
            return Ended(replies, error, endpoint_of(call), call)
        return Ended(replies, None, endpoint_of(call), call)

    def pretend_ready(self, endpoint: Endpoint) -> None:
        """The view takes this endpoint too, at which nobody listens, for ready."""
        self.binding.update([*self.binding.endpoints, endpoint])
        self._runner.run(self.bench.pretend_ready(endpoint.name))


UNARY = ("blocking", "fast", "future", "aio")
STREAMS = ("stream", "aio-stream")
CALLERS = (*UNARY, *STREAMS)


@contextlib.contextmanager
def caller(kind: str, servers: list[Any], *, retry: Any = "on", options: Any = (), **settings: Any) -> Iterator[Any]:
    """A channel of that kind over these endpoints, all of them ready; at the end nothing is in flight."""
    binding = LooseBinding(retry=retry, **settings)
    if not kind.startswith("aio"):
        with channels.bench(*servers, binding=binding, options=options) as bench:
            bench.ready(len(servers))
            yield SyncCaller(bench, kind)
        return
    with asyncio.Runner() as runner:
        context = aio.bench(*servers, binding=binding, options=options)
        bench_aio = runner.run(context.__aenter__())
        try:
            runner.run(bench_aio.ready(len(servers)))
            yield AioCaller(bench_aio, runner, streams=kind == "aio-stream")
        except BaseException:
            runner.run(bench_aio.channel.close())
            binding.scheduler.stop(1.0)
            raise
        runner.run(context.__aexit__(None, None, None))
