"""A target as one transport uses it: what the mesh lends to a channel.

It knows how the target is configured and what the transport would be given without meshlb, and has the pool once it is needed. In a
forked child it makes a new pool at its next use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshlb.call.call import CallLimits
from meshlb.config import Config, Mode
from meshlb.core.clock import Clock
from meshlb.core.scheduler import Scheduler
from meshlb.core.target import Target, TargetKey
from meshlb.pool.pool import Pool
from meshlb.pool.view import View, ViewListener
from meshlb.resolve.sidecar import Sidecar
from meshlb.retry.budget import BudgetSettings

if TYPE_CHECKING:
    from meshlb.mesh import Mesh


class Binding:
    """A target as one transport uses it: its final configuration, and its pool once it is needed."""

    def __init__(
        self,
        mesh: Mesh,
        target: Target,
        config: Config,
        mode: Mode,
        stock_target: str | None = None,
        sidecar: Sidecar | None = None,
    ) -> None:
        self.target = target
        self.config = config
        self._mesh = mesh
        self._mode = mode
        self._stock_target = stock_target
        self._sidecar = sidecar
        self._pool: Pool | None = None
        self._limits: CallLimits | None = None
        self._generation = mesh.generation

    @property
    def off(self) -> bool:
        """The caller should get the transport's own channel, for ``stock_target``: the operator wants it, a sidecar stands between
        (``resolve.sidecar``), or the target is xds's."""
        return self.target.scheme == "xds" or self._sidecar is not None or self._mode.is_off(self.target)

    @property
    def stock_target(self) -> str:
        """What the transport would have been given without meshlb."""
        return self._stock_target if self._stock_target is not None else self.target.stock(self._service_port())

    @property
    def key(self) -> TargetKey:
        return self._mesh.place_of(self.target, self.config).key

    @property
    def pool(self) -> Pool:
        """Made, and its discovery started, at the first use in this process."""
        if self._pool is None or self._generation != self._mesh.generation:
            with self._mesh.lock:
                if self._pool is None or self._generation != self._mesh.generation:
                    self._generation = self._mesh.generation
                    self._limits = None
                    self._pool = self._mesh.pool_of(self.target, self.config)
        return self._pool

    @property
    def limits(self) -> CallLimits:
        if self._limits is None or self._generation != self._mesh.generation:
            shared = self._mesh.shared_of(self.pool)
            retry = self.config.retry
            self._limits = CallLimits(
                shared.budget(BudgetSettings(retry.budget_ratio, retry.budget_min_per_s, retry.budget_ttl_s)),
                first_answer_timeout_s=self.config.first_answer_timeout_s,
                connect_timeout_s=self.config.connect_timeout_s,
                rng=self._mesh.rng,
                throttle_of=shared.throttle,
                gates=shared.gates(self.config.limits),
            )
        return self._limits

    def view(self, listener: ViewListener) -> View:
        """A new view of the pool; starts discovery if nothing did."""
        return self.pool.view(listener)

    @property
    def scheduler(self) -> Scheduler:
        return self._mesh.scheduler

    @property
    def clock(self) -> Clock:
        return self._mesh.clock

    @property
    def authority(self) -> str:
        """The host as written with the Service's port number, as far as it is known now; of an ExternalName Service that name."""
        port = self._service_port()
        host = self._external_host()
        return self.target.authority(port) if not host else f"{host}:{port}" if port else host

    @property
    def tls_name(self) -> str:
        return self._external_host() or self.target.tls_name

    def count_internal_error(self, error: BaseException) -> None:
        """A bug of ours on the call path: counted for ``status()``, logged once a kind; the call goes out over the fallback."""
        self._mesh.count_internal_error(str(self.target), error)

    def _external_host(self) -> str:
        latest = self._pool.snapshot.latest if self._pool is not None else None
        return latest.authority_host if latest is not None else ""

    def _service_port(self) -> int:
        if self.target.port.number:
            return self.target.port.number
        latest = self._pool.snapshot.latest if self._pool is not None else None
        if latest is None:
            return 0
        if latest.service_port:
            return latest.service_port
        ports = {endpoint.port for endpoint in latest.endpoints}
        return ports.pop() if len(ports) == 1 else 0

    def __repr__(self) -> str:
        return f"<Binding {self.target} {'off' if self.off else self.config.policy}>"
