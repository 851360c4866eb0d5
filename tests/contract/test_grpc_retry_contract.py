"""What is tried again and what is not: the same cases from threads and asyncio, unary and streams, over real loopback servers."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from typing import Any

import grpc
import pytest
import tenacity

from meshlb.core.endpoint import Endpoint
from meshlb.errors import DeadlineExceededError
from tests.support.aio import eventually as eventually_aio
from tests.support.channels import PATIENCE_S, eventually, request, unused_port
from tests.support.flaky import CALLERS, STREAMS, UNARY, Seen, caller, failing, flaky_servers

GET, WATCH, SERVICE = "/meshlb.testing.v1.Echo/Get", "/meshlb.testing.v1.Echo/Watch", "/meshlb.testing.v1.Echo/*"
IDEMPOTENT = {"idempotent": [SERVICE], "base_s": 0.001}
Code = grpc.StatusCode


def service_config(**fields: Any) -> list[tuple[str, Any]]:
    return [("grpc.service_config", json.dumps(fields))]


def policy(*codes: str, attempts: int = 3, **fields: Any) -> list[tuple[str, Any]]:
    said = {
        "maxAttempts": attempts,
        "initialBackoff": "0.001s",
        "maxBackoff": "0.001s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": list(codes),
    }
    return service_config(methodConfig=[{"name": [{}], "retryPolicy": said}], **fields)


# --- the three tiers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CALLERS)
def test_by_default_nothing_that_was_sent_is_sent_again(kind: str) -> None:
    """It may have been processed, and nobody said that this does no harm."""
    with flaky_servers(3, failing(1)) as (pods, log), caller(kind, pods) as channel:
        ended = channel.call()
    assert (ended.code, ended.error.details()) == (Code.UNAVAILABLE, "not yet")
    assert len(log.attempts) == 1
    assert channel.binding.budget.granted == 0


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("declared", [GET, WATCH, SERVICE, "*"])
def test_a_declared_method_is_tried_again_on_pods_not_tried_yet(kind: str, declared: str) -> None:
    """By its name, its service, or all; each attempt elsewhere while there is an elsewhere."""
    with (
        flaky_servers(3, failing(2)) as (pods, log),
        caller(kind, pods, retry={"idempotent": [declared], "base_s": 0.001}) as channel,
    ):
        ended = channel.call()
    if declared == (WATCH if kind in UNARY else GET):
        assert (ended.code, len(log.attempts)) == (Code.UNAVAILABLE, 1)
        return
    assert ended.code is Code.OK
    assert len(ended.replies) == (2 if kind in STREAMS else 1)
    assert sorted(log.pods) == ["pod-0", "pod-1", "pod-2"]
    assert {reply.pod for reply in ended.replies} == {log.pods[-1]}
    assert channel.binding.budget.granted == 2


@pytest.mark.parametrize("kind", CALLERS)
def test_one_call_may_say_so_itself(kind: str) -> None:
    """By the metadata key that the config names; the word no takes it back."""
    retry = {"idempotent_metadata": "X-Idempotent", "base_s": 0.001}
    for said, attempts in (("yes", 2), ("no", 1)):
        with flaky_servers(2, failing(1)) as (pods, log), caller(kind, pods, retry=retry) as channel:
            ended = channel.call(metadata=(("x-idempotent", said),))
        assert (ended.code is Code.OK, len(log.attempts)) == (attempts == 2, attempts)


@pytest.mark.parametrize("kind", CALLERS)
def test_a_named_code_is_tried_again_whatever_the_method(kind: str) -> None:
    """And only a named one."""
    retry = {"codes": ["RESOURCE_EXHAUSTED"], "base_s": 0.001}
    for code, attempts in ((Code.RESOURCE_EXHAUSTED, 2), (Code.UNAVAILABLE, 1)):
        with flaky_servers(2, failing(1, code)) as (pods, log), caller(kind, pods, retry=retry) as channel:
            ended = channel.call()
        assert (ended.code, len(log.attempts)) == (Code.OK if attempts == 2 else code, attempts)


@pytest.mark.parametrize("kind", CALLERS)
def test_what_the_application_decided_is_final(kind: str) -> None:
    """Idempotent or not: NOT_FOUND will not be found elsewhere."""
    for code in (Code.NOT_FOUND, Code.INTERNAL, Code.DEADLINE_EXCEEDED, Code.CANCELLED):
        with flaky_servers(2, failing(1, code)) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
            assert channel.call().code is code
        assert len(log.attempts) == 1


@pytest.mark.parametrize("kind", CALLERS)
def test_a_pod_that_stops_under_a_call_costs_an_idempotent_call_nothing(kind: str) -> None:
    """Its server cancels what it was doing: maybe processed."""
    begun, pods = threading.Event(), []

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        if seen.number == 1:
            threading.Thread(target=next(pod for pod in pods if pod.name == seen.pod).stop).start()
            begun.wait(1.0)

    with flaky_servers(2, script) as (servers, log):
        pods.extend(servers)
        with caller(kind, servers, retry=IDEMPOTENT) as channel:
            ended = channel.call()
        begun.set()
    assert ended.code is Code.OK
    assert len(set(log.pods)) == 2


@pytest.mark.parametrize("kind", CALLERS)
def test_off_is_one_attempt(kind: str) -> None:
    """Whatever else is said, here or in the service config."""
    retry = {**IDEMPOTENT, "enabled": False, "codes": ["UNAVAILABLE"]}
    with flaky_servers(2, failing(9)) as (pods, log), caller(kind, pods, retry=retry, options=policy("UNAVAILABLE")) as channel:
        assert channel.call().code is Code.UNAVAILABLE
    assert len(log.attempts) == 1


# --- how often, and what comes of it ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CALLERS)
def test_the_last_attempts_own_error_is_what_the_caller_gets(kind: str) -> None:
    """grpc's own, with its details and trailers; ``endpoint_of`` has its pod, and the traceback says what was tried."""

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("number", str(seen.number)),))
        context.abort(Code.UNAVAILABLE, f"no {seen.number}")

    with flaky_servers(3, script) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
        ended = channel.call()
    assert (ended.code, ended.error.details()) == (Code.UNAVAILABLE, "no 3")
    assert dict(tuple(ended.error.trailing_metadata()))["number"] == "3"
    assert ended.endpoint.name == log.pods[2]
    (note,) = ended.error.__notes__
    first, second, third = log.pods
    said = f"{first} UNAVAILABLE; {second} (idempotent) UNAVAILABLE; {third} (idempotent) UNAVAILABLE"
    assert note == f"meshlb: {said} (no more: max_attempts=3)"


