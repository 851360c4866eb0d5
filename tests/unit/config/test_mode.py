"""The operator's switch: its words, and which targets a listed one turns off."""

from __future__ import annotations

import pickle

import pytest

from meshlb.config import Mode, resolve_config
from meshlb.core.target import Target, TargetKey
from meshlb.errors import ConfigError


@pytest.mark.parametrize("text", ["", "on", " ON "])
def test_on_is_the_default(text: str) -> None:
    """Nothing is turned off."""
    assert not Mode.parse(text).is_off("orders.shop:grpc")


@pytest.mark.parametrize("text", ["off", "OFF", " off "])
def test_off_turns_everything_off(text: str) -> None:
    """Whatever the target."""
    assert all(Mode.parse(text).is_off(target) for target in ("orders.shop", "localhost:50051", "static:///10.0.0.1:80"))


@pytest.mark.parametrize(
    ("listed", "target"),
    [
        ("orders.shop", "orders.shop"),
        ("orders.shop", "orders.shop:grpc"),
        ("orders.shop", "orders.shop:50051"),
        ("orders.shop", "Orders.Shop:50051"),
        ("orders.shop", "k8s:///orders.shop:grpc"),
        ("orders.shop", "k8s://shop/orders:grpc"),
        ("orders.shop", "http://orders.shop.svc:8080/v1"),
        ("orders.shop", "orders.shop.svc.cluster.local:50051"),
        ("orders.shop", "pod-0.orders.shop.svc:50051"),
        ("orders.shop", "dns:///orders.shop:50051"),
        ("orders.shop", "orders"),
        ("orders", "orders.shop:grpc"),
        ("orders.shop:grpc", "orders.shop"),
        ("orders.shop:grpc", "orders.shop:50051"),
        ("k8s:///orders.shop:grpc", "orders.shop:grpc"),
        ("orders.shop.svc.cluster.local", "orders.shop"),
        ("https://api.example.com", "api.example.com:443"),
        ("api.example.com", "https://api.example.com/v1"),
        ("localhost", "localhost:50051"),
        ("static:///10.0.0.1:80,10.0.0.2:80", "static:///10.0.0.1:80,10.0.0.2:80"),
        ("ipv4:10.0.0.1:80", "ipv4:10.0.0.1:80"),
        ("unix:run/orders.sock", "unix:run/orders.sock"),
        ("billing.shop, orders.shop", "orders.shop"),
    ],
)
def test_a_listed_target_turns_off_what_may_be_the_same_place(listed: str, target: str) -> None:
    """As written, the same Service or the same host; what one side does not say counts as equal."""
    mode = Mode.parse(f"off:{listed}")
    assert mode.is_off(target)
    assert mode.is_off(Target.parse(target))


@pytest.mark.parametrize(
    ("listed", "target"),
    [
        ("orders.shop", "orders.test"),
        ("orders.shop", "billing.shop"),
        ("orders.shop", "shop.orders"),
        ("orders.shop:grpc", "orders.shop:admin"),
        ("orders.shop:50051", "orders.shop:50052"),
        ("orders.shop.svc.cluster.local", "orders.shop.svc.other.zone"),
        ("pod-0.orders.shop.svc", "pod-1.orders.shop.svc"),
        ("api.example.com:443", "api.example.com:444"),
        ("api.example.com", "example.com"),
        ("static:///10.0.0.1:80,10.0.0.2:80", "static:///10.0.0.1:80,10.0.0.3:80"),
        ("10.0.0.1:80", "static:///10.0.0.1:80"),
        ("unix:run/orders.sock", "unix:run/billing.sock"),
        ("orders", "ordersx"),
    ],
)
def test_other_places_stay_on(listed: str, target: str) -> None:
    """Somebody else's Service is not touched."""
    assert not Mode.parse(f"off:{listed}").is_off(target)


def test_a_namespace_known_from_elsewhere_counts() -> None:
    """A bare ``orders`` in the namespace test is not orders.shop."""
    key = TargetKey("", "test", "orders", "")
    assert not Mode.parse("off:orders.shop").is_off("orders", key)
    assert Mode.parse("off:orders.test").is_off("orders", key)


@pytest.mark.parametrize("text", ["of", "true", "on:orders.shop", "off,orders.shop", "off:", "off:a.b,", "disabled", "offline"])
def test_other_words_are_errors_that_list_the_valid_ones(text: str) -> None:
    """A switch that does nothing must not look as if it were thrown."""
    with pytest.raises(ConfigError, match=r"^MESHLB_MODE='.*on, off or off:<target>,<target>…$"):
        Mode.parse(text)


def test_a_listed_target_that_cannot_be_one_is_an_error() -> None:
    """It says where."""
    with pytest.raises(ConfigError, match=r"^MESHLB_MODE='off:foo:///x': bad target 'foo:///x' at offset 0"):
        Mode.parse("off:foo:///x")


@pytest.mark.parametrize("text", ["on", "off", "off:orders.shop", "off:orders.shop:grpc,https://api.example.com"])
def test_it_prints_as_it_is_written(text: str) -> None:
    """For ``status()`` and log lines; equal modes are equal, also after pickling."""
    mode = Mode.parse(text)
    assert str(mode) == text
    assert pickle.loads(pickle.dumps(mode)) == mode


def test_the_environment_says_the_mode() -> None:
    """``MESHLB_MODE``."""
    assert resolve_config(None, {"MESHLB_MODE": "off:orders.shop"})[1].is_off("orders.shop:grpc")
