"""Subsets under any series of changes: one change of an endpoint changes at most one of the subset's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshlb.core.endpoint import Endpoint
from meshlb.core.subchannel import Subchannel
from meshlb.health.subset import Subset, Subsetting
from meshlb.load.in_flight import LiveOnly

FLEET = [Subchannel(Endpoint(host=f"10.0.0.{at}", port=80), LiveOnly()) for at in range(40)]


@given(seed=st.integers(0, 2**64 - 1), toggled=st.lists(st.integers(0, len(FLEET) - 1), max_size=60), size=st.integers(1, 8))
def test_one_change_of_an_endpoint_is_one_change_of_the_subset_at_most(seed: int, toggled: list[int], size: int) -> None:
    """Endpoints come and go one by one; the subset is always of those that are there, and as large as it can be."""
    subsetting, there = Subsetting(Subset(size=size, min_endpoints=size), seed), set(range(20))
    before = set(subsetting.choose([FLEET[at] for at in sorted(there)]))
    for at in toggled:
        there ^= {at}
        eligible = [FLEET[one] for one in sorted(there)]
        after = subsetting.choose(eligible)
        assert set(after) <= set(eligible)
        assert len(after) == min(size, len(eligible))
        assert list(after) == [sub for sub in eligible if sub in set(after)]
        assert len(before - set(after)) <= 1
        assert len(set(after) - before) <= 1
        before = set(after)


@given(seed=st.integers(0, 2**64 - 1), order=st.permutations(range(len(FLEET))))
def test_the_choice_depends_on_who_is_there_and_on_nothing_else(seed: int, order: list[int]) -> None:
    """Neither on their order nor on who was there before."""
    settings, first = Subset(size=8, min_endpoints=8), Subsetting(Subset(size=8, min_endpoints=8), seed)
    first.choose([FLEET[at] for at in order[:20]])
    assert set(first.choose([FLEET[at] for at in order])) == set(Subsetting(settings, seed).choose(FLEET))
