"""``MESHLB_MODE``: the operator's switch from meshlb to the transport's own channel, whole or for some targets.

``on`` (the default, also when empty), ``off``, or ``off:`` and targets separated by commas:
``off:orders.shop,https://api.example.com``.

A listed target turns off every target that may be the same place, because whoever turns something off at night wants it off: the
same text, the same Service or the same host; and what one side does not say (namespace, cluster domain, pod, port) or says in
another form (a port's name and a port's number) counts as equal. So ``orders.shop`` turns off ``orders.shop:grpc``,
``k8s:///orders.shop:50051`` and a bare ``orders``, but neither ``orders.test`` nor ``billing.shop``; ``orders.shop:grpc`` turns
off ``orders.shop`` and ``orders.shop:50051``, but not ``orders.shop:admin``; ``orders`` turns off the Service of that name in any
namespace. A bare ``orders`` whose namespace is known from elsewhere (``key``) is compared with that.

Addresses (``static:``, ``ipv4:``, …) and ``unix:`` are compared as written only.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshlb.core.target import PortRef, Target, TargetKey
from meshlb.errors import ConfigError, TargetError

_VALID = "on, off or off:<target>,<target>…"


@dataclass(frozen=True, slots=True)
class Mode:
    """``off``: turned off, and only for ``targets`` where there are some. ``str()`` gives the text that ``parse`` reads."""

    off: bool = False
    targets: tuple[Target, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Mode:
        """Raises ConfigError for any other word, and for a target that cannot be one."""
        word, colon, listed = text.strip().partition(":")
        word = word.strip().lower()
        if word not in ("", "on", "off") or (colon and word != "off"):
            raise ConfigError(f"MESHLB_MODE={text!r}: must be {_VALID}")
        pieces = [piece.strip() for piece in listed.split(",")] if colon else []
        if not all(pieces):
            raise ConfigError(f"MESHLB_MODE={text!r}: a target is missing; must be {_VALID}")
        try:
            return cls(word == "off", tuple([Target.parse(piece) for piece in pieces]))
        except TargetError as error:
            raise ConfigError(f"MESHLB_MODE={text!r}: {error}") from error

    def is_off(self, target: Target | str, key: TargetKey | None = None) -> bool:
        """Whether the transport's own channel should be used; ``key`` is what defaults made of the target, where that is known."""
        if not self.off or not self.targets:
            return self.off
        if isinstance(target, str):
            target = Target.parse(target)
        return self._lists(target.text) or any(_may_be_the_same(listed, target, key) for listed in self.targets)

    def _lists(self, text: str) -> bool:
        """The text itself stands in the list; one with commas of its own stands there in pieces."""
        pieces = text.split(",")
        listed = [target.text for target in self.targets]
        return any(listed[at : at + len(pieces)] == pieces for at in range(len(listed)))

    def __str__(self) -> str:
        names = ",".join(target.text for target in self.targets)
        return f"off:{names}" if names else "off" if self.off else "on"


def _may_be_the_same(listed: Target, target: Target, key: TargetKey | None) -> bool:
    if listed.endpoints or target.endpoints or not _compatible_ports(listed.port, target.port):
        return False
    if listed.host and listed.host.lower().removesuffix(".") == target.host.lower().removesuffix("."):
        return True
    if not listed.service or listed.service != target.service:
        return False
    namespace = key.namespace if key is not None else target.namespace
    said = ((listed.namespace, namespace), (listed.zone, target.zone), (listed.pod, target.pod))
    return all(one == other for one, other in said if one and other)


def _compatible_ports(one: PortRef, other: PortRef) -> bool:
    if one.is_target is not other.is_target:
        return True
    return not (one.name and other.name and one.name != other.name) and not (
        one.number and other.number and one.number != other.number
    )
