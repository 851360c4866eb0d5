"""What follows from each answer of the API server: versions, resuming, relisting, joining services, health."""

from __future__ import annotations

import itertools

import pytest

from meshlb.resolve.kubernetes.requests import ListRequest, WatchRequest
from meshlb.resolve.kubernetes.transport import ApiError
from meshlb.resolve.kubernetes.wire import Passed, Unreadable
from tests.unit.resolve.kubernetes.virtual_api import (
    Answer,
    Failed,
    Listed,
    Streamed,
    VirtualApi,
    bookmark,
    refused,
    slice_event,
    unreachable,
)

FOREVER = Streamed()


class Script:
    """Answers in order: lists and watches each have their own; the last one is repeated."""

    def __init__(self, *, lists: list[Answer], watches: list[Answer]) -> None:
        self.lists = lists
        self.watches = watches

    def __call__(self, request: ListRequest | WatchRequest, now_s: float) -> Answer:
        answers = self.lists if isinstance(request, ListRequest) else self.watches
        return answers.pop(0) if len(answers) > 1 else answers[0]


def asked(api: VirtualApi) -> list[str]:
    """The requests as ``list 0 orders`` or ``watch 100 orders,pay``."""
    return [
        f"{'list' if isinstance(request, ListRequest) else 'watch'} {request.resource_version or '-'} "
        f"{','.join(sorted(request.services))}"
        for _, request in api.requests
    ]


def gaps(api: VirtualApi) -> list[float]:
    return [later - earlier for (earlier, _), (later, _) in itertools.pairwise(api.requests)]


def test_the_first_list_takes_what_the_cache_has_and_the_watch_begins_there() -> None:
    """Version 0 is cheap for the server; the watch misses nothing since the list."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[FOREVER]))
    api.run(10.0)
    assert asked(api) == ["list 0 orders", "watch 100 orders"]
    assert api.requests[0][1].query == (("labelSelector", "kubernetes.io/service-name=orders"), ("resourceVersion", "0"))
    assert dict(api.requests[1][1].query)["allowWatchBookmarks"] == "true"


def test_watches_end_after_five_to_ten_minutes_and_reading_waits_a_little_longer() -> None:
    """A random end spreads clients over the server's replicas; the reader gives up 15 s after it."""
    seconds = set()
    for seed in range(50):
        api = VirtualApi(Script(lists=[Listed("100")], watches=[FOREVER]), seed=seed)
        api.run(1.0)
        request = api.requests[1][1]
        assert isinstance(request, WatchRequest)
        assert request.read_timeout_s == request.timeout_s + 15.0
        seconds.add(request.timeout_s)
    assert 300 <= min(seconds) < 340
    assert 560 < max(seconds) <= 600


def test_a_clean_end_of_file_is_resumed_at_once_from_the_last_version_seen() -> None:
    """No list and no pause: this is how every healthy watch ends, at the time that was asked for."""
    first = Streamed(events=((5.0, slice_event("MODIFIED", "101")), (590.0, bookmark("140"))), end_s=600.0)
    api = VirtualApi(Script(lists=[Listed("100")], watches=[first, FOREVER]))
    api.run(700.0)
    assert asked(api) == ["list 0 orders", "watch 100 orders", "watch 140 orders"]
    assert gaps(api)[1] == pytest.approx(600.005)
    assert api.told == []


@pytest.mark.parametrize("error", [None, unreachable()])
def test_a_stream_that_ends_early_is_resumed_within_a_second_but_not_by_everybody_at_once(error: ApiError | None) -> None:
    """A server that restarts cuts all its clients in one moment; that is no reason to list again, nor to come back together."""
    delays = []
    for seed in range(50):
        script = Script(lists=[Listed("100")], watches=[Streamed(end_s=100.0, error=error), FOREVER])
        api = VirtualApi(script, seed=seed)
        api.run(200.0)
        assert asked(api) == ["list 0 orders", "watch 100 orders", "watch 100 orders"]
        assert api.told == []
        delays.append(gaps(api)[1] - 100.005)
    assert 0.0 <= min(delays) < 0.2
    assert 0.8 < max(delays) <= 1.0


