"""The asyncio twin of ``meshlb.grpc``: replace ``import grpc.aio`` by this, for the two functions that make a channel.

>>> import meshlb.grpc.aio                                                   # doctest: +SKIP
>>> channel = meshlb.grpc.aio.insecure_channel("orders.shop:grpc")           # doctest: +SKIP
>>> reply = await OrdersStub(channel).Get(request, timeout=1)                # doctest: +SKIP

Channels may be made anywhere, at import too, and used in any number of event loops; see ``meshlb.grpc.aio.channel`` for what calls
get and ``meshlb.grpc.aio.guards`` for forks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import grpc
import grpc.aio

from meshlb.errors import ConfigError
from meshlb.grpc import Options
from meshlb.grpc.aio.channel import Channel
from meshlb.grpc.aio.guards import NoRunningLoopError
from meshlb.grpc.aio.stock import Parts, StockChannel
from meshlb.grpc.marks import attempts_of, endpoint_of
from meshlb.grpc.options import ChannelOptions
from meshlb.mesh import default_mesh

if TYPE_CHECKING:
    from meshlb.config import Config
    from meshlb.mesh import Mesh

__all__ = ["insecure_channel", "secure_channel", "attempts_of", "endpoint_of", "Channel", "NoRunningLoopError"]

Interceptors = Sequence[grpc.aio.ClientInterceptor]


def insecure_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Interceptors | None = None,
    *,
    config: Config | None = None,
    mesh: Mesh | None = None,
) -> grpc.aio.Channel:
    """As ``grpc.aio.insecure_channel``, for any target of ``meshlb.Target``. Starts nothing before the channel's first use.

    ``config``: how to balance and discover (default: the mesh's). ``mesh``: whose pools to share (default: the process's). Raises
    ConfigError, TargetError. Where meshlb is turned off for the target, and for ``xds:``, calls go over grpc's own channels.
    """
    return _channel(target, options, Parts(None, compression, interceptors), config, mesh)


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Interceptors | None = None,
    *,
    config: Config | None = None,
    mesh: Mesh | None = None,
) -> grpc.aio.Channel:
    """As ``grpc.aio.secure_channel``; the servers' certificates are verified against the target's name, never an address."""
    if not isinstance(credentials, grpc.ChannelCredentials):
        raise ConfigError(f"credentials={credentials!r}: must be grpc.ChannelCredentials; insecure_channel needs none")
    return _channel(target, options, Parts(credentials, compression, interceptors), config, mesh)


def _channel(target: str, options: Options | None, parts: Parts, config: Config | None, mesh: Mesh | None) -> grpc.aio.Channel:
    used = mesh if mesh is not None else default_mesh()
    given = tuple(options) if options is not None else ()
    binding = used.bind(target, config)
    if binding.off:  # what meshlb thinks of the options does not matter then
        return StockChannel(lambda: parts.channel(binding.stock_target, given))
    parsed = ChannelOptions.of(given)
    if parsed.asked:
        binding = used.bind(target, config, asked=parsed.asked)
    return Channel(binding, parsed, parts)
