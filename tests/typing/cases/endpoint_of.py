"""What a type checker knows of ``endpoint_of``: it takes calls and errors, and may know no endpoint."""

from __future__ import annotations

from typing import assert_type

import grpc

import meshlb
import meshlb.grpc
import meshlb.grpc.aio


def pod(failed: grpc.RpcError, call: grpc.Call, future: grpc.Future[bytes]) -> str:
    assert_type(meshlb.grpc.endpoint_of(failed), meshlb.Endpoint | None)
    assert_type(meshlb.grpc.endpoint_of(future), meshlb.Endpoint | None)
    endpoint = meshlb.grpc.aio.endpoint_of(call)
    if endpoint is None:
        return "nowhere"
    assert_type(endpoint.port, int)
    return endpoint.address


meshlb.grpc.endpoint_of()  # type: ignore[call-arg]
