"""Who is behind an address. The registry only proposes addresses; with mutual TLS a certificate decides.

A worker of the service `chat` must have a certificate of the CA with the DNS name `chat`: that is what is checked, not
the host that the registry names, so that whoever may write to the registry, or has another service's certificate, gets
no packet. The gateway's own certificate says `gatecrew-gateway`, which workers check.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio

from gatecrew_registry import Entry

from ..config import ConfigError, GatewayConfig


class Trust:
    """Opens channels to workers. The files are read for every new connection, so a renewed certificate needs no
    restart.

    Raises:
        ConfigError: a file can't be read.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self._files = {key: getattr(config, key) for key in ("worker_ca", "worker_cert", "worker_key")}
        self.is_tls = bool(config.worker_ca)
        if self.is_tls:
            self._read()

    def open(self, entry: Entry, options: Sequence[tuple[str, object]]) -> grpc.aio.Channel:
        """A channel to the worker.

        Raises:
            ConfigError: a file can't be read.
        """
        if not self.is_tls:
            return grpc.aio.insecure_channel(entry.address, options=options)
        ca, cert, key = self._read()
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        name = ("grpc.ssl_target_name_override", entry.service)
        return grpc.aio.secure_channel(entry.address, credentials, options=(*options, name))

    def _read(self) -> list[bytes]:
        contents = []
        for key, path in self._files.items():
            try:
                contents.append(Path(path).read_bytes())
            except OSError as error:
                raise ConfigError("gateway", key, f"{path!r}: {error.strerror}") from None
        return contents
