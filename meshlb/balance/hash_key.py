"""Which call belongs to which key: what hash policies choose by.

A call's key is put together from an ordered list of *sources*, each of which has a 64-bit hash or none:

- ``hint``: what ``meshlb.hints(hash_key=…)`` said;
- ``metadata:<name>`` (or ``header:<name>``): the values of this metadata key, sorted, the hash of each the seed of the next one's.

    hash = rotl64(hash of the sources before, 1) ^ hash of this one

The rotation keeps two equal sources from cancelling out. A ``terminal`` source ends the list as soon as there is some hash, its own or
an earlier one: "this, or else that". No source has one: the call has no key, and its policy draws at random.

A hint is what the code at hand knows best. So where the list does not name it, it stands in front of the list, terminal: a call inside a
``hints`` block follows that, whatever its metadata says. Listed, it is a source like the others.

Spec: Envoy's RouteAction.HashPolicy (header, terminal; rotation, xxHash64 with seed 0), so that the same metadata leads to the same
host as in an Envoy with the same list. Hints are text's UTF-8, as a header of that text would be.
Deviations: a ``-bin`` value is hashed as its bytes; Envoy sees the Base64 on the wire. No regex rewrite. Cookies come with HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from meshlb.core import patterns, validate
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError

HINT = "hint"
_KINDS = (HINT, "metadata", "header")
_FORMS = "hint, metadata:<name>, or a dict such as {'metadata': 'x-user-id', 'terminal': true}"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_MASK = 2**64 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One part of a key. ``metadata``: the name, empty for the hint."""

    metadata: str = ""
    terminal: bool = False

    def to_dict(self) -> dict[str, object]:
        """Plain data, as people may write it."""
        return {**({"metadata": self.metadata} if self.metadata else {HINT: True}), "terminal": self.terminal}


BY_HINT = Source()


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodKeys:
    """The sources for one method's calls, or one service's, in place of the others; none: these have no key."""

    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", _sources("hash.methods.sources", self.sources))


@dataclass(frozen=True, kw_only=True, slots=True)
class HashKeys:
    """Where the keys of calls come from, for policies that look at them (``ring_hash``, ``maglev``, ``session`` and others).

    ``sources``: see the module head; a list of ``hint``, ``metadata:x-user-id`` (or ``header:x-user-id``), and dicts such as
    ``{"metadata": "x-user-id", "terminal": True}``, or all of it as one text with commas. Default: ``hint`` alone; none (``off``): no
    call has a key.
    ``methods``: ``{"/shop.Orders/*": {"sources": ["metadata:x-order-id"]}}``, ``MethodKeys``' fields.

    Metadata is what the call was invoked with (interceptors included); an iterator is not looked at, since it can be read only once.
    """

    sources: tuple[Source, ...] = (BY_HINT,)
    methods: tuple[tuple[str, MethodKeys], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", _sources("hash.sources", self.sources))
        methods = tuple(patterns.entries("hash.methods", self.methods, MethodKeys, "sources"))
        object.__setattr__(self, "methods", methods)

    @classmethod
    def of(cls, value: str | Sequence[Any] | Mapping[str, Any] | HashKeys) -> HashKeys:
        """``on``, ``off``, the sources as a list or as text with commas, a dict of the fields, or a HashKeys."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str) and value in ("on", "off"):
            return cls() if value == "on" else cls(sources=())
        if isinstance(value, (str, list, tuple)):
            return cls(sources=_sources("hash", value))
        if not isinstance(value, Mapping):
            raise ConfigError(f"hash={value!r}: must be on, off, a list of sources, a dict or a HashKeys")
        validate.known_keys("hash", value, [field.name for field in fields(cls)])
        return cls(**value)

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        methods = {pattern: {"sources": [source.to_dict() for source in entry.sources]} for pattern, entry in self.methods}
        return {"sources": [source.to_dict() for source in self.sources], "methods": methods}

    def for_method(self, method: str) -> Keys:
        """What holds for ``/package.Service/Method``."""
        entry = next(patterns.matching(method, self.methods), None)
        return Keys(self.sources if entry is None else entry.sources)


class Keys:
    """The keys of one method's calls. Immutable; any thread. ``any``: a call may have one."""

    __slots__ = ("_sources", "any")

    def __init__(self, sources: Sequence[Source]) -> None:
        if sources and all(source.metadata for source in sources):
            sources = (Source(terminal=True), *sources)
        self._sources = tuple([(source.metadata, source.terminal) for source in sources])
        self.any = bool(sources)

    def hash_of(self, hint: int | None, metadata: Any) -> int | None:
        """Of a call with this hint (its hash) and metadata (pairs); None: it has no key."""
        hashed: int | None = None
        for name, terminal in self._sources:
            new = _hash_of_values(name, metadata) if name else hint
            if new is not None:
                hashed = new if hashed is None else (hashed << 1 & _MASK | hashed >> 63) ^ new
            if terminal and hashed is not None:
                break
        return hashed


def _hash_of_values(name: str, metadata: Any) -> int | None:
    if not hasattr(metadata, "__len__"):
        return None
    try:
        values = [
            value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value for key, value in metadata if key == name
        ]
        values.sort()
        hashed: int | None = None
        for value in values:
            hashed = xxh64(value, hashed or 0)
    except (TypeError, ValueError):  # no metadata at all, as the transport will say
        return None
    return hashed


def _sources(where: str, written: Any) -> tuple[Source, ...]:
    if isinstance(written, str):
        written = [word.strip() for word in written.split(",")]
    if not isinstance(written, (list, tuple)):
        raise ConfigError(f"{where}={written!r}: must be a list of sources: {_FORMS}")
    return tuple([_source(where, one) for one in written])


def _source(where: str, written: Any) -> Source:
    said = written.to_dict() if isinstance(written, Source) else written
    if isinstance(said, str):
        kind, _, rest = said.partition(":")
        said = {kind: True if said == HINT else rest}
    if not isinstance(said, Mapping):
        raise ConfigError(f"{where}={written!r}: a source must be {_FORMS}")
    terminal = said.get("terminal", False)
    if not isinstance(terminal, bool):
        raise ConfigError(f"{where}={written!r}: terminal must be true or false")
    kinds = [kind for kind in said if kind != "terminal"]
    if "cookie" in kinds:
        raise ConfigError(f"{where}={written!r}: a cookie cannot be a source yet: gRPC has none, and other transports are to come")
    if len(kinds) != 1 or kinds[0] not in _KINDS:
        raise ConfigError(f"{where}={written!r}: must be one of {_FORMS}; {validate.nearest(kinds[0] if kinds else '', _KINDS)}")
    name = said[kinds[0]]
    if kinds[0] == HINT:
        if name is not True:
            raise ConfigError(f"{where}={written!r}: a hint has no name; a source must be {_FORMS}")
        return Source(terminal=terminal)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{where}={written!r}: the name of a metadata key has letters, digits, '-', '_' and '.'")
    return Source(metadata=name.lower(), terminal=terminal)
