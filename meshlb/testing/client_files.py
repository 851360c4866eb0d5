"""What a pod or a developer's machine has on disk to find a cluster: kubeconfig, service account directory, resolv.conf."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as the kubelet does: readers see the old text or the new one, never half of it."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(text)
    os.replace(scratch, path)


def write_kubeconfig(path: Path, *, url: str, token: str, namespace: str, ca_file: Path | None) -> None:
    """A kubeconfig with one context. Written as JSON, which is YAML too."""
    cluster: dict[str, str] = {"server": url}
    if ca_file is not None:
        cluster["certificate-authority"] = str(ca_file)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
        "clusters": [{"name": "fake", "cluster": cluster}],
        "users": [{"name": "fake", "user": {"token": token}}],
    }
    write_atomically(path, json.dumps(config, indent=2) + "\n")


def write_service_account(directory: Path, *, token: str, namespace: str, ca_pem: str) -> None:
    """The files of /var/run/secrets/kubernetes.io/serviceaccount."""
    directory.mkdir(exist_ok=True)
    write_atomically(directory / "token", token)
    write_atomically(directory / "namespace", namespace)
    write_atomically(directory / "ca.crt", ca_pem)


def write_resolv_conf(path: Path, *, namespace: str, domain: str, nameserver_ip: str) -> None:
    """A pod's resolv.conf (dnsPolicy ClusterFirst)."""
    lines = [
        f"search {namespace}.svc.{domain} svc.{domain} {domain}",
        f"nameserver {nameserver_ip}",
        "options ndots:5",
    ]
    write_atomically(path, "\n".join(lines) + "\n")
