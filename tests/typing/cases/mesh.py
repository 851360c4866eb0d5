"""What a type checker knows of ``Mesh``, ``status`` and picks, in sync code and in asyncio's."""

from __future__ import annotations

from typing import Any, assert_type

import meshlb

assert_type(meshlb.status(), dict[str, Any])

with meshlb.Mesh(meshlb.Config(policy="rr")) as mesh:
    assert_type(mesh, meshlb.Mesh)
    assert_type(mesh.status(), dict[str, Any])
    with mesh.pool("cache.shop:6379").pick(timeout_s=1) as endpoint:
        assert_type(endpoint, meshlb.Endpoint)
        assert_type(endpoint.address, str)
        assert_type(endpoint.host, str)

meshlb.Mesh("p2c")  # type: ignore[arg-type]
mesh.pool(b"cache.shop")  # type: ignore[arg-type]


async def pick() -> str:
    try:
        async with mesh.pool("cache.shop:6379", meshlb.Config()).pick() as endpoint:
            assert_type(endpoint, meshlb.Endpoint)
            return endpoint.address
    except meshlb.NoEndpointError as error:
        return str(error)


def no_block_hides_an_exception() -> int:
    with mesh.pool("cache.shop:6379").pick():
        return 1


def target() -> None:
    parsed = meshlb.Target.parse("orders.shop:grpc")
    assert_type(parsed, meshlb.Target)
    assert_type(str(parsed), str)