def test_a_stream_that_was_cut_soon_is_resumed_sooner() -> None:
    """The spread takes a tenth of the time that the stream lived at most: a proxy's habit is no outage."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[Streamed(end_s=4.0, error=unreachable()), FOREVER]))
    api.run(30.0)
    assert 4.0 <= gaps(api)[1] <= 4.4 + 0.005


def test_lists_after_a_lost_history_are_spread_over_five_seconds_and_a_service_that_joins_does_not_wait() -> None:
    """All clients of a restarted server learn in one moment that their version is gone."""
    delays = []
    for seed in range(50):
        expired = Streamed(end_s=0.0, error=refused(410, "Expired"))
        first = Streamed(end_s=300.0, error=unreachable())
        api = VirtualApi(Script(lists=[Listed("100")], watches=[first, expired, FOREVER]), seed=seed)
        api.run(301.5)
        if len(api.times(ListRequest)) == 1 and seed % 2:
            api.list_watch.add("pay")
            api.run(0.1)
            assert len(api.times(ListRequest)) == 2
            continue
        api.run(10.0)
        delays.append(api.times(ListRequest)[1] - 300.005)
    assert min(delays) < 2.0
    assert 4.0 < max(delays) <= 6.1


def test_a_watch_that_ends_within_a_second_without_an_event_waits() -> None:
    """client-go calls it very short and backs off: 0.8 s doubled, drawn from [d, 2d)."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[Streamed(end_s=0.5)]))
    api.run(30.0)
    delays = [gap - 0.505 for gap in gaps(api)[1:]]
    assert 0.8 <= delays[0] < 1.6 <= delays[1] < 3.2 <= delays[2] < 6.4
    assert {line.split()[0] for line in asked(api)[1:]} == {"watch"}


def test_an_expired_version_as_an_event_leads_to_a_list_at_the_last_version_and_a_new_watch() -> None:
    """410 within a 200 stream is the usual form; the list must not be older than what is known."""
    expired = Streamed(events=((2.0, slice_event("MODIFIED", "120")),), end_s=3.0, error=refused(410, "Expired"))
    api = VirtualApi(Script(lists=[Listed("100"), Listed("150")], watches=[expired, FOREVER]))
    api.run(30.0)
    assert asked(api) == ["list 0 orders", "watch 100 orders", "list 120 orders", "watch 150 orders"]
    assert 3.0 <= gaps(api)[1] <= 3.005 + 0.3
    assert api.told == []


def test_an_expired_version_as_a_status_leads_to_the_same() -> None:
    """HTTP 410 instead of a stream, after the stream before it was cut."""
    watches: list[Answer] = [Streamed(end_s=5.0, error=unreachable()), Failed(refused(410, "Gone")), FOREVER]
    api = VirtualApi(Script(lists=[Listed("100"), Listed("150")], watches=watches))
    api.run(30.0)
    assert asked(api)[2:] == ["watch 100 orders", "list 100 orders", "watch 150 orders"]
    assert gaps(api)[2] < 0.6


