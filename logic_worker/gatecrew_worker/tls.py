"""Mutual TLS of a worker: only gateways may link, and they know that it serves what it says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from .status import WorkerError

if TYPE_CHECKING:
    import grpc.aio

GATEWAY_NAME = b"gatecrew-gateway"  # DNS name in the certificate of every gateway


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """Paths of PEM files. They are read anew for every connection, so a renewed certificate needs no restart.

    Args:
        cert: the worker's own, with the name of its service as a DNS name.
        key: of that certificate.
        ca: who signs the gateways' certificates; theirs say `gatecrew-gateway`.
    """

    cert: str
    key: str
    ca: str

    def _credentials(self) -> grpc.ServerCredentials:
        """Raises:
        WorkerError: a file can't be read, or there is no certificate in it.
        """
        return grpc.dynamic_ssl_server_credentials(self._read(), self._read, require_client_authentication=True)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        contents = []
        for path in (self.key, self.cert, self.ca):
            try:
                contents.append(Path(path).read_bytes())
            except OSError as error:
                raise WorkerError(f"TLS: {path!r}: {error.strerror}") from None
        key, cert, ca = contents
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca)


def is_gateway(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    """Whether the other end's certificate is a gateway's."""
    return GATEWAY_NAME in context.auth_context().get("x509_subject_alternative_name", ())
