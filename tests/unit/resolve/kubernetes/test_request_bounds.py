"""However the API server fails, a stream asks at most twice a second and 0.05 times a second in the long run."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from meshlb.resolve.kubernetes.requests import ListRequest, WatchRequest
from meshlb.resolve.kubernetes.streaming_lists import StreamingLists
from meshlb.resolve.kubernetes.transport import ApiError
from meshlb.resolve.kubernetes.wire import Unreadable
from tests.unit.resolve.kubernetes.virtual_api import (
    Answer,
    Failed,
    Listed,
    Server,
    Streamed,
    VirtualApi,
    bookmark,
    refused,
    slice_event,
    unreachable,
)

TEN_MINUTES_S = 600.0
BURST = 2 + 10  # what the first sync takes, and the capacity for bursts


def always(answer: Answer) -> Server:
    return lambda request, now_s: answer


def lists_then(answer: Answer) -> Server:
    return lambda request, now_s: Listed("100") if isinstance(request, ListRequest) else answer


def an_event_then_the_end() -> Server:
    versions = itertools.count(101)

    def server(request: ListRequest | WatchRequest, now_s: float) -> Answer:
        if isinstance(request, ListRequest):
            return Listed("100")
        return Streamed(events=((0.0, slice_event("MODIFIED", str(next(versions)))),), end_s=0.0)

    return server


def a_list_from_the_past() -> Server:
    versions = itertools.count(1000, -1)
    return lambda request, now_s: (
        Listed(str(next(versions))) if isinstance(request, ListRequest) else Failed(refused(410, "Expired"))
    )


def a_different_refusal_each_time() -> Server:
    codes = itertools.cycle((500, 429, 410, 401, 503, 400, 504))
    return lambda request, now_s: Failed(refused(next(codes)))


def versions_that_go_back() -> Server:
    """Each stream carries an event that is older than the one before it, and every watch ends."""
    versions = itertools.count(100000, -1)

    def server(request: ListRequest | WatchRequest, now_s: float) -> Answer:
        if isinstance(request, ListRequest):
            return Listed(str(next(versions)))
        return Streamed(events=((0.1, slice_event("MODIFIED", str(next(versions)))),), end_s=0.2)

    return server


GARBAGE = Unreadable("", "", "no JSON")

FAULTS: dict[str, Server] = {
    "connection refused": always(Failed(unreachable())),
    "black hole": always(Failed(unreachable(), after_s=3.0)),
    "401": always(Failed(refused(401, "Unauthorized"))),
    "403": always(Failed(refused(403, "Forbidden"))),
    "404": always(Failed(refused(404, "NotFound"))),
    "410 for every list": always(Failed(refused(410, "Expired"))),
    "429": always(Failed(refused(429))),
    "429 with Retry-After": always(Failed(refused(429, retry_after_s=1.0))),
    "500": always(Failed(refused(500, "InternalError"))),
    "too large versions": always(Failed(refused(504, "Timeout", too_large=True), after_s=3.0)),
    "watch refused": lists_then(Failed(refused(403, "Forbidden"))),
    "watch 500": lists_then(Failed(refused(500))),
    "watch 410": lists_then(Failed(refused(410, "Expired"))),
    "watch 429": lists_then(Failed(refused(429))),
    "watch 401": lists_then(Failed(refused(401))),
    "watch refused by the network": lists_then(Failed(unreachable())),
    "end of file at once": lists_then(Streamed(end_s=0.0)),
    "end of file before a second": lists_then(Streamed(end_s=0.9)),
    "end of file after a bookmark": lists_then(Streamed(events=((0.0, bookmark("100")),), end_s=0.0)),
    "an event, then the end": an_event_then_the_end(),
    "cut after a second": lists_then(Streamed(end_s=1.0, error=unreachable())),
    "410 event at once": lists_then(Streamed(end_s=0.0, error=refused(410, "Expired"))),
    "410 event after a second": lists_then(Streamed(end_s=1.1, error=refused(410, "Expired"))),
    "500 event after a second": lists_then(Streamed(end_s=1.1, error=refused(500))),
    "lists from the past": a_list_from_the_past(),
    "a different refusal each time": a_different_refusal_each_time(),
    "503 with Retry-After": always(Failed(refused(503, "ServiceUnavailable", retry_after_s=5.0))),
    "429 that asks for an hour": always(Failed(refused(429, retry_after_s=3600.0))),
    "TLS": always(Failed(ApiError("SSLError: certificate verify failed"), after_s=0.02)),
    "no answer in time": always(Failed(ApiError("no complete answer within 30 s"), after_s=30.0)),
    "reset in the middle of a line": lists_then(Streamed(end_s=0.3, error=unreachable())),
    "garbage lines, then the end": lists_then(Streamed(events=((0.0, GARBAGE), (0.1, GARBAGE)), end_s=2.0)),
    "garbage lines for ever": lists_then(Streamed(events=tuple((5.0 * n, GARBAGE) for n in range(720)))),
    "a huge line": lists_then(Streamed(events=((0.2, GARBAGE),), end_s=0.2, error=unreachable())),
    "a huge line, late": lists_then(Streamed(events=((9.0, GARBAGE),), end_s=9.0, error=unreachable())),
    "silent after a bookmark": lists_then(Streamed(events=((1.0, bookmark("100")),))),
    "versions that go back": versions_that_go_back(),
}
HOUR_S = 3600.0


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_fault_makes_a_stream_ask_often(fault: str, seed: int, streaming: bool) -> None:
    """In an hour: at most 2 requests in any second once the first sync is over, 0.05 a second beyond the allowance for bursts.

    And after the first ten minutes at most six in any minute, which is what two kinds of requests with their back-off add up to.
    """
    api = VirtualApi(FAULTS[fault], seed=seed, streaming=StreamingLists(streaming))
    api.run(TEN_MINUTES_S)
    times = api.times()
    print(len(times), [round(at_s, 1) for at_s in times])
    assert 2 <= len(times) <= BURST + 0.05 * TEN_MINUTES_S
    api.run(HOUR_S - TEN_MINUTES_S)
    later = [at_s for at_s in api.times() if at_s >= TEN_MINUTES_S]
    assert 1 <= len(later) <= 0.05 * (HOUR_S - TEN_MINUTES_S) + 1
    minutes = Counter(int(at_s // 60.0) for at_s in later)
    assert max(minutes.values()) <= 6
    counted = times[2:]  # the first two are what the service that joined pays for
    assert all(third - first >= 1.0 - 1e-9 for first, third in zip(counted, counted[2:], strict=False))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_service_that_joins_a_failing_stream_adds_two_requests_at_most(fault: str) -> None:
    """Nor do many joining services together break the bound of the failing stream."""
    api = VirtualApi(FAULTS[fault])
    for number in range(20):
        api.run(TEN_MINUTES_S / 20)
        api.list_watch.add(f"service-{number}")
    assert len(api.times()) <= BURST + 0.05 * TEN_MINUTES_S + 2 * 20


@pytest.mark.parametrize("seed", range(20))
def test_an_api_that_is_down_at_the_start_is_asked_four_times_in_ten_seconds(seed: int) -> None:
    """client-go's back-off: 0.8 s doubled, each drawn from [d, 2d), so the fifth request comes after at least 12 s."""
    api = VirtualApi(FAULTS["connection refused"], seed=seed)
    api.run(12.0)
    assert len(api.times()) <= 4


def test_an_api_that_stays_away_is_asked_at_most_three_times_a_minute() -> None:
    """The cap is 30 s, drawn from [30, 60)."""
    api = VirtualApi(FAULTS["connection refused"])
    api.run(TEN_MINUTES_S)
    for minute in range(2, 10):
        assert sum(60.0 * minute <= at_s < 60.0 * (minute + 1) for at_s in api.times()) <= 3


def test_a_namespace_without_permission_is_asked_every_half_minute_to_five_minutes() -> None:
    """Only an administrator can end it; 30 s to 5 minutes lie between two requests."""
    api = VirtualApi(FAULTS["403"])
    api.run(3 * TEN_MINUTES_S)
    times = api.times()
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(30.0 <= gap <= 300.1 for gap in gaps)
    assert len(gaps) >= 6
