"""What a call tells of its attempts, and the time limit of a stream's attempt: the same from threads and asyncio."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
import pytest

import meshlb.grpc
import meshlb.grpc.aio
from meshlb.core.endpoint import Endpoint
from meshlb.core.outcome import Outcome
from meshlb.core.policy import PickInfo
from tests.support.channels import PATIENCE_S, unused_port
from tests.support.flaky import CALLERS, STREAMS, Seen, caller, failing, flaky_servers

Code = grpc.StatusCode
NAMED = {"codes": ["UNAVAILABLE"], "base_s": 0.001}
IDEMPOTENT = {"idempotent": ["*"], "base_s": 0.001}


def told(ended: Any) -> list[tuple[str, str, str]]:
    return [(tried.endpoint.name, tried.ended, tried.why) for tried in meshlb.grpc.attempts_of(ended)]


def hanging(*numbers: int) -> Any:
    """These attempts get no answer."""

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        if seen.number in numbers:
            over = threading.Event()
            context.add_callback(over.set)
            over.wait(PATIENCE_S)

    return script


# --- why they were made ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retry", "trailers", "why"),
    [(IDEMPOTENT, {}, "idempotent"), (NAMED, {}, "code"), (IDEMPOTENT, {"grpc_retry_pushback_ms": "1"}, "pushback")],
)
@pytest.mark.parametrize("kind", CALLERS)
def test_a_call_that_failed_knows_each_attempt_and_why_it_was_made(
    kind: str, retry: dict[str, Any], trailers: dict[str, str], why: str
) -> None:
    """From its error; and the note of the error says so in words."""
    with flaky_servers(3, failing(9, **trailers)) as (pods, log), caller(kind, pods, retry=retry) as channel:
        ended = channel.call()
    reasons = ["first", why, why]
    assert told(ended.error) == [(pod, "UNAVAILABLE", reason) for pod, reason in zip(log.pods, reasons, strict=True)]
    assert f"({why}) UNAVAILABLE" in ended.error.__notes__[0]


@pytest.mark.parametrize("kind", [kind for kind in CALLERS if kind != "fast"])
def test_a_call_that_went_well_in_the_end_knows_them_too(kind: str) -> None:
    """From what ``with_call``, ``future``, a stream and asyncio return; the last has no end to tell of."""
    with flaky_servers(3, failing(1)) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
        ended = channel.call()
        assert ended.code is Code.OK
        assert told(ended.call) == [(log.pods[0], "UNAVAILABLE", "first"), (log.pods[1], "", "idempotent")]


@pytest.mark.parametrize("kind", CALLERS)
def test_what_never_left_the_client_says_so(kind: str) -> None:
    """It went elsewhere, and the other one failed. Futures and streams go elsewhere if their method may be tried again."""
    retry = "on" if kind in ("blocking", "fast", "aio") else IDEMPOTENT
    gone = Endpoint(host="127.0.0.1", port=unused_port(), name="pod-gone", uid="gone")
    expected = ("pod-gone", "never sent", "first"), ("pod-0", "UNAVAILABLE", "never sent")
    with flaky_servers(1, failing(99)) as (pods, _), caller(kind, pods, retry=retry, policy="p2c") as channel:
        told_of = set[Any]()
        for _ in range(20):  # half of them begin at the one that is gone
            channel.pretend_ready(gone)
            told_of.add(tuple(told(channel.call().error))[:2])
            if expected in told_of:
                break
    assert expected in told_of


@pytest.mark.parametrize("kind", [kind for kind in CALLERS if kind != "fast"])
def test_a_call_that_went_well_at_once_tells_of_one_attempt(kind: str) -> None:
    """For the price of its endpoint, which it has anyway."""
    with flaky_servers(1, failing(0)) as (pods, _), caller(kind, pods) as channel:
        assert told(channel.call().call) == [("pod-0", "", "first")]
        failed = channel.call(fields={"fail_code": Code.NOT_FOUND.value[0]})
        if kind != "aio-stream":  # grpc's own object, and its error knows nothing of it
            assert told(failed.error) == [("pod-0", "NOT_FOUND", "first")]
        if failed.call is not None:
            assert told(failed.call) == [("pod-0", "NOT_FOUND", "first")]


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_fails_in_its_middle_says_so_of_its_last_attempt(kind: str) -> None:
    """It was under way when the one before was told of."""
    with flaky_servers(2, failing(1)) as (pods, log), caller(kind, pods, retry=IDEMPOTENT) as channel:
        ended = channel.call(count=2, fields={"fail_code": Code.INTERNAL.value[0]})
        assert (ended.code, len(ended.replies)) == (Code.INTERNAL, 2)
        assert told(ended.call) == [(log.pods[0], "UNAVAILABLE", "first"), (log.pods[1], "INTERNAL", "idempotent")]


@pytest.mark.parametrize("retry", ["on", IDEMPOTENT], ids=["on", "idempotent"])
@pytest.mark.parametrize("serves", [True, False])
@pytest.mark.parametrize("kind", CALLERS)
def test_the_probe_of_an_ejected_endpoint_is_called_one(kind: str, serves: bool, retry: Any) -> None:
    """However it ends; from the call, if its caller was given one, or from its error. What follows it is made for another reason."""
    bad = ""

    def script(seen: Seen, context: grpc.ServicerContext) -> None:
        if seen.pod == bad and not serves:
            context.abort(Code.UNAVAILABLE, "not yet")

    outlier = {"base_ejection_s": 0.01, "ejection_jitter_ratio": 0.0}
    with flaky_servers(2, script) as (pods, _), caller(kind, pods, retry=retry, outlier=outlier) as channel:
        binding = channel.binding
        (view,) = binding.pool._live_views()
        sick = binding.pool.snapshot.eligible[0]
        bad = sick.endpoint.name
        while sick not in binding.pool.snapshot.ejected:
            attempt = view.begin(PickInfo("/shop.Orders/Get"))
            view.end(attempt, Outcome.FAILURE if attempt.subchannel is sick else Outcome.SUCCESS)
        given_up_s, probes = time.monotonic() + PATIENCE_S, list[Any]()
        while not probes and time.monotonic() < given_up_s and sick in binding.pool.snapshot.ejected:
            ended = channel.call()
            probes = [tried for tried in told(ended.call or ended.error) if tried[2] == "probe"]
    if kind == "fast" and (serves or retry != "on"):  # it returns the answer alone
        assert probes == []
    else:
        assert probes == [(bad, "" if serves else "UNAVAILABLE", "probe")]


def test_both_modules_have_the_same_function() -> None:
    """As for ``endpoint_of``; of anything else there is nothing to tell."""
    assert meshlb.grpc.aio.attempts_of is meshlb.grpc.attempts_of
    assert meshlb.grpc.attempts_of(object()) == ()


# --- the time limit of a stream's attempt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("ask", ["read", "initial metadata"])
def test_a_stream_whose_first_message_does_not_come_is_asked_for_elsewhere(kind: str, ask: str) -> None:
    """The slow one counts as failing, the call gets all its messages from the other."""
    retry = {**IDEMPOTENT, "per_try_timeout_s": 0.15}
    with flaky_servers(2, hanging(1)) as (pods, log), caller(kind, pods, retry=retry) as channel:
        ended = channel.call(initial=ask == "initial metadata")
        assert (ended.code, len(ended.replies)) == (Code.OK, 2)
        assert told(ended.call) == [(log.pods[0], "DEADLINE_EXCEEDED", "first"), (log.pods[1], "", "idempotent")]
        assert sorted(sub.failed for sub in channel.binding.subchannels) == [0, 1]


@pytest.mark.parametrize("kind", STREAMS)
def test_when_no_attempt_gives_a_first_message_in_time_the_error_says_so(kind: str) -> None:
    """DEADLINE_EXCEEDED as of any attempt whose time is over, grpc's error and ours; long before the call's own deadline."""
    retry = {**IDEMPOTENT, "max_attempts": 2, "per_try_timeout_s": 0.15}
    with flaky_servers(2, hanging(1, 2)) as (pods, _), caller(kind, pods, retry=retry) as channel:
        started_s = time.monotonic()
        ended = channel.call()
        assert time.monotonic() - started_s < 4.0
    assert ended.code is Code.DEADLINE_EXCEEDED
    said = ended.error.details()
    assert isinstance(ended.error, meshlb.DeadlineExceededError)
    (first, _, _), last = told(ended.error)
    assert last == ("pod-1" if first == "pod-0" else "pod-0", "DEADLINE_EXCEEDED", "idempotent")
    assert f"no answer of {last[0]} within per_try_timeout_s=0.15" in said


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_gave_its_first_message_may_take_its_time(kind: str) -> None:
    """The limit is for the first alone."""
    with (
        flaky_servers(1, failing(0)) as (pods, log),
        caller(kind, pods, retry={**IDEMPOTENT, "per_try_timeout_s": 0.15}) as channel,
    ):
        ended = channel.call(count=3, fields={"interval_s": 0.25})
    assert (ended.code, len(ended.replies), len(log.attempts)) == (Code.OK, 3, 1)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_nobody_reads_is_not_hurried(kind: str) -> None:
    """gRPC looks for messages when somebody asks; until then nobody knows whether one has come."""
    with (
        flaky_servers(1, failing(0)) as (pods, log),
        caller(kind, pods, retry={**IDEMPOTENT, "per_try_timeout_s": 0.2}) as channel,
    ):
        ended = channel.call(pause_s=0.5)
    assert (ended.code, len(ended.replies), len(log.attempts)) == (Code.OK, 2, 1)
