"""The five connectivity states of gRPC, for a connection and, aggregated, for a whole pool.

Spec: grpc/doc/connectivity-semantics-and-api.md.
"""

from __future__ import annotations

import enum


class Connectivity(enum.Enum):
    IDLE = "idle"  # not asked to connect
    CONNECTING = "connecting"
    READY = "ready"
    TRANSIENT_FAILURE = "transient_failure"  # could not connect; will try again by itself
    SHUTDOWN = "shutdown"
