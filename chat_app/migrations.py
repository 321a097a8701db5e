"""Upgrades the database schema, and checks whether it is current."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from chat_app.database import Database

CONFIG_FILE = Path(__file__).resolve().parent.parent / "alembic.ini"

# The key of the advisory lock of a migration: any number that nothing else uses.
LOCK = 7_240_511


def config(url: str | None = None) -> Config:
    """The configuration of Alembic. Without a URL it uses the database of the settings."""
    return Config(CONFIG_FILE, attributes={"url": url})


def upgrade(url: str | None = None) -> None:
    """Apply every missing revision. Not for use inside an event loop. Several processes may call it at once."""
    command.upgrade(config(url), "head")


async def is_current(database: Database) -> bool:
    """Whether no migration is missing. Newer revisions are fine, as a deploy runs old and new code at once.

    Raises Unavailable.
    """
    async with database.transaction() as db:
        heads = await (await db.connection()).run_sync(lambda raw: MigrationContext.configure(raw).get_current_heads())
    applied, (newest, known) = set(heads), _revisions()
    return bool(applied) and (newest <= applied or not applied <= known)


@cache
def _revisions() -> tuple[set[str], set[str]]:
    """The newest revisions of this code, and all of them."""
    scripts = ScriptDirectory.from_config(config())
    return set(scripts.get_heads()), {script.revision for script in scripts.walk_revisions()}
