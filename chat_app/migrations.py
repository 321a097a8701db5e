"""The state of the database's tables: bring it to the newest revision, or tell whether it is there."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from chat_app.database import Database

CONFIG_FILE = Path(__file__).resolve().parent.parent / "alembic.ini"

# Whoever holds it in the database migrates it. Any number will do that nothing else takes.
LOCK = 7_240_511


def config(url: str | None = None) -> Config:
    """Alembic's configuration; without a URL it uses the database of the settings."""
    made = Config(CONFIG_FILE)
    made.attributes["url"] = url
    return made


def upgrade(url: str | None = None) -> None:
    """Apply every revision that is missing. Not inside an event loop; several processes may do this at once."""
    command.upgrade(config(url), "head")


async def is_current(database: Database) -> bool:
    """Whether no migration is missing; newer ones than this code knows are fine: deploys run old and new at once.

    Raises Unavailable.
    """
    async with database.transaction() as db:
        applied = await (await db.connection()).run_sync(_applied)
    newest, known = _revisions()
    return bool(applied) and (newest <= applied or not applied <= known)


def _applied(connection: Connection) -> set[str]:
    return set(MigrationContext.configure(connection).get_current_heads())


@cache
def _revisions() -> tuple[set[str], set[str]]:
    """The newest revisions of this code, and all of them."""
    scripts = ScriptDirectory.from_config(config())
    return set(scripts.get_heads()), {script.revision for script in scripts.walk_revisions()}