@pytest.mark.parametrize("kind", CALLERS)
def test_the_users_metadata_is_the_same_each_time_and_the_count_comes_behind_it(kind: str) -> None:
    """``grpc-previous-rpc-attempts`` from the second attempt on; gRPC lets it through with ``grpc.enable_retries`` 0."""
    given = (("x-a", "1"), ("x-b", "2"))
    options = [("grpc.enable_retries", 0)]
    with flaky_servers(3, failing(2)) as (pods, log), caller(kind, pods, retry=IDEMPOTENT, options=options) as channel:
        assert channel.call(metadata=given).code is Code.OK
    assert [seen.metadata.get("grpc-previous-rpc-attempts") for seen in log.attempts] == [None, "1", "2"]
    assert all((seen.metadata["x-a"], seen.metadata["x-b"]) == ("1", "2") for seen in log.attempts)
    assert given == (("x-a", "1"), ("x-b", "2"))


@pytest.mark.parametrize("kind", CALLERS)
def test_metadata_that_can_be_read_only_once_is_sent_once(kind: str) -> None:
    """A generator is used up by the first attempt; a second would go out without it."""
    with flaky_servers(2, failing(1)) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
        ended = channel.call(metadata=iter([("x-a", "1")]))
    assert (ended.code, len(log.attempts)) == (Code.UNAVAILABLE, 1)


@pytest.mark.parametrize("kind", CALLERS)
def test_grpcs_retry_policy_is_the_pools_and_attempts_do_not_multiply(kind: str) -> None:
    """Three, on three pods: not three on each of three."""
    with flaky_servers(3, failing(9)) as (pods, log), caller(kind, pods, options=policy("UNAVAILABLE")) as channel:
        assert channel.call().code is Code.UNAVAILABLE
    assert sorted(log.pods) == ["pod-0", "pod-1", "pod-2"]


