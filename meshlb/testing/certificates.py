"""A certificate authority for the fake cluster, and certificates for its API server and its pods. Needs trustme, imported late."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meshlb.testing.errors import FakeClusterError


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Files in PEM: the private key, and the certificate with its chain."""

    key: Path
    certificate: Path


class CertificateAuthority:
    """Made once a cluster; ``ca_file`` is what clients must trust."""

    def __init__(self, directory: Path) -> None:
        try:
            import trustme
        except ImportError as error:
            raise FakeClusterError("tls=True needs the package trustme: pip install 'meshlb[test]'") from error
        self._ca = trustme.CA()
        self._directory = directory
        self.ca_file = directory / "ca.crt"
        self._ca.cert_pem.write_to_path(str(self.ca_file))

    def issue(self, stem: str, names: Sequence[str]) -> KeyPair:
        """A server certificate for these DNS names and addresses, in files called after ``stem``."""
        issued = self._ca.issue_cert(*names)
        pair = KeyPair(self._directory / f"{stem}.key", self._directory / f"{stem}.crt")
        issued.private_key_pem.write_to_path(str(pair.key))
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return pair

    def server_context(self, stem: str, names: Sequence[str]) -> ssl.SSLContext:
        pair = self.issue(stem, names)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        return context
