"""What the API server says: who we are to it, whether it can be reached, and each of the reads that discovery makes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sized
from dataclasses import replace
from typing import Final

from meshlb.cli.cluster import context_of
from meshlb.cli.doctor.check import FAIL, OK, SKIPPED, WARN, Check, Finding, Probe, examine, skipped
from meshlb.resolve.known import ServiceName
from meshlb.resolve.kubernetes.auth import connect, credentials_of
from meshlb.resolve.kubernetes.credentials import Kubeconfig, ServiceAccount
from meshlb.resolve.kubernetes.endpoints import parse_endpoints_list
from meshlb.resolve.kubernetes.fields import WireError
from meshlb.resolve.kubernetes.rbac import role_yaml, user_in, user_of
from meshlb.resolve.kubernetes.requests import ListRequest, Resource, WatchRequest, service_path
from meshlb.resolve.kubernetes.service_wire import ServiceRecord, parse_service
from meshlb.resolve.kubernetes.transport import ApiError, ApiTransport, CredentialsError, Interrupt
from meshlb.resolve.kubernetes.wire import SliceRecord, parse_slice_list
from meshlb.resolve.settings import Discovery

SERVER_TIMEOUT_S: Final = 3.5  # a connection may take 3
READ_TIMEOUT_S: Final = 3.0
_READS: Final = (
    ("list endpointslices", "EndpointSlices of {want}"),
    ("watch endpointslices", "changes of the EndpointSlices of {want}"),
    ("list endpoints", "the older Endpoints object of {want}"),
    ("get service", "the Service {want}"),
)


class ApiExam:
    """One look at the API server, for one Service. ``slices`` and ``service`` are None until they were read."""

    def __init__(self, discovery: Discovery, environ: Mapping[str, str], want: ServiceName) -> None:
        self.slices: tuple[SliceRecord, ...] | None = None
        self.service: ServiceRecord | None = None
        self.service_absent = False
        self._discovery = discovery
        self._environ = environ
        self._want = want
        self._name = f"{want.service} in namespace {want.namespace}"
        self._transport: ApiTransport | None = None
        self._user = ""
        self._interrupts: list[Interrupt] = []

    def credentials(self) -> Probe:
        """The first of all; what ``checks`` asks with comes from here."""
        advice = "a plug-in of the kubeconfig may be waiting for a login: run it by hand"
        return Probe("credentials", "who we are to the API server", self._credentials, advice)

    def checks(self, left_s: Callable[[float], float]) -> list[Check]:
        """The server, then all reads at once; after ``credentials`` was asked. ``left_s``: how much there is of a time."""
        if self._transport is None:
            why = "the API server is not asked"
            return [skipped("api server", "the API server", why), *self._skipped(why)]
        server = Probe("api server", f"the API server at {self._transport.server}", self._server, _TOO_LATE)
        reach = examine([server], left_s(SERVER_TIMEOUT_S))
        if reach[0].status == FAIL:
            self._end()
            return [*reach, *self._skipped("the API server cannot be asked")]
        asks: tuple[Callable[[], Finding], ...] = (self._list, self._watch, self._endpoints, self._service)
        probes = [Probe(name, what.format(want=self._name), ask) for (name, what), ask in zip(_READS, asks, strict=True)]
        reads = examine(probes, left_s(READ_TIMEOUT_S))
        self._end()
        if reads[0].status != FAIL and reads[2].status == WARN:  # whether it is needed is known only now
            reads[2] = replace(reads[2], status=SKIPPED)
        return [*reach, *reads]

    def _end(self) -> None:
        """Nobody waits any more for what still runs."""
        for interrupt in self._interrupts:
            interrupt.fire()

    def _skipped(self, why: str) -> list[Check]:
        return [skipped(name, what.format(want=self._name), why) for name, what in _READS]

    # --- the questions ----------------------------------------------------------------------------------------------------

    def _credentials(self) -> Finding:
        credentials = credentials_of(self._discovery, self._environ)
        if credentials is None:
            return self._no_credentials()
        try:
            self._transport = connect(self._discovery, environ=self._environ)
            self._user = user_of(credentials.authorization()) if isinstance(credentials, ServiceAccount) else ""
        except CredentialsError as error:
            return Finding(FAIL, error.reason, "discovery goes on with DNS; with these credentials fixed it would see the pods")
        if isinstance(credentials, Kubeconfig):
            context = context_of(str(self._discovery.kubeconfig), self._discovery.context)
            return Finding(OK, f"kubeconfig {self._discovery.kubeconfig}, context {context.name}, user {context.user}")
        return Finding(OK, f"service account {self._user or 'of an opaque token'} in {self._discovery.service_account_dir}")

    def _no_credentials(self) -> Finding:
        if "kubernetes" not in self._discovery.sources:
            return Finding(SKIPPED, "the API server is not among the sources that are configured")
        if not self._environ.get("KUBERNETES_SERVICE_HOST"):
            advice = "run this in a pod, or name a kubeconfig with --kubeconfig"
            return Finding(SKIPPED, "not in a pod (no KUBERNETES_SERVICE_HOST), and no kubeconfig is named", advice)
        advice = "set automountServiceAccountToken: true for the pod, or go on with DNS and a headless Service"
        return Finding(SKIPPED, f"no service account's token in {self._discovery.service_account_dir}", advice)

    def _server(self) -> Finding:
        try:
            answer = json.loads(self._get("/version", ()))
        except ApiError as error:
            if error.refusal is None:
                return Finding(FAIL, error.reason, unreached_advice(error.reason))
            if error.kind == "unauthorized":
                return Finding(
                    FAIL, error.reason, "it does not know this token: expired, of another cluster, or its account is deleted"
                )
            return Finding(OK, f"it answers ({error.refusal.code} for its version)")
        except ValueError:
            return Finding(FAIL, "an answer that is no API server's", "something between here and the API server answers for it")
        version = answer.get("gitVersion") if isinstance(answer, dict) else None
        return Finding(OK, f"it answers, version {version or 'unknown'}")

    def _list(self) -> Finding:
        request = ListRequest(namespace=self._want.namespace, services=frozenset([self._want.service]), resource_version="0")
        try:
            self.slices = parse_slice_list(self._get(request.path, request.query)).slices
        except (ApiError, WireError) as error:
            return self._refused(error, "may not list EndpointSlices", FAIL)
        endpoints = [endpoint for record in self.slices for endpoint in record.endpoints]
        ready = sum(1 for endpoint in endpoints if endpoint.ready)
        terminating = sum(1 for endpoint in endpoints if endpoint.terminating)
        said = f"{_number(self.slices, 'slice')}, {_number(endpoints, 'endpoint')}: {ready} ready, {terminating} terminating"
        if not self.slices:
            return Finding(
                WARN, said, "no such Service, an ExternalName one, or one without a selector and without slices written by hand"
            )
        ports = sorted({f"{port.name or 'unnamed'} {port.port}" for record in self.slices for port in record.ports})
        return Finding(OK if ready else WARN, f"{said}; pod ports: {', '.join(ports) or 'none'}", "" if ready else _NONE_READY)

    def _watch(self) -> Finding:
        services = frozenset([self._want.service])
        request = WatchRequest(namespace=self._want.namespace, services=services, resource_version="0", timeout_s=1)
        assert self._transport is not None
        stream = self._transport.watch(request.path, request.query, self._interrupt(), read_timeout_s=READ_TIMEOUT_S)
        try:
            next(stream)
        except ApiError as error:
            return self._refused(error, "may not watch EndpointSlices", FAIL)
        finally:
            stream.close()
        return Finding(OK, "accepted")

    def _endpoints(self) -> Finding:
        services = frozenset([self._want.service])
        request = ListRequest(namespace=self._want.namespace, services=services, resource_version="0", resource=Resource.ENDPOINTS)
        try:
            found = parse_endpoints_list(self._get(request.path, request.query)).slices
        except (ApiError, WireError) as error:
            return Finding(WARN, str(error), "not needed where EndpointSlices may be listed")
        ready = sum(endpoint.ready for record in found for endpoint in record.endpoints)
        said = f"{ready} ready addresses" if found else "there is none"
        if any(record.truncated for record in found):
            return Finding(WARN, f"{said}, and more that it had no room for", "it holds 1000 addresses: allow EndpointSlices")
        return Finding(OK, f"{said}; used only where EndpointSlices are refused")

    def _service(self) -> Finding:
        try:
            self.service = service = parse_service(self._get(service_path(self._want.namespace, self._want.service), ()))
        except (ApiError, WireError) as error:
            if isinstance(error, ApiError) and error.refusal is not None and error.refusal.code == 404:
                self.service_absent = True
                return Finding(FAIL, f"no Service {self._want.service} in namespace {self._want.namespace}", _NO_SERVICE)
            return self._refused(error, "may not get the Service, so a port's number is mapped by guess", WARN)
        kind = "headless" if service.headless else service.type
        addresses = service.external_name or ", ".join(service.cluster_ips) or "no ClusterIP"
        ports = ", ".join(f"{port.name or 'unnamed'} {port.port} → {port.target_port}" for port in service.ports)
        return Finding(OK, f"{kind}, {addresses}; ports: {ports or 'none'}")

    # --- asking -----------------------------------------------------------------------------------------------------------

    def _get(self, path: str, query: tuple[tuple[str, str], ...]) -> bytes:
        assert self._transport is not None
        return self._transport.get(path, query, self._interrupt())

    def _interrupt(self) -> Interrupt:
        interrupt = Interrupt()
        self._interrupts.append(interrupt)
        return interrupt

    def _refused(self, error: ApiError | WireError, what: str, status: str) -> Finding:
        if not isinstance(error, ApiError):
            return Finding(status, f"an answer that cannot be read: {error}")
        if error.kind != "forbidden":
            return Finding(status, error.reason, "" if error.refusal is not None else unreached_advice(error.reason))
        user = user_in(error.reason) or self._user
        role = role_yaml(self._want.namespace, [self._want.service], user)
        return Finding(status, error.reason, f"this client {what}; apply:\n{role}")


def unreached_advice(reason: str) -> str:
    """What to look at when no answer came back: the certificate, by what OpenSSL says of it, or the way there."""
    for words, advice in _TLS_ADVICE.items():
        if words in reason:
            return advice
    if "SSL" in reason or "CERTIFICATE" in reason:
        return "the TLS handshake failed: is that port the API server's, and does nothing on the way answer in its name?"
    return _TOO_LATE


_NONE_READY: Final = "pods are there and none is ready: look at their readiness probes (kubectl describe pod)"
_NO_SERVICE: Final = "write the namespace (NAME.NAMESPACE), or name it with --namespace"
_TOO_LATE: Final = "is it up, and does no NetworkPolicy close it (port 443 or 6443) to this client?"
_TLS_ADVICE: Final = {
    "Missing Authority Key Identifier": "Python 3.13 checks certificates more strictly by default; meshlb does not, so a library or a "
    "proxy in between does: give the cluster's CA the key identifier, or unset ssl.VERIFY_X509_STRICT there",
    "Basic Constraints of CA cert not marked critical": "Python 3.13 checks certificates more strictly by default; meshlb does not, so "
    "a library or a proxy in between does: mark the CA's basic constraints as critical, or unset ssl.VERIFY_X509_STRICT there",
    "certificate has expired": "the server's certificate, or its CA's, is over: renew it, or set this machine's clock",
    "certificate is not yet valid": "the server's certificate begins in the future: set this machine's clock",
    "Hostname mismatch": "the certificate is not for this name: name the server as the certificate does, or set tls-server-name",
    "IP address mismatch": "the certificate is not for this address: name the server as the certificate does, or set tls-server-name",
    "CERTIFICATE_VERIFY_FAILED": "the certificate is not signed by the CA that was given (ca.crt, certificate-authority): the CA of "
    "another cluster, one that was rotated, or a proxy that answers in the server's name",
}


def _number(items: Sized, noun: str) -> str:
    count = len(items)
    return f"{count} {noun}{'' if count == 1 else 's'}"
