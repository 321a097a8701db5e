"""The command line: run the server, prepare its database, print its documents.

What reads the settings when it is imported is imported inside the commands, when the settings are known to be good.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import asyncpg
import typer
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError

from chat_app import logs, server, startup
from chat_app import workers as several
from chat_app.addresses import database_fault
from chat_app.embedded import EmbeddedServerError
from chat_app.errors import ChatError
from chat_app.settings import Settings, get_settings, use_settings
from chat_app.startup import Refusal

if TYPE_CHECKING:
    from chat_app.database import Database
    from chat_app.media.storage import Storage

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def prepare() -> None:
    """A chat backend. All its settings are environment variables that begin with CHAT_."""
    try:
        settings = get_settings()
    except ValidationError as error:
        found = error.errors(include_input=False)
        names = ["_".join(["CHAT", *map(str, problem["loc"])]).upper() for problem in found]
        texts = [problem["msg"].removeprefix("Value error, ") for problem in found]
        raise Refusal("\n".join(map(": ".join, zip(names, texts, strict=True)))) from None
    logs.configure(settings.log_level, settings.log_format)


@cli.command()
def run(
    host: Annotated[str | None, typer.Option(help="Where to listen, instead of CHAT_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Where to listen, instead of CHAT_PORT.")] = None,
    seed: Annotated[bool, typer.Option(help="Write demo data, in development.")] = True,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many processes; several need CHAT_BUS_URL.")] = 1,
) -> None:
    """Start the server; in development, what it is not given, PostgreSQL and for several workers Valkey, it starts."""
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    settings = use_settings(get_settings().model_copy(update=given))
    if unsafe := settings.unsafe():
        raise Refusal("\n".join(unsafe))
    if settings.rate_limits == "load-test":
        logs.log.warning("CHAT_RATE_LIMITS is load-test: nothing is limited, anybody can flood this server")
    needed = startup.servers(settings, with_bus=workers > 1)
    with server.listener(settings) as listening, needed as settings:
        has_demo = seed and settings.is_development
        if settings.is_development:
            startup.upgrade()
        else:
            startup.check_is_current(settings)
        if has_demo:
            startup.add_demo_data(settings)
        if workers > 1:
            several.serve(workers, settings, listening, lambda: _announce(settings, has_demo))
        from chat_app.api.health import ending
        from chat_app.main import create_app

        server.serve(create_app(settings), listening, lambda: _announce(settings, has_demo), ending.set)


@cli.command(hidden=True)
def worker(listening: int, ready: int) -> None:
    """One of several processes of `run --workers`: these are the descriptors that it gives."""
    several.end_with_parent()
    from chat_app.api.health import ending
    from chat_app.main import create_app

    with socket.socket(fileno=listening) as inherited:
        server.serve(create_app(get_settings()), inherited, lambda: several.report_ready(ready), ending.set)


@cli.command()
def migrate() -> None:
    """Bring the database's tables to the newest revision."""
    with startup.database(get_settings()):
        startup.upgrade()
    typer.echo("The tables are up to date.")


@cli.command()
def seed() -> None:
    """Write the demo data, after the migrations; a second time nothing happens."""
    if not get_settings().is_development:
        raise Refusal("Everybody knows the demo users' password: they are for development only")
    with startup.database(get_settings()) as settings:
        startup.upgrade()
        startup.add_demo_data(settings)
    typer.echo("The demo data are there.")


@cli.command()
def check() -> None:
    """Tell whether all is there that the server needs; the status is 1 if something is wrong."""
    from chat_app import operations

    async def report(database: "Database") -> bool:
        found = [checked async for checked in operations.check(get_settings(), database)]
        for part, wrong in found:
            typer.echo(f"{part:12}{wrong or 'ok'}")
        return any(wrong for _, wrong in found)

    with startup.database(get_settings(), is_checked=False) as settings:
        _exit_if(startup.with_database(settings, report))


