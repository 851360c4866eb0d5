"""The polled resolver in virtual time: what it publishes, tells and asks, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Resolver
from meshlb.errors import ResolveError, ServiceNotFoundError
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.polled import PolledResolver
from meshlb.testing.loop import ManualLoop


class Half:
    """No jitter."""

    def random(self) -> float:
        return 0.5


def found(*addresses: str, ttl_s: float = 5.0) -> Lookup:
    return Lookup(name="db", found=Found.ADDRESSES, addresses=addresses, ttl_s=ttl_s)


NXDOMAIN = Lookup(name="db", found=Found.NO_NAME, ttl_s=5.0, reason="NXDOMAIN")
SERVFAIL = Lookup(name="db", found=Found.FAILED, reason="SERVFAIL from 10.96.0.10:53", code="SERVFAIL")


class Bench:
    """A resolver, the answers it will get (the last one again and again), and everything its listener hears."""

    def __init__(self, *answers: Lookup | Exception, host: str = "db.example.com", hold: bool = False) -> None:
        self.loop = ManualLoop(1000.0, hold_blocking=hold)
        self.answers = list(answers)
        self.asked_s: list[float] = []
        self.sets: list[EndpointSet] = []
        self.errors: list[ResolveError] = []
        self.resolver = PolledResolver(host, 443, self.look_up, source="dns", scheduler=self.loop, rng=Half(), empty_grace_s=60.0)
        checked: Resolver = self.resolver
        checked.start(self)
        self.loop.run_until_idle()

    def look_up(self) -> Lookup:
        self.asked_s.append(self.loop.now_s() - 1000.0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self.sets.append(endpoints)

    def on_error(self, error: ResolveError, /) -> None:
        self.errors.append(error)

    def published(self) -> list[list[str]]:
        return [[endpoint.host for endpoint in one.endpoints] for one in self.sets]


def test_the_first_answer_is_published_and_asked_again_by_its_ttl() -> None:
    """Questions at 0, 5, 10 s …; what did not change is not published again."""
    bench = Bench(found("10.0.0.2", "10.0.0.1"))
    bench.loop.advance(20.0)
    assert bench.asked_s == [0.0, 5.0, 10.0, 15.0, 20.0]
    (only,) = bench.sets
    assert [endpoint.address for endpoint in only.endpoints] == ["10.0.0.1:443", "10.0.0.2:443"]
    assert (only.source, only.version, only.authoritative, only.note) == ("dns", "1", True, "")


def test_a_new_address_is_published_with_the_answer_that_shows_it() -> None:
    """Scale-up: at most the TTL after the record appeared."""
    bench = Bench(found("10.0.0.1"), found("10.0.0.1", "10.0.0.2"))
    bench.loop.advance(5.0)
    assert bench.published() == [["10.0.0.1"], ["10.0.0.1", "10.0.0.2"]]
    assert [one.version for one in bench.sets] == ["1", "2"]


def test_a_removed_address_is_published_with_the_second_answer() -> None:
    """Two answers without it, so after two polls."""
    bench = Bench(found("10.0.0.1", "10.0.0.2"), found("10.0.0.1"))
    bench.loop.advance(9.9)
    assert bench.published() == [["10.0.0.1", "10.0.0.2"]]
    bench.loop.advance(0.1)
    assert bench.published() == [["10.0.0.1", "10.0.0.2"], ["10.0.0.1"]]


def test_a_failure_tells_the_listener_and_keeps_the_set() -> None:
    """Hours of SERVFAIL are errors with back-off and nothing else; the recovery publishes the set again, once."""
    bench = Bench(found("10.0.0.1"), *[SERVFAIL] * 6, found("10.0.0.1"))
    bench.loop.advance(5.0 + 1 + 2 + 4 + 8 + 16)
    assert bench.asked_s == [0.0, 5.0, 6.0, 8.0, 12.0, 20.0, 36.0]
    assert bench.published() == [["10.0.0.1"]]
    assert str(bench.errors[0]) == (
        "db.example.com:443: no source knows its endpoints "
        "(dns: SERVFAIL from 10.96.0.10:53; the last answer is kept (addresses: 1))"
    )
    bench.loop.advance(30.0 + 20.0)
    assert bench.published() == [["10.0.0.1"], ["10.0.0.1"]]
    assert len(bench.errors) == 6
    assert not isinstance(bench.errors[0], ServiceNotFoundError)


def test_no_such_name_for_less_than_the_grace_keeps_the_set() -> None:
    """A Service being replaced, or CoreDNS just restarted: 55 s of NXDOMAIN change nothing."""
    bench = Bench(found("10.0.0.1"), *[NXDOMAIN] * 11, found("10.0.0.1"))
    bench.loop.advance(60.0)
    assert bench.published() == [["10.0.0.1"], ["10.0.0.1"]]
    assert all("the last answer is kept" in str(error) for error in bench.errors)
    assert {type(error) for error in bench.errors} == {ResolveError}, "the name may not be there, but its pods are"


def test_no_such_name_throughout_the_grace_is_published_as_empty() -> None:
    """An authoritative, empty set that says why; then silence until there is an address again."""
    bench = Bench(found("10.0.0.1"), NXDOMAIN)
    bench.loop.advance(5.0 + 60.0)
    empty = bench.sets[-1]
    assert (empty.endpoints, empty.authoritative, empty.note) == ((), True, "NXDOMAIN for 60 s")
    before = len(bench.errors)
    bench.loop.advance(120.0)
    assert (len(bench.sets), len(bench.errors)) == (2, before)
    bench.answers = [found("10.0.0.9")]
    bench.loop.advance(5.0)
    assert bench.published()[-1] == ["10.0.0.9"]


def test_a_name_that_was_never_seen_is_an_error_not_an_empty_set() -> None:
    """Unknown is not empty, however long; the error is the one for a name that does not exist."""
    bench = Bench(NXDOMAIN)
    bench.loop.advance(300.0)
    assert bench.sets == []
    assert isinstance(bench.errors[-1], ServiceNotFoundError)
    assert bench.errors[-1].causes == ("dns: NXDOMAIN",)


def test_a_look_up_that_raises_is_a_failure_like_any_other() -> None:
    """A broken installation of the DNS package is told, backed off from and retried; it does not end the polling."""
    bench = Bench(ImportError("No module named 'dns'"), found("10.0.0.1"))
    assert bench.errors[0].causes == ("dns: ImportError: No module named 'dns'",)
    bench.loop.advance(1.0)
    assert bench.published() == [["10.0.0.1"]]


def test_a_hint_asks_sooner_but_at_most_once_a_second() -> None:
    """A storm of failed connects costs one question a second; without hints the TTL rules again."""
    bench = Bench(found("10.0.0.1", ttl_s=30.0))
    for _ in range(30):
        bench.resolver.resolve_now()
        bench.loop.advance(0.1)
    assert bench.asked_s == [0.0, 1.0, 2.0, 3.0]
    bench.loop.advance(29.9)
    assert len(bench.asked_s) == 4
    bench.loop.advance(0.1)
    assert len(bench.asked_s) == 5


def test_an_address_that_cannot_be_connected_goes_in_seconds_if_dns_does_not_list_it() -> None:
    """It takes two answers all the same; but each failed connect asks for one, so that nobody waits for two TTLs of half a minute."""
    bench = Bench(found("10.0.0.1", "10.0.0.2", ttl_s=30.0), found("10.0.0.1", ttl_s=30.0))
    bench.loop.advance(10.0)
    for backoff_s in (0.0, 1.1, 1.6):  # as connections are tried again
        bench.loop.advance(backoff_s)
        bench.resolver.resolve_now()
    bench.loop.run_until_idle()
    assert bench.published() == [["10.0.0.1", "10.0.0.2"], ["10.0.0.1"]]
    assert bench.asked_s == pytest.approx([0.0, 10.0, 11.1, 12.7])


def test_a_hint_while_a_question_is_out_asks_no_second_one() -> None:
    """The answer under way is fresh enough."""
    bench = Bench(found("10.0.0.1"), hold=True)
    bench.resolver.resolve_now()
    bench.loop.advance(60.0)
    assert len(bench.loop.held) == 1
    bench.loop.release_blocking()
    assert bench.published() == [["10.0.0.1"]]


def test_after_close_nothing_is_asked_or_told() -> None:
    """Neither the answer under way nor the next poll reaches a listener that has gone."""
    bench = Bench(found("10.0.0.1"), hold=True)
    bench.resolver.close()
    bench.loop.release_blocking()
    bench.resolver.resolve_now()
    bench.loop.advance(60.0)
    assert (bench.sets, bench.errors, len(bench.asked_s)) == ([], [], 1)
    other = Bench(found("10.0.0.1"))
    other.resolver.close()
    other.resolver.close()
    assert other.loop.timers == ()


def test_of_two_families_the_first_is_published_and_the_other_is_the_fallback() -> None:
    """``localhost`` with a server on 127.0.0.1 only: ::1 comes first, and 127.0.0.1 is there when it cannot be connected."""
    bench = Bench(found("::1", "127.0.0.1"), found("127.0.0.1", "::1"))
    bench.loop.advance(30.0)
    (only,) = bench.sets
    assert [endpoint.address for endpoint in only.endpoints] == ["[::1]:443"]
    assert [endpoint.address for endpoint in only.fallback] == ["127.0.0.1:443"]


def test_the_family_changes_only_when_the_old_one_is_gone() -> None:
    """Make-before-break from one family to the other, with the new one as the fallback in between."""
    bench = Bench(found("10.0.0.1"), found("fd00::1"))
    bench.loop.advance(10.0)
    assert bench.published() == [["10.0.0.1"], ["10.0.0.1"], ["fd00::1"]]
    assert [[endpoint.host for endpoint in one.fallback] for one in bench.sets] == [[], ["fd00::1"], []]


@pytest.mark.parametrize("host", ["10.0.0.7", "fd00::7", "fe80::7%eth0"])
def test_an_ip_literal_is_published_once_and_never_asked(host: str) -> None:
    """There is nothing to resolve: no question, no timer."""
    bench = Bench(SERVFAIL, host=host)
    bench.resolver.resolve_now()
    bench.loop.advance(120.0)
    assert bench.published() == [[host]]
    assert (bench.asked_s, bench.loop.timers) == ([], ())


def test_describe_says_what_is_known_and_how_old_it_is() -> None:
    """The view for status(): addresses, the age of the answer, the next question and the present error."""
    bench = Bench(found("10.0.0.1"), SERVFAIL)
    bench.loop.advance(5.25)
    assert bench.resolver.describe() == {
        "source": "dns",
        "host": "db.example.com",
        "addresses": ["10.0.0.1"],
        "answer_age_s": 5.25,
        "said": "SERVFAIL",
        "next_question_s": 0.75,
        "error": "dns: SERVFAIL from 10.96.0.10:53; the last answer is kept (addresses: 1)",
    }
    assert repr(bench.resolver) == "<PolledResolver db.example.com:443 addresses=1>"


def test_one_question_at_a_time() -> None:
    """A slow nameserver never has two of our questions: the next is planned when the answer is there."""
    bench = Bench(found("10.0.0.1"), hold=True)
    release: Callable[[], None] = bench.loop.release_blocking
    bench.loop.advance(100.0)
    assert len(bench.loop.held) == 1
    release()
    bench.loop.advance(4.9)
    assert len(bench.loop.held) == 0
    bench.loop.advance(0.1)
    assert len(bench.loop.held) == 1


def test_what_no_answer_has_shown_for_long_is_published_as_unverified() -> None:
    """Cut-off answers remove nothing, so whoever dials has to know which addresses may be another's by now."""
    cut = replace(found("10.0.0.1", ttl_s=30.0), complete=False)
    bench = Bench(found("10.0.0.1", "10.0.0.2", ttl_s=30.0), cut)
    bench.loop.advance(300.0)
    assert len(bench.sets) == 1
    bench.loop.advance(60.0)
    assert [one.unverified for one in bench.sets] == [frozenset(), frozenset({"10.0.0.2"})]
    assert bench.published()[-1] == ["10.0.0.1", "10.0.0.2"]