def test_a_watch_that_always_expires_backs_off() -> None:
    """A relist that helps nothing is not repeated at once."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[Failed(refused(410, "Expired"))]))
    api.run(5.0)
    assert asked(api)[:3] == ["list 0 orders", "watch 100 orders", "list 100 orders"]
    assert gaps(api)[1] >= 0.8


@pytest.mark.parametrize(
    "refusal", [refused(410, "Expired"), refused(504, "Timeout", too_large=True), refused(400, "BadRequest", "invalid version")]
)
def test_a_list_that_the_version_spoils_is_repeated_at_once_without_one(refusal: ApiError) -> None:
    """Expired, from the future, or unreadable for the server: within the same attempt, whatever is newest."""
    watches: list[Answer] = [Streamed(end_s=2.0, error=refused(410, "Expired")), FOREVER]
    api = VirtualApi(Script(lists=[Listed("100"), Failed(refusal), Listed("90")], watches=watches))
    api.run(30.0)
    assert asked(api)[2:] == ["list 100 orders", "list - orders", "watch 90 orders"]
    assert gaps(api)[2] < 0.1
    assert "resourceVersion" not in dict(api.requests[3][1].query)


def test_a_list_older_than_what_is_known_is_not_used() -> None:
    """A lagging replica must not take us back in time; the next list asks for the newest state, and is believed."""
    watches: list[Answer] = [Streamed(end_s=2.0, error=refused(410, "Expired")), FOREVER]
    api = VirtualApi(Script(lists=[Listed("100"), Listed("99"), Listed("98")], watches=watches))
    api.run(30.0)
    assert asked(api)[2:] == ["list 100 orders", "list - orders", "watch 98 orders"]
    assert [kind for _, kind in api.replaced] == [frozenset({"orders"})] * 2
    assert "older" in api.told[0][1].reason


def test_versions_that_cannot_be_compared_are_believed() -> None:
    """Opaque versions are the server's business."""
    watches: list[Answer] = [Streamed(end_s=2.0, error=refused(410, "Expired")), FOREVER]
    api = VirtualApi(Script(lists=[Listed("zz"), Listed("aa")], watches=watches))
    api.run(30.0)
    assert asked(api)[2:] == ["list zz orders", "watch aa orders"]


def test_the_present_state_in_arbitrary_order_does_not_move_the_version() -> None:
    """A watch without a version begins with synthetic ADDED events; only what follows them is history."""
    first = Streamed(events=((0.1, slice_event("ADDED", "900")), (0.2, slice_event("ADDED", "5", name="orders-b"))), end_s=2.0)
    second = Streamed(
        events=((0.1, slice_event("ADDED", "900")), (0.2, bookmark("950")), (0.3, slice_event("ADDED", "960"))), end_s=2.0
    )
    api = VirtualApi(Script(lists=[Listed("")], watches=[first, second, FOREVER]))
    api.run(30.0)
    assert asked(api) == ["list 0 orders", "watch - orders", "watch - orders", "watch 960 orders"]


def test_an_event_with_an_older_version_does_not_move_the_version_back() -> None:
    """Whatever a server sends, resuming never goes back in time."""
    events = ((0.1, slice_event("MODIFIED", "120")), (0.2, slice_event("MODIFIED", "110")), (0.3, Passed("ADDED", "115", "FQDN")))
    api = VirtualApi(Script(lists=[Listed("100")], watches=[Streamed(events=events, end_s=2.0), FOREVER]))
    api.run(30.0)
    assert asked(api)[-1] == "watch 120 orders"


def test_an_event_that_is_passed_over_moves_the_version() -> None:
    """An FQDN slice is not for us, yet resuming before it would only repeat it."""
    events = ((0.1, Passed("ADDED", "115", "addressType FQDN")),)
    api = VirtualApi(Script(lists=[Listed("100")], watches=[Streamed(events=events, end_s=2.0), FOREVER]))
    api.run(30.0)
    assert asked(api)[-1] == "watch 115 orders"


def test_an_event_that_cannot_be_read_is_followed_by_a_list_and_the_stream_goes_on_until_then() -> None:
    """What it said is learned from the newest state, at intervals that grow; nothing that was readable is lost meanwhile."""
    bad = Unreadable("x", "120", "no JSON")
    events = ((0.1, bad), (0.2, slice_event("MODIFIED", "121")))
    noisy = Streamed(events=tuple((0.5 * second, bad) for second in range(2000)))
    api = VirtualApi(Script(lists=[Listed("100"), Listed("130")], watches=[Streamed(events=events), noisy]))
    api.run(3.0)
    assert asked(api)[:4] == ["list 0 orders", "watch 100 orders", "list - orders", "watch 130 orders"]
    assert 0.8 <= gaps(api)[1] <= 1.7
    assert [event.resource_version for event in api.used] == ["121"]
    assert api.told == []
    api.run(900.0)
    assert 0.05 * 900 / 4 <= len(api.requests) <= 12 + 0.05 * 900


