"""The method option ``idempotency_level``, read from the descriptors that generated code has at hand.

meshlb needs no protobuf, and a channel never sees a descriptor: stubs name their methods by strings. So who has the descriptors hands
them over once: ``Config(retry={"idempotent": idempotent_methods(orders_pb2)})``.

Spec: google/protobuf/descriptor.proto, MethodOptions.IdempotencyLevel.
"""

from __future__ import annotations

from typing import Any

from meshlb.errors import ConfigError

_NO_SIDE_EFFECTS, _IDEMPOTENT = 1, 2


def idempotent_methods(*described: Any) -> tuple[str, ...]:
    """Full names of the methods that are NO_SIDE_EFFECTS or IDEMPOTENT, for ``Config(retry={"idempotent": …})``.

    Takes generated modules (``orders_pb2``), file descriptors (``orders_pb2.DESCRIPTOR``) and service descriptors. Raises ConfigError
    for anything else.
    """
    names: list[str] = []
    for one in described:
        for service in _services(getattr(one, "DESCRIPTOR", one)):
            levels = ((method.name, method.GetOptions().idempotency_level) for method in service.methods)
            names.extend(f"/{service.full_name}/{name}" for name, level in levels if level in (_NO_SIDE_EFFECTS, _IDEMPOTENT))
    return tuple(names)


def _services(descriptor: Any) -> list[Any]:
    if hasattr(descriptor, "services_by_name"):
        return list(descriptor.services_by_name.values())
    if hasattr(descriptor, "methods"):
        return [descriptor]
    raise ConfigError(f"{descriptor!r}: must be a generated module, or the descriptor of a file or of a service")
