"""The ``meshlb`` command: what it can do, and how its errors look. One module a verb, imported when it is asked for.

With ``--json`` an error is an object on standard output too: ``{"error": …, "kind": …}``.

Exit codes: 0 done, 1 the answer is bad (a broken promise, an unknown Service), 2 the call is wrong, 130 interrupted; ``doctor`` has
its own three, which its help tells.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from meshlb.cli.arguments import parser
from meshlb.errors import ConfigError, MeshError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; ``argv`` without the program's name, None for the process's own."""
    arguments = parser().parse_args(argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, so that a reader that is gone is met here and not at the interpreter's end
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ConfigError as error:
        return _failed(error, 2, as_json=arguments.json)
    except MeshError as error:
        return _failed(error, 1, as_json=arguments.json)
    except BrokenPipeError:  # `meshlb watch … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still in the buffer goes nowhere, silently
        return 0
    except OSError as error:  # a full disk behind standard output, for one
        print(f"meshlb: {error}", file=sys.stderr)
        return 1
    return code


def _failed(error: MeshError, code: int, *, as_json: bool) -> int:
    """One message for people; with ``--json`` also an object where programs look for one."""
    print(f"meshlb: {error}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}), flush=True)
    return code


def _run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "demo":
        from meshlb.cli.demo import demo

        return demo(as_json=arguments.json)
    from meshlb.cli.cluster import ClusterFlags

    cluster = ClusterFlags.of(arguments)
    if arguments.verb == "rbac":
        from meshlb.cli.rbac import rbac

        return rbac(
            arguments.targets,
            cluster,
            service_account=arguments.service_account,
            endpoints=arguments.endpoints,
            as_json=arguments.json,
        )
    if arguments.verb == "watch":
        from meshlb.cli.watch import watch

        return watch(arguments.target, cluster, for_s=arguments.for_s, as_json=arguments.json)
    if arguments.verb == "doctor":
        from meshlb.cli.doctor import doctor

        return doctor(arguments.target, cluster, as_json=arguments.json)
    from meshlb.cli.resolve import resolve

    return resolve(arguments.target, cluster, timeout_s=arguments.timeout, as_json=arguments.json)
