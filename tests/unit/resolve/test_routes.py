"""Which address family leads nowhere from here."""

from __future__ import annotations

from meshlb.resolve.routes import KEPT_S, Routes, has_route


def test_with_one_family_there_is_nothing_to_choose_and_nothing_is_asked() -> None:
    """An IPv6-only cluster is used whatever a probe would say."""
    asked: list[str] = []
    routes = Routes(lambda: 0.0, lambda host: bool(asked.append(host)))
    assert routes.lacking(["fd00::1", "fd00::2"]) == routes.lacking([]) == frozenset()
    assert asked == []


def test_a_family_without_a_route_is_named() -> None:
    """Each by an address that is really meant."""
    four_only = Routes(lambda: 0.0, lambda host: ":" not in host)
    assert four_only.lacking(["fd00::1", "10.0.0.1"]) == {"IPv6"}
    assert Routes(lambda: 0.0, lambda host: ":" in host).lacking(["fd00::1", "10.0.0.1"]) == {"IPv4"}
    assert Routes(lambda: 0.0, lambda host: True).lacking(["fd00::1", "10.0.0.1"]) == frozenset()


def test_an_answer_is_kept_for_a_while() -> None:
    """And asked again after that: an interface may have come up."""
    now_s, has_six = 0.0, False
    asked: list[str] = []

    def probe(host: str) -> bool:
        asked.append(host)
        return has_six or ":" not in host

    routes = Routes(lambda: now_s, probe)
    for _ in range(3):
        assert routes.lacking(["fd00::1", "10.0.0.1"]) == {"IPv6"}
    assert len(asked) == 2
    now_s, has_six = KEPT_S, True
    assert routes.lacking(["fd00::1", "10.0.0.1"]) == frozenset()


def test_the_kernel_knows_the_way_to_this_host() -> None:
    """The real probe; no packet leaves."""
    assert has_route("127.0.0.1")
    assert not has_route("no address")
