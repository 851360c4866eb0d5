"""The numbers that pods listen on: never those of their Service, unless a test says so."""

from __future__ import annotations

from collections.abc import Mapping


def target_numbers(ports: Mapping[str, int], target_port: int | Mapping[str, int] | None) -> dict[str, int]:
    """The pods' numbers for the service ports. None: others than the Service's, so that mixing the two up never works.

    They keep the last four digits (50051 becomes 20051) and stay below the ports that Linux deals out to clients, from 32768 on,
    where a listener of somebody else on all addresses could have taken one.
    """
    if target_port is None:
        base = 10_000 if any(20_000 <= port < 30_000 for port in ports.values()) else 20_000
        target_port = {name: base + port % 10_000 for name, port in ports.items()}
        if len(set(target_port.values())) < len(ports):
            raise ValueError(f"target_port=None: must be given, the last four digits of {sorted(ports.values())} are not unique")
    if isinstance(target_port, int):
        if len(ports) != 1:
            raise ValueError(f"target_port={target_port}: must be a mapping, the Service has {len(ports)} ports")
        return dict.fromkeys(ports, target_port)
    if set(target_port) != set(ports):
        raise ValueError(f"target_port={dict(target_port)}: must have the Service's port names {sorted(ports)}")
    return {name: target_port[name] for name in ports}
