"""gRPC's ``loadBalancingConfig`` in meshlb's words: the first policy of the list that is known, with the settings that gRPC has for it.

One entry may speak of several parts of a ``Config``: ``weighted_round_robin`` of the policy and of the weights, ``ring_hash`` of the policy
and of the key, ``random_subsetting`` of the subset and, through its child, of everything else. So what comes out is a dict of a Config's
fields. What a field leaves out has gRPC's default, not ours, since whoever writes gRPC's JSON means gRPC's.

Spec: gRFC A24 (the first known of the list), A42 (ring_hash), A48 (least_request), A58 (weighted_round_robin), A62 (pick_first),
A68 (random_subsetting); their protobuf messages in envoy/extensions/load_balancing_policies and grpc/service_config for JSON's names.
Deviations: ring sizes above 4096 are not cut to that: the cap is one of gRPC's own, not of A42's message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from meshlb.errors import ConfigError

_FIELD = "grpc.service_config loadBalancingConfig"
_DURATION = re.compile(r"(\d+(?:\.\d{1,9})?)s")
_RING_MAX = 4096  # A42: max_ring_size when nothing is said


def first_known(listed: Any) -> dict[str, Any]:
    """Fields of a Config. Raises ConfigError if the list is malformed, has no known policy, or a setting is out of its range."""
    if not isinstance(listed, list) or not all(isinstance(entry, dict) and len(entry) == 1 for entry in listed):
        raise _error("", listed, "must be a list of objects with one policy name each")
    for entry in listed:
        ((name, said),) = entry.items()
        read = _READERS.get(name)
        if read is not None:
            if not isinstance(said, dict):
                raise _error(name, said, "must be an object")
            return read(name, said)
    raise ConfigError(f"{_FIELD}={[next(iter(entry)) for entry in listed]!r}: {known()}")


def by_name(name: str) -> dict[str, Any] | None:
    """For ``loadBalancingPolicy`` and ``grpc.lb_policy_name``, which have no settings; None: not one of ours."""
    read = _READERS.get(name)
    return read(name, {}) if read is not None and name not in _NEED_SETTINGS else None


def known() -> str:
    """The end of an error's sentence."""
    return f"meshlb has no such policy; it has {', '.join(sorted(_READERS))}"


def _plain(ours: str) -> Callable[[str, Mapping[str, Any]], dict[str, Any]]:
    return lambda name, said: {"policy": ours}


def _least_request(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    if "choiceCount" not in said:
        return {"policy": "least_request"}
    return {
        "policy": {"name": "least_request", "choice_count": min(_whole(name, said, "choiceCount", 2), 10)}
    }  # A48: above 10 is 10


def _pick_first(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    shuffle = said.get("shuffleAddressList", False)
    if not isinstance(shuffle, bool):
        raise _error(f"{name} shuffleAddressList", shuffle, "must be true or false")
    return {"policy": {"name": "pick_first", "shuffle_address_list": shuffle}}


def _weighted_round_robin(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    weight: dict[str, Any] = {"source": "a58"}
    for theirs, ours in _WEIGHT_TIMES.items():
        if theirs in said:
            weight[ours] = _seconds(f"{name} {theirs}", said[theirs])
    if "enableOobLoadReport" in said:
        oob = said["enableOobLoadReport"]
        if not isinstance(oob, bool):
            raise _error(f"{name} enableOobLoadReport", oob, "must be true or false")
        weight["oob"] = oob
    if not weight.get("oob"):
        weight.pop("oob_interval_s", None)  # as gRPC: without effect
    if "weightUpdatePeriod" in said:
        weight["update_s"] = max(weight["update_s"], 0.1)  # A58
    if "errorUtilizationPenalty" in said:
        penalty = said["errorUtilizationPenalty"]
        if isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or not penalty >= 0:
            raise _error(f"{name} errorUtilizationPenalty", penalty, "must be a number >= 0")
        weight["error_utilization_penalty"] = float(penalty)
    if "metricNamesForComputingUtilization" in said:
        weight["metric_names"] = said["metricNamesForComputingUtilization"]
    return {"policy": "weighted_round_robin", "weight": weight}


def _ring_hash(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    largest = _whole(name, said, "maxRingSize", 1) if "maxRingSize" in said else _RING_MAX
    smallest = _whole(name, said, "minRingSize", 1) if "minRingSize" in said else min(1024, largest)
    found: dict[str, Any] = {"policy": {"name": "ring_hash", "minimum_ring_size": smallest, "maximum_ring_size": largest}}
    header = said.get("requestHashHeader", "")
    if not isinstance(header, str):
        raise _error(f"{name} requestHashHeader", header, "must be a string")
    return {**found, "hash": [f"metadata:{header}"]} if header else found


def _random_subsetting(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    size = _whole(name, said, "subsetSize", 1)
    child = first_known(said.get("childPolicy"))
    if "subset" in child:
        raise _error(f"{name} childPolicy", said["childPolicy"], "must not take a subset of the subset")
    return {**child, "subset": {"size": size, "min_endpoints": size}}  # of a pool of any size


_WEIGHT_TIMES = {
    "oobReportingPeriod": "oob_interval_s",
    "blackoutPeriod": "blackout_s",
    "weightExpirationPeriod": "expiration_s",
    "weightUpdatePeriod": "update_s",
}
_NEED_SETTINGS = ("random_subsetting_experimental", "random_subsetting")
_READERS: Mapping[str, Callable[[str, Mapping[str, Any]], dict[str, Any]]] = {
    "least_request": _least_request,
    "least_request_experimental": _least_request,
    "p2c": _plain("p2c"),
    "pick_first": _pick_first,
    "random_subsetting": _random_subsetting,
    "random_subsetting_experimental": _random_subsetting,
    "ring_hash": _ring_hash,
    "ring_hash_experimental": _ring_hash,
    "round_robin": _plain("round_robin"),
    "weighted_round_robin": _weighted_round_robin,
}


def _whole(name: str, said: Mapping[str, Any], field: str, minimum: int) -> int:
    value = said.get(field)
    if isinstance(value, str) and value.isascii() and value.isdigit():  # protobuf's JSON writes 64-bit numbers so
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise _error(f"{name} {field}", value, f"must be a whole number >= {minimum}")
    return value


def _seconds(field: str, value: object) -> float:
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _error(field, value, 'must be seconds such as "1.5s"')
    return float(match[1])


def _error(field: str, value: object, rule: str) -> ConfigError:
    return ConfigError(f"{_FIELD}{' ' if field else ''}{field}={value!r}: {rule}")