def test_a_stream_in_which_nothing_can_be_read_never_lived() -> None:
    """A page of HTML that goes on for long is trouble; a stream that says nothing at all is not."""
    page = Streamed(events=((0.1, Unreadable("", "", "no JSON")),), end_s=0.7)
    api = VirtualApi(Script(lists=[Listed("100")], watches=[page]))
    api.run(60.0)
    assert api.list_watch.trouble is not None
    assert "nothing in it could be read" in api.told[0][1].reason
    quiet = VirtualApi(Script(lists=[Listed("100")], watches=[FOREVER]))
    quiet.run(60.0)
    assert (quiet.list_watch.trouble, quiet.told, len(quiet.requests)) == (None, [], 2)


@pytest.mark.parametrize(("error", "end_s"), [(None, 1.5), (None, 10.0), (unreachable(), 10.0)])
def test_a_stream_that_lived_is_opened_again_at_once_however_often_it_ends(error: ApiError | None, end_s: float) -> None:
    """A proxy may cut every ten seconds: that must not leave us without events for most of the time."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[Streamed(end_s=end_s, error=error)]))
    api.run(600.0)
    assert max(gaps(api)[1:]) <= 1.1 * end_s + 0.1
    assert api.told == []


def test_what_the_pace_holds_back_is_told() -> None:
    """Streams that carry an event and end at once are no failures one by one; that the next one waits is to be seen."""
    versions = itertools.count(101)

    def server(request: ListRequest | WatchRequest, now_s: float) -> Answer:
        if isinstance(request, ListRequest):
            return Listed("100")
        return Streamed(events=((0.0, slice_event("MODIFIED", str(next(versions)))),), end_s=0.0)

    api = VirtualApi(server)
    api.run(60.0)
    assert api.list_watch.held_until_s > api.now_s
    assert api.list_watch.held_s(api.now_s) > 0.0


@pytest.mark.parametrize("error", [unreachable(), refused(429, retry_after_s=1.0)])
def test_a_server_that_is_away_or_busy_is_asked_again_for_the_same_watch(error: ApiError) -> None:
    """Connection refused and 429 lose no place in history: no list."""
    watches: list[Answer] = [Streamed(end_s=2.0), Failed(error), Failed(error), FOREVER]
    api = VirtualApi(Script(lists=[Listed("100")], watches=watches))
    api.run(60.0)
    assert asked(api) == ["list 0 orders"] + ["watch 100 orders"] * 4


@pytest.mark.parametrize("code", [400, 500, 503])
def test_a_watch_refused_for_another_reason_is_preceded_by_a_list(code: int) -> None:
    """The version itself may be what the server cannot take (a malformed one is answered 500)."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[Failed(refused(code)), FOREVER]))
    api.run(60.0)
    assert asked(api) == ["list 0 orders", "watch 100 orders", "list 100 orders", "watch 100 orders"]


def test_retry_after_is_obeyed_up_to_a_minute() -> None:
    """The larger of it and the back-off; an hour is some proxy's mistake."""
    for asked_s, low_s, high_s in ((20.0, 20.0, 20.1), (0.1, 0.8, 1.6), (3600.0, 60.0, 60.1)):
        api = VirtualApi(Script(lists=[Failed(refused(429, retry_after_s=asked_s)), Listed("100")], watches=[FOREVER]))
        api.run(200.0)
        assert low_s <= gaps(api)[0] <= high_s


def test_the_first_401_is_answered_with_new_credentials_at_once_the_second_waits() -> None:
    """A rotated token heals without a pause; a wrong one does not make a storm, and each later try reads it anew."""
    api = VirtualApi(
        Script(lists=[Failed(refused(401)), Failed(refused(401)), Failed(refused(401)), Listed("1")], watches=[FOREVER])
    )
    api.run(60.0)
    assert [request.renew for _, request in api.requests] == [False, True, True, True, False]
    assert gaps(api)[0] < 0.1
    assert gaps(api)[1] >= 0.8
    assert [trouble.kind for _, trouble in api.told] == ["unauthorized", "unauthorized"]


