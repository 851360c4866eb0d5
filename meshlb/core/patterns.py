"""Which methods a setting speaks of: ``/package.Service/Method``, ``/package.Service/*``, or ``*`` where all can be meant.

One grammar for every part of the config that has something to say per method. The most specific pattern comes first: the method's own,
its service's, then ``*``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from meshlb.core import validate
from meshlb.errors import ConfigError

T = TypeVar("T")


def check(where: str, pattern: object, *, everything: bool) -> None:
    """Raise ConfigError unless it is a pattern; ``everything``: ``*`` is one. ``where`` is the path of the setting (``retry.methods``)."""
    if pattern == "*" and everything:
        return
    if pattern == "*":
        part = where.partition(".")[0]
        raise ConfigError(f"{where}={pattern!r}: what holds for every method is said beside methods, in {part}'s own fields")
    service, slash, method = pattern[1:].partition("/") if isinstance(pattern, str) and pattern.startswith("/") else ("", "", "")
    if not service or not slash or not method or "/" in method or "*" in service or ("*" in method and method != "*"):
        forms = "/package.Service/Method or /package.Service/*" + (", or * for all" if everything else "")
        raise ConfigError(f"{where}={pattern!r}: must be {forms}")


def patterns_of(method: str) -> tuple[str, str, str]:
    """Those that match ``/package.Service/Method``, the most specific first."""
    return method, method.rpartition("/")[0] + "/*", "*"


def matching(method: str, entries: Iterable[tuple[str, T]]) -> Iterator[T]:
    """What pairs of pattern and setting say of a method, the most specific first."""
    pairs = tuple(entries)
    for wanted in patterns_of(method):
        yield from (entry for pattern, entry in pairs if pattern == wanted)


def entries(where: str, written: Any, kind: type[T], what: str = "settings") -> Iterator[tuple[str, T]]:
    """Read a dict of pattern and ``kind`` (a dataclass, or a dict of its fields). What is wrong is named with its pattern; an error of
    ``kind`` itself begins with ``where``."""
    pairs = tuple(written.items()) if isinstance(written, Mapping) else written
    if not isinstance(pairs, (tuple, list)) or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise ConfigError(f"{where}={written!r}: must be a dict of method or service and its {what}")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    seen: list[object] = []
    for pattern, entry in pairs:
        check(where, pattern, everything=False)
        if pattern in seen:
            raise ConfigError(f"{where} {pattern}: must be there once")
        seen.append(pattern)
        if isinstance(entry, Mapping):
            validate.known_keys(f"{where} {pattern}", entry, known)
            try:
                entry = kind(**entry)
            except ConfigError as error:
                raise ConfigError(str(error).replace(where, f"{where} {pattern}", 1)) from None
        if not isinstance(entry, kind):
            raise ConfigError(f"{where} {pattern}={entry!r}: must be a dict of {', '.join(known)}")
        yield pattern, entry