@cli.command()
def create_user(phone: str, name: Annotated[str, typer.Option()] = "New user") -> None:
    """Register somebody; the password is asked for, or read from a line of stdin."""
    from chat_app import operations
    from chat_app.models.users import UserCreate

    is_asked = sys.stdin.isatty()
    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if is_asked else input()
    try:
        data = UserCreate(phone=phone, password=password, name=name)
    except ValidationError as error:
        raise Refusal("\n".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())) from None
    with startup.database(get_settings()) as settings:
        typer.echo(startup.with_database(settings, lambda database: operations.create_user(database, data)))


@cli.command()
def revoke_sessions(who: Annotated[str, typer.Argument(help="A user's id or phone.")]) -> None:
    """Log a user out everywhere; connections close within seconds."""
    from chat_app import operations

    with startup.database(get_settings()) as settings:
        ended = startup.with_database(settings, lambda database: operations.revoke_sessions(database, who))
    typer.echo(f"Sessions ended: {ended}")


@cli.command()
def verify() -> None:
    """Look for rows and files that contradict each other, and tell each; the status is 1 if there are any."""
    from chat_app import inspection

    _exit_if(_print_all("Violations", inspection.verify))


@cli.command()
def sweep(delete: Annotated[bool, typer.Option("--delete", help="Delete them too.")] = False) -> None:
    """List files that no row refers to, and attachments that were never sent, both older than a day."""
    from chat_app import inspection

    _print_all("Deleted" if delete else "Found", partial(inspection.sweep, is_deleting=delete))


@cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def alembic(context: typer.Context) -> None:
    """Run alembic on the database, such as: revision --autogenerate -m "Add polls"."""
    from alembic.config import main as run_alembic

    from chat_app.migrations import CONFIG_FILE

    with startup.database(get_settings()):
        run_alembic(["-c", str(CONFIG_FILE), *context.args], prog="alembic")


@cli.command()
def openapi() -> None:
    """Print the document of the HTTP API."""
    from chat_app.main import create_api

    _print_json(create_api(get_settings()).openapi())


@cli.command()
def asyncapi() -> None:
    """Print the document of the Socket.IO API."""
    from chat_app.web.asyncapi import asyncapi

    _print_json(asyncapi())


def _print_all(what: str, find: "Callable[[Database, Storage], AsyncIterator[str]]") -> int:
    """Print what is found as it is found. Returns how many there were."""
    from chat_app.media.storage import Storage

    async def report(database: "Database") -> int:
        count = 0
        storage = Storage(get_settings().media_location)
        async for line in find(database, storage):
            typer.echo(line)
            count += 1
        await storage.close()
        return count

    with startup.database(get_settings()) as settings:
        count = startup.with_database(settings, report)
    typer.echo(f"{what}: {count}")
    return count


def _exit_if(is_wrong: object) -> None:
    if is_wrong:
        raise typer.Exit(1)


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _announce(settings: Settings, has_demo: bool) -> None:
    from chat_app.seed import DEMO_PASSWORD, DEMO_USERS

    typer.echo(server.addresses(settings))
    if has_demo:
        typer.echo(f"  Demo users  password {DEMO_PASSWORD}")
        for user in DEMO_USERS:
            typer.echo(f"              {user.phone}  {user.name}")
    typer.echo("Ready; Ctrl-C ends it.")


def main() -> None:
    """Run a command; what is wrong with the surroundings is told in a line, not with a traceback."""
    # The server is meant to be ended by a signal; anything else was cut short.
    status_on_signal = 0 if sys.argv[1:2] in (["run"], ["worker"]) else 1
    server.end_on_signals(status_on_signal)
    status: str | int | None = 0
    try:
        cli()
    except SystemExit as end:
        status = end.code
    except asyncio.CancelledError:
        status = status_on_signal
    except (asyncpg.PostgresError, DBAPIError) as error:
        status = database_fault(error)
    except (Refusal, EmbeddedServerError, several.WorkerFailed, ChatError, OSError) as error:
        status = str(error) or repr(error)
    _end(status)


def _end(status: str | int | None) -> NoReturn:
    # Not by the interpreter's own way: a thread of the store of files that is still at work would make it abort.
    with suppress(OSError):
        if isinstance(status, str):
            sys.stderr.write(f"{status}\n")
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(1 if isinstance(status, str) else status or 0)


if __name__ == "__main__":
    main()
