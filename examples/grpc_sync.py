"""The whole change for a synchronous service: one import, one line; the stub stays as it is.

Run it against any Service that serves meshlb's echo (``examples/kubernetes`` has one), or against ``meshlb demo``'s kind of pods:

    python examples/grpc_sync.py orders.shop:grpc
"""

from __future__ import annotations

import collections
import sys

import grpc

import meshlb
import meshlb.grpc
from meshlb._proto import echo_pb2, echo_pb2_grpc


def main(target: str, calls: int = 100) -> int:
    answered: collections.Counter[str] = collections.Counter()
    with meshlb.grpc.insecure_channel(target) as channel:  # was: grpc.insecure_channel(target)
        stub = echo_pb2_grpc.EchoStub(channel)
        for _ in range(calls):
            try:
                answered[stub.Get(echo_pb2.EchoRequest(payload="hello"), timeout=2).pod] += 1
            except grpc.RpcError as error:  # grpc's own errors, as before; the pod that was tried is attached
                print(f"failed at {meshlb.grpc.endpoint_of(error)}: {error}", file=sys.stderr)
                return 1
    for pod, count in sorted(answered.items()):
        print(f"{pod}: {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or ["orders.shop:grpc"]))