@pytest.mark.parametrize("kind", CALLERS)
def test_retry_throttling_stops_at_half_of_its_tokens(kind: str) -> None:
    """A6: 4 tokens; from the second failure on there are no more than 2."""
    options = policy("UNAVAILABLE", attempts=5, retryThrottling={"maxTokens": 4, "tokenRatio": 0.5})
    with flaky_servers(3, failing(4)) as (pods, log), caller(kind, pods, options=options) as channel:
        assert channel.call().code is Code.UNAVAILABLE
        assert len(log.attempts) == 2
        assert channel.call().code is Code.UNAVAILABLE
        assert channel.call().code is Code.UNAVAILABLE
        assert len(log.attempts) == 4
        assert [channel.call().code for _ in range(8)] == [Code.OK] * 8  # 0 tokens, and half a token each: 4 by now
        for pod in pods:
            pod.service._script = failing(10**9)
        assert channel.call().code is Code.UNAVAILABLE
        assert len(log.attempts) == 4 + 8 + 2


# --- when ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CALLERS)
def test_a_pushback_is_kept_to_the_millisecond(kind: str) -> None:
    """Exactly the server's time in place of the back-off."""
    retry = {"idempotent": ["*"], "base_s": 5.0, "max_s": 5.0}
    with flaky_servers(2, failing(1, grpc_retry_pushback_ms="150")) as (pods, _), caller(kind, pods, retry=retry) as channel:
        started_s = time.monotonic()
        assert channel.call().code is Code.OK
    assert 0.15 <= time.monotonic() - started_s < 4.0


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize("said", ["-1", "soon", "1.5", "", "99999999999"])
def test_a_pushback_that_is_negative_or_unreadable_ends_it(kind: str, said: str) -> None:
    """A6: the server does not want to see this call again."""
    with flaky_servers(2, failing(1, grpc_retry_pushback_ms=said)) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
        assert channel.call().code is Code.UNAVAILABLE
    assert len(log.attempts) == 1


@pytest.mark.parametrize("kind", CALLERS)
def test_an_attempt_that_would_begin_after_the_deadline_is_not_waited_for(kind: str) -> None:
    """The call ends at once, with the error that it has."""
    with (
        flaky_servers(2, failing(1, grpc_retry_pushback_ms="60000")) as (pods, log),
        caller(kind, pods, retry=IDEMPOTENT) as channel,
    ):
        started_s = time.monotonic()
        assert channel.call(timeout=5.0).code is Code.UNAVAILABLE
    assert time.monotonic() - started_s < 4.0
    assert len(log.attempts) == 1


@pytest.mark.parametrize("kind", CALLERS)
def test_the_callers_deadline_ends_the_last_attempt_too(kind: str) -> None:
    """Each attempt gets what is left."""

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        if seen.number == 1:
            context.abort(Code.UNAVAILABLE, "")
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(PATIENCE_S)

    with flaky_servers(2, script) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
        started_s = time.monotonic()
        assert channel.call(timeout=0.4).code is Code.DEADLINE_EXCEEDED
        assert 0.3 < time.monotonic() - started_s < 3.0
    assert len(log.attempts) == 2


@pytest.mark.parametrize("kind", CALLERS)
def test_a_slow_pod_costs_one_attempts_time(kind: str) -> None:
    """``per_try_timeout_s`` on one of two pods that hangs; of a method that is not idempotent it ends the call. A stream of answers has it
    for its first."""

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        if seen.pod == "pod-0":
            over = threading.Event()
            context.add_callback(over.set)
            over.wait(PATIENCE_S)

    for retry in (IDEMPOTENT, {"base_s": 0.001}):
        with flaky_servers(2, script) as (pods, log), caller(kind, pods, retry={**retry, "per_try_timeout_s": 0.15}) as channel:
            started_s = time.monotonic()
            codes = [channel.call().code for _ in range(2)]  # round robin: one of them begins at the slow one
            assert time.monotonic() - started_s < 4.0
        if "idempotent" in retry:
            assert codes == [Code.OK, Code.OK]
            assert log.pods.count("pod-0") in (1, 2)
        else:
            assert sorted(code.name for code in codes) == ["DEADLINE_EXCEEDED", "OK"]


