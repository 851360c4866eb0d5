"""A process that was stalled blames nobody: what it hears of too late says nothing about an endpoint. Threads, futures, streams, asyncio."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from tests.support.channels import PATIENCE_S
from tests.support.flaky import CALLERS, Seen, caller, flaky_servers

Code = grpc.StatusCode
TIMEOUT_S = 0.2
STALL_S = 0.6
RETRIES = [
    pytest.param("on", id="as it is"),
    pytest.param({"idempotent": ["*"]}, id="may be tried again"),
    pytest.param({"per_try_timeout_s": TIMEOUT_S}, id="by its own limit"),
]


class Pod:
    """Answers nothing, and says when it was asked."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, seen: Seen, context: grpc.ServicerContext) -> None:
        over = threading.Event()
        context.add_callback(over.set)
        self.asked.set()
        over.wait(PATIENCE_S)


@pytest.fixture
def gil_hog() -> Iterator[Pod]:
    """Once the pod was asked, a thread holds the GIL for ``STALL_S``: gRPC's own threads go on, none of Python's does."""
    pod = Pod()

    def hold() -> None:
        if pod.asked.wait(PATIENCE_S):
            threading.Event().wait(0.05)  # until its caller waits too: the time of a stream's attempt counts from then
            ctypes.PyDLL(None).usleep(int(STALL_S * 1e6))

    thread = threading.Thread(target=hold)
    thread.start()
    yield pod
    pod.asked.set()
    thread.join()


@pytest.mark.parametrize("retry", RETRIES)
@pytest.mark.parametrize("kind", CALLERS)
def test_a_deadline_that_passed_while_the_gil_was_held_is_nobodys_failure(kind: str, retry: object, gil_hog: Pod) -> None:
    """The caller hears of it as ever; the endpoint, which may well have answered in time, is not counted as failing."""
    with flaky_servers(1, gil_hog) as (pods, _), caller(kind, pods, retry=retry) as channel:
        ended = channel.call(timeout=PATIENCE_S if isinstance(retry, dict) and "per_try_timeout_s" in retry else TIMEOUT_S)
        assert ended.code is Code.DEADLINE_EXCEEDED
        assert [(sub.started, sub.failed) for sub in channel.binding.subchannels] == [(1, 0)]


@pytest.mark.parametrize("retry", RETRIES)
@pytest.mark.parametrize("kind", CALLERS)
def test_a_deadline_that_is_heard_of_in_time_is_the_endpoints_failure(kind: str, retry: object) -> None:
    """A frozen pod shows in no other way."""
    for _ in range(10):  # a busy machine may stall this process, too
        with flaky_servers(1, Pod()) as (pods, _), caller(kind, pods, retry=retry) as channel:
            ended = channel.call(timeout=PATIENCE_S if isinstance(retry, dict) and "per_try_timeout_s" in retry else TIMEOUT_S)
            assert ended.code is Code.DEADLINE_EXCEEDED
            (sub,) = channel.binding.subchannels
            assert sub.started == 1
            if sub.failed == 1:
                return
    raise AssertionError("never counted as its failure")


@pytest.mark.parametrize("kind", ["aio", "aio-stream"])
def test_a_deadline_that_passed_while_the_loop_was_blocked_is_nobodys_failure(kind: str) -> None:
    """By a callback that computes, or sleeps as one should not."""
    with flaky_servers(1, Pod()) as (pods, log), caller(kind, pods) as channel:

        async def blocked() -> object:
            loop = channel.bench.driver.loop

            def block_once_asked() -> None:
                if not log.attempts:
                    loop.call_later(0.001, block_once_asked)
                    return
                time.sleep(STALL_S)

            loop.call_soon(block_once_asked)
            return await channel.acall(timeout=TIMEOUT_S)

        ended = channel._runner.run(blocked())
        assert ended.code is Code.DEADLINE_EXCEEDED
        assert [(sub.started, sub.failed) for sub in channel.binding.subchannels] == [(1, 0)]
