"""The life of a worker process: register, say where it listens, serve until told to stop."""

from contextlib import nullcontext

from gatecrew_registry import Registry
from gatecrew_worker import TLS, Worker, WorkerError, serve

from . import ready
from .errors import UserError
from .registry_access import advertised_host, registry_settings


async def serve_worker(
    worker: Worker, listen: tuple[str, int], advertise: str | None, register: bool, tls: TLS | None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        UserError: the address can't be had, or a certificate can't be read.
    """
    host, port = listen
    settings = registry_settings() if register else None
    if settings is not None and advertise is None:
        advertise = advertised_host(host, settings)
    async with nullcontext() if settings is None else Registry(settings) as registry:
        try:
            await serve(
                worker,
                host,
                port,
                registry=registry,
                advertise_host=advertise or "",
                tls=tls,
                on_ready=lambda address: ready.announce("worker", service=worker.service, address=address),
            )
        except WorkerError as error:
            raise UserError(str(error)) from None
