"""What a caller says about the calls it is about to make: ``with meshlb.hints(hash_key=user.id): stub.Get(request)``.

The block may stand far above the call, in a middleware that knows the user but not which services the handler will ask. So it is
ambient: a ``ContextVar``, which threads, tasks and greenlets each have for themselves (a task starts with what held where it was
made; a thread with nothing, unless it is run in a copied context). What is ambient may only say *where* a call goes. Whether it may
be sent twice is never said so: a block cannot know of every call inside it that a repetition does no harm.

A call reads it once, in the moment that it is invoked. Its later attempts, and its waits, keep what held then.

Cost: without hints one read of the ContextVar a call, 25 ns. A key is hashed when the block is made, not with each call.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable
from contextvars import ContextVar, Token
from typing import NamedTuple

from meshlb.core.endpoint import Endpoint
from meshlb.core.xxhash import xxh64
from meshlb.errors import ConfigError

HashKey = str | bytes | int


class Avoided(NamedTuple):
    """An address, and the pod that was there; an unknown uid (``""``) is any."""

    host: str
    port: int
    uid: str = ""


class Hinted(NamedTuple):
    """What holds now. ``hash``: of the key, None: no key was said."""

    hash: int | None = None
    exclude: tuple[Avoided, ...] | None = None


_HINTED: ContextVar[Hinted | None] = ContextVar("meshlb_hints", default=None)
hinted = _HINTED.get
"""What holds for a call that is made here and now; None: nothing was said. Any thread or task."""


def hints(*, hash_key: HashKey | None = None, exclude: Endpoint | str | Iterable[Endpoint | str | None] | None = None) -> Hints:
    """Say something about all calls and picks inside a ``with`` or ``async with`` block, whatever target they go to.

    ``hash_key``: calls with the same key go to the same endpoint, where the target's policy looks at keys (``ring_hash``, ``maglev``,
    ``session`` and others); it is text (hashed as UTF-8), bytes, or a whole number (hashed as its decimal text: 7 and "7" are the
    same key). An empty key is a key.

    ``exclude``: endpoints to be avoided while another one is there: an ``Endpoint``, as ``meshlb.grpc.endpoint_of`` gives, an
    address such as ``10.0.0.1:80`` or ``[fd00::1]:80``, or several of them. An ``Endpoint`` that says which pod it was does not stand
    for another pod that has its address now.

    Blocks may be nested: for each of the two the innermost word counts. None (also inside ``exclude``) says nothing.

    Raises TypeError for values of other types, ConfigError (a ValueError) for an address that is none.
    """
    key_hash = None if hash_key is None else hash_of("hints: hash_key", hash_key)
    return Hints(Hinted(key_hash, None if exclude is None else _avoided(exclude)))


class Hints:
    """The block; for one use at a time. Made by ``hints``."""

    __slots__ = ("_said", "_token")

    def __init__(self, said: Hinted) -> None:
        self._said = said
        self._token: Token[Hinted | None] | None = None

    def __enter__(self) -> Hints:
        if self._token is not None:
            raise RuntimeError("this block of hints has been entered already; make another one with meshlb.hints()")
        said, outer = self._said, hinted()
        if outer is not None:
            said = Hinted(outer.hash if said.hash is None else said.hash, outer.exclude if said.exclude is None else said.exclude)
        self._token = _HINTED.set(said)
        return self

    def __exit__(self, *exc: object) -> None:
        token, self._token = self._token, None
        if token is not None:
            with contextlib.suppress(ValueError):  # a generator that is closed in another task than it ran in: nothing holds there
                _HINTED.reset(token)

    async def __aenter__(self) -> Hints:
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__()

    def __repr__(self) -> str:
        return f"<Hints {self._said}>"


def hash_of(what: str, key: object) -> int:
    """The 64-bit hash of a key; ``what`` names it in the TypeError for one of another type."""
    if isinstance(key, bytes):
        return xxh64(key)
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f"{what}={key!r}: must be str, bytes or int, not {type(key).__name__}")
    text = key if isinstance(key, str) else str(int(key))
    return xxh64(text.encode("utf-8", "surrogatepass"))


def _avoided(exclude: object) -> tuple[Avoided, ...]:
    if isinstance(exclude, (Endpoint, str)):
        return (_one_avoided(exclude),)
    if isinstance(exclude, bytes) or not isinstance(exclude, Iterable):
        raise TypeError(f"hints: exclude={exclude!r}: must be an Endpoint, an address or several of them")
    return tuple([_one_avoided(one) for one in exclude if one is not None])


def _one_avoided(one: object) -> Avoided:
    if isinstance(one, Endpoint):
        return Avoided(*one.identity)
    if not isinstance(one, str):
        raise TypeError(f"hints: exclude={one!r}: must be an Endpoint or an address, not {type(one).__name__}")
    if one.startswith(("unix:", "unix-abstract:")):
        return Avoided(one, 0)
    host, _, port = one.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
        if bracketed is not (address.version == 6) or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(port)
    except ValueError:
        raise ConfigError(f"hints: exclude={one!r}: must be the address of an endpoint, as 10.0.0.1:80 or [fd00::1]:80") from None
    return Avoided(str(address), int(port))
