"""Draws: proportions, and what is left out exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import cycle, product

import pytest

from meshlb.balance.draw import Draw, relative_weights
from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly
from tests.picking import seeded

ALMOST_ONE = 1.0 - 2.0**-53  # the largest float that random() gives


def _shares(draw: Callable[[], int], n: int, count: int = 40_000) -> list[float]:
    counts = Counter(draw() for _ in range(count))
    return [counts[at] / count for at in range(n)]


def _subchannels(weights: list[float]) -> list[Subchannel]:
    return [Subchannel(Endpoint(host="10.0.0.1", port=1, weight=weight), LiveOnly()) for weight in weights]


@pytest.mark.parametrize("scale", [1e-9, 0.1, 1.0, 3.0, 1000.0])
def test_relative_weights_keep_proportions_and_are_about_one(scale: float) -> None:
    """The mean is at least 1 and below 2, whatever unit the user has in mind."""
    relative = relative_weights(_subchannels([scale, 2 * scale, 6 * scale]))
    assert relative is not None
    assert 1.0 <= sum(relative) / 3 < 2.0
    assert [weight / relative[0] for weight in relative] == [1.0, 2.0, pytest.approx(6.0)]


def test_equal_loads_per_weight_are_equal_floats() -> None:
    """All triples of small weights: the quotient of a multiple of the weight and the relative weight is the same."""
    for weights in product(range(1, 8), repeat=3):
        relative = relative_weights(_subchannels([float(weight) for weight in weights])) or (1.0,) * 3
        if len(set(weights)) > 1:
            assert len({5 * weight / share for weight, share in zip(weights, relative, strict=True)}) == 1


def test_equal_weights_are_no_weights() -> None:
    """Whatever they are: the quick way is taken."""
    assert relative_weights(_subchannels([0.3, 0.3])) is None
    assert relative_weights([]) is None


def test_one_goes_by_weight() -> None:
    """1 : 2 : 5."""
    assert _shares(Draw(3, (1.0, 2.0, 5.0), seeded().random).one, 3) == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.015)


def test_another_leaves_out_what_is_taken_and_keeps_the_proportions_of_the_rest() -> None:
    """Without the heavy one and the first: 2 : 1."""
    draw = Draw(4, (1.0, 50.0, 2.0, 1.0), seeded().random)
    assert _shares(lambda: draw.distinct(1, [0, 1])[0], 4) == pytest.approx([0, 0, 2 / 3, 1 / 3], abs=0.015)


def test_another_among_equals_is_even() -> None:
    """Positions move up past each one that is taken."""
    draw = Draw(5, None, seeded().random)
    assert _shares(lambda: draw.distinct(1, [1, 2])[0], 5) == pytest.approx([1 / 3, 0, 0, 1 / 3, 1 / 3], abs=0.015)


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 3.0, 4.0, 5.0)], ids=["equal", "unequal"])
@pytest.mark.parametrize("avoid", [[], [0, 3]], ids=["nobody avoided", "two avoided"])
def test_several_draws_are_different_positions(weights: tuple[float, ...] | None, avoid: list[int]) -> None:
    """As many as are asked for, or as there are."""
    draw = Draw(5, weights, seeded().random)
    for count in (1, 2, 3, 9):
        for _ in range(50):
            draws = draw.distinct(count, avoid)
            assert len(draws) == len(set(draws)) == min(count, 5 - len(avoid))
            assert not set(draws) & set(avoid)


def test_avoiding_all_is_avoiding_none() -> None:
    """Somebody is drawn all the same."""
    assert set(_shares(lambda: Draw(2, None, seeded().random).distinct(1, [0, 1])[0], 2, 10)) != {0.0}


def test_the_order_of_draws_goes_by_weight() -> None:
    """3 : 1, two draws: the heavy one is first in three of four."""
    draw = Draw(2, (3.0, 1.0), seeded().random)
    assert _shares(lambda: draw.distinct(2, [])[0], 2) == pytest.approx([0.75, 0.25], abs=0.015)


def test_among_keeps_to_the_positions_given() -> None:
    """And to their weights."""
    draw = Draw(4, (1.0, 2.0, 3.0, 4.0), seeded().random)
    assert _shares(lambda: draw.among([1, 3]), 4) == pytest.approx([0, 1 / 3, 0, 2 / 3], abs=0.015)


@pytest.mark.parametrize("taken", [[0], [1], [2], [0, 1], [1, 2], [0, 2]])
@pytest.mark.parametrize("weights", [(0.1, 0.7, 0.2), (1e-12, 1.0, 1e12), (1.0, 1e-300, 1.0)])
def test_the_edges_of_what_random_gives_never_hit_what_is_taken(taken: list[int], weights: tuple[float, ...]) -> None:
    """0 and almost 1, with weights whose sums round."""
    draw = Draw(3, weights, cycle([0.0, ALMOST_ONE, 0.5]).__next__)
    assert all(draw.distinct(1, taken)[0] not in taken for _ in range(9))
    assert all(0 <= draw.one() < 3 for _ in range(9))
