"""asyncio over TLS: verified against the target's name, never against an endpoint's address; credentials of a call travel."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.support.aio import LOOPS, bench, run_in
from tests.support.channels import PATIENCE_S, EchoServer, LooseBinding, request

trustme = pytest.importorskip("trustme")


@pytest.mark.parametrize("new_loop", LOOPS.values(), ids=LOOPS.keys())
@pytest.mark.parametrize("certified", ["orders.shop", "127.0.0.1"])
def test_the_targets_name_is_what_counts(new_loop: Any, certified: str) -> None:
    """A pod with a certificate for its address only gets no call."""
    authority = trustme.CA()
    certificate = authority.issue_cert(certified)
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    server = EchoServer("pod-0", credentials=grpc.ssl_server_credentials([pair]))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())

    async def case() -> None:
        async with bench(server, credentials=credentials) as channel:
            token = grpc.access_token_call_credentials("token")
            calls = channel.stub.Get(request(), credentials=token, timeout=PATIENCE_S), channel.stub.Get(request())
            if certified == "orders.shop":
                replies = await asyncio.gather(*calls)
                assert [reply.authority for reply in replies] == ["orders.shop:50051"] * 2
                assert ("authorization", "Bearer token") in [(entry.key, entry.value) for entry in replies[0].metadata]
            else:
                for call in calls:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call
                    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                    assert "verif" in caught.value.details().lower()

    try:
        run_in(new_loop, case())
    finally:
        server.stop()


def test_a_list_of_addresses_is_verified_against_its_first() -> None:
    """The authority is the whole list then, which no certificate carries."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    server = EchoServer("pod-0", credentials=grpc.ssl_server_credentials([pair]))
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    target = f"ipv4:127.0.0.1:{server.port},127.0.0.1:{server.port}"

    async def case() -> None:
        async with bench(server, binding=LooseBinding(target), credentials=credentials) as channel:
            assert (await channel.stub.Get(request(), timeout=PATIENCE_S)).pod == "pod-0"

    try:
        run_in(asyncio.new_event_loop, case())
    finally:
        server.stop()
