"""The configuration of load reports: its words, and what is refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from meshlb.errors import ConfigError
from meshlb.load.weight import Weight


def test_the_words() -> None:
    """Static is the default; calls' trailers are read with the others, unless reports come out of band."""
    assert Weight() == Weight.of("static") == Weight.of({})
    assert not Weight().in_band
    for word in ("reported", "a58"):
        assert Weight.of(word) == Weight(source=word) == Weight.of({"source": word}) == Weight.of(Weight(source=word))
        assert Weight.of(word).in_band
        assert not Weight(source=word, oob=True).in_band


def test_the_defaults_are_a58s() -> None:
    """And an update below a tenth of a second becomes one, as A58 says."""
    weight = Weight.of("a58")
    assert (weight.blackout_s, weight.expiration_s, weight.update_s, weight.error_utilization_penalty) == (10.0, 180.0, 1.0, 1.0)
    assert (weight.oob, weight.oob_interval_s) == (False, 10.0)
    assert Weight(source="a58", update_s=0.01).update_s == 0.1
    assert Weight(source="a58", blackout_s=timedelta(seconds=3)).blackout_s == 3.0  # type: ignore[arg-type]


def test_names_of_metrics() -> None:
    """A list, or one string with commas."""
    names = ("named_metrics.queue", "utilization.a.b", "cpu_utilization")
    assert Weight(source="a58", metric_names=list(names)).metric_names == names  # type: ignore[arg-type]
    assert (
        Weight.of({"source": "a58", "metric_names": " named_metrics.queue, utilization.a.b,cpu_utilization"}).metric_names == names
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "orca"}, "weight.source='orca': must be one of a58, reported, static"),
        ({"source": "a58", "blackout_s": -1}, "weight.blackout_s=-1: must be >= 0 seconds"),
        ({"source": "a58", "expiration_s": 0}, "weight.expiration_s=0: must be > 0 seconds"),
        ({"source": "a58", "update_s": 0}, "weight.update_s=0: must be > 0 seconds"),
        (
            {"source": "a58", "error_utilization_penalty": -0.1},
            "weight.error_utilization_penalty=-0.1: must be a finite number >= 0",
        ),
        ({"source": "a58", "error_utilization_penalty": float("nan")}, "weight.error_utilization_penalty=nan"),
        ({"source": "a58", "metric_names": ["queue"]}, "weight.metric_names='queue': must be one of application_utilization"),
        ({"source": "a58", "metric_names": ["named_metrics."]}, "weight.metric_names='named_metrics.': must be"),
        ({"source": "a58", "metric_names": 3}, "weight.metric_names=3: must be a list of names"),
        ({"source": "a58", "metric_names": [3]}, "weight.metric_names=3: must be one of"),
        ({"source": "reported", "smoothing_s": 9}, "weight.smoothing_s=9: must be >= 10 seconds"),
        ({"source": "reported", "min_ratio": 0}, "weight.min_ratio=0: must be > 0"),
        ({"source": "reported", "min_ratio": 1.1}, "weight.min_ratio=1.1: must be a number from 0 to 1"),
        ({"source": "reported", "max_ratio": 0.9}, "weight.max_ratio=0.9: must be a finite number >= 1"),
        ({"source": "a58", "oob": "yes"}, "weight.oob='yes': must be true or false"),
        ({"source": "a58", "oob": True, "oob_interval_s": 0.01}, "weight.oob_interval_s=0.01: must be >= 0.1 seconds"),
        ({"source": "a58", "oob_interval_s": 5}, "weight.oob_interval_s=5: is only read with oob"),
        ({"source": "a58", "smoothing_s": 20}, "weight.smoothing_s=20: is not read with source 'a58', only with reported"),
        ({"blackout_s": 1}, "weight.blackout_s=1: is not read with source 'static', only with reported and a58"),
        ({"oob": True}, "weight.oob=True: is not read with source 'static'; say reported or a58"),
        ({"source": "a58", "blackout": 1}, "weight.blackout: unknown key; did you mean 'blackout_s'?"),
        (7, "weight=7: must be static, reported, a58, a dict or a Weight"),
    ],
)
def test_what_is_wrong_is_refused_with_field_value_and_rule(given: Any, said: str) -> None:
    """Also what would be read and ignored."""
    with pytest.raises(ConfigError) as caught:
        Weight.of(given)
    assert str(caught.value).startswith(said)
