"""What a pool knows at one moment."""

from __future__ import annotations

import dataclasses

import pytest

from meshlb.core.endpoint import EndpointSet
from meshlb.core.subchannel import Subchannel
from meshlb.load.in_flight import LiveOnly
from meshlb.pool.snapshot import Change, PoolSnapshot
from tests.unit.pool.bench import pod


def test_before_the_first_answer_nothing_is_known() -> None:
    """Not even where it would come from."""
    assert PoolSnapshot().latest is None
    assert PoolSnapshot().source == "none"
    assert PoolSnapshot(latest=EndpointSet.of([], "dns")).source == "dns"


def test_a_snapshot_cannot_be_changed() -> None:
    """It is read without a lock."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        PoolSnapshot().updated_s = 1.0  # type: ignore[misc]


def test_a_change_is_true_if_somebody_came_or_went() -> None:
    """An update that only describes endpoints anew changes nobody."""
    sub = Subchannel(pod(1), LiveOnly())
    assert not Change()
    assert Change(added=(sub,))
    assert Change(removed=(sub,))
