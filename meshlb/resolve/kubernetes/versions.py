"""Comparing resourceVersions, which are opaque except where both are well-formed decimals.

Used only to refuse to go back in time, and to take the earlier of two places to resume from.

Spec: apimachinery util/resourceversion (official since Kubernetes 1.35, true before).
"""

from __future__ import annotations


def comparable(version: str) -> bool:
    """Well-formed decimal versions of one resource may be compared; anything else is opaque."""
    return version.isascii() and version.isdigit() and not version.startswith("0")


def is_older(version: str, than: str) -> bool:
    """Certainly older: False also when the two cannot be compared."""
    return comparable(version) and comparable(than) and (len(version), version) < (len(than), than)


def later(version: str, other: str) -> str:
    """The later of two; ``other`` if they cannot be compared, as it came last. An empty one is none."""
    return version if not other or is_older(other, version) else other
