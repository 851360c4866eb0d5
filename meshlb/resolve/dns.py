"""DNS as a source: a name's A or AAAA records, polled by TTL. How much of an answer is believed, and when: ``polling``; who is
asked and which family is used: ``dns_client``.

Spec: Kubernetes DNS specification 1.1.0 (a headless Service has one record per ready endpoint); gRPC naming ``dns://server/host``.
Deviations: gRPC asks again only when a connection breaks, so it never sees a scale-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshlb.core.clock import Rng
from meshlb.core.scheduler import Scheduler
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.lookup import Found, Lookup
from meshlb.resolve.polled import PolledResolver


class DnsResolver(PolledResolver):
    """The addresses of ``host``, each with ``port``; without ``search`` the name is absolute.

    ``nameservers`` are ``ip:port``, else those of ``resolv_conf`` are asked. ``empty_grace_s``: how long "no such name" must be the
    only answer before a published set is given up.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        scheduler: Scheduler,
        rng: Rng,
        nameservers: Sequence[str] | None = None,
        resolv_conf: str = "/etc/resolv.conf",
        search: bool = False,
        empty_grace_s: float = 60.0,
    ) -> None:
        client = DnsClient(nameservers=nameservers or (), resolv_conf=resolv_conf)
        super().__init__(
            host,
            port,
            lambda: client.lookup(host, search=search),
            source="dns",
            scheduler=scheduler,
            rng=rng,
            empty_grace_s=empty_grace_s,
        )


def lookup(name: str, done: Callable[[Lookup], None], *, client: DnsClient, scheduler: Scheduler, search: bool = False) -> None:
    """Ask once, in a look-up helper; ``done`` hears the answer on the discovery thread. It always does: a failure is FAILED."""

    def heard(found: Lookup | None, error: BaseException | None) -> None:
        done(found or Lookup(name=name, found=Found.FAILED, reason=f"{type(error).__name__}: {error}"))

    scheduler.run_blocking(lambda: client.lookup(name, search=search), heard)
