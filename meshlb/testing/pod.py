"""A pod of the fake cluster: its identity, its conditions and the process behind it, with the ways to hurt it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

from meshlb.testing.errors import FakeClusterError
from meshlb.testing.loop_thread import LoopThread
from meshlb.testing.objects import FakeEndpoint
from meshlb.testing.pod_process import PodProcess


class Pod:
    """One pod. Made by its Service; the properties may be read, and the methods called, from any thread.

    ``ports`` maps the Service's port names to this pod's numbers. A replaced pod is another `Pod`, with another ip and uid.
    """

    def __init__(
        self,
        thread: LoopThread,
        on_readiness: Callable[[], None],
        *,
        name: str,
        uid: str,
        ip: str,
        ports: Mapping[str, int],
        node: str,
        zone: str,
        hostname: str | None,
        version: str,
        revision: int,
    ) -> None:
        self.name = name
        self.uid = uid
        self.ip = ip
        self.ports = dict(ports)
        self.node = node
        self.zone = zone
        self.hostname = hostname
        self.version = version
        self.revision = revision
        self.process: PodProcess | None = None
        self.listening = False
        self.terminating = False
        self.failed = False  # the process ended by itself, and the kubelet has noticed
        self._passing_probe = True
        self._thread = thread
        self._on_readiness = on_readiness

    @property
    def port(self) -> int:
        """The number of the first port."""
        return next(iter(self.ports.values()))

    @property
    def address(self) -> str:
        """``"ip:port"`` of the first port."""
        return f"{self.ip}:{self.port}"

    @property
    def pid(self) -> int:
        if self.process is None:
            raise FakeClusterError(f"pod {self.name} has no process")
        return self.process.pid

    @property
    def serving(self) -> bool:
        """The pod's Ready condition, terminating or not."""
        return self.listening and self._passing_probe and not self.failed

    @property
    def ready(self) -> bool:
        return self.serving and not self.terminating

    def kill(self) -> None:
        """SIGKILL: connections break at once; the cluster notices ``node_notice_s`` later."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: the pod stays ready and connected and answers nothing. Until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: end a `freeze`."""
        self._signal(signal.SIGCONT)

    def set_ready(self, ready: bool) -> None:
        """Make the readiness probe pass or fail; the endpoint follows at once, the process goes on serving."""
        self._thread.call(self._set_probe, ready)

    def endpoint(self) -> FakeEndpoint:
        """What the Service's slice says of it now."""
        return FakeEndpoint(
            address=self.ip,
            ports=self.ports,
            ready=self.ready,
            serving=self.serving,
            terminating=self.terminating,
            hostname=self.hostname,
            node=self.node,
            zone=self.zone,
            pod=self.name,
            uid=self.uid,
        )

    def _signal(self, number: signal.Signals) -> None:
        if self.process is None:
            raise FakeClusterError(f"pod {self.name} has no process")
        self.process.signal(number)

    def _set_probe(self, passing: bool) -> None:
        if self._passing_probe != passing:
            self._passing_probe = passing
            self._on_readiness()

    def __repr__(self) -> str:
        flags = [flag for flag in ("ready", "serving", "terminating", "failed") if getattr(self, flag)]
        return f"<Pod {self.name} {self.address} {self.version} {' '.join(flags) or 'starting'}>"