@pytest.mark.parametrize("kind", CALLERS)
def test_tenacitys_objects_decide_how_often_and_how_soon(kind: str) -> None:
    """In place of ``max_attempts`` and of the back-off."""
    retry = {
        "idempotent": ["*"],
        "stop": tenacity.stop_after_attempt(2) | tenacity.stop_after_delay(60),
        "wait": tenacity.wait_fixed(0.1) + tenacity.wait_random(0, 0.01),
    }
    with flaky_servers(3, failing(9)) as (pods, log), caller(kind, pods, retry=retry) as channel:
        started_s = time.monotonic()
        assert channel.call().code is Code.UNAVAILABLE
    assert 0.1 <= time.monotonic() - started_s < 4.0
    assert len(log.attempts) == 2


@pytest.mark.parametrize("kind", CALLERS)
@pytest.mark.parametrize(
    "said", ["Stream removed (GOAWAY received; Error code: 0; Debug Text: max_age)", "GOAWAY received; Error code: 0; …"]
)
def test_what_a_closing_connection_never_processed_cannot_be_told_from_what_a_service_passes_on(kind: str, said: str) -> None:
    """gRPC's words for the one, without metadata, are also those of a service that answers with its backend's error: it did process the
    call. So they allow no second attempt by themselves (``grpc/status.py`` says what follows from that)."""
    with flaky_servers(2, failing(1, details=said)) as (pods, log), caller(kind, pods) as channel:
        ended = channel.call()
    assert (ended.code, ended.error.details(), len(log.attempts)) == (Code.UNAVAILABLE, said, 1)
    assert not list(ended.error.initial_metadata() or ())
    assert not list(ended.error.trailing_metadata() or ())


# --- never twice what the caller saw ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_gave_a_message_is_final(kind: str) -> None:
    """The caller has it; a second attempt would give it again."""
    with flaky_servers(2, lambda seen, context: None) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
        ended = channel.call(count=2, fields={"fail_code": Code.UNAVAILABLE.value[0]})
    assert (ended.code, len(ended.replies), len(log.attempts)) == (Code.UNAVAILABLE, 2, 1)


@pytest.mark.parametrize("kind", CALLERS)
def test_after_the_servers_initial_metadata_a_named_code_is_final(kind: str) -> None:
    """As in A6; what is declared idempotent goes on, since its caller saw nothing of it."""

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        if seen.number == 1:
            context.send_initial_metadata((("x-begun", "yes"),))
            threading.Event().wait(0.1)  # grpc.aio forgets initial metadata that its task reads after the status
            context.abort(Code.UNAVAILABLE, "half way")

    for retry, attempts in (({"codes": ["UNAVAILABLE"], "base_s": 0.001}, 1), (IDEMPOTENT, 2)):
        with flaky_servers(2, script) as (pods, log), caller(kind, pods, retry=retry) as channel:
            assert (channel.call().code is Code.OK) == (attempts == 2)
        assert len(log.attempts) == attempts


# --- giving up -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CALLERS)
def test_the_deadline_that_comes_while_nobody_is_ready_tells_of_the_last_attempt(kind: str) -> None:
    """DEADLINE_EXCEEDED, with grpc's error of that attempt as its cause, and its pod."""
    gone: list[Any] = []

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        gone[0]()
        context.abort(Code.UNAVAILABLE, "going")

    with flaky_servers(1, script) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
        unready = Endpoint(host="127.0.0.1", port=unused_port(), name="pod-1", uid="uid-1")
        gone.append(lambda: channel.binding.update([unready]))
        held = socket.socket()  # listens and never accepts: its connection stays on its way
        held.bind(("127.0.0.1", unready.port))
        held.listen(0)
        with held:
            ended = channel.call(timeout=0.5)
    assert ended.code is Code.DEADLINE_EXCEEDED
    assert isinstance(ended.error, DeadlineExceededError)
    cause = ended.error.__cause__
    assert isinstance(cause, grpc.RpcError)
    assert (cause.details(), ended.endpoint.name) == ("going", "pod-0")  # type: ignore[attr-defined]
    assert len(log.attempts) == 1


