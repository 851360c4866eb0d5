"""The composition root: targets in, pools out. It owns the discovery thread, one resolution a target key and one pool a target key
and balancing configuration, and lends them to the transports.

Ownership. Whoever sends calls holds its ``Binding`` and with it the pool; the mesh holds pools weakly. When the last one of a target
is forgotten, its resolution is closed and its watch ends. Nothing starts before a transport asks for its first view.

Discovery is shared wider than pools: two balancing configurations of one target have two pools and one resolution. A split is
logged once, since it is seldom meant: the two do not know each other's load.

Fork. A child starts with nothing: no thread, no resolution, no pool. A binding that it inherited makes a new pool at its next use.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from meshlb.balance.registry import PolicyConfig, build_policy
from meshlb.binding import Binding
from meshlb.config import Config, Mode, resolve_config
from meshlb.core.clock import Clock
from meshlb.core.scheduler import Scheduler
from meshlb.core.target import Target, TargetKey
from meshlb.errors import ClosedError, TargetError
from meshlb.health.locality import Locality
from meshlb.health.outlier import Outlier
from meshlb.health.slow_start import SlowStart
from meshlb.health.subset import Subset
from meshlb.load.weight import Weight
from meshlb.pool.pool import Pool
from meshlb.resolution import Errands, OwnService, Place, Resolution
from meshlb.resolve.classify import Classifier
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.resolve.sidecar import PROC_NET, Sidecar
from meshlb.runtime.clock import SystemClock, system_rng
from meshlb.runtime.fork import on_fork_child
from meshlb.runtime.loop import Loop
from meshlb.shared import Shared

if TYPE_CHECKING:
    from meshlb.picks import TargetPool

_log = logging.getLogger("meshlb.mesh")


class PoolKey(NamedTuple):
    """What two channels must have in common to share one pool: the place, and how to choose there."""

    place: Place
    policy: PolicyConfig
    outlier: Outlier
    slow_start: SlowStart
    locality: Locality
    weight: Weight
    subset: Subset
    affinity: bool
    max_in_flight_per_endpoint: int
    mass_removal_spare_s: float


class Mesh:
    """Shared pools for a process. ``Mesh(config)``: the configuration of whatever is bound without one of its own.

    Thread-safe. ``close()`` ends discovery; channels that still use it keep the endpoints they know.
    """

    def __init__(self, config: Config | None = None, *, environ: Mapping[str, str] | None = None, proc_net: str = PROC_NET) -> None:
        self.clock: Clock = SystemClock()
        self.generation = 0
        self._code_config = config
        self._environ = os.environ if environ is None else environ
        self._proc_net = proc_net
        self.rng = system_rng()
        self._loop = Loop()
        self._closed = False
        self._start_clean()
        on_fork_child(self._after_fork)

    def _start_clean(self) -> None:
        self.lock = threading.RLock()
        self._classifiers: dict[tuple[Discovery, Fallback], Classifier] = {}
        self._resolutions: dict[Place, Resolution] = {}
        self._pools: weakref.WeakValueDictionary[PoolKey, Pool] = weakref.WeakValueDictionary()
        self._shared: weakref.WeakKeyDictionary[Pool, Shared] = weakref.WeakKeyDictionary()
        self._own_services: weakref.WeakKeyDictionary[Pool, OwnService] = weakref.WeakKeyDictionary()
        self._internal_errors: Counter[str] = Counter()
        self._split_logged: set[TargetKey] = set()
        self._passed_through: dict[str, Sidecar] = {}

    def _after_fork(self) -> None:
        self.generation += 1
        self._start_clean()

    # --- for users --------------------------------------------------------------------------------------------------------

    def pool(self, target: str, config: Config | None = None) -> TargetPool:
        """A target for any protocol: ``with mesh.pool("db.shop:5432").pick(timeout_s=1) as endpoint: …``, and ``async with``."""
        from meshlb.picks import TargetPool

        return TargetPool(self.bind(target, config))

    def status(self) -> dict[str, Any]:
        """What every pool of this mesh knows and why, as plain data."""
        with self.lock:
            pools = list(self._pools.items())
            resolutions = dict(self._resolutions)
            errors = dict(self._internal_errors)
            passed_through = {target: str(sidecar) for target, sidecar in self._passed_through.items()}
        described: dict[str, Any] = {}
        for (place, *_), pool in pools:
            entry = pool.describe()
            resolution = resolutions.get(place)
            entry["discovery"] = resolution.describe() if resolution is not None else None
            entry.update(self.shared_of(pool).describe())
            described[_unused_name(described, str(place.key), pool.policy.name)] = entry
        return {"pools": described, "loop": self._loop.describe(), "internal_errors": errors, "passed_through": passed_through}

    def close(self, timeout_s: float = 1.0) -> None:
        """End discovery and its threads, waiting at most ``timeout_s`` for them. Calls that wait for an answer or a connection end
        with an error, ``wait_for_ready`` or not; those that run are not touched. Idempotent."""
        with self.lock:
            if self._closed:
                return
            self._closed = True
            resolutions = list(self._resolutions.values())
            self._resolutions.clear()
            classifiers = list(self._classifiers.values())
            pools = list(self._pools.values())

        def close_all() -> None:
            # The shared sources first: a resolver that leaves an open one would set a timer, which a stopped loop refuses.
            for classifier in classifiers:
                classifier.close()
            for resolution in resolutions:
                with contextlib.suppress(ClosedError):
                    resolution.resolver.close()

        self._loop.call_soon(close_all)
        self._loop.stop(timeout_s)
        for pool in pools:
            pool.end_waiting()

    def __enter__(self) -> Mesh:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- for transports ---------------------------------------------------------------------------------------------------

    def bind(self, target: str, config: Config | None = None, *, asked: Mapping[str, Any] | None = None) -> Binding:
        """Parse and configure; starts nothing. ``asked``: what a transport's own options ask for, as fields of a Config.

        With ``MESHLB_MODE=off`` nothing else is looked at that could be wrong: neither the configuration nor the target.
        """
        mode = Mode.parse(self._environ.get("MESHLB_MODE", ""))
        if mode.off and not mode.targets:
            return self._bind_off(target, mode)
        final, mode = resolve_config(config if config is not None else self._code_config, self._environ, asked=asked)
        parsed = Target.parse(target)
        return Binding(self, parsed, final, mode, sidecar=self._sidecar_of(parsed, final, mode))

    def _bind_off(self, target: str, mode: Mode) -> Binding:
        try:
            return Binding(self, Target.parse(target), Config(), mode)
        except TargetError:  # the transport may know forms that we do not
            return Binding(self, Target(text=target), Config(), mode, stock_target=target)

    def _sidecar_of(self, target: Target, config: Config, mode: Mode) -> Sidecar | None:
        """Whom the transport's own channel should lead to; None also where it would not know the port's number: the ClusterIP is
        used then (``resolve.known.ServiceName.pods``)."""
        if mode.is_off(target):
            return None
        with self.lock:
            sidecar = self._classifier(config).sidecar_of(target)
            if sidecar is not None:
                if not self._passed_through:
                    _log.warning(
                        "%s: passed through to the Service's name, as all Services are: there is a sidecar of %s, and pods' addresses "
                        "would go past its encryption and policies (discovery.sidecar=ignore balances over pods all the same)",
                        target,
                        sidecar,
                    )
                self._passed_through[str(target)] = sidecar
        return sidecar if target.port.number and not target.port.is_target else None

    @property
    def scheduler(self) -> Scheduler:
        return self._loop

    def place_of(self, target: Target, config: Config) -> Place:
        with self.lock:
            return Place(self._classifier(config).key(target), config.discovery, config.fallback)

    def pool_of(self, target: Target, config: Config) -> Pool:
        """The pool of a target and configuration; its discovery is under way when this returns."""
        with self.lock:
            if self._closed:
                raise ClosedError(f"{target}: the mesh is closed")
            place = self.place_of(target, config)
            key = PoolKey(
                place,
                config.policy,
                config.outlier,
                config.slow_start,
                config.locality,
                config.weight,
                config.subset,
                "policy" not in config.given,
                config.limits.max_in_flight_per_endpoint if config.limits.enabled else 0,
                config.mass_removal_spare_s,
            )
            pool = self._pools.get(key)
            if pool is not None:
                return pool
            self._log_split(place)
            resolution = self._resolution_of(target, config, place)
            pool = self._pools[key] = self._new_pool(target, config, key, resolution)
            if config.locality.mode != "off" and config.locality.own_service:
                self._hear_of_own_service(pool, config)
        weakref.finalize(pool, self._forget_later, place)
        self._loop.call_soon(resolution.attach_later(pool))
        return pool

    def _resolution_of(self, target: Target, config: Config, place: Place) -> Resolution:
        resolution = self._resolutions.get(place)
        if resolution is None:
            resolution = self._resolutions[place] = Resolution(self._classifier(config).resolver(target))
        return resolution

    def _hear_of_own_service(self, pool: Pool, config: Config) -> None:
        """From its discovery, shared with channels to it; for as long as the pool lives."""
        target = Target.parse(config.locality.own_service)
        place = self.place_of(target, config)
        own = self._own_services[pool] = OwnService(pool, str(target), place)
        weakref.finalize(pool, self._forget_later, place)
        self._loop.call_soon(self._resolution_of(target, config, place).attach_later(own))

    def shared_of(self, pool: Pool) -> Shared:
        """What all calls to it have in common."""
        with self.lock:
            shared = self._shared.get(pool)
            if shared is None:
                shared = self._shared[pool] = Shared(pool, self.clock)
            return shared

    def count_internal_error(self, target: str, error: BaseException) -> None:
        kind = f"{target}: {type(error).__name__} at {_place_of(error)}"  # not its message, which may differ each time
        with self.lock:
            self._internal_errors[kind] += 1
            first = self._internal_errors[kind] == 1
        if first:
            _log.error(
                "a bug in meshlb, or in a policy of your own, seen with %s; calls go on without what failed (counted from now on)",
                target,
                exc_info=error,
            )

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _classifier(self, config: Config) -> Classifier:
        where = (config.discovery, config.fallback)
        classifier = self._classifiers.get(where)
        if classifier is None:
            classifier = self._classifiers[where] = Classifier(
                config.discovery,
                config.fallback,
                scheduler=self._loop,
                rng=self.rng,
                environ=self._environ,
                proc_net=self._proc_net,
            )
        return classifier

    def _new_pool(self, target: Target, config: Config, key: PoolKey, resolution: Resolution) -> Pool:
        errands = Errands(self._loop)
        on_error = functools.partial(self.count_internal_error, str(target))
        pool = Pool(
            str(target),
            build_policy(config.policy, self.rng, on_error),
            clock=self.clock,
            rng=self.rng,
            new_lock=threading.Lock,
            wake=errands.wake,
            resolve_now=errands.resolve_now,
            fallback_after_s=config.connect_timeout_s / 3,
            mass_removal_spare_s=config.mass_removal_spare_s,
            outlier=key.outlier,
            slow_start=key.slow_start,
            locality=key.locality,
            weight=key.weight,
            subset=key.subset,
            affinity=key.affinity,
            max_in_flight=key.max_in_flight_per_endpoint,
            on_listener_error=on_error,
        )
        errands.pool, errands.resolution = weakref.ref(pool), weakref.ref(resolution)
        return pool

    def _log_split(self, place: Place) -> None:
        if place.key not in self._split_logged and any(other.place.key == place.key for other in self._pools):
            self._split_logged.add(place.key)
            _log.warning("%s is used with two balancing configurations: two pools that do not see each other's load", place.key)

    def _forget_later(self, place: Place) -> None:
        if not self._closed:
            self._loop.call_soon(lambda: self._forget(place))

    def _is_used(self, place: Place) -> bool:
        return any(key.place == place for key in self._pools) or any(own.place == place for own in self._own_services.values())

    def _forget(self, place: Place) -> None:
        with self.lock:
            resolution = self._resolutions.get(place)
            # A new pool of the same place may be there already, its ``attach`` still on the way.
            if resolution is None or not resolution.forgotten or self._is_used(place):
                return
            del self._resolutions[place]
        resolution.resolver.close()


def _place_of(error: BaseException) -> str:
    """File and line where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace is not None else "an unknown place"


def _unused_name(taken: Mapping[str, Any], name: str, policy: str) -> str:
    """Pools of one target that differ by configuration are told apart by their policy, then by a number."""
    if name not in taken:
        return name
    names = (f"{name} [{policy}]", *(f"{name} [{policy} #{number}]" for number in range(2, len(taken) + 2)))
    return next(one for one in names if one not in taken)


_default_lock = threading.Lock()
_default: Mesh | None = None


def default_mesh() -> Mesh:
    """The process-wide mesh that channels use unless they are given another; made at its first use."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = Mesh()
    return _default


def status() -> dict[str, Any]:
    """What every pool of the default mesh knows, as plain data: source, age, endpoints with state and why, in-flight, load."""
    return default_mesh().status()
