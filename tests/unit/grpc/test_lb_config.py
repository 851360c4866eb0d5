"""What gRPC's own JSON for balancing policies becomes here."""

from __future__ import annotations

from typing import Any

import pytest

from meshlb.config import Config
from meshlb.errors import ConfigError
from meshlb.grpc import lb_config


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ({"round_robin": {}}, {"policy": "round_robin"}),
        ({"least_request_experimental": {}}, {"policy": "least_request"}),
        ({"least_request": {"choiceCount": 20}}, {"policy": {"name": "least_request", "choice_count": 10}}),
        ({"pick_first": {}}, {"policy": {"name": "pick_first", "shuffle_address_list": False}}),
        ({"pick_first": {"shuffleAddressList": True}}, {"policy": {"name": "pick_first", "shuffle_address_list": True}}),
        ({"weighted_round_robin": {}}, {"policy": "weighted_round_robin", "weight": {"source": "a58"}}),
        (
            {
                "weighted_round_robin": {
                    "enableOobLoadReport": True,
                    "oobReportingPeriod": "5s",
                    "blackoutPeriod": "0s",
                    "weightExpirationPeriod": "60s",
                    "weightUpdatePeriod": "0.01s",
                    "errorUtilizationPenalty": 2,
                    "metricNamesForComputingUtilization": ["named_metrics.queue"],
                }
            },
            {
                "policy": "weighted_round_robin",
                "weight": {
                    "source": "a58",
                    "oob": True,
                    "oob_interval_s": 5.0,
                    "blackout_s": 0.0,
                    "expiration_s": 60.0,
                    "update_s": 0.1,
                    "error_utilization_penalty": 2.0,
                    "metric_names": ["named_metrics.queue"],
                },
            },
        ),
        (
            {"ring_hash_experimental": {}},
            {"policy": {"name": "ring_hash", "minimum_ring_size": 1024, "maximum_ring_size": 4096}},
        ),
        (
            {"ring_hash": {"minRingSize": 100, "maxRingSize": 200, "requestHashHeader": "x-user"}},
            {"policy": {"name": "ring_hash", "minimum_ring_size": 100, "maximum_ring_size": 200}, "hash": ["metadata:x-user"]},
        ),
        (
            {"ring_hash": {"minRingSize": "100", "maxRingSize": 200.0}},
            {"policy": {"name": "ring_hash", "minimum_ring_size": 100, "maximum_ring_size": 200}},
        ),
        (
            {"weighted_round_robin": {"enableOobLoadReport": False, "oobReportingPeriod": "10s", "blackoutPeriod": "10s"}},
            {"policy": "weighted_round_robin", "weight": {"source": "a58", "oob": False, "blackout_s": 10.0}},
        ),
        (
            {"random_subsetting_experimental": {"subsetSize": 7, "childPolicy": [{"unknown": {}}, {"p2c": {}}]}},
            {"policy": "p2c", "subset": {"size": 7, "min_endpoints": 7}},
        ),
    ],
)
def test_each_of_grpcs_policies_becomes_fields_of_a_config(written: dict[str, Any], asked: dict[str, Any]) -> None:
    """With gRPC's defaults; and a Config takes what comes out."""
    assert lb_config.first_known([{"not_here": {}}, written]) == asked
    Config.from_dict(asked)


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ({"least_request": {"choiceCount": 1}}, "least_request choiceCount=1: must be a whole number >= 2"),
        ({"least_request": {"choiceCount": True}}, "least_request choiceCount=True: must be a whole number >= 2"),
        ({"pick_first": {"shuffleAddressList": 1}}, "pick_first shuffleAddressList=1: must be true or false"),
        ({"weighted_round_robin": {"blackoutPeriod": 3}}, "weighted_round_robin blackoutPeriod=3: must be seconds"),
        ({"weighted_round_robin": {"enableOobLoadReport": "yes"}}, "enableOobLoadReport='yes': must be true or false"),
        ({"weighted_round_robin": {"errorUtilizationPenalty": -1}}, "errorUtilizationPenalty=-1: must be a number >= 0"),
        ({"ring_hash": {"minRingSize": 0}}, "ring_hash minRingSize=0: must be a whole number >= 1"),
        ({"ring_hash": {"requestHashHeader": 3}}, "ring_hash requestHashHeader=3: must be a string"),
        (
            {"random_subsetting": {"subsetSize": 0, "childPolicy": [{"p2c": {}}]}},
            "random_subsetting subsetSize=0: must be a whole number",
        ),
        ({"random_subsetting": {"subsetSize": 3}}, "loadBalancingConfig=None: must be a list of objects"),
        ({"round_robin": 3}, "round_robin=3: must be an object"),
        (
            {
                "random_subsetting": {
                    "subsetSize": 3,
                    "childPolicy": [{"random_subsetting": {"subsetSize": 2, "childPolicy": [{"p2c": {}}]}}],
                }
            },
            "must not take a subset of the subset",
        ),
    ],
)
def test_a_setting_out_of_its_range_is_an_error_that_says_so(written: dict[str, Any], rule: str) -> None:
    """With option, field, value and rule."""
    with pytest.raises(ConfigError, match=r"grpc\.service_config loadBalancingConfig") as caught:
        lb_config.first_known([written])
    assert rule in str(caught.value)
