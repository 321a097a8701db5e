"""The commands: run the server, prepare its database, maintain its data, print its documents."""

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, Any, TypeVar

import typer
from alembic.config import main as run_alembic
from pydantic import ValidationError

from chat_app import logs, migrations, tracing
from chat_app.cli import inspection, operate
from chat_app.cli.environment import add_demo_data, environment, prepare_tables, upgrade, with_database
from chat_app.cli.process import Refusal, run_and_exit
from chat_app.cli.seed import DEMO_PASSWORD, DEMO_USERS
from chat_app.cli.serving import addresses, listener, serve, shared_metrics
from chat_app.cli.workers import supervise
from chat_app.database import Database
from chat_app.main import create_api
from chat_app.media.storage import Storage
from chat_app.models.users import UserCreate
from chat_app.settings import Settings, get_settings, use_settings
from chat_app.web import asyncapi as events_api

Result = TypeVar("Result")

cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@cli.callback()
def prepare() -> None:
    """A chat backend. All its settings are environment variables that begin with CHAT_."""
    # For the line that names a wrong setting.
    logs.configure("INFO", os.environ.get("CHAT_LOG_FORMAT"))
    try:
        settings = get_settings()
    except ValidationError as error:
        faults = {f"CHAT_{fault['loc'][0]}".upper(): fault["msg"] for fault in error.errors(include_input=False)}
        raise Refusal("\n".join(f"{name}: {faults[name].removeprefix('Value error, ')}" for name in faults)) from None
    logs.configure(settings.log_level, settings.log_format, settings.log_lines)


@cli.command()
def run(
    host: Annotated[str | None, typer.Option(help="Where to listen, instead of CHAT_HOST.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Where to listen, instead of CHAT_PORT.")] = None,
    seed: Annotated[bool, typer.Option(help="Write demo data, in development.")] = True,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many processes; several need CHAT_BUS_URL.")] = 1,
) -> None:
    """Start the server. Without their URLs, development also starts PostgreSQL, and Valkey for several workers."""
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    settings = use_settings(get_settings().model_copy(update=given))
    if unsafe := settings.unsafe():
        raise Refusal("\n".join(unsafe))
    try:
        tracing.configure()
    except ImportError as error:
        raise Refusal(f"{tracing.ENDPOINT} is set: install requirements.txt for {error.name}, or unset it") from None
    if settings.rate_limits == "load-test":
        logs.log.warning("nothing is limited, as CHAT_RATE_LIMITS is load-test: any client can flood this server")
    has_demo = seed and settings.is_development
    with shared_metrics(workers), listener(settings) as listening, environment(workers=workers) as settings:
        prepare_tables()
        if has_demo:
            add_demo_data()
        if workers > 1:
            supervise(workers, settings, listening, partial(_announce, settings, has_demo))
        else:
            serve(settings, listening, partial(_announce, settings, has_demo))


@cli.command()
def migrate() -> None:
    """Upgrade the tables of the database to the newest revision."""
    with environment():
        upgrade()
    typer.echo("The tables are up to date.")


@cli.command()
def seed() -> None:
    """Write the demo data, after the migrations. A second time nothing happens."""
    if not get_settings().is_development:
        raise Refusal("The demo users have a public password: they are for development only")
    with environment():
        upgrade()
        add_demo_data()
    typer.echo("The demo data are there.")


@cli.command()
def check() -> None:
    """Check everything that the server needs. The status is 1 if something is wrong."""

    async def report(database: Database) -> bool:
        faults = {part: fault async for part, fault in operate.check(get_settings(), database)}
        typer.echo("\n".join(f"{part:12}{fault or 'ok'}" for part, fault in faults.items()))
        return any(faults.values())

    raise typer.Exit(_on_database(report, is_checked=False))


@cli.command()
def create_user(phone: str, name: Annotated[str, typer.Option()] = "New user") -> None:
    """Register a user. The password is prompted for, or read from a line of stdin."""
    is_terminal = sys.stdin.isatty()
    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if is_terminal else input()
    try:
        data = UserCreate(phone=phone, password=password, name=name)
    except ValidationError as error:
        raise Refusal("\n".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors())) from None
    typer.echo(_on_database(lambda database: operate.create_user(database, data)))


@cli.command()
def revoke_sessions(user: Annotated[str, typer.Argument(help="A user's id or phone.")]) -> None:
    """Log a user out everywhere. Connections close within seconds."""
    ended = _on_database(lambda database: operate.revoke_sessions(database, user))
    typer.echo(f"Sessions ended: {ended}")


@cli.command()
def verify() -> None:
    """Find rows and files that contradict each other, and print each. The status is 1 if there are any."""
    raise typer.Exit(_print_all("Violations", inspection.verify) > 0)


@cli.command()
def sweep(delete: Annotated[bool, typer.Option("--delete", help="Delete them too.")] = False) -> None:
    """List files without a row, and attachments that were never sent, both older than a day."""
    _print_all("Deleted" if delete else "Found", partial(inspection.sweep, is_deleting=delete))


@cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def alembic(context: typer.Context) -> None:
    """Run alembic on the database, for example: revision --autogenerate -m "Add polls"."""
    with environment():
        run_alembic(["-c", str(migrations.CONFIG_FILE), *context.args], prog="alembic")


@cli.command()
def openapi() -> None:
    """Print the document of the HTTP API."""
    _print_json(create_api(get_settings()).openapi())


@cli.command()
def asyncapi() -> None:
    """Print the document of the Socket.IO API."""
    _print_json(events_api.asyncapi())


def _on_database(use: Callable[[Database], Awaitable[Result]], *, is_checked: bool = True) -> Result:
    with environment(is_checked=is_checked, may_start=False):
        return with_database(use)


def _print_all(title: str, find: Callable[[Database, Storage], AsyncIterator[str]]) -> int:
    """Print each finding at once, and at last their number. Returns it."""

    async def report(database: Database) -> int:
        count = 0
        storage = Storage(get_settings().media_location)
        async for line in find(database, storage):
            typer.echo(line)
            count += 1
        await storage.close()
        return count

    count = _on_database(report)
    typer.echo(f"{title}: {count}")
    return count


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _announce(settings: Settings, has_demo: bool) -> None:
    if not settings.is_development:
        return  # a collector reads stdout too, and the line `started` is in the log
    typer.echo(addresses(settings))
    if has_demo:
        typer.echo(f"  Demo users  password {DEMO_PASSWORD}")
        for user in DEMO_USERS:
            typer.echo(f"              {user['phone']}  {user['name']}")
    typer.echo("Ready; Ctrl-C ends it.")


def main() -> None:
    """Run the command that the arguments name."""
    # A signal is the usual end of the server. Any other command was interrupted.
    run_and_exit(cli, status_on_signal=0 if sys.argv[1:2] == ["run"] else 1)
