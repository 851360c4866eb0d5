"""The method option ``idempotency_level``, where descriptors are at hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import meshlb.grpc
from meshlb.config import Config
from meshlb.errors import ConfigError


def described() -> Any:
    """A file with one method of each level, as generated code holds it."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    descriptor_pool = pytest.importorskip("google.protobuf.descriptor_pool")
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    file.message_type.add(name="Nothing")
    service = file.service.add(name="Orders")
    for level, name in enumerate(("Place", "Get", "Cancel")):
        method = service.method.add(name=name, input_type=".shop.Nothing", output_type=".shop.Nothing")
        if level:
            method.options.idempotency_level = level
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindFileByName("shop.proto")


def test_methods_without_side_effects_and_idempotent_ones_are_named() -> None:
    """From a module, a file or a service; ready for the config."""
    file = described()
    named = ("/shop.Orders/Get", "/shop.Orders/Cancel")
    for given in (SimpleNamespace(DESCRIPTOR=file), file, file.services_by_name["Orders"]):
        assert meshlb.grpc.idempotent_methods(given) == named
    assert meshlb.grpc.idempotent_methods(file, file) == named * 2
    assert Config(retry={"idempotent": meshlb.grpc.idempotent_methods(file)}).retry.is_idempotent("/shop.Orders/Get")


def test_what_describes_no_service_is_refused() -> None:
    """Before a config silently names nothing."""
    with pytest.raises(ConfigError, match="must be a generated module, or the descriptor of a file or of a service"):
        meshlb.grpc.idempotent_methods("shop.proto")
