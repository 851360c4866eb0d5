"""Which methods a pattern speaks of, for every part of the config."""

from __future__ import annotations

import pytest

from meshlb.core import patterns
from meshlb.errors import ConfigError
from meshlb.limit.settings import Limits


@pytest.mark.parametrize("pattern", ["/shop.Orders/Get", "/shop.Orders/*", "/Orders/Get"])
def test_a_method_and_a_service_can_be_meant(pattern: str) -> None:
    """With or without a package."""
    patterns.check("limits.methods", pattern, everything=False)


@pytest.mark.parametrize(
    "pattern", ["", "shop.Orders/Get", "/shop.Orders", "/shop.Orders/", "//Get", "/shop.*/Get", "/a/b/c", "/a/G*", 7]
)
def test_anything_else_is_refused_with_the_forms_that_are_known(pattern: object) -> None:
    """Field, value and rule."""
    with pytest.raises(ConfigError, match=r"^limits\.methods=.*: must be /package\.Service/Method or /package\.Service/\*$"):
        patterns.check("limits.methods", pattern, everything=False)


def test_a_star_means_all_where_that_can_be_meant() -> None:
    """Elsewhere the message says where it belongs."""
    patterns.check("retry.idempotent", "*", everything=True)
    with pytest.raises(ConfigError, match=r"^limits\.methods='\*': what holds for every method .* in limits's own fields$"):
        patterns.check("limits.methods", "*", everything=False)


def test_a_pattern_is_there_once() -> None:
    """Pairs may hold one twice, of which the second would never be read."""
    pairs = [("/shop.Orders/Get", {"max_in_flight": 1}), ("/shop.Orders/*", {"max_in_flight": 1})]
    assert len(Limits(methods=tuple(pairs)).methods) == 2  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^limits\.methods /shop\.Orders/Get: must be there once$"):
        Limits(methods=(*pairs, pairs[0]))  # type: ignore[arg-type]


def test_the_most_specific_comes_first_whatever_the_order_they_were_written_in() -> None:
    """The method's own, its service's, all."""
    entries = [("*", 1), ("/shop.Orders/*", 2), ("/shop.Orders/Get", 3), ("/shop.Carts/*", 4)]
    assert list(patterns.matching("/shop.Orders/Get", entries)) == [3, 2, 1]
    assert list(patterns.matching("/shop.Orders/Put", entries)) == [2, 1]
    assert list(patterns.matching("", entries)) == [1]
