"""A kubeconfig as data, before the ``kubernetes`` package sees it: each file is read once, and nothing of it is ever quoted.

Several files are joined as kubectl does it: of a name that is in several of them the first holds, and so does the first
``current-context``. (The package takes the last one's.) Paths in a file are relative to that file; here they become absolute, so that
the joined data needs no file any more.

The package's own reading is not used: it opens whatever it is given (a pipe is empty the second time, and a FIFO blocks for ever),
and its errors quote whole users, tokens included.

Spec: client-go tools/clientcmd, "Config loading rules".
"""

from __future__ import annotations

import importlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from meshlb.resolve.kubernetes.transport import CredentialsError

MAX_BYTES: Final = 16 * 2**20
_LISTS: Final = {"contexts": "context", "clusters": "cluster", "users": "user"}
# What may stand in files, and the key that holds it inline instead.
_PATHS: Final = {
    "certificate-authority": "certificate-authority-data",
    "client-certificate": "client-certificate-data",
    "client-key": "client-key-data",
    "tokenFile": "token",
}
_USERINFO = re.compile(r"//.*@")

Data = dict[str, Any]


def without_userinfo(text: str) -> str:
    """``https://user:password@host`` without the user and the password; to the last ``@``, as a password may hold anything."""
    return _USERINFO.sub("//", text)


class KubeconfigFile:
    """What the files ``file`` (joined by the system's path separator) say. Raises CredentialsError, as every method does."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.data: Data = {"contexts": [], "clusters": [], "users": []}
        self._folders: dict[str, str] = {}  # of users: where their file is
        found = [path for part in file.split(os.pathsep) if part and (path := Path(part).expanduser()).exists()]
        if not found:
            raise self.error("there is no such file")
        for path in found:
            self._join(path, self._read(path))

    def error(self, why: str) -> CredentialsError:
        return CredentialsError(f"kubeconfig {self.file} cannot be used: {why}")

    def context_name(self, name: str | None) -> str:
        """The context that is meant: ``name``, or the current one."""
        chosen = name or self.data.get("current-context")
        if not chosen:
            raise self.error("it names no current context")
        if all(one["name"] != chosen for one in self.data["contexts"]):
            names = ", ".join(str(one["name"]) for one in self.data["contexts"])
            raise self.error(f"there is no context {chosen}, only {names or 'none'}")
        return str(chosen)

    def part(self, kind: str, name: str) -> Data:
        """The entry of this name in ``contexts``, ``clusters`` or ``users``; empty if there is none."""
        found = next((one for one in self.data[kind] if one["name"] == name), None)
        return found[_LISTS[kind]] if found is not None else {}

    def check(self, context: str) -> None:
        """The URL and the files that it needs. Versions of the package differ in what they notice of these, and some go to
        localhost instead."""
        named = self.part("contexts", context)
        cluster, user = (self.part(kind, str(named.get(key) or "")) for kind, key in (("clusters", "cluster"), ("users", "user")))
        server = cluster.get("server")
        if not (isinstance(server, str) and server.startswith(("https://", "http://"))):
            raise self.error(f"server {without_userinfo(str(server or ''))!r} is no https:// URL")
        for part in (cluster, user):
            for name, inline in _PATHS.items():
                path = part.get(name)
                if isinstance(path, str) and path and not part.get(inline) and not Path(path).exists():
                    raise self.error(f"its {name} is missing: there is no file {path}")

    def folder(self, user: str) -> str:
        """Where a user's plug-in runs."""
        return self._folders.get(user, "")

    def _read(self, path: Path) -> Mapping[str, Any]:
        yaml: Any = importlib.import_module("yaml")
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise self.error(f"{path} is no regular file (it is read more than once)")
            with path.open("rb") as file:
                content = file.read(MAX_BYTES)
            said = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except OSError as error:
            raise self.error(f"{path}: {error.strerror or type(error).__name__}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # whose words show the line, which may hold a token
            line = getattr(getattr(error, "problem_mark", None), "line", None)
            where = f" in line {line + 1}" if isinstance(line, int) else ""
            raise self.error(f"no valid YAML{where}") from None
        if not isinstance(said, Mapping):
            raise self.error("no kubeconfig (it holds no mapping)")
        return said

    def _join(self, path: Path, said: Mapping[str, Any]) -> None:
        folder = str(path.resolve().parent)
        if said.get("current-context"):
            self.data.setdefault("current-context", str(said["current-context"]))
        for kind, key in _LISTS.items():
            known = {one["name"] for one in self.data[kind]}
            entries = said.get(kind) or []
            if not isinstance(entries, list):
                raise self.error(f"{kind} is no list")
            for position, entry in enumerate(entries):
                if not isinstance(entry, Mapping) or "name" not in entry or not isinstance(entry.get(key) or {}, Mapping):
                    raise self.error(f"{kind}[{position}] has no name, or its {key} is no mapping")
                name = str(entry["name"])
                if name in known:
                    continue
                known.add(name)
                self.data[kind].append({"name": name, key: _absolute(entry.get(key) or {}, folder)})
                if kind == "users":
                    self._folders.setdefault(name, folder)


def _absolute(entry: Mapping[str, Any], folder: str) -> Data:
    return {
        name: str(Path(folder, value)) if name in _PATHS and isinstance(value, str) and value else value
        for name, value in entry.items()
    }
