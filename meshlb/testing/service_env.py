"""The environment variables a kubelet sets for the Services of a pod's namespace. Pure.

Spec: kubernetes ``pkg/kubelet/envvars``: Services with a cluster IP only; upper case and ``-`` to ``_``, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping


def service_variables(name: str, cluster_ip: str, ports: Mapping[str, int]) -> dict[str, str]:
    """Both forms: ``{NAME}_SERVICE_HOST`` and the like, and Docker's links. ``ports`` by name, the first is the main one."""
    prefix = name.upper().replace("-", "_")
    first = next(iter(ports.values()))
    variables = {f"{prefix}_SERVICE_HOST": cluster_ip, f"{prefix}_SERVICE_PORT": str(first)}
    variables |= {
        f"{prefix}_SERVICE_PORT_{port_name.upper().replace('-', '_')}": str(port) for port_name, port in ports.items() if port_name
    }
    variables[f"{prefix}_PORT"] = f"tcp://{cluster_ip}:{first}"
    for port in ports.values():
        link = f"{prefix}_PORT_{port}_TCP"
        variables |= {
            link: f"tcp://{cluster_ip}:{port}",
            f"{link}_PROTO": "tcp",
            f"{link}_PORT": str(port),
            f"{link}_ADDR": cluster_ip,
        }
    return variables
