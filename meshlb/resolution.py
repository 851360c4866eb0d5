"""One target's discovery and the pools that live on it, neither keeping the other alive: what is told, and what is asked for.

A resolution is shared by all pools of a target, however they balance. It holds them weakly, and they it: whoever sends calls holds a
pool, and when the last one is forgotten the mesh closes the resolution.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from meshlb.core.endpoint import EndpointSet
from meshlb.core.resolver import Resolver
from meshlb.core.scheduler import Scheduler
from meshlb.core.target import TargetKey
from meshlb.errors import ClosedError, ResolveError
from meshlb.pool.pool import Pool
from meshlb.resolve.settings import Discovery, Fallback

HINT_S = 1.0  # between two hints that something cannot be connected; what a source does with one, it decides


class Place(NamedTuple):
    """What two pools must have in common to share one resolution."""

    key: TargetKey
    discovery: Discovery
    fallback: Fallback


class Hears(Protocol):
    """A pool, as its resolution knows it."""

    @property
    def target(self) -> str: ...

    def update(self, latest: EndpointSet, /) -> object: ...

    def on_error(self, error: ResolveError, /) -> None: ...


class OwnService:
    """A pool's ear for the caller's own Service (``locality.own_service``). A failure changes nothing: it goes on with what it heard."""

    def __init__(self, pool: Pool, target: str, place: Place) -> None:
        self.target = target
        self.place = place
        self._pool = weakref.ref(pool)

    def update(self, latest: EndpointSet, /) -> None:
        pool = self._pool()
        if pool is not None:
            pool.on_own_endpoints(latest)

    def on_error(self, error: ResolveError, /) -> None:
        """Nothing."""


class Resolution:
    """One target's resolver and the pools that listen to it, held weakly. Everything here runs on the discovery thread."""

    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver
        self._pools: list[
            weakref.ref[Hears]
        ] = []  # not a WeakSet, which other threads' garbage collection changes while it is read
        self._latest: EndpointSet | None = None
        self._error: ResolveError | None = None
        self._started = False

    def attach(self, pool: Hears) -> None:
        """From now on the pool hears what this target's sources say, beginning with what is known already."""
        self._pools.append(weakref.ref(pool))
        if self._latest is not None:
            pool.update(self._latest)
        elif self._error is not None:
            pool.on_error(self._error)
        if not self._started:
            self._started = True
            try:
                self.resolver.start(self)
            except Exception as error:
                self.on_error(ResolveError(pool.target, [f"{type(error).__name__}: {error}"], summary="its discovery cannot start"))
                raise

    def on_endpoints(self, endpoints: EndpointSet, /) -> None:
        self._latest, self._error = endpoints, None
        _tell_each(self._alive(), lambda pool: pool.update(endpoints))

    def on_error(self, error: ResolveError, /) -> None:
        self._error = error
        _tell_each(self._alive(), lambda pool: pool.on_error(error))

    def attach_later(self, pool: Hears) -> Callable[[], None]:
        """``attach`` for the discovery thread to call, if the pool still lives by then."""
        reference = weakref.ref(pool)

        def attach() -> None:
            alive = reference()
            if alive is not None:
                self.attach(alive)

        return attach

    def describe(self) -> Any:
        """What the resolver says of itself, as plain data; any thread."""
        describe = getattr(self.resolver, "describe", None)
        return describe() if describe is not None else None

    @property
    def forgotten(self) -> bool:
        return not self._alive()

    def _alive(self) -> list[Hears]:
        alive = [pool for reference in self._pools if (pool := reference()) is not None]
        self._pools = [weakref.ref(pool) for pool in alive]
        return alive


def _tell_each(pools: Iterable[Hears], tell: Callable[[Hears], object]) -> None:
    """Each hears it, also after one of them (a policy of the user's own) has raised."""
    raised: Exception | None = None
    for pool in pools:
        try:
            tell(pool)
        except Exception as error:  # noqa: BLE001 - raised below
            raised = raised or error
    if raised is not None:
        raise raised


class Errands:
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