@pytest.mark.parametrize("kind", CALLERS)
def test_the_endpoint_that_is_gone_for_good_leaves_the_last_attempts_error(kind: str) -> None:
    """No pod is left to try: grpc's own error says more than ours that there is none."""
    gone: list[Any] = []

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        gone[0]()
        context.abort(Code.UNAVAILABLE, "going")

    with flaky_servers(1, script) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
        gone.append(lambda: channel.binding.update([]))
        ended = channel.call()
    assert (ended.code, ended.error.details(), ended.endpoint.name) == (Code.UNAVAILABLE, "going", "pod-0")
    assert len(log.attempts) == 1


WAITS = {"idempotent": ["*"], "base_s": 60.0, "max_s": 60.0, "wait": lambda state: 30.0}


def test_cancelling_in_a_back_off_ends_the_call_at_once() -> None:
    """A future and a stream of threads; nothing is sent any more."""
    for kind in ("future", "stream"):
        with flaky_servers(2, failing(9)) as (pods, log), caller(kind, pods, retry=WAITS) as channel:
            stub = channel.bench.stub
            call = stub.Watch(request(count=1)) if kind == "stream" else stub.Get.future(request())
            eventually(lambda: channel.binding.budget.granted == 1, "it waits for its next attempt")
            assert not call.done()
            assert call.cancel()
            assert call.cancelled()
            assert call.code() is Code.CANCELLED
        assert len(log.attempts) == 1


@pytest.mark.parametrize("kind", ["aio", "aio-stream"])
def test_cancelling_an_asyncio_call_in_a_back_off_ends_it_at_once(kind: str) -> None:
    """By its own ``cancel`` or by that of the task which awaits it."""
    with flaky_servers(2, failing(9)) as (pods, log), caller(kind, pods, retry=WAITS) as channel:

        async def cancel() -> None:
            task = asyncio.ensure_future(channel.acall(timeout=100.0))
            await eventually_aio(lambda: channel.binding.budget.granted == 1, "it waits for its next attempt")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        channel._runner.run(asyncio.wait_for(cancel(), PATIENCE_S))
    assert len(log.attempts) == 1


@pytest.mark.parametrize("kind", CALLERS)
def test_closing_the_channel_in_a_back_off_ends_the_call_at_once(kind: str) -> None:
    """CANCELLED, as for any call in flight."""
    with flaky_servers(2, failing(9)) as (pods, log), caller(kind, pods, retry=WAITS) as channel:
        started_s = time.monotonic()

        def waits() -> bool:
            return bool(channel.binding.budget.granted == 1)

        if kind.startswith("aio"):

            async def close() -> Any:
                task = asyncio.ensure_future(channel.acall(timeout=100.0))
                await eventually_aio(waits, "it waits for its next attempt")
                await channel.bench.channel.close()
                with pytest.raises(asyncio.CancelledError):
                    await task

            channel._runner.run(asyncio.wait_for(close(), PATIENCE_S))
        else:
            closer = threading.Thread(target=lambda: (eventually(waits, "it waits"), channel.bench.channel.close()))
            closer.start()
            assert channel.call(timeout=100.0).code is Code.CANCELLED
            closer.join(PATIENCE_S)
        assert time.monotonic() - started_s < 5.0
    assert len(log.attempts) == 1


@pytest.mark.parametrize("kind", CALLERS)
def test_a_storm_is_bounded_by_the_budget(kind: str) -> None:
    """All pods fail: attempts are at most 1.2 of the calls and 10 a second, over the budget's time."""
    retry = {"idempotent": ["*"], "base_s": 0.0, "max_s": 0.0, "budget_min_per_s": 2.0, "budget_ttl_s": 2.0}
    with flaky_servers(2, failing(10**9)) as (pods, log), caller(kind, pods, retry=retry) as channel:
        started_s = time.monotonic()
        calls = 150
        for _ in range(calls):
            assert channel.call().code is Code.UNAVAILABLE
        elapsed_s = time.monotonic() - started_s
    assert calls < len(log.attempts) <= calls * 1.2 + 2.0 * (elapsed_s + 2.0)
    eventually(lambda: channel.binding.in_flight == 0, "nothing in flight")
    assert channel.binding.budget.refused > 0
