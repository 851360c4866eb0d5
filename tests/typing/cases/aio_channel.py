"""What a type checker knows of ``meshlb.grpc.aio``, imported in any of the usual ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_type

import grpc
import grpc.aio

import meshlb
import meshlb.grpc
import meshlb.grpc.aio
from meshlb.grpc import aio

assert_type(meshlb.grpc.aio.insecure_channel("orders.shop:grpc"), grpc.aio.Channel)
assert_type(aio.secure_channel("orders.shop", grpc.ssl_channel_credentials(), mesh=meshlb.Mesh()), grpc.aio.Channel)

aio.secure_channel("orders.shop")  # type: ignore[call-arg]  # no credentials


def intercepted(interceptors: Sequence[grpc.aio.ClientInterceptor]) -> grpc.aio.Channel:
    return aio.insecure_channel("orders.shop", interceptors=interceptors)


async def one_call() -> None:
    async with aio.insecure_channel("orders.shop") as channel:
        await channel.channel_ready()
