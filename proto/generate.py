"""Generates meshlb/_proto from proto/, or with ``--check`` says whether it is fresh.

Generated with grpcio-tools 1.62.3 (protobuf 4.25), on purpose an old one: protobuf promises that code of an older generator runs
on newer libraries, and code from 5.26 on refuses every library older than itself, as grpcio's does from 1.63 on. What this
one writes runs on protobuf 4.21 to 7 and on every grpcio.

    python -m venv gen && gen/bin/pip install grpcio-tools==1.62.3 'setuptools<81' && gen/bin/python proto/generate.py

``--check`` runs with any grpcio-tools: it compares what the code describes (messages, fields, methods), not its bytes.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

GENERATOR = "1.62.3"
PROTO_DIR = Path(__file__).resolve().parent
OUT_DIR = PROTO_DIR.parent / "meshlb" / "_proto"
PROTOS = ("meshlb/testing/v1/echo.proto",)
INIT = '"""Generated from proto/ by proto/generate.py; for the demo, the test kit and tests only."""\n'


def protoc(*arguments: str) -> None:
    """Run protoc over all our files; its own message is shown when it fails."""
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO_DIR}", *arguments, *PROTOS], check=True, cwd=PROTO_DIR)


def generate(out_dir: Path) -> None:
    """Write the generated modules flat into ``out_dir``, which is the package ``meshlb._proto``."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        protoc(f"--python_out={scratch}", f"--pyi_out={scratch}", f"--grpc_python_out={scratch}")
        for generated in sorted(Path(scratch).rglob("*.py*")):
            # protoc derives imports from the proto path; ours is the public proto package, the Python package is private.
            text = generated.read_text().replace("from meshlb.testing.v1 import ", "from meshlb._proto import ")
            (out_dir / generated.name).write_text(text)
    (out_dir / "__init__.py").write_text(INIT)


def stale() -> list[str]:
    """Return what differs between proto/ and meshlb/_proto; an empty list means fresh."""
    from google.protobuf import descriptor_pb2

    with tempfile.TemporaryDirectory() as scratch:
        protoc(f"--descriptor_set_out={scratch}/all.pb")
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(scratch, "all.pb").read_bytes()).file
    findings = []
    for expected in files:
        expected.ClearField("source_code_info")
        for json_named in (field for message in expected.message_type for field in message.field):
            json_named.ClearField("json_name")  # only --descriptor_set_out fills it in
        stem = Path(expected.name).stem
        if described(OUT_DIR / f"{stem}_pb2.py") != expected.SerializeToString(deterministic=True):
            findings.append(f"{expected.name}: messages or services differ from meshlb/_proto/{stem}_pb2.py")
        stubs = (OUT_DIR / f"{stem}_pb2_grpc.py").read_text()
        for service in expected.service:
            for method in service.method:
                path = f"'/{expected.package}.{service.name}/{method.name}'"
                if path not in stubs:
                    findings.append(f"{expected.name}: {path} is missing in meshlb/_proto/{stem}_pb2_grpc.py")
    return findings


def described(module: Path) -> bytes:
    """The serialized file descriptor inside a generated module, read without importing it."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "AddSerializedFile":
            value = ast.literal_eval(node.args[0])
            if isinstance(value, bytes):
                return value
    raise ValueError(f"{module}: no serialized file descriptor in it")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the generated code is stale")
    if parser.parse_args().check:
        findings = stale()
        print("\n".join(findings) or "meshlb/_proto is fresh")
        return 1 if findings else 0
    installed = importlib.metadata.version("grpcio-tools")
    if installed != GENERATOR:
        print(f"grpcio-tools {installed}: must be {GENERATOR}, see the head of {Path(__file__).name}", file=sys.stderr)
        return 2
    generate(OUT_DIR)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
