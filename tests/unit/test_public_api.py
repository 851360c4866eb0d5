"""The public surface: what is exported, what an import costs, and that nothing global is touched."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest

import meshlb


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=os.environ
    ).stdout.strip()


def test_every_public_name_resolves_and_is_listed() -> None:
    """``__all__`` is the surface, lazily."""
    for name in meshlb.__all__:
        assert getattr(meshlb, name) is not None
        assert name in dir(meshlb)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = meshlb.nonsense


def test_importing_meshlb_loads_none_of_the_heavy_packages() -> None:
    """grpc, kubernetes, dns, opentelemetry, asyncio and tenacity come when they are needed."""
    heavy = ("grpc", "kubernetes", "dns", "opentelemetry", "asyncio", "tenacity", "google.protobuf")
    assert run(f"import sys, meshlb; print([m for m in {heavy!r} if m in sys.modules])") == "[]"


def test_importing_meshlb_grpc_loads_neither_kubernetes_nor_dns_nor_protobuf() -> None:
    """protobuf is no part of the base install."""
    heavy = ("kubernetes", "dns", "opentelemetry", "google.protobuf")
    assert run(f"import sys, meshlb.grpc; print([m for m in {heavy!r} if m in sys.modules])") == "[]"


def test_importing_touches_nothing_global() -> None:
    """No thread, no environment variable, no logging set-up, no patched grpc."""
    program = """
import logging, os, threading, grpc, grpc.aio
before = (dict(os.environ), list(logging.root.handlers), logging.root.level, grpc.insecure_channel, grpc.aio.insecure_channel)
import meshlb, meshlb.grpc, meshlb.grpc.aio, meshlb.mesh, meshlb.picks
after = (dict(os.environ), list(logging.root.handlers), logging.root.level, grpc.insecure_channel, grpc.aio.insecure_channel)
print(before == after, threading.active_count())
"""
    assert run(program) == "True 1"


def test_loggers_are_below_meshlb() -> None:
    """One place to turn them up or down."""
    import meshlb.mesh  # noqa: F401

    assert all(name == "meshlb" or name.startswith("meshlb.") for name in logging.root.manager.loggerDict if "meshlb" in name)
