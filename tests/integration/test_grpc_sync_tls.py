"""TLS is verified against the target's name, never against an endpoint's address."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.support.channels import PATIENCE_S, Bench, EchoServer, LooseBinding, request

trustme = pytest.importorskip("trustme")


@pytest.fixture(scope="module")
def authority() -> Any:
    return trustme.CA()


def get(authority: Any, certified: str, *, target: str = "orders.shop:50051", options: Any = ()) -> Any:
    """One call to a server with a certificate for that name; its reply, or the error."""
    certificate = authority.issue_cert(certified)
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    server = EchoServer("pod-0", credentials=grpc.ssl_server_credentials([pair]))
    binding = LooseBinding(target)
    binding.update([server])
    channel = Bench(binding, options=options, credentials=grpc.ssl_channel_credentials(authority.cert_pem.bytes()))
    try:
        return channel.stub.Get(request(), timeout=PATIENCE_S)
    finally:
        channel.channel.close()
        binding.scheduler.stop()
        server.stop()


@pytest.mark.parametrize(
    ("target", "certified", "options", "seen"),
    [
        ("orders.shop:50051", "orders.shop", [], "orders.shop:50051"),
        ("orders.shop.svc.cluster.local.:50051", "orders.shop.svc.cluster.local", [], "orders.shop.svc.cluster.local.:50051"),
        ("orders.shop:50051", "other.shop", [("grpc.ssl_target_name_override", "other.shop")], "other.shop"),
        ("orders.shop:50051", "other.shop", [("grpc.default_authority", "other.shop:1")], "other.shop:1"),
    ],
)
def test_the_name_that_counts_is_the_targets_or_the_users(
    authority: Any, target: str, certified: str, options: Any, seen: str
) -> None:
    """And the server sees it as ``:authority``, as with grpc's own channel."""
    assert get(authority, certified, target=target, options=options).authority == seen


@pytest.mark.parametrize("certified", ["other.shop", "127.0.0.1"])
def test_another_name_or_the_address_is_not_enough(authority: Any, certified: str) -> None:
    """A pod with a certificate for something else gets no call."""
    with pytest.raises(grpc.RpcError) as caught:
        get(authority, certified)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert any(word in caught.value.details().lower() for word in ("verif", "not in peer certificate"))


def test_call_credentials_travel_over_tls(authority: Any) -> None:
    """Of one call."""
    certificate = authority.issue_cert("orders.shop")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    server = EchoServer("pod-0", credentials=grpc.ssl_server_credentials([pair]))
    binding = LooseBinding()
    binding.update([server])
    channel = Bench(binding, credentials=grpc.ssl_channel_credentials(authority.cert_pem.bytes()))
    reply = channel.stub.Get(request(), credentials=grpc.access_token_call_credentials("token"), timeout=PATIENCE_S)
    assert ("authorization", "Bearer token") in [(entry.key, entry.value) for entry in reply.metadata]

    class Broken(grpc.AuthMetadataPlugin):  # type: ignore[misc]
        def __call__(self, context: Any, callback: Any) -> None:
            callback(None, RuntimeError("no token"))

    with pytest.raises(grpc.RpcError) as caught:
        channel.stub.Get(request(), credentials=grpc.metadata_call_credentials(Broken()), timeout=PATIENCE_S)
    assert "no token" in caught.value.details()
    assert [sub.failed for sub in binding.subchannels] == [0]  # the caller's doing; blames no endpoint
    channel.channel.close()
    binding.scheduler.stop()
    server.stop()


def test_a_list_of_addresses_is_verified_against_its_first(authority: Any) -> None:
    """The authority is the whole list then, which no certificate carries."""
    assert get(authority, "127.0.0.1", target="ipv4:127.0.0.1:1,127.0.0.1:2").pod == "pod-0"
