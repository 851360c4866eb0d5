"""Addresses on loopback for pods and Services, so that several clusters on one machine never meet.

On Linux all of 127.0.0.0/8 answers: each cluster claims a /16 of its own by holding a UDP port in it, pods get 127.A.1.1 upward
and never one twice before all are used, cluster IPs 127.A.251.1 upward. Where a system has only 127.0.0.1 (macOS, some
sandboxes), every address is that one and pods and Services differ by port; found out once, by trying to bind.
"""

from __future__ import annotations

import errno
import secrets
import socket

from meshlb.testing.errors import FakeClusterError

LOCALHOST = "127.0.0.1"
_CLAIM_PORT = 42_424
_ATTEMPTS = 64  # of 254 subnets; with 100 clusters alive the chance that all of these are taken is 1e-26
_POD_HOSTS = 254 * 250
_CLUSTER_IP_HOSTS = 254 * 4


class Addresses:
    """Hands out addresses; ``single`` forces the one-address mode (True) or forbids it (False), None finds out."""

    def __init__(self, *, single: bool | None = None) -> None:
        self._pods = 0
        self._cluster_ips = 0
        self._claim = None if single else _claim_subnet()
        if single is False and self._claim is None:
            raise FakeClusterError("this system has no loopback address but 127.0.0.1")

    @property
    def single(self) -> bool:
        """Whether there is only 127.0.0.1, so that ports must tell pods apart."""
        return self._claim is None

    @property
    def _prefix(self) -> str:
        assert self._claim is not None
        return str(self._claim.getsockname()[0]).rsplit(".", 2)[0]

    def server_ip(self) -> str:
        """Where API server and DNS listen."""
        return LOCALHOST if self.single else f"{self._prefix}.0.2"

    def pod_ip(self) -> str:
        if self.single:
            return LOCALHOST
        number = self._pods % _POD_HOSTS
        self._pods += 1
        return f"{self._prefix}.{number // 254 + 1}.{number % 254 + 1}"

    def cluster_ip(self) -> str:
        if self.single:
            return LOCALHOST
        if self._cluster_ips == _CLUSTER_IP_HOSTS:
            raise FakeClusterError(f"out of cluster IPs: a fake cluster has {_CLUSTER_IP_HOSTS}")
        number = self._cluster_ips
        self._cluster_ips += 1
        return f"{self._prefix}.{number // 254 + 251}.{number % 254 + 1}"

    def close(self) -> None:
        if self._claim is not None:
            self._claim.close()


def _claim_subnet() -> socket.socket | None:
    """A UDP socket bound inside a /16 that no other cluster holds; None if this system has only 127.0.0.1."""
    for _ in range(_ATTEMPTS):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            claim.bind((f"127.{1 + secrets.randbelow(254)}.0.1", _CLAIM_PORT))
        except OSError as error:
            claim.close()
            if error.errno == errno.EADDRNOTAVAIL:
                return None
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return claim
    raise FakeClusterError(f"no free /16 below 127.0.0.0/8 in {_ATTEMPTS} attempts: are fake clusters leaking?")
