"""`gatecrew run`: replicas of one worker program, until a signal, or until all have given up."""

import asyncio
import contextlib

from gatecrew_registry import Registry

from .console import Console
from .errors import Failed, UserError
from .health_watch import HealthWatch
from .loop import stop_requested
from .ports import join, reason_not_to_bind
from .registry_access import advertised_host, registry_settings
from .replica import Program, Replica


async def run_replicas(
    service: str,
    replicas: int,
    command: tuple[str, ...],
    commands: str,
    listen: tuple[str, int],
    advertise: str | None,
    stop_s: float,
    unresponsive_after_s: float,
) -> None:
    """Who is silent for `unresponsive_after_s` seconds is killed, to start again; 0: never.

    A registry that is down, at start too, is no reason not to run: they are registered when it is back.

    Raises:
        UserError: the environment says nonsense of the registry, or one can't listen there.
        Failed: every replica was in a crash loop.
    """
    host, port = listen
    for number in range(replicas):
        if reason := reason_not_to_bind(host, port and port + number):
            raise UserError(f"{join(host, port and port + number)}: {reason}; choose another with --listen")
    settings = registry_settings()
    program = Program(
        service=service,
        command=command,
        commands=commands,
        host=host,
        advertise=advertise or advertised_host(host, settings),
        stop_s=stop_s,
    )
    names = [f"{service}-{number}" for number in range(1, replicas + 1)]
    with contextlib.closing(Console(names)) as console:
        async with Registry(settings) as registry, contextlib.aclosing(HealthWatch(unresponsive_after_s)) as health:
            taken: set[int] = set()
            running = [
                Replica(name, program, port and port + number, taken, registry, health, console)
                for number, name in enumerate(names)
            ]
            await _until_stopped(running, service, console)
        if all(each.gave_up for each in running):
            raise Failed(f"every worker of {service} ended again and again: gave up")
        console.say("stopped")


async def _until_stopped(running: list[Replica], service: str, console: Console) -> None:
    def kill() -> None:
        for each in running:
            each.kill()

    stop = stop_requested(kill)
    stopping = asyncio.create_task(stop.wait())
    telling = asyncio.create_task(_tell_when_ready(running, service, console))
    everyone = asyncio.gather(*(each.task for each in running))
    try:
        await asyncio.wait((stopping, everyone), return_when=asyncio.FIRST_COMPLETED)
        if not everyone.done():
            console.say("stopping")
    finally:
        telling.cancel()
        stopping.cancel()
        for each in running:
            each.stop()
        await everyone


async def _tell_when_ready(replicas: list[Replica], service: str, console: Console) -> None:
    for each in replicas:
        await each.started.wait()
    console.say(f"ready: {len(replicas)} of {service}")
