"""What one look-up of a name has found; the common language of DNS and the system's resolver."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Found(enum.Enum):
    """The four things that a look-up can mean. Only the first three are answers."""

    ADDRESSES = "addresses"
    NO_ADDRESS = "no address"  # NODATA: the name is there, without an address of the families asked for
    NO_NAME = "no such name"  # NXDOMAIN
    FAILED = "failed"  # nothing was learnt: SERVFAIL, REFUSED, no reply, no nameserver


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """One look-up of ``name``.

    ``addresses`` are IP literals of one family (of both from the system, the preferred one first), at least one if ``found`` is
    ADDRESSES, else none. ``canonical_name`` is where the CNAMEs end, without the trailing dot. ``ttl_s`` is how long the answer may
    be believed, negative ones too. ``complete`` is False for an answer that was cut off. ``reason`` is for people: why there is no
    address.
    """

    name: str
    found: Found
    addresses: tuple[str, ...] = ()
    canonical_name: str = ""
    ttl_s: float = 0.0
    complete: bool = True
    reason: str = ""

    @property
    def absent(self) -> bool:
        """The source says that there is no address, which is not the same as saying nothing."""
        return self.found in (Found.NO_NAME, Found.NO_ADDRESS)
