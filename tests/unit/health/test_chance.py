"""The two closed forms by which chance is ruled out."""

from __future__ import annotations

from math import comb, exp, inf, isclose, log

import pytest

from meshlb.health.chance import bar, likely_ratio, run_needed, unlike


def test_the_bar_is_shared_out_among_the_endpoints() -> None:
    """e^-bar(n) times n is the same for every n."""
    assert all(isclose(n * exp(-bar(n)), exp(-10.0)) for n in (1, 2, 1000))
    assert bar(0) == bar(1)


@pytest.mark.parametrize(("ratio", "needed"), [(0.0, 5.0), (0.05, 5.0), (0.5, 12.0 / log(2)), (1.0, inf)])
def test_a_run_must_be_longer_where_the_others_fail_too(ratio: float, needed: float) -> None:
    """At least 5; p^k <= e^-12 decides above."""
    assert run_needed(5, ratio, 12.0) == pytest.approx(needed)


def test_a_figure_beyond_all_floats_is_one_that_is_never_reached() -> None:
    """It is a whole number like any other, and no error in the discovery thread."""
    assert run_needed(10**400, 0.5, 12.0) == run_needed(10**400, 0.0, 12.0) == 10**400


def test_nothing_known_is_a_half() -> None:
    """Laplace's rule."""
    assert likely_ratio(0, 0) == 0.5
    assert likely_ratio(0, 10) == pytest.approx(1 / 12)


def test_equal_ratios_are_not_unlike_whatever_they_are() -> None:
    """0 where both fail alike, and where one side is empty."""
    for failed, total in ((0, 10), (3, 10), (10, 10)):
        assert unlike(failed, total, 4 * failed, 4 * total) == pytest.approx(0.0, abs=1e-9)
    assert unlike(3, 10, 0, 0) == unlike(0, 0, 3, 10) == 0.0


def test_the_ratio_is_that_of_the_two_likelihoods() -> None:
    """30 of 100 against 0 of 100, worked out from the binomial itself: the coefficients cancel."""

    def likelihood(failed: int, total: int, p: float) -> float:
        return comb(total, failed) * p**failed * (1 - p) ** (total - failed)

    apart = likelihood(30, 100, 0.3) * likelihood(0, 100, 0.0)
    alike = likelihood(30, 100, 0.15) * likelihood(0, 100, 0.15)
    assert unlike(30, 100, 0, 100) == pytest.approx(log(apart / alike))
