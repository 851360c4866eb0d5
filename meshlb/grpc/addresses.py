"""How gRPC wants an endpoint written: a target that its resolvers take as it stands, without a look-up.

Spec: grpc/doc/naming.md; the IPv6 brackets and a scope's ``%`` are percent-encoded, as is what a URI would not take in a path.
"""

from __future__ import annotations

from urllib.parse import quote

from meshlb.core.endpoint import Endpoint

_PATH_SAFE = "/!$&'()*+,;=:@-._~"


def endpoint_target(endpoint: Endpoint) -> str:
    """``ipv4:10.0.0.1:80``, ``ipv6:%5Bfd00::1%5D:80``, ``unix:/run/x.sock`` or ``unix-abstract:x``."""
    host = endpoint.host
    if host.startswith(("unix:", "unix-abstract:")):
        scheme, _, path = host.partition(":")
        return f"{scheme}:{quote(path, safe=_PATH_SAFE)}"
    if ":" in host:
        return f"ipv6:%5B{host.replace('%', '%25')}%5D:{endpoint.port}"
    return f"ipv4:{host}:{endpoint.port}"
