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

from meshlb.balance.registry import PolicyConfig
from meshlb.call.call import CallLimits
from meshlb.config import Config, Mode, resolve_config
from meshlb.core.clock import Clock
from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Resolver
from meshlb.core.scheduler import Scheduler
from meshlb.core.target import Target, TargetKey
from meshlb.errors import ClosedError, ResolveError, TargetError
from meshlb.pool.pool import Pool
from meshlb.pool.view import View, ViewListener
from meshlb.resolve.classify import Classifier
from meshlb.resolve.settings import Discovery, Fallback
from meshlb.retry.budget import TokenBucket
from meshlb.runtime.clock import SystemClock, system_rng
from meshlb.runtime.fork import on_fork_child
from meshlb.runtime.loop import Loop

if TYPE_CHECKING:
    from meshlb.picks import TargetPool

HINT_S = 1.0  # between two hints that something cannot be connected; what a source does with one, it decides

_log = logging.getLogger("meshlb.mesh")


class Place(NamedTuple):
    """What two pools must have in common to share one resolution."""

    key: TargetKey
    discovery: Discovery
    fallback: Fallback


class PoolKey(NamedTuple):
    """What two channels must have in common to share one pool: the place, and how to choose there."""

    place: Place
    policy: PolicyConfig


class Resolution:
    """One target's resolver and the pools that listen to it, held weakly. Everything here runs on the discovery thread."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self._pools: list[weakref.ref[Pool]] = []  # not a WeakSet, which other threads' garbage collection changes while it is read
        self._latest: EndpointSet | None = None
        self._error: ResolveError | None = None
        self._started = False

    def attach(self, pool: Pool) -> None:
        """From now on the pool hears what this target's sources say, beginning with what is known already."""
        self._pools.append(weakref.ref(pool))
        if self._latest is not None:
            pool.update(self._latest)
        elif self._error is not None:
            pool.on_error(self._error)
        if not self._started:
            self._started = True
            self.resolver.start(self)

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self._latest, self._error = endpoints, None
        for pool in self._alive():
            pool.update(endpoints)

    def on_error(self, error: ResolveError, /) -> None:
        self._error = error
        for pool in self._alive():
            pool.on_error(error)

    @property
    def forgotten(self) -> bool:
        return not self._alive()

    def _alive(self) -> list[Pool]:
        alive = [pool for reference in self._pools if (pool := reference()) is not None]
        self._pools = [weakref.ref(pool) for pool in alive]
        return alive


