"""Every verb's arguments. What verbs have in common is said once: the target, which cluster is asked, plain data instead of text."""

from __future__ import annotations

import argparse

from meshlb import __version__

TARGET_HELP = "for example orders.shop:grpc, orders.shop.svc:50051, dns:///host:port"


def parser() -> argparse.ArgumentParser:
    """The command's parser; ``verb`` is the name of what was chosen."""
    top = argparse.ArgumentParser(prog="meshlb", description="Client-side load balancing for Python services on Kubernetes.")
    top.add_argument("--version", action="version", version=f"meshlb {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _demo(verbs)
    _resolve(verbs)
    _watch(verbs)
    _doctor(verbs)
    _rbac(verbs)
    return top


def _demo(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = verbs.add_parser(
        "demo",
        help="show stock gRPC and meshlb side by side on an embedded cluster (about 40 s)",
        description="Starts a small cluster in this process (API server, DNS, ClusterIP, pods) and calls its Service with stock gRPC "
        "and with meshlb through a scale-up, a rolling update, a kill and outages. Needs the extra: pip install 'meshlb[demo]'.",
    )
    demo.add_argument("--json", action="store_true", help="print the result as JSON instead of a table")


def _resolve(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    resolve = verbs.add_parser(
        "resolve",
        help="print what discovery sees of a target",
        description="Asks the sources that meshlb would use and prints the endpoints with their conditions. Outside a cluster it uses "
        "your kubeconfig's current context, and says which. Exit status: 0 an endpoint may take calls, 1 none may.",
    )
    _target(resolve)
    _cluster(resolve)
    resolve.add_argument("--timeout", metavar="SECONDS", type=float, default=5.0, help="how long to wait for an answer (default 5)")
    resolve.add_argument("--json", action="store_true", help="print plain data instead of text")


def _watch(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    watch = verbs.add_parser(
        "watch",
        help="follow what discovery sees of a target, a line a change",
        description="Prints the endpoints that are known, then every change as it comes: + added, - removed, ~ changed, > another source "
        "or another state of the whole, ! a source that fails. Ends with Ctrl-C. Exit status: 0, or 1 if nothing was ever known.",
    )
    _target(watch)
    _cluster(watch)
    watch.add_argument("--for", dest="for_s", metavar="SECONDS", type=float, help="end after this time (default: never)")
    watch.add_argument("--json", action="store_true", help="print one JSON object a line instead of text")


def _doctor(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = verbs.add_parser(
        "doctor",
        help="ask every source of a target, say what is missing and which would serve",
        description="Asks every source that meshlb has, connects to the first five pods and to the ClusterIP (TCP only: whoever takes "
        "the connection counts as alive), and says what came back, what is missing and who would serve; run it where the client "
        "runs, with its variables: MESHLB_NODE_NAME and MESHLB_ZONE (Downward API) tell it its place, for topology hints and "
        "internalTrafficPolicy: Local. Takes at most 15 s. Exit status: 0 pods would serve and all is well, 1 the ClusterIP would "
        "serve or something failed, 2 nobody would.",
    )
    _target(doctor)
    _cluster(doctor)
    doctor.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _rbac(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    rbac = verbs.add_parser(
        "rbac",
        help="print the least Role that discovery of some targets needs",
        description="Prints a Role and a RoleBinding a namespace as YAML: meshlb rbac orders.shop pay.shop | kubectl apply -f -. "
        "Asks nobody.",
    )
    _target(rbac, nargs="+")
    rbac.add_argument(
        "--service-account",
        metavar="NAMESPACE/NAME",
        help="whom to allow; default: in a pod its own service account, else two words in capitals to fill in",
    )
    rbac.add_argument("--endpoints", action="store_true", help="also the older Endpoints objects, used where slices are refused")
    _cluster(rbac, nameserver=False)
    rbac.add_argument("--json", action="store_true", help="print a v1 List as JSON, which kubectl applies as well")


def _target(verb: argparse.ArgumentParser, *, nargs: str | None = None) -> None:
    verb.add_argument("targets" if nargs else "target", metavar="TARGET", nargs=nargs, help=TARGET_HELP)


def _cluster(verb: argparse.ArgumentParser, *, nameserver: bool = True) -> None:
    """Read by ``ClusterFlags.of``."""
    verb.add_argument(
        "--kubeconfig", metavar="FILE", help="default: in a pod its service account, else $KUBECONFIG or ~/.kube/config"
    )
    verb.add_argument("--context", metavar="NAME", help="a context in the kubeconfig; default: its current one")
    verb.add_argument("--namespace", metavar="NAME", help="of names written without one")
    if nameserver:
        verb.add_argument(
            "--nameserver",
            metavar="IP[:PORT]",
            action="append",
            help="ask this nameserver instead of those in resolv.conf; may be given several times",
        )
