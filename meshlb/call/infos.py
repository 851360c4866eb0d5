"""What the picks of one method's calls are told: for most calls always the same, for some their own key, or whom to avoid.

Asked in the moment in which a call is invoked, in its caller's thread or task, where its hints hold; the call's later attempts keep the
answer (``PickInfo.avoiding``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from meshlb.balance.hash_key import Keys
from meshlb.core.hints import Avoided, hinted
from meshlb.core.policy import PickInfo
from meshlb.core.subchannel import Subchannel
from meshlb.pool.view import View


class Infos:
    """One method's on one channel; any thread. ``varies``: False where calls without hints are all told ``plain``, so that nobody need
    ask ``of`` for them; known once a pool has been seen (each of a channel's, as after a fork, has the same policy).
    """

    __slots__ = ("_keys", "plain", "varies")

    def __init__(self, plain: PickInfo, keys: Keys) -> None:
        self.plain = plain
        self._keys = keys
        self.varies = True

    def of(self, view: View, metadata: Any = None, key: int | None = None) -> PickInfo:
        """For a call that is invoked here and now. ``metadata``: its pairs. ``key``: the hash of a key that was given for this call, in
        place of a hint."""
        said, plain = hinted(), self.plain
        self.varies = hashes = self._keys.any and view.pool.balancer.hashes
        if said is None and not hashes:
            return plain
        hashed = None
        if hashes:
            hashed = self._keys.hash_of(said.hash if key is None and said is not None else key, metadata)
            if hashed is None:
                view.pool.balancer.keyless += 1
        exclude = plain.exclude
        if said is not None and said.exclude:
            exclude = frozenset([sub for avoided in said.exclude for sub in _at(view.pool.snapshot.listed, avoided)])
        if hashed is None and not exclude:
            return plain
        return PickInfo(plain.method, exclude, replays=plain.replays, judged=plain.judged, hash=hashed)


def _at(listed: Sequence[Subchannel], avoided: Avoided) -> Iterator[Subchannel]:
    """Those at this address; ``listed`` is in the order of an endpoint set."""
    host, port, uid = avoided
    at = bisect_left(listed, (host, port, ""), key=_identity)
    while at < len(listed) and _identity(listed[at])[:2] == (host, port):
        if not uid or listed[at].endpoint.uid in ("", uid):
            yield listed[at]
        at += 1


def _identity(subchannel: Subchannel) -> tuple[str, int, str]:
    return subchannel.endpoint.identity
