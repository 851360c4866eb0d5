"""When to ask again, and how much of an answer to believe."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshlb.resolve import polling as rules
from meshlb.resolve.polling import Polling


class Fixed:
    """An rng that always draws the same: 0.5 is no jitter, 0.0 the shortest, just under 1.0 the longest."""

    def __init__(self, value: float = 0.5) -> None:
        self.value = value

    def random(self) -> float:
        return self.value


def test_a_positive_answer_adds_at_once() -> None:
    """A scale-up is used with the first answer that shows it."""
    polling = Polling(Fixed())
    assert polling.found(0.0, ["a"], 5.0)
    assert polling.found(5.0, ["a", "b"], 5.0)
    assert polling.known == frozenset({"a", "b"})
    assert not polling.found(10.0, ["b", "a"], 5.0)


def test_an_address_goes_after_two_answers_in_a_row_without_it() -> None:
    """One answer without it is not enough, and one with it starts the count afresh."""
    polling = Polling(Fixed())
    polling.found(0.0, ["a", "b"], 5.0)
    assert not polling.found(5.0, ["a"], 5.0)
    assert not polling.found(10.0, ["a", "b"], 5.0)
    assert not polling.found(15.0, ["a"], 5.0)
    assert polling.known == frozenset({"a", "b"})
    assert polling.found(20.0, ["a"], 5.0)
    assert polling.known == frozenset({"a"})


def test_a_complete_change_of_addresses_is_make_before_break() -> None:
    """The new ones come with the first answer, the old ones go with the second."""
    polling = Polling(Fixed())
    polling.found(0.0, ["a"], 5.0)
    assert polling.found(5.0, ["b"], 5.0)
    assert polling.known == frozenset({"a", "b"})
    assert polling.found(10.0, ["b"], 5.0)
    assert polling.known == frozenset({"b"})


def test_what_lies_between_two_positive_answers_does_not_matter_to_the_count() -> None:
    """A failure or a denial in between neither counts as a miss nor forgets one."""
    polling = Polling(Fixed())
    polling.found(0.0, ["a", "b"], 5.0)
    polling.found(5.0, ["a"], 5.0)
    polling.failed(10.0)
    polling.absent(11.0, 5.0)
    assert polling.known == frozenset({"a", "b"})
    assert polling.found(16.0, ["a"], 5.0)
    assert polling.known == frozenset({"a"})


def test_an_answer_that_was_cut_off_removes_nothing() -> None:
    """Truncated for ever (TCP closed): addresses are added, and those not shown stay, however often."""
    polling = Polling(Fixed())
    polling.found(0.0, ["a", "b"], 5.0)
    for number in range(5):
        polling.found(5.0 * number, ["c"], 5.0, complete=False)
    assert polling.known == frozenset({"a", "b", "c"})
    polling.found(50.0, ["c"], 5.0)
    polling.found(55.0, ["c"], 5.0)
    assert polling.known == frozenset({"c"})


def test_no_such_name_empties_only_throughout_the_grace() -> None:
    """NXDOMAIN at 0, 5, … 55 s keeps the set; at 60 s it is the truth. The question is asked at that very moment."""
    polling = Polling(Fixed(), empty_grace_s=60.0)
    polling.found(0.0, ["a"], 5.0)
    now_s = 10.0
    while now_s < 70.0:
        assert not polling.absent(now_s, 23.0)
        assert polling.known == frozenset({"a"})
        now_s = polling.next_s
    assert now_s == 70.0
    assert polling.absent(now_s, 23.0)
    assert polling.known == frozenset()
    assert not polling.absent(now_s + 23.0, 23.0), "an empty set is published once"
    assert polling.found(200.0, ["b"], 5.0)


@pytest.mark.parametrize("interruption", ["found", "failed"])
def test_anything_else_starts_the_grace_afresh(interruption: str) -> None:
    """A positive answer denies the denial; a failure says nothing, so "throughout" is not known."""
    polling = Polling(Fixed(), empty_grace_s=60.0)
    polling.found(0.0, ["a"], 5.0)
    polling.absent(1.0, 5.0)
    if interruption == "found":
        polling.found(55.0, ["a"], 5.0)
    else:
        polling.failed(55.0)
    assert not polling.absent(61.0, 5.0)
    assert not polling.absent(120.9, 5.0)
    assert polling.absent(121.0, 5.0)


def test_without_a_grace_the_first_denial_counts() -> None:
    """empty_grace_s = 0 is allowed, for who wants it."""
    polling = Polling(Fixed(), empty_grace_s=0.0)
    polling.found(0.0, ["a"], 5.0)
    assert polling.absent(1.0, 5.0)


def test_a_name_that_never_had_an_address_is_unknown_not_empty() -> None:
    """However long NXDOMAIN lasts, nothing is published for a name that was never seen."""
    polling = Polling(Fixed(), empty_grace_s=60.0)
    for now_s in range(0, 600, 30):
        assert not polling.absent(float(now_s), 30.0)
    assert polling.known is None


@pytest.mark.parametrize(
    ("ttl_s", "interval_s"), [(0.0, 1.0), (0.4, 1.0), (5.0, 5.0), (30.0, 30.0), (300.0, 30.0), (2.0**31, 30.0)]
)
def test_the_next_question_follows_the_ttl_within_bounds(ttl_s: float, interval_s: float) -> None:
    """A TTL of 0 does not hammer the nameserver, and one of a day does not blind us."""
    polling = Polling(Fixed())
    polling.found(100.0, ["a"], ttl_s)
    assert polling.next_s == 100.0 + interval_s
    polling.absent(200.0, ttl_s)
    assert polling.next_s == 200.0 + interval_s


@pytest.mark.parametrize(("draw", "factor"), [(0.0, 0.9), (0.5, 1.0), (1.0, 1.1)])
def test_intervals_are_jittered_by_a_tenth_after_the_cap(draw: float, factor: float) -> None:
    """Replicas that started together drift apart, also those that wait the longest; never below a second."""
    polling = Polling(Fixed(draw))
    polling.found(0.0, ["a"], 300.0)
    assert polling.next_s == pytest.approx(30.0 * factor)
    polling.found(0.0, ["a"], 1.0)
    assert polling.next_s == pytest.approx(max(1.0, factor))


def test_failures_back_off_from_one_second_to_thirty() -> None:
    """1, 2, 4, 8, 16, 30, 30 … and afresh after an answer; also after a very long outage."""
    polling = Polling(Fixed())
    waits_s = []
    for _ in range(7):
        polling.failed(0.0)
        waits_s.append(polling.next_s)
    assert waits_s == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    polling.failures = 10**6
    polling.failed(0.0)
    assert polling.next_s == 30.0
    polling.found(0.0, ["a"], 5.0)
    polling.failed(0.0)
    assert polling.next_s == 1.0


def test_a_hint_asks_at_once_but_at_most_once_a_second() -> None:
    """A thousand failed connects cost one question a second."""
    polling = Polling(Fixed())
    polling.asked(0.0)
    polling.found(0.0, ["a"], 30.0)
    polling.hint(0.3)
    assert polling.next_s == 1.0
    polling.hint(0.4)
    assert polling.next_s == 1.0
    polling.hint(20.0)
    assert polling.next_s == 1.0, "never later than planned"
    polling.asked(20.0)
    polling.found(20.0, ["a"], 30.0)
    polling.hint(25.0)
    assert polling.next_s == 25.0


def test_a_hint_shortens_the_back_off_to_a_second() -> None:
    """Calls fail while DNS fails: whoever waits for the first answer must not wait half a minute, nor ask more than once a second."""
    polling = Polling(Fixed())
    for _ in range(5):
        polling.asked(0.0)
        polling.failed(0.0)
    assert polling.next_s == 16.0
    polling.hint(0.4)
    assert polling.next_s == 1.0
    polling.asked(1.0)
    polling.failed(1.0)
    polling.hint(1.1)
    assert polling.next_s == 2.0


@given(st.integers(0, 2**32), st.lists(st.sampled_from(["found", "cut", "absent", "failed"]), max_size=60))
def test_whatever_is_answered_nothing_goes_without_a_right(seed: int, kinds: list[str]) -> None:
    """An address vanishes only by the second whole answer in a row without it, or all by a grace of nothing but denials."""
    rng = random.Random(seed)
    polling = Polling(rng, empty_grace_s=60.0)
    now_s, denied_since_s = 0.0, None
    last_whole: frozenset[str] = frozenset("abcd")
    for kind in kinds:
        before = polling.known or frozenset()
        now_s += rng.uniform(1.0, 40.0)
        if kind in ("found", "cut"):
            answer = frozenset(rng.sample("abcd", rng.randint(1, 4)))
            polling.found(now_s, answer, 5.0, complete=kind == "found")
            assert polling.known is not None
            assert answer <= polling.known
            lost = before - polling.known
            assert not lost or kind == "found"
            assert not lost & last_whole, f"seed {seed}"
            last_whole = answer if kind == "found" else last_whole | answer
            denied_since_s = None
        elif kind == "absent":
            denied_since_s = now_s if denied_since_s is None else denied_since_s
            polling.absent(now_s, 5.0)
            assert polling.known is None or (polling.known == before) == (now_s - denied_since_s < 60.0 or not before), (
                f"seed {seed}"
            )
        else:
            polling.failed(now_s)
            assert (polling.known or frozenset()) == before
            denied_since_s = None
        assert now_s + 0.9 <= polling.next_s <= now_s + 33.0


def test_what_no_cut_off_answer_has_shown_for_five_minutes_is_unverified() -> None:
    """It stays known, and counts as itself again with the first answer that shows it."""
    polling = Polling(Fixed())
    polling.found(0.0, ["a", "b"], 30.0)
    assert not polling.found(30.0, ["a"], 30.0, complete=False)
    polling.failed(100.0)
    assert not polling.found(329.0, ["a"], 30.0, complete=False)
    assert polling.found(330.0, ["a"], 30.0, complete=False)
    assert (polling.known, polling.unverified) == (frozenset({"a", "b"}), frozenset({"b"}))
    assert polling.found(360.0, ["b"], 30.0, complete=False)
    assert polling.unverified == frozenset()


def test_behind_a_closed_tcp_port_the_known_addresses_do_not_grow_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roll-over after roll-over with answers that are always cut off: those that no answer shows any more go, the oldest first."""
    monkeypatch.setattr(rules, "MOST_UNVERIFIED", 200)
    rng = random.Random(1)
    polling, now_s, pods = Polling(rng), 0.0, [""]
    for roll in range(30):
        pods = [f"10.0.{roll}.{number}" for number in range(100)]
        for _ in range(20):
            now_s += 30.0
            polling.found(now_s, rng.sample(pods, 70), 30.0, complete=False)
    assert polling.known is not None
    assert polling.known.issuperset(pods)
    assert len(polling.known) <= 300
    assert polling.unverified == polling.known.difference(pods)


def test_a_full_answer_before_tcp_closed_is_not_lost_to_answers_that_are_always_cut_alike() -> None:
    """A server that does not shuffle shows the same part for ever, and the others are as alive as these."""
    pods = [f"10.0.{number // 250}.{number % 250}" for number in range(1000)]
    polling = Polling(Fixed())
    polling.found(0.0, pods, 30.0)
    for number in range(1, 1000):
        polling.found(30.0 * number, pods[:70], 30.0, complete=False)
    assert polling.known == frozenset(pods)
    assert polling.unverified == set(pods[70:])