class Binding:
    """A target as one transport uses it: its final configuration, and its pool once it is needed."""

    def __init__(self, mesh: Mesh, target: Target, config: Config, mode: Mode, stock_target: str | None = None) -> None:
        self.target = target
        self.config = config
        self._mesh = mesh
        self._mode = mode
        self._stock_target = stock_target
        self._pool: Pool | None = None
        self._limits: CallLimits | None = None
        self._generation = mesh.generation

    @property
    def off(self) -> bool:
        """The caller should get the transport's own channel, for ``stock_target``: the operator wants it, or the target is xds's."""
        return self.target.scheme == "xds" or self._mode.is_off(self.target)

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
            pool = self.pool
            self._limits = CallLimits(
                self._mesh.budget_of(pool),
                first_answer_timeout_s=self.config.first_answer_timeout_s,
                connect_timeout_s=self.config.connect_timeout_s,
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
        """The host as written with the Service's port number, as far as it is known now."""
        return self.target.authority(self._service_port())

    @property
    def tls_name(self) -> str:
        return self.target.tls_name

    def count_internal_error(self, error: BaseException) -> None:
        """A bug of ours on the call path: counted for ``status()``, logged once a kind; the call goes out over the fallback."""
        self._mesh.count_internal_error(str(self.target), error)

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


class Mesh:
    """Shared pools for a process. ``Mesh(config)``: the configuration of whatever is bound without one of its own.

    Thread-safe. ``close()`` ends discovery; channels that still use it keep the endpoints they know.
    """

    def __init__(self, config: Config | None = None, *, environ: Mapping[str, str] | None = None) -> None:
        self.clock: Clock = SystemClock()
        self.generation = 0
        self._code_config = config
        self._environ = os.environ if environ is None else environ
        self._rng = system_rng()
        self._loop = Loop()
        self._closed = False
        self._start_clean()
        on_fork_child(self._after_fork)

    def _start_clean(self) -> None:
        self.lock = threading.RLock()
        self._classifiers: dict[tuple[Discovery, Fallback], Classifier] = {}
        self._resolutions: dict[Place, Resolution] = {}
        self._pools: weakref.WeakValueDictionary[PoolKey, Pool] = weakref.WeakValueDictionary()
        self._budgets: weakref.WeakKeyDictionary[Pool, TokenBucket] = weakref.WeakKeyDictionary()
        self._internal_errors: Counter[str] = Counter()
        self._split_logged: set[TargetKey] = set()

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
        described: dict[str, Any] = {}
        for (place, _), pool in pools:
            entry = pool.describe()
            resolution = resolutions.get(place)
            entry["discovery"] = _describe(resolution.resolver) if resolution is not None else None
            entry["tokens_for_elsewhere"] = round(self.budget_of(pool).tokens, 1)
            described[_unused_name(described, str(place.key), pool.policy.name)] = entry
        return {"pools": described, "loop": self._loop.describe(), "internal_errors": errors}

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

    def bind(self, target: str, config: Config | None = None, *, policy: object | None = None) -> Binding:
        """Parse and configure; starts nothing. ``policy`` is what a transport's own options ask for.

        With ``MESHLB_MODE=off`` nothing else is looked at that could be wrong: neither the configuration nor the target.
        """
        mode = Mode.parse(self._environ.get("MESHLB_MODE", ""))
        if mode.off and not mode.targets:
            return self._bind_off(target, mode)
        final, mode = resolve_config(config if config is not None else self._code_config, self._environ, policy=policy)
        return Binding(self, Target.parse(target), final, mode)

    def _bind_off(self, target: str, mode: Mode) -> Binding:
        try:
            return Binding(self, Target.parse(target), Config(), mode)
        except TargetError:  # the transport may know forms that we do not
            return Binding(self, Target(text=target), Config(), mode, stock_target=target)

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
            key = PoolKey(place, config.policy)
            pool = self._pools.get(key)
            if pool is not None:
                return pool
            self._log_split(place)
            resolution = self._resolutions.get(place)
            if resolution is None:
                resolution = self._resolutions[place] = Resolution(self._classifier(config).resolver(target))
            pool = self._pools[key] = self._new_pool(target, config, resolution)
        weakref.finalize(pool, self._forget_later, place)
        self._loop.call_soon(_attach_weakly(resolution, pool))
        return pool

    def budget_of(self, pool: Pool) -> TokenBucket:
        """The one bucket that pays for tries elsewhere of every call to this pool."""
        with self.lock:
            budget = self._budgets.get(pool)
            if budget is None:
                budget = self._budgets[pool] = TokenBucket(self.clock, threading.Lock())
            return budget

    def count_internal_error(self, target: str, error: BaseException) -> None:
        kind = f"{target}: {type(error).__name__} at {_place_of(error)}"  # not its message, which may differ each time
        with self.lock:
            self._internal_errors[kind] += 1
            first = self._internal_errors[kind] == 1
        if first:
            _log.error(
                "a bug in meshlb, seen with %s; calls go on without what failed (counted from now on)", target, exc_info=error
            )

    # --- inside -----------------------------------------------------------------------------------------------------------

    def _classifier(self, config: Config) -> Classifier:
        where = (config.discovery, config.fallback)
        classifier = self._classifiers.get(where)
        if classifier is None:
            classifier = self._classifiers[where] = Classifier(
                config.discovery, config.fallback, scheduler=self._loop, rng=self._rng, environ=self._environ
            )
        return classifier

    def _new_pool(self, target: Target, config: Config, resolution: Resolution) -> Pool:
        errands = _Errands(self._loop)
        pool = Pool(
            str(target),
            config.policy.build(self._rng),
            clock=self.clock,
            rng=self._rng,
            new_lock=threading.Lock,
            wake=errands.wake,
            resolve_now=errands.resolve_now,
            fallback_after_s=config.connect_timeout_s / 3,
            on_listener_error=functools.partial(self.count_internal_error, str(target)),
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

    def _forget(self, place: Place) -> None:
        with self.lock:
            resolution = self._resolutions.get(place)
            # A new pool of the same place may be there already, its ``attach`` still on the way.
            if resolution is None or not resolution.forgotten or any(key.place == place for key in self._pools):
                return
            del self._resolutions[place]
        resolution.resolver.close()


class _Errands:
    """What a pool asks of the discovery thread, without either keeping the other alive: a tick later, a fresh look now."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._looked_s = float("-inf")
        self.pool: weakref.ref[Pool] | None = None
        self.resolution: weakref.ref[Resolution] | None = None

    def wake(self, delay_s: float) -> None:
        # After ``Mesh.close`` nothing ticks any more; whoever reports connections must not be told so.
        with contextlib.suppress(ClosedError):
            self._scheduler.call_later(delay_s, self._tick)

    def resolve_now(self) -> None:
        """Something could not be connected, or nothing is known: what the sources said may be old. At most once in HINT_S."""
        now_s = self._scheduler.now_s()
        if now_s - self._looked_s >= HINT_S:
            self._looked_s = now_s
            with contextlib.suppress(ClosedError):
                self._scheduler.call_soon(self._look)

    def _tick(self) -> None:
        pool = self.pool() if self.pool is not None else None
        again_s = pool.tick() if pool is not None else None
        if again_s is not None:
            self.wake(again_s)

    def _look(self) -> None:
        resolution = self.resolution() if self.resolution is not None else None
        if resolution is not None:
            resolution.resolver.resolve_now()


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


def _attach_weakly(resolution: Resolution, pool: Pool) -> Any:
    reference = weakref.ref(pool)

    def attach() -> None:
        alive = reference()
        if alive is not None:
            resolution.attach(alive)

    return attach


def _describe(resolver: Resolver) -> Any:
    describe = getattr(resolver, "describe", None)
    return describe() if describe is not None else None


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
