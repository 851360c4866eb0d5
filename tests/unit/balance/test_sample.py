"""The pickers written out for two draws choose as the general one does."""

from __future__ import annotations

import pytest

from meshlb.balance.draw import relative_weights
from meshlb.balance.p2c import P2C
from meshlb.balance.sample import PairPicker, SamplePicker, WeightedPairPicker, sample_picker
from meshlb.core.outcome import Outcome
from meshlb.load.in_flight import InFlight, Penalties
from tests.picking import hold, picks, seeded, shares, subchannels_of


@pytest.mark.parametrize(
    ("weights", "choice_count", "kind"),
    [
        ([1.0] * 4, 2, PairPicker),
        ([1.0, 2.0, 3.0, 4.0], 2, WeightedPairPicker),
        ([1.0] * 4, 3, SamplePicker),
        ([1.0, 2.0, 3.0, 4.0], 3, SamplePicker),
    ],
)
def test_the_quick_pickers_are_for_two_draws(weights: list[float], choice_count: int, kind: type) -> None:
    """Equal or not."""
    rng = seeded()
    subs = subchannels_of(P2C().build(rng), weights)
    assert type(sample_picker(subs, choice_count, rng, Penalties(0.01))) is kind


@pytest.mark.parametrize("weights", [[1.0] * 4, [1.0, 2.0, 3.0, 4.0]], ids=["equal", "unequal"])
@pytest.mark.parametrize("streams", [0, 1], ids=["unary only", "with streams"])
@pytest.mark.parametrize("failing", [False, True], ids=["nobody failing", "one failing"])
def test_two_draws_written_out_choose_as_the_general_picker_does(weights: list[float], streams: int, failing: bool) -> None:
    """The same shares in every state that the quick way distinguishes."""
    rng, penalties = seeded(), Penalties(0.01)
    subs = subchannels_of(P2C().build(rng), weights)
    for load, sub in enumerate(subs):
        sub.metric = InFlight(penalties)
        hold(sub.unary, load % 2)
        hold(sub.streams, streams * load)
    quick = sample_picker(subs, 2, rng, penalties)
    general = SamplePicker(subs, relative_weights(subs), 2, rng, penalties)

    def measured(picker: object) -> list[float]:
        picked = []
        for _ in range(8_000):
            if failing:  # a fresh penalty for each pick: it is counted in picks
                subs[0].metric.on_end(0.0, 0.001, Outcome.FAILURE)
            picked += picks(picker, 1)  # type: ignore[arg-type]
        return shares(picked, subs)

    assert measured(quick) == pytest.approx(measured(general), abs=0.03)
