"""The ``meshlb`` command: what it can do, and how its errors look. One module a verb, imported when it is asked for.

Exit codes: 0 done, 1 the answer is bad (a broken promise, an unknown Service), 2 the call is wrong, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from meshlb import __version__
from meshlb.errors import ConfigError, MeshError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; ``argv`` without the program's name, None for the process's own."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except ConfigError as error:
        print(f"meshlb: {error}", file=sys.stderr)
        return 2
    except MeshError as error:
        print(f"meshlb: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `meshlb resolve … | head`
        sys.stderr.close()
        return 0
    except OSError as error:  # a full disk behind standard output, for one
        print(f"meshlb: {error}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "demo":
        from meshlb.cli.demo import demo

        return demo(as_json=arguments.json)
    from meshlb.cli.resolve import resolve

    return resolve(
        arguments.target,
        kubeconfig=arguments.kubeconfig,
        context=arguments.context,
        namespace=arguments.namespace,
        timeout_s=arguments.timeout,
        as_json=arguments.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="meshlb", description="Client-side load balancing for Python services on Kubernetes.")
    parser.add_argument("--version", action="version", version=f"meshlb {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = verbs.add_parser(
        "demo",
        help="show stock gRPC and meshlb side by side on an embedded cluster (about 40 s)",
        description="Starts a small cluster in this process (API server, DNS, ClusterIP, pods) and calls its Service with stock gRPC "
        "and with meshlb through a scale-up, a rolling update, a kill and outages. Needs the extra: pip install 'meshlb[demo]'.",
    )
    demo.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")

    resolve = verbs.add_parser(
        "resolve",
        help="print what discovery sees of a target",
        description="Asks the sources that meshlb would use and prints the endpoints with their conditions. Outside a cluster it uses "
        "your kubeconfig's current context, and says which.",
    )
    resolve.add_argument("target", metavar="TARGET", help="for example orders.shop:grpc, orders.shop.svc:50051, dns:///host:port")
    resolve.add_argument(
        "--kubeconfig", metavar="FILE", help="default: in a pod its service account, else $KUBECONFIG or ~/.kube/config"
    )
    resolve.add_argument("--context", metavar="NAME", help="a context in the kubeconfig; default: its current one")
    resolve.add_argument("--namespace", metavar="NAME", help="of names written without one")
    resolve.add_argument("--timeout", metavar="SECONDS", type=float, default=5.0, help="how long to wait for an answer (default 5)")
    resolve.add_argument("--json", action="store_true", help="print plain data instead of text")
    return parser
