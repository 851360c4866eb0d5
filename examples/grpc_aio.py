"""The same for asyncio: the channel may be made anywhere, and binds to the running loop at its first call.

Run it: ``python examples/grpc_aio.py orders.shop:grpc``
"""

from __future__ import annotations

import asyncio
import collections
import sys

import meshlb.grpc.aio
from meshlb._proto import echo_pb2, echo_pb2_grpc


async def main(target: str, callers: int = 10, calls: int = 20) -> int:
    answered: collections.Counter[str] = collections.Counter()

    async def call(stub: echo_pb2_grpc.EchoStub) -> None:
        for _ in range(calls):
            answered[(await stub.Get(echo_pb2.EchoRequest(payload="hello"), timeout=2)).pod] += 1

    async with meshlb.grpc.aio.insecure_channel(target) as channel:  # was: grpc.aio.insecure_channel(target)
        await asyncio.gather(*(call(echo_pb2_grpc.EchoStub(channel)) for _ in range(callers)))
    for pod, count in sorted(answered.items()):
        print(f"{pod}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:2] or ["orders.shop:grpc"])))
