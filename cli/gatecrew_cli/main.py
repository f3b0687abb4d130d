"""The entry: finds the sub-command, and turns what the user can mend into one line and exit code 2.

Sub-commands are imported when they are called: `gatecrew --help` loads neither grpc nor pydantic, and the process that
supervises others never loads grpc at all.
"""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

import click

from gatecrew import __version__

from .errors import Failed, UserError
from .ready import complain

# Each is commands/NAME.py, with underscores for dashes, and has a click command called `command`; here is its line in
# the overview.
_COMMANDS = {
    "up": "Everything on one machine: registry, gateways and workers.",
    "gateway": "One gateway: holds the clients' connections.",
    "worker": "One worker: serves module:object to the gateways.",
    "run": "Worker programs of any language: registered, kept alive.",
    "registry": "The embedded registry, which speaks Consul's HTTP API.",
    "call": "Send one packet to a gateway and print the answer.",
    "status": "Who is there: gateways, listeners, links, workers.",
    "dead-letters": "The packets that took workers with them: see, replay.",
    "health": "Ask one worker or gateway whether it serves.",
    "new": "Write a worker to begin with, in the language you choose.",
    "conformance": "Does a worker, in any language, keep the contract?",
    "bench": "Load a gateway and print rates and latencies.",
    "config": "Check a settings file, or show what is in force.",
}


class _Overview(click.Group):
    """A group that knows its commands' names and imports only the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f".commands.{cmd_name.replace('-', '_')}", __package__).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            near = get_close_matches(args[0], _COMMANDS, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_COMMANDS)}"
            raise UserError(f"no command {args[0]!r}: {hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Overview,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="A first cluster: gatecrew up your_module:worker --workers 3 --listen 127.0.0.1:7000",
)
@click.version_option(__version__, prog_name="gatecrew", message="%(prog)s %(version)s")
def _gatecrew() -> None:
    """A gate and its crew: a TCP gateway that never drops a client because its logic crashed."""


def _one_line(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    return f"{message.rstrip('.')} (see {context.command_path} --help)"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 the answer is no, 2 bad input, 130 interrupted."""
    # What grpc itself writes to stderr is said again, better, by our own log or error line.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        code = _gatecrew.main(args=arguments, prog_name="gatecrew", standalone_mode=False)
    except (UserError, Failed) as error:
        complain(str(error))
        code = error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        code = 2
    except click.ClickException as error:
        complain(_one_line(error))
        code = 2
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`). Python would complain once more when it flushes at exit.
        sys.stdout = None
        code = 1
    sys.exit(code if isinstance(code, int) else 0)
