"""What a server says of its own load: one ORCA report, read and checked.

Whoever reads one never raises: what cannot be used is a report with a ``problem``, which is counted and shown where weights are made
(``load/capacity.py``). A metric that was not sent is 0, as in the message itself, which knows no difference.

Spec: xds.data.orca.v3.OrcaLoadReport; gRFC A51.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadReport:
    """Immutable. Utilizations are shares of what the server has, and may be above 1; ``qps`` and ``eps`` are its calls and failed calls a
    second, whoever made them. ``utilization``, ``request_cost`` and ``named_metrics`` are the server's own, by name: shares, costs of
    one call, and anything else.

    ``problem``: why the report is not to be used; empty for a sound one.
    """

    application_utilization: float = 0.0
    cpu_utilization: float = 0.0
    mem_utilization: float = 0.0
    qps: float = 0.0
    eps: float = 0.0
    utilization: Mapping[str, float] = field(default_factory=dict)
    request_cost: Mapping[str, float] = field(default_factory=dict)
    named_metrics: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""

    def metric(self, name: str) -> float:
        """By its name in the message, entries of maps as ``<map>.<entry>`` (``named_metrics.queue``); 0 if it was not sent.

        ``name`` is one that ``METRIC_NAMES`` or ``METRIC_MAPS`` allow.
        """
        where, dot, entry = name.partition(".")
        value = getattr(self, where)
        return float(value.get(entry, 0.0)) if dot else float(value)


METRIC_NAMES = ("application_utilization", "cpu_utilization", "mem_utilization")
METRIC_MAPS = ("utilization", "named_metrics", "request_cost")
