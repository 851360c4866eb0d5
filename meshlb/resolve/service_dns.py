"""The DNS name of a Service, polled: its addresses, the ports and hostnames that SRV gives with them, and what it is an alias of."""

from __future__ import annotations

from meshlb.core.clock import Rng
from meshlb.core.scheduler import Scheduler
from meshlb.core.target import NO_PORT, PortRef
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.lookup import Lookup, SrvEndpoint
from meshlb.resolve.polled import PolledResolver
from meshlb.resolve.service_lookup import ServiceLookup


class ServiceDns(PolledResolver):
    """Publishes the addresses of a ``service`` (absolute), or of one ``pod`` of it, with port 0: the ports are in ``records``, as
    far as DNS has any; whose number is dialled where is for who knows the Service.

    ``answer`` is the last positive one, for an address that cannot be one of several (a ClusterIP). ``complete``: it was whole.
    ``together``: the address in it was once one of several in one answer, which a ClusterIP never is; what is *published* may hold an
    address that moved twice, until it was missed twice.
    ``records`` are those of the published addresses, None while SRV was never answered. ``alias`` is the host name that the
    Service stands for (type ExternalName), or empty; its addresses are then ordinary ones, at their own TTL.
    """

    def __init__(
        self,
        service: str,
        *,
        client: DnsClient,
        scheduler: Scheduler,
        rng: Rng,
        empty_grace_s: float,
        pod: str = "",
        port: PortRef = NO_PORT,
        protocol: str = "grpc",
    ) -> None:
        self.together = False
        self._companions: frozenset[str] = frozenset()  # of the last answer that held several
        self.complete = True
        self.answer: tuple[str, ...] = ()
        self.records: tuple[SrvEndpoint, ...] | None = None
        self.alias = ""
        self._client = client
        name = f"{pod}.{service}" if pod else service
        look_up = ServiceLookup(service, client=client, pod=pod, port=port, protocol=protocol)
        super().__init__(name, 0, look_up, source="dns", scheduler=scheduler, rng=rng, empty_grace_s=empty_grace_s)

    def _learn(self, found: Lookup) -> bool:
        """An address keeps the records of the last answer that had it, as long as it is published."""
        before = (self.records, self.alias, self.complete, self.together)
        known = self._polling.known or frozenset()
        self.answer = found.addresses
        if len(found.addresses) > 1:
            self._companions = frozenset(found.addresses)
        self.together = not self._companions.isdisjoint(found.addresses)
        self.complete = found.complete
        self.alias = found.alias
        # None: SRV was not answered this time, so nothing is known to have changed.
        dropped = () if found.records is None else found.addresses
        if found.records is not None or self.records is not None:
            kept = [record for record in self.records or () if record.host in known and record.host not in dropped]
            self.records = tuple(sorted((*(found.records or ()), *kept), key=lambda record: (record.host, record.port)))
        return (self.records, self.alias, self.complete, self.together) != before

    def describe(self) -> dict[str, object]:
        """As every polled name, with the records, and how the nameservers behaved."""
        records = [f"{record.hostname or record.host}:{record.port}" for record in self.records or ()]
        return super().describe() | {"records": records, "alias": self.alias} | self._client.describe()