def test_a_watch_refused_with_401_keeps_its_place() -> None:
    """New credentials, the same watch."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[Streamed(end_s=3.0), Failed(refused(401)), FOREVER]))
    api.run(60.0)
    assert asked(api)[1:] == ["watch 100 orders"] * 3
    assert [request.renew for _, request in api.requests] == [False, False, False, True]


@pytest.mark.parametrize(("code", "kind"), [(403, "forbidden"), (404, "not_served"), (500, "unreachable"), (429, "unreachable")])
def test_who_waits_is_told_why(code: int, kind: str) -> None:
    """Each failed attempt is told; the words are the server's."""
    api = VirtualApi(Script(lists=[Failed(refused(code, "Why", "because")), Listed("1")], watches=[FOREVER]))
    api.run(400.0)
    (_, trouble), *rest = api.told
    assert (trouble.kind, trouble.reason) == (kind, f"{code} Why: because")
    assert rest == []
    assert api.list_watch.trouble is None


def test_the_back_off_starts_over_after_two_healthy_minutes() -> None:
    """An outage today is not made longer by one last week; one within two minutes is."""
    refusals: list[Answer] = [Failed(unreachable())] * 5
    for healthy_s, low_s, high_s in ((200.0, 0.8, 1.6), (20.0, 25.6, 51.2)):
        watches = [*refusals, Streamed(end_s=healthy_s), Failed(unreachable()), FOREVER]
        api = VirtualApi(Script(lists=[Listed("100")], watches=list(watches)))
        api.run(600.0)
        assert low_s <= gaps(api)[-1] - 0.005 < high_s


def test_a_stream_without_a_line_for_150_seconds_is_dead_once_a_bookmark_has_been_seen() -> None:
    """The server sends a bookmark about every minute; three missing ones are a cut network."""
    first = Streamed(events=((60.0, bookmark("110")),))
    api = VirtualApi(Script(lists=[Listed("100")], watches=[first, FOREVER]))
    api.run(250.0)
    assert asked(api) == ["list 0 orders", "watch 100 orders", "watch 110 orders"]
    assert 210.0 <= gaps(api)[1] <= 211.005


