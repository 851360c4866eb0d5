"""Endpoints as gRPC targets."""

from __future__ import annotations

import pytest

from meshlb.core.endpoint import Endpoint
from meshlb.grpc.addresses import endpoint_target


@pytest.mark.parametrize(
    ("host", "port", "target"),
    [
        ("10.0.0.1", 80, "ipv4:10.0.0.1:80"),
        ("fd00::1", 80, "ipv6:%5Bfd00::1%5D:80"),
        ("fe80::1%eth0", 80, "ipv6:%5Bfe80::1%25eth0%5D:80"),
        ("unix:/run/orders.sock", 0, "unix:/run/orders.sock"),
        ("unix:/run/a b%.sock", 0, "unix:/run/a%20b%25.sock"),
        ("unix-abstract:orders", 0, "unix-abstract:orders"),
    ],
)
def test_an_endpoint_is_written_as_grpc_resolves_it(host: str, port: int, target: str) -> None:
    """No look-up, brackets and percent signs encoded."""
    assert endpoint_target(Endpoint(host=host, port=port)) == target
