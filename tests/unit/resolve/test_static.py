"""Endpoints written in the target."""

from __future__ import annotations

from meshlb.core.endpoint import Endpoint
from meshlb.core.resolver import Resolver
from meshlb.resolve.static import StaticResolver
from tests.support.listeners import Recorder


def test_static_endpoints_are_published_once_with_their_weights() -> None:
    """They are there when start returns, sorted, as given; nothing changes them afterwards."""
    resolver: Resolver = StaticResolver([Endpoint(host="fd00::1", port=80, weight=3.0), Endpoint(host="10.0.0.1", port=80)])
    recorder = Recorder()
    resolver.start(recorder)
    resolver.resolve_now()
    resolver.close()
    (published,) = recorder.sets
    assert recorder.errors == []
    assert [(endpoint.address, endpoint.weight) for endpoint in published.endpoints] == [
        ("10.0.0.1:80", 1.0),
        ("[fd00::1]:80", 3.0),
    ]
    assert (published.source, published.authoritative) == ("static", True)
    assert repr(resolver) == "<StaticResolver 10.0.0.1:80, [fd00::1]:80>"