def test_a_server_that_never_sent_a_bookmark_may_be_silent() -> None:
    """Then only the time that was agreed on, and TCP, say that a stream is dead."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[FOREVER]))
    api.run(900.0)
    assert len(api.requests) == 2


def test_a_service_that_joins_is_listed_while_the_watch_goes_on_and_then_watched_from_the_earlier_place() -> None:
    """The running watch is not disturbed before the list is there; nothing of either service is missed."""
    first = Streamed(events=((10.0, slice_event("MODIFIED", "105")), (19.995, slice_event("MODIFIED", "130"))))
    api = VirtualApi(Script(lists=[Listed("100"), Listed("120", after_s=0.01)], watches=[first, FOREVER]))
    api.run(20.0)
    api.list_watch.add("pay")
    api.run(5.0)
    # 130 of orders had come when the list of pay, at 120, arrived: pay's events since 120 are still to be fetched.
    assert asked(api) == ["list 0 orders", "watch 100 orders", "list 105 pay", "watch 120 orders,pay"]
    assert [event.resource_version for event in api.used] == ["105", "130"]
    assert [services for _, services in api.replaced] == [frozenset({"orders"}), frozenset({"pay"})]


def test_a_newer_list_of_a_joining_service_does_not_move_the_others_on() -> None:
    """The list is at 150, the stream had come to 105: what happened to the others in between is still to come."""
    first = Streamed(events=((10.0, slice_event("MODIFIED", "105")),))
    api = VirtualApi(Script(lists=[Listed("100"), Listed("150")], watches=[first, FOREVER]))
    api.run(20.0)
    api.list_watch.add("pay")
    api.run(5.0)
    assert asked(api)[-1] == "watch 105 orders,pay"


def test_events_between_the_list_and_the_wider_watch_do_not_move_the_place_to_resume_from() -> None:
    """While the narrow stream still runs, its events are used, but its versions say nothing about who joined."""
    first = Streamed(events=tuple((19.9905 + 0.001 * n, slice_event("MODIFIED", str(200 + n))) for n in range(40)))
    lists: list[Answer] = [Listed("100"), Listed("150", after_s=0.002), Listed("151", after_s=0.02)]
    api = VirtualApi(Script(lists=lists, watches=[first, FOREVER]))
    api.run(20.0)
    api.list_watch.add("pay")
    api.run(0.001)
    api.list_watch.add("stock")  # listed next; meanwhile the narrow watch goes on beyond pay's list
    api.run(5.0)
    assert asked(api)[2:] == ["list 100 pay", "list 150 stock", "watch 150 orders,pay,stock"]
    assert len(api.used) > 15


def test_a_refused_list_of_a_joining_service_leaves_the_running_watch_alone() -> None:
    """The others lose nothing, not even their stream; the newcomer is tried again with the usual back-off."""
    lists: list[Answer] = [Listed("100"), Failed(refused(429)), Failed(refused(429)), Listed("150")]
    api = VirtualApi(Script(lists=lists, watches=[FOREVER, FOREVER]))
    api.run(20.0)
    api.list_watch.add("pay")
    api.run(0.5)
    assert asked(api)[2:] == ["list 100 pay"]
    assert api.list_watch.watching is api.requests[1][1]
    api.run(60.0)
    assert asked(api)[-1] == "watch 100 orders,pay"


def test_a_service_that_joins_while_the_stream_is_down_waits_for_those_who_are_known() -> None:
    """One request at a time goes to a server in trouble, and it restores the stream first."""
    watches: list[Answer] = [Streamed(end_s=5.0), Failed(unreachable()), FOREVER]
    api = VirtualApi(Script(lists=[Listed("100"), Listed("150")], watches=watches))
    api.run(5.1)
    api.list_watch.add("pay")
    api.run(30.0)
    assert asked(api)[2:] == ["watch 100 orders", "watch 100 orders", "list 100 pay", "watch 100 orders,pay"]


def test_services_that_come_together_share_one_list_and_one_watch() -> None:
    """Their selector is a set."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[FOREVER]), "orders", "pay", "stock")
    api.run(10.0)
    assert asked(api) == ["list 0 orders,pay,stock", "watch 100 orders,pay,stock"]
    assert dict(api.requests[0][1].query)["labelSelector"] == "kubernetes.io/service-name in (orders,pay,stock)"


def test_a_service_that_leaves_narrows_the_next_watch_and_its_events_are_ignored() -> None:
    """The running watch is not disturbed."""
    first = Streamed(events=((5.0, slice_event("MODIFIED", "120", service="pay")),), end_s=9.0)
    api = VirtualApi(Script(lists=[Listed("100")], watches=[first, FOREVER]), "orders", "pay")
    api.run(3.0)
    api.list_watch.discard("pay")
    api.run(30.0)
    assert asked(api)[1:] == ["watch 100 orders,pay", "watch 120 orders"]
    assert api.used == []


def test_a_service_that_leaves_while_it_is_listed_is_not_replaced() -> None:
    """The answer for the others counts."""
    api = VirtualApi(Script(lists=[Listed("100", after_s=0.5)], watches=[FOREVER]), "orders", "pay")
    api.run(0.1)
    api.list_watch.discard("pay")
    api.run(5.0)
    assert [services for _, services in api.replaced] == [frozenset({"orders"})]
    assert asked(api)[1:] == ["watch 100 orders"]


