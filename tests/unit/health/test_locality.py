"""The settings for zones, and what holds for both ways of minding them."""

from __future__ import annotations

import pytest

from meshlb.balance.p2c import P2C
from meshlb.core.endpoint import Endpoint, EndpointSet, Locality, Place
from meshlb.core.policy import Picker, PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.errors import ConfigError
from meshlb.health import locality
from meshlb.health.locality import Localities
from tests.picking import picks, seeded, shares

HERE = Place(zone="a")
NO_INFO = PickInfo()


def endpoints_in(zones: str, *, ready: bool = True, weight: float = 1.0) -> list[Endpoint]:
    """One a letter, in the zone of that name; "-" is an unknown zone."""
    return [
        Endpoint(host=f"10.0.0.{at}", port=80, locality=Locality(zone=zone.replace("-", "")), ready=ready, weight=weight)
        for at, zone in enumerate(zones, start=1)
    ]


def picker_over(
    zones: str, settings: locality.Locality, place: Place = HERE, own: EndpointSet | None = None
) -> tuple[Picker, list[Subchannel], Localities]:
    """What ``settings`` make of p2c over such endpoints."""
    rng = seeded()
    policy, localities = P2C().build(rng), Localities(settings, rng)
    if own is not None:
        localities.on_own_endpoints(own)
    subs = [Subchannel(endpoint, policy.new_metric(0.0)) for endpoint in endpoints_in(zones)]
    return localities.new_picker(subs, place, lambda chosen: policy.new_picker(chosen, rng)), subs, localities


def own_service(zones: str, unready: str = "") -> EndpointSet:
    """The caller's own pods."""
    there = endpoints_in(zones + unready)
    return EndpointSet.of(
        [
            *there[: len(zones)],
            *[Endpoint(host=one.host, port=80, locality=one.locality, ready=False, serving=False) for one in there[len(zones) :]],
        ],
        "test",
    )


BOTH = [
    locality.Locality(mode="prefer"),
    locality.Locality(mode="envoy", own_service="frontend.shop", min_cluster_size=2),
]


@pytest.fixture(params=BOTH, ids=["prefer", "envoy"])
def settings(request: pytest.FixtureRequest) -> locality.Locality:
    return request.param


@pytest.mark.parametrize(
    ("zones", "place", "reason"),
    [
        ("abcabc", Place(), "the caller's own zone is not known"),
        ("aaaaaa", HERE, "zone"),
        ("------", HERE, "zone"),
    ],
)
def test_where_zones_cannot_be_told_apart_the_policy_picks_from_all(
    settings: locality.Locality, zones: str, place: Place, reason: str
) -> None:
    """Evenly, and the reason is said."""
    picker, subs, localities = picker_over(zones, settings, place, own_service("abc"))
    assert shares(picks(picker, 12_000), subs) == pytest.approx([1 / 6] * 6, abs=0.02)
    assert reason in str(localities.describe()["reason"])


def test_no_endpoint_in_the_callers_zone_is_no_failure(settings: locality.Locality) -> None:
    """Somebody elsewhere is picked."""
    picker, subs, _ = picker_over("bbcc", settings, HERE, own_service("abc"))
    assert set(picks(picker, 500)) == set(subs)


def test_off_is_the_policys_own_picker() -> None:
    """Nothing is wrapped, so nothing is paid."""
    picker, _, localities = picker_over("aabb", locality.Locality())
    plain = P2C().build(seeded()).new_picker(picker_over("ab", locality.Locality())[1], seeded())
    assert type(picker) is type(plain)
    assert localities.describe() == {"mode": "off"}


def test_a_retry_goes_to_another_of_the_zone_while_there_is_one_and_then_elsewhere(settings: locality.Locality) -> None:
    """Tried ones are not picked again while any other is there; if all were tried, somebody is."""
    picker, subs, _ = picker_over("aabbb", settings, HERE, own_service("abb"))
    assert set(picks(picker, 300, exclude=[subs[0]])) == {subs[1]}
    assert set(picks(picker, 300, exclude=subs[:2])) == set(subs[2:])
    assert set(picks(picker, 300, exclude=subs[:4])) == {subs[4]}
    assert len(picks(picker, 50, exclude=subs)) == 50


def test_methods_that_bypass_zones_are_picked_from_all() -> None:
    """By method and by service; the others stay."""
    settings = locality.Locality(mode="prefer", probe_ratio=0.0, bypass=("/shop.Reports/*", "/shop.Orders/List"))
    picker, subs, _ = picker_over("abc", settings)
    for method, everywhere in [("/shop.Orders/Get", False), ("/shop.Orders/List", True), ("/shop.Reports/Make", True)]:
        picked = {picker.pick(PickInfo(method), 0.0) for _ in range(200)}
        assert picked == (set(subs) if everywhere else {subs[0]})


def test_envoy_without_the_own_service_is_refused_where_it_is_put_to_use() -> None:
    """The word alone may come before the name, from another variable; a pool cannot be made with it."""
    with pytest.raises(ConfigError, match=r"locality\.mode='envoy': needs locality\.own_service"):
        Localities(locality.Locality.of("envoy"), seeded())


def test_only_a_change_of_the_own_service_asks_for_new_pickers() -> None:
    """Other pods in the same numbers are none."""
    localities = Localities(BOTH[1], seeded())
    assert localities.on_own_endpoints(own_service("aab"))
    assert not localities.on_own_endpoints(own_service("aba"))
    assert localities.on_own_endpoints(own_service("abb"))


@pytest.mark.parametrize("word", ["off", "prefer", "envoy"])
def test_a_word_gives_the_mode(word: str) -> None:
    """And a dict the fields."""
    assert locality.Locality.of(word).mode == word
    assert locality.Locality.of({"mode": word, "bypass": "/a.B/C, /a.D/*"}).bypass == ("/a.B/C", "/a.D/*")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("near", "locality='near': must be one of envoy, off, prefer"),
        (1, "locality=1: must be off, prefer, envoy, a dict or a Locality"),
        ({"ratio": 2}, "locality.ratio: unknown key"),
        ({"mode": "on"}, "locality.mode='on': must be one of envoy, off, prefer"),
        ({"own_service": "a b"}, "locality.own_service='a b': must be a target such as frontend.shop"),
        ({"own_service": None}, "locality.own_service=None: must be a target such as frontend.shop"),
        ({"overload_ratio": 0.9}, "locality.overload_ratio=0.9: must be a finite number >= 1"),
        ({"slack": -1}, "locality.slack=-1: must be a finite number >= 0"),
        ({"probe_ratio": 2}, "locality.probe_ratio=2: must be a number from 0 to 1"),
        ({"min_cluster_size": -1}, "locality.min_cluster_size=-1: must be >= 0"),
        ({"routing_enabled_ratio": 101}, "locality.routing_enabled_ratio=101: must be a number from 0 to 1"),
        (
            {"locality_basis": "weights"},
            "locality.locality_basis='weights': must be one of healthy_hosts_num, healthy_hosts_weight",
        ),
        ({"force_local_zone_min_size": 0.5}, "locality.force_local_zone_min_size=0.5: must be a whole number"),
        ({"bypass": ["Get"]}, "locality.bypass='Get': must be /package.Service/Method or /package.Service/*"),
        ({"bypass": 3}, "locality.bypass=3: must be a list of methods, or one string with commas"),
    ],
)
def test_bad_settings_are_refused(written: object, message: str) -> None:
    """With field, value and rule."""
    with pytest.raises(ConfigError) as caught:
        locality.Locality.of(written)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
