"""What a type checker knows of ``meshlb.grpc``: the stock types, so that stubs and annotations stay as they are."""

from __future__ import annotations

from typing import assert_type

import grpc

import meshlb.grpc

assert_type(meshlb.grpc.insecure_channel("orders.shop:grpc"), grpc.Channel)
assert_type(
    meshlb.grpc.insecure_channel(
        "orders.shop", [("grpc.keepalive_time_ms", 10_000)], grpc.Compression.Gzip, config=meshlb.Config(), mesh=meshlb.Mesh()
    ),
    grpc.Channel,
)
assert_type(meshlb.grpc.secure_channel("orders.shop", grpc.ssl_channel_credentials(), options=()), grpc.Channel)

meshlb.grpc.secure_channel("orders.shop")  # type: ignore[call-arg]  # no credentials
meshlb.grpc.insecure_channel(50051)  # type: ignore[arg-type]
meshlb.grpc.insecure_channel("orders.shop", None, None, meshlb.Config())  # type: ignore[call-arg]  # keyword-only


def wrapped(interceptor: grpc.UnaryUnaryClientInterceptor) -> grpc.Channel:
    return grpc.intercept_channel(meshlb.grpc.insecure_channel("orders.shop"), interceptor)
