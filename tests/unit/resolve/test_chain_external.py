"""A Service that only stands for another name: who is asked, what goes on, and how it ends."""

from __future__ import annotations

import pytest

from meshlb.errors import ResolveError
from meshlb.resolve.external import MAX_STEPS, circle
from tests.unit.resolve.chain_fixtures import Scene, service_of, slice_of

EXTERNAL = service_of("", (), type="ExternalName", external_name="db.example.com")


def reread(scene: Scene) -> None:
    """Long enough for the Service to be read again."""
    scene.loop.advance(600.0)
    scene.settle()


def test_the_external_name_is_resolved_instead_and_is_the_authority() -> None:
    """Its server knows itself by no other; the Service's own name is not polled meanwhile."""
    scene = Scene(5432)
    scene.api.answer = (EXTERNAL, None)
    scene.api.says()
    scene.external.says("db.example.com", "192.0.2.1", "192.0.2.2")
    assert scene.addresses == ["192.0.2.1:5432", "192.0.2.2:5432"]
    assert (scene.latest.authority_host, scene.latest.service_port) == ("db.example.com", 5432)
    assert scene.dns.running == []
    scene.external.says("db.example.com", "192.0.2.3")
    scene.settle()
    assert scene.addresses == ["192.0.2.3:5432"]


def test_dns_alone_shows_an_external_name_by_its_alias() -> None:
    """Without the right to read the Service."""
    scene = Scene(5432, api=False)
    scene.dns.says("192.0.2.1", alias="db.example.com")
    scene.external.says("db.example.com", "192.0.2.1")
    assert (scene.latest.authority_host, scene.addresses) == ("db.example.com", ["192.0.2.1:5432"])
    assert len(scene.dns.running) == 1


def test_what_cannot_be_resolved_is_told_with_the_external_name_and_keeps_what_was_known() -> None:
    """A failure is no removal."""
    scene = Scene(5432)
    scene.api.answer = (EXTERNAL, None)
    scene.api.says()
    scene.external.fails("db.example.com")
    assert "its external name db.example.com cannot be resolved" in str(scene.errors[-1][1])
    assert "SERVFAIL" in str(scene.errors[-1][1])
    scene.external.says("db.example.com", "192.0.2.1")
    scene.external.fails("db.example.com")
    scene.settle()
    assert scene.addresses == ["192.0.2.1:5432"]


def test_a_service_that_stands_for_another_name_now_is_followed_there() -> None:
    """The old name's resolver is closed."""
    scene = Scene(5432)
    scene.api.answer = (EXTERNAL, None)
    scene.api.says()
    scene.external.says("db.example.com", "192.0.2.1")
    scene.api.answer = (service_of("", (), type="ExternalName", external_name="db2.example.com"), None)
    reread(scene)
    assert list(scene.external.running) == ["db2.example.com"]
    scene.external.says("db2.example.com", "192.0.2.9")
    scene.settle()
    assert (scene.latest.authority_host, scene.addresses) == ("db2.example.com", ["192.0.2.9:5432"])


def test_a_service_that_has_pods_of_its_own_now_stands_for_nothing() -> None:
    """And the authority is the Service's again."""
    scene = Scene("grpc")
    scene.api.answer = (EXTERNAL, None)
    scene.api.says()
    scene.external.says("db.example.com", "192.0.2.1")
    scene.api.answer = (service_of(), None)
    reread(scene)
    scene.api.says(slice_of("10.0.0.1"))
    scene.settle()
    assert scene.external.running == {}
    assert (scene.latest.authority_host, scene.addresses) == ("", ["10.0.0.1:8080"])


def test_slices_that_appear_end_an_external_name_at_once() -> None:
    """An external name has none: the Service is read again within 10 s, not after minutes."""
    scene = Scene("grpc")
    scene.api.answer = (EXTERNAL, None)
    scene.api.says()
    scene.external.says("db.example.com", "192.0.2.1")
    scene.loop.advance(2)
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of("10.0.0.1"))
    scene.loop.advance(10)
    assert (scene.latest.authority_host, scene.addresses) == ("", ["10.0.0.1:8080"])


def test_an_external_name_whose_old_slices_stay_is_read_again_a_few_times_only() -> None:
    """No controller removes them: that is no reason to ask for ever."""
    scene = Scene("grpc")
    scene.api.answer = (EXTERNAL, None)
    scene.api.says(slice_of("10.0.0.1"))
    scene.loop.advance(250)
    assert len(scene.api.reads) <= 4
    assert list(scene.external.running) == ["db.example.com"]


@pytest.mark.parametrize("dns", [True, False])
def test_a_service_that_is_made_anew_as_an_external_name_is_followed(dns: bool) -> None:
    """It never has slices: DNS shows its alias, and it is read again while it is missing."""
    scene = Scene("grpc", dns=dns)
    scene.api.answer = (service_of(), None)
    scene.api.says(slice_of("10.0.0.1"))
    scene.loop.advance(60)
    scene.api.answer = (None, None)
    scene.api.says()
    scene.loop.advance(3)
    if dns:
        scene.dns.says("192.0.2.1", alias="db.example.com")
    else:
        scene.api.answer = (EXTERNAL, None)
        scene.loop.advance(30)
    assert list(scene.external.running) == ["db.example.com"]


def test_a_circle_of_external_names_is_an_error_that_shows_it() -> None:
    """And hangs nobody."""
    scene = Scene(5432)
    scene.external.refuses = circle(("a.shop.svc.cluster.local", "b.shop.svc.cluster.local"), "a.shop.svc.cluster.local")
    scene.api.answer = (EXTERNAL, None)
    scene.api.says()
    told = str(scene.errors[-1][1])
    assert "external names lead in a circle: a.shop.svc.cluster.local → b.shop.svc.cluster.local → a.shop.svc.cluster.local" in told
    assert scene.heard == []


def test_more_names_than_anybody_means_are_an_error_as_well() -> None:
    """Each could be made anew for ever."""
    path = tuple(f"n{number}.example.com" for number in range(MAX_STEPS))
    assert isinstance(circle(path, "next.example.com"), ResolveError)
    assert circle(path[1:], "next.example.com") is None


def test_nothing_is_left_after_close() -> None:
    """The external name's resolver is closed with the chain."""
    scene = Scene(5432)
    scene.api.answer = (EXTERNAL, None)
    scene.api.says()
    assert scene.external.running
    scene.chain.close()
    assert scene.external.running == {}
