"""meshlb: every gRPC call to a Kubernetes Service balanced over its pods, in your process.

>>> import meshlb.grpc                                               # doctest: +SKIP
>>> channel = meshlb.grpc.insecure_channel("orders.shop:grpc")       # doctest: +SKIP

Importing this package starts nothing and loads neither grpc, kubernetes, dns nor asyncio; the names below are looked up lazily.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from meshlb.config import Config
    from meshlb.core.endpoint import Endpoint
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
    from meshlb.mesh import Mesh, status

_HOMES = {
    "Config": "meshlb.config",
    "Endpoint": "meshlb.core.endpoint",
    "Mesh": "meshlb.mesh",
    "Target": "meshlb.core.target",
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
    "status",
    "Endpoint",
    "Target",
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
