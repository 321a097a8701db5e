"""The command line: run the server, prepare its database, print its documents.

What reads the settings when it is imported is imported inside the commands, when the settings are known to be good.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import asyncpg
import typer
from pydantic import SecretStr, ValidationError
from rich.console import Console

from chat_app import logs, server
from chat_app.embedded import EmbeddedPostgresError, embedded_postgres
from chat_app.settings import Settings, get_settings, use_settings

if TYPE_CHECKING:
    from chat_app.db import Database

Result = TypeVar("Result")

# Progress goes to stderr: stdout is for what a command prints.
console = Console(stderr=True)
cli = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


class Refusal(Exception):
    """What was asked can't be done here; the text says why and what to do."""


@cli.callback()
def prepare(context: typer.Context) -> None:
    """A chat backend. All its settings are environment variables that begin with CHAT_."""
    try:
        settings = get_settings()
    except ValidationError as error:
        wrong = [f"CHAT_{'_'.join(map(str, problem['loc'])).upper()}: {problem['msg']}" for problem in error.errors()]
        raise Refusal("\n".join(wrong)) from error
    logs.configure(settings.log_level, settings.log_format)
    server.end_on_signals(0 if context.invoked_subcommand == "run" else 1)


@cli.command()
def run(
    host: Annotated[str | None, typer.Option(help="Where to listen, instead of CHAT_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Where to listen, instead of CHAT_PORT.")] = None,
    seed: Annotated[bool, typer.Option(help="Write demo data, in development.")] = True,
) -> None:
    """Start the server; without CHAT_DATABASE_URL with a PostgreSQL of its own."""
    given = {name: value for name, value in {"host": host, "port": port}.items() if value is not None}
    settings = use_settings(get_settings().model_copy(update=given))
    with server.listener(settings) as listening, _database(settings) as settings:
        if settings.is_development:
            _upgrade()
        else:
            _check_is_current(settings)
        if seed and settings.is_development:
            _seed(settings)
        from chat_app.main import create_app

        server.serve(create_app(settings), listening, lambda: _announce(settings, seed))


@cli.command()
def migrate() -> None:
    """Bring the database's tables to the newest revision."""
    with _database(get_settings()):
        _upgrade()


@cli.command()
def seed() -> None:
    """Write the demo data, after the migrations; a second time nothing happens."""
    if not get_settings().is_development:
        raise Refusal("Everybody knows the demo users' password: they are for development only")
    with _database(get_settings()) as settings:
        _upgrade()
        _seed(settings)


@cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def alembic(context: typer.Context) -> None:
    """Run alembic on the database, such as: revision --autogenerate -m "Add polls"."""
    from alembic.config import main as run_alembic

    from chat_app.migrations import CONFIG_FILE

    with _database(get_settings()):
        run_alembic(["-c", str(CONFIG_FILE), *context.args], prog="alembic")


@cli.command()
def openapi() -> None:
    """Print the document of the HTTP API."""
    from chat_app.main import create_api

    _print_json(create_api(get_settings()).openapi())


@cli.command()
def asyncapi() -> None:
    """Print the document of the Socket.IO API."""
    from chat_app.web.documents import asyncapi

    _print_json(asyncapi())


def _print_json(document: dict[str, Any]) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


@contextmanager
def _database(settings: Settings) -> Iterator[Settings]:
    """The settings with a database: the one that they name, else one that is started here."""
    if settings.database_url:
        yield settings
        return
    if not settings.is_development:
        raise Refusal("CHAT_DATABASE_URL is required in production")
    with console.status("Starting PostgreSQL …") as status, embedded_postgres(settings.data_dir / "postgres") as url:
        status.stop()
        yield use_settings(settings.model_copy(update={"database_url": SecretStr(url)}))


def _upgrade() -> None:
    from chat_app import migrations

    with console.status("Bringing the tables up to date …"):
        migrations.upgrade()


def _check_is_current(settings: Settings) -> None:
    from chat_app.migrations import is_current

    if not _with_database(settings, is_current):
        raise Refusal("The database lacks migrations: run `python -m chat_app migrate` first")


def _seed(settings: Settings) -> None:
    from chat_app.seed import seed

    with console.status("Writing demo data …"):
        _with_database(settings, seed)


def _with_database(settings: Settings, use: "Callable[[Database], Awaitable[Result]]") -> Result:
    from chat_app.db import Database

    async def call() -> Result:
        database = Database(settings.asyncpg_url)
        try:
            return await use(database)
        finally:
            await database.close()

    return asyncio.run(call())


def _announce(settings: Settings, has_demo: bool) -> None:
    from chat_app.seed import DEMO_PASSWORD, DEMO_USERS

    typer.echo(server.addresses(settings))
    if has_demo and settings.is_development:
        typer.echo(f"  Demo users, password {DEMO_PASSWORD}")
        for user in DEMO_USERS:
            typer.echo(f"    {user.phone}  {user.name}")


def main() -> None:
    """Run a command; what is wrong with the surroundings is told in a line, not with a traceback."""
    try:
        cli()
    except (Refusal, EmbeddedPostgresError, OSError, asyncpg.PostgresError) as error:
        sys.exit(str(error) or repr(error))


if __name__ == "__main__":
    main()
