"""Label and field selectors: what matches, and what is refused with which words."""

from __future__ import annotations

import pytest

from meshlb.testing.selectors import parse_field_selector, parse_label_selector
from meshlb.testing.status import StatusError

LABELS = {"app": "orders", "tier": "back", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app", True),
        ("!app", False),
        ("other", False),
        ("!other", True),
        ("app=orders", True),
        ("app==orders", True),
        ("app = orders", True),
        ("app=billing", False),
        ("app!=billing", True),
        ("app!=orders", False),
        ("other!=x", True),
        ("empty=", True),
        ("app=", False),
        ("app in (orders)", True),
        ("app in (billing,orders)", True),
        ("app in (billing, orders )", True),
        ("app in (billing)", False),
        ("other in (x)", False),
        ("app notin (billing)", True),
        ("app notin (orders,billing)", False),
        ("other notin (x)", True),
        ("app=orders,tier=back", True),
        ("app=orders,tier=front", False),
        ("app in (orders,billing),tier!=front,!other", True),
        ("kubernetes.io/service-name=orders", False),
    ],
)
def test_a_label_selector_matches_as_in_kubernetes(selector: str, matches: bool) -> None:
    """Every operator, with the label there and not; ``!=`` and ``notin`` select objects without the label too."""
    assert parse_label_selector(selector)(LABELS) is matches


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("bad label!=", "unable to parse requirement: found 'label', expected: in, notin, =, ==, !=, gt, lt"),
        ("app in orders", "unable to parse requirement: found 'orders', expected: '('"),
        ("app in (orders", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
        ("=x", "unable to parse requirement: found '=', expected: identifier"),
        ("app=orders tier=back", "unable to parse requirement: found 'tier', expected: ',' or 'end of string'"),
        ("app,", "unable to parse requirement: found '', expected: identifier"),
    ],
)
def test_a_malformed_label_selector_is_a_400_that_says_where(selector: str, message: str) -> None:
    """The first is recorded from a real server."""
    with pytest.raises(StatusError) as refused:
        parse_label_selector(selector)
    assert (refused.value.code, refused.value.status["message"]) == (400, message)


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("metadata.name=orders-1", True),
        ("metadata.name==orders-1", True),
        ("metadata.name=other", False),
        ("metadata.name!=other", True),
        ("metadata.name=orders-1,metadata.namespace=shop", True),
        ("metadata.name=orders-1,metadata.namespace=other", False),
    ],
)
def test_a_field_selector_matches_name_and_namespace(selector: str, matches: bool) -> None:
    """The two fields that every object has."""
    fields = {"metadata.name": "orders-1", "metadata.namespace": "shop"}
    assert parse_field_selector(selector)(fields) is matches


def test_an_unknown_field_is_refused() -> None:
    """EndpointSlices cannot be selected by anything else; the message says what can be."""
    with pytest.raises(StatusError, match=r'"spec.ip" is not a known field selector: only "metadata.name"'):
        parse_field_selector("spec.ip=1")
