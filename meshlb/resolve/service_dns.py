"""The DNS name of a Service, polled; and whether one answer ever held several addresses, which no ClusterIP does."""

from __future__ import annotations

from meshlb.core.clock import Rng
from meshlb.core.scheduler import Scheduler
from meshlb.resolve.dns_client import DnsClient
from meshlb.resolve.lookup import Lookup
from meshlb.resolve.polled import PolledResolver


class ServiceDns(PolledResolver):
    """Publishes the addresses of the absolute ``name``, with port 0: whose port it is can only be told by who knows the Service.

    ``answer`` is the last positive one, for an address that cannot be one of several (a ClusterIP). ``together`` counts within one answer: what is *published* may hold an address that moved twice, until it was missed twice.
    """

    def __init__(self, name: str, *, client: DnsClient, scheduler: Scheduler, rng: Rng, empty_grace_s: float) -> None:
        self.together = False
        self.answer: tuple[str, ...] = ()
        self._client = client
        self._name = name
        super().__init__(name, 0, self._look_up_name, source="dns", scheduler=scheduler, rng=rng, empty_grace_s=empty_grace_s)

    def _look_up_name(self) -> Lookup:
        """In a helper thread; the stores are seen by ``_heard``, which runs after it."""
        found = self._client.lookup(self._name)
        if found.addresses:
            self.answer = found.addresses
        if len(found.addresses) > 1:
            self.together = True
        return found
