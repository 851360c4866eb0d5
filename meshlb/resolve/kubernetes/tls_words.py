"""What to do about a certificate that was not accepted: OpenSSL says what is wrong, rarely what would help.

Our own context verifies chain, dates and host name, and does not ask for ``VERIFY_X509_STRICT`` (see ``connections``). Where it is asked
for all the same (an OpenSSL configuration, a patched ``ssl``, a proxy's context), cluster CAs of EKS, older GKE and MicroK8s fail it.

Spec: RFC 5280 4.2.1; OpenSSL x509_txt.c for the words.
"""

from __future__ import annotations

from typing import Final

_STRICT: Final = (
    "Missing Authority Key Identifier",
    "Missing Subject Key Identifier",
    "CA cert does not include key usage extension",
    "Basic Constraints of CA cert not marked critical",
    "Path length given without key usage keyCertSign",
)
_ADVICE: Final = (
    ("Hostname mismatch", "the server's certificate is for another name: tls-server-name in the kubeconfig says which to expect"),
    ("IP address mismatch", "the server's certificate is for another address: tls-server-name in the kubeconfig says which name to expect"),
    ("certificate has expired", "the server's certificate, or its CA's, has to be renewed; or this host's clock is wrong"),
    ("certificate is not yet valid", "this host's clock is behind, or the certificate's is ahead"),
    ("self-signed certificate", "the configured CA did not sign the server's certificate: a proxy that intercepts TLS, or another cluster's CA"),
    ("self signed certificate", "the configured CA did not sign the server's certificate: a proxy that intercepts TLS, or another cluster's CA"),
    ("unable to get local issuer", "the configured CA did not sign the server's certificate: it was rotated, or it is another cluster's"),
    ("unable to get issuer", "the configured CA did not sign the server's certificate: it was rotated, or it is another cluster's"),
)  # fmt: skip


def tls_advice(text: str) -> str:
    """``; `` and what to do, for the text of an ``ssl.SSLError``; empty if there is nothing to add."""
    for words in _STRICT:
        if words.lower() in text.lower():
            return (
                "; VERIFY_X509_STRICT, Python's default from 3.13 on, asks the cluster's CA for an extension that it lacks: issue the CA "
                "anew with key identifiers and a critical keyUsage keyCertSign, or let no configuration of OpenSSL or ssl ask for strictness"
            )
    return next((f"; {advice}" for words, advice in _ADVICE if words in text), "")
