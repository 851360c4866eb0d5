"""meshlb: every gRPC call to a Kubernetes Service balanced over its pods, in your process.

>>> import meshlb.grpc                                               # doctest: +SKIP
>>> channel = meshlb.grpc.insecure_channel("orders.shop:grpc")       # doctest: +SKIP

Importing this package starts nothing and loads neither grpc, kubernetes, dns nor asyncio; the names below are looked up lazily.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from meshlb.balance.registry import PolicyConfig, register_policy
    from meshlb.config import Config
    from meshlb.core.clock import Rng
    from meshlb.core.endpoint import Endpoint
    from meshlb.core.hints import hints
    from meshlb.core.outcome import Outcome
    from meshlb.core.policy import LoadMetric, Picker, PickInfo, Policy
    from meshlb.core.subchannel import Subchannel
    from meshlb.core.target import Target
    from meshlb.errors import (
        ClosedError,
        ConfigError,
        DeadlineExceededError,
        ForkError,
        MeshError,
        NoEndpointError,
        OverLimitError,
        PortNotFoundError,
        ResolveError,
        ServiceNotFoundError,
        TargetError,
    )
    from meshlb.load.in_flight import LiveOnly
    from meshlb.mesh import Mesh, status

_HOMES = {
    "Config": "meshlb.config",
    "Endpoint": "meshlb.core.endpoint",
    "LiveOnly": "meshlb.load.in_flight",
    "LoadMetric": "meshlb.core.policy",
    "Mesh": "meshlb.mesh",
    "Outcome": "meshlb.core.outcome",
    "PickInfo": "meshlb.core.policy",
    "Picker": "meshlb.core.policy",
    "Policy": "meshlb.core.policy",
    "PolicyConfig": "meshlb.balance.registry",
    "Rng": "meshlb.core.clock",
    "Subchannel": "meshlb.core.subchannel",
    "Target": "meshlb.core.target",
    "hints": "meshlb.core.hints",
    "register_policy": "meshlb.balance.registry",
    "status": "meshlb.mesh",
    "ClosedError": "meshlb.errors",
    "ConfigError": "meshlb.errors",
    "DeadlineExceededError": "meshlb.errors",
    "ForkError": "meshlb.errors",
    "MeshError": "meshlb.errors",
    "NoEndpointError": "meshlb.errors",
    "OverLimitError": "meshlb.errors",
    "PortNotFoundError": "meshlb.errors",
    "ResolveError": "meshlb.errors",
    "ServiceNotFoundError": "meshlb.errors",
    "TargetError": "meshlb.errors",
}

__all__ = [
    "Config",
    "Mesh",
    "hints",
    "register_policy",
    "status",
    "Endpoint",
    "Target",
    "PolicyConfig",
    "Policy",
    "Picker",
    "PickInfo",
    "LoadMetric",
    "LiveOnly",
    "Subchannel",
    "Outcome",
    "Rng",
    "ClosedError",
    "ConfigError",
    "DeadlineExceededError",
    "ForkError",
    "MeshError",
    "NoEndpointError",
    "OverLimitError",
    "PortNotFoundError",
    "ResolveError",
    "ServiceNotFoundError",
    "TargetError",
    "__version__",
]


if not TYPE_CHECKING:  # a type checker that saw it would take any misspelt name for one of ours

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'meshlb' has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
