"""gRPC channels that balance every call over the endpoints of a target; a drop-in for ``grpc.insecure_channel`` and its sister.

    import meshlb.grpc

    channel = meshlb.grpc.insecure_channel("orders.shop:grpc")
    stub = OrdersStub(channel)

``meshlb.grpc.aio`` has the same two for asyncio.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.experimental

from meshlb.errors import ConfigError
from meshlb.grpc import stock
from meshlb.grpc.channel import Channel
from meshlb.grpc.connection import Connections
from meshlb.grpc.descriptors import idempotent_methods
from meshlb.grpc.marks import attempts_of, endpoint_of
from meshlb.grpc.options import ChannelOptions

if TYPE_CHECKING:
    from meshlb.config import Config
    from meshlb.grpc import aio as aio
    from meshlb.mesh import Mesh

__all__ = ["Channel", "aio", "attempts_of", "endpoint_of", "idempotent_methods", "insecure_channel", "secure_channel"]

Options = Iterable[tuple[str, Any]]


def insecure_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    config: Config | None = None,
    mesh: Mesh | None = None,
) -> grpc.Channel:
    """As ``grpc.insecure_channel``, for any target of ``meshlb.Target``. Starts nothing before the channel's first use.

    ``config``: how to balance and discover (default: the mesh's). ``mesh``: whose pools to share (default: the process's). Raises
    ConfigError, TargetError. Where meshlb is turned off for the target, and for ``xds:``, this is grpc's own channel.
    """
    return _channel(target, None, options, compression, config, mesh)


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    config: Config | None = None,
    mesh: Mesh | None = None,
) -> grpc.Channel:
    """As ``grpc.secure_channel``; the servers' certificates are verified against the target's name, never an address."""
    if not isinstance(credentials, grpc.ChannelCredentials):
        raise ConfigError(f"credentials={credentials!r}: must be grpc.ChannelCredentials; insecure_channel needs none")
    if getattr(credentials, "_credentials", None) is grpc.experimental.insecure_channel_credentials()._credentials:
        raise ConfigError("secure_channel cannot be called with insecure credentials. Call insecure_channel instead.")
    return _channel(target, credentials, options, compression, config, mesh)


def _channel(
    target: str,
    credentials: grpc.ChannelCredentials | None,
    options: Options | None,
    compression: grpc.Compression | None,
    config: Config | None,
    mesh: Mesh | None,
) -> grpc.Channel:
    from meshlb.mesh import default_mesh  # here, so that importing this module stays cheap

    used = mesh if mesh is not None else default_mesh()
    given = tuple(options) if options is not None else ()
    binding = used.bind(target, config)
    if binding.off:  # what meshlb thinks of the options does not matter then
        return stock.open_channel(binding.stock_target, credentials, given, compression)
    parsed = ChannelOptions.of(given)
    if parsed.asked:
        binding = used.bind(target, config, asked=parsed.asked)
    return Channel(Connections(binding, parsed, credentials, compression))


if not TYPE_CHECKING:  # a type checker that saw it would take any misspelt name for one of ours

    def __getattr__(name: str) -> Any:
        if name == "aio":  # not before it is used: it brings asyncio
            return importlib.import_module("meshlb.grpc.aio")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
