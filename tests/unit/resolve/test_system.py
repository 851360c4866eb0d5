"""Ordinary names through the system's resolver; only what needs no network is asked."""

from __future__ import annotations

import random
import socket
from typing import Any

import pytest

from meshlb.resolve.lookup import Found
from meshlb.resolve.system import SystemResolver, _literal, system_lookup
from meshlb.testing.loop import ManualLoop
from tests.support.listeners import Recorder


def test_localhost_is_resolved_as_the_system_does() -> None:
    """/etc/hosts counts, which a DNS server would not know; the loopback addresses are all there, the preferred first."""
    found = system_lookup("localhost")
    expected = {info[4][0] for info in socket.getaddrinfo("localhost", None, type=socket.SOCK_STREAM)}
    assert found.found is Found.ADDRESSES
    assert set(found.addresses) == expected
    assert found.ttl_s == 30.0


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64 + ".example"])
def test_every_error_is_a_failure_in_the_systems_words(host: str) -> None:
    """Nothing is raised, and nothing is taken for "there is no address": a resolver that is down says the same."""
    found = system_lookup(host)
    assert found.found is Found.FAILED
    assert found.reason
    assert not found.absent


def test_a_failure_names_host_and_reason() -> None:
    """What a person reads: whom we asked for, by which means, and what the system said."""
    loop, recorder = ManualLoop(), Recorder()
    SystemResolver("no-such-host.invalid", 50051, scheduler=loop, rng=random.Random(1)).start(recorder)
    loop.run_until_idle()
    message = str(recorder.errors[0])
    assert message.startswith("no-such-host.invalid:50051: ")
    assert "system: " in message
    assert recorder.sets == []


def test_the_system_is_asked_every_thirty_seconds_with_jitter() -> None:
    """It tells no TTL: 30 s and a tenth to either side."""
    loop, recorder = ManualLoop(), Recorder()
    SystemResolver("localhost", 50051, scheduler=loop, rng=random.Random(1)).start(recorder)
    loop.run_until_idle()
    (published,) = recorder.sets
    assert published.source == "system"
    assert {endpoint.port for endpoint in published.endpoints} == {50051}
    (timer,) = loop.timers
    assert 27.0 <= timer.when_s <= 33.0


def test_a_link_local_address_keeps_its_scope() -> None:
    """Without it the address leads nowhere; systems give it in the text or as a number beside it."""
    assert _literal(("fe80::1%eth0", 0, 0, 2)) == "fe80::1%eth0"
    assert _literal(("fe80::1", 0, 0, 2)) == "fe80::1%2"
    assert _literal(("fd00::1", 0, 0, 0)) == "fd00::1"
    assert _literal(("10.0.0.1", 0)) == "10.0.0.1"


def test_a_question_to_the_system_is_marked_as_one_that_may_hang() -> None:
    """It must not hold all the helpers, while DNS, whose time-outs are ours, may."""
    marks: list[bool] = []

    class Marking(ManualLoop):
        def run_blocking(self, work: Any, done: Any, /, *, may_hang: bool = False) -> None:
            marks.append(may_hang)

    SystemResolver("orders.example", 1, scheduler=Marking(), rng=random.Random(1)).start(Recorder())
    assert marks == [True]