def test_a_service_that_leaves_and_comes_back_is_listed_again() -> None:
    """What was known of it was dropped."""
    api = VirtualApi(Script(lists=[Listed("100"), Listed("110")], watches=[FOREVER, FOREVER]), "orders", "pay")
    api.run(3.0)
    api.list_watch.discard("pay")
    api.list_watch.add("pay")
    api.run(3.0)
    assert asked(api)[2] == "list 100 pay"
    assert api.list_watch.covered == {"orders", "pay"}


def test_when_the_only_known_service_leaves_its_stream_does_not_decide_where_the_next_one_begins() -> None:
    """The abandoned stream runs on until the new watch replaces it; its versions do not count."""
    first = Streamed(events=((20.008, slice_event("MODIFIED", "300")),))
    api = VirtualApi(Script(lists=[Listed("100"), Listed("150", after_s=0.004)], watches=[first, FOREVER]))
    api.run(20.0)
    api.list_watch.discard("orders")
    api.list_watch.add("pay")
    api.run(5.0)
    assert asked(api)[2:] == ["list 100 pay", "watch 150 pay"]


def test_a_server_restored_from_a_backup_is_believed_for_everybody() -> None:
    """Its newest version is older than ours: another history, so everybody is listed again, and nobody waits for old versions."""
    lists: list[Answer] = [Listed("5000"), Failed(refused(504, "Timeout", too_large=True)), Listed("40"), Listed("40")]
    api = VirtualApi(Script(lists=lists, watches=[FOREVER, FOREVER]))
    api.run(20.0)
    api.list_watch.add("pay")
    api.run(10.0)
    assert asked(api)[2:] == ["list 5000 pay", "list - pay", "list 40 orders", "watch 40 orders,pay"]


def test_trouble_is_over_when_a_stream_has_lived_for_a_second() -> None:
    """Not before: a server that accepts and hangs up is still in trouble."""
    watches: list[Answer] = [Failed(refused(500)), Streamed(end_s=0.2), FOREVER]
    api = VirtualApi(Script(lists=[Listed("100")], watches=watches))
    while len(api.requests) < 5 or api.list_watch.opened_s is None:
        api.run(0.05)
        assert api.list_watch.trouble is not None or len(api.requests) < 3
    api.run(0.9)
    assert api.list_watch.trouble is not None
    api.run(0.1)
    assert api.list_watch.trouble is None


def test_without_services_nothing_is_asked() -> None:
    """No request for nobody."""
    api = VirtualApi(Script(lists=[Listed("100")], watches=[FOREVER]))
    api.list_watch.discard("orders")
    api.run(100.0)
    assert api.requests == []


def test_no_list_is_older_than_what_any_service_was_told_even_where_the_watch_resumes_from_before() -> None:
    """A replica that lags behind could answer with a past that a service which joined later has already left."""
    expired = Failed(refused(410, "Expired"))
    script = Script(lists=[Listed("100"), Listed("200"), Listed("150"), Listed("300")], watches=[FOREVER, expired, FOREVER])
    api = VirtualApi(script)
    api.run(5.0)
    api.list_watch.add("pay")
    api.run(60.0)
    assert asked(api)[2:5] == ["list 100 pay", "watch 100 orders,pay", "list 200 orders,pay"]
    assert any("older (150)" in trouble.reason for _, trouble in api.told)
    assert asked(api)[5:7] == ["list - orders,pay", "watch 300 orders,pay"]


def test_a_list_that_the_running_watch_has_overtaken_is_no_restored_backup() -> None:
    """The most recent state when it was asked for; meanwhile the watch of the others went on."""
    events = ((5.004, slice_event("MODIFIED", "110")),)
    bad = Failed(refused(400, "BadRequest"))
    api = VirtualApi(Script(lists=[Listed("100"), bad, Listed("105", after_s=1.0)], watches=[Streamed(events=events), FOREVER]))
    api.run(5.0)
    api.list_watch.add("pay")
    api.run(5.0)
    assert asked(api)[2:] == ["list 100 pay", "list - pay", "watch 105 orders,pay"]
    assert api.list_watch.covered == {"orders", "pay"}
