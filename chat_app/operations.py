"""What an operator does from the command line: check the surroundings, make users, end sessions."""

from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID

from sqlmodel import col, text

from chat_app.addresses import bus_fault, database_fault
from chat_app.auth import UserDatabase, UserManager, plain_phone
from chat_app.crud import sessions
from chat_app.crud.users import lock_user
from chat_app.database import Database
from chat_app.errors import ChatError, UserNotFound
from chat_app.live.bus import connect
from chat_app.media.storage import Storage
from chat_app.migrations import is_current
from chat_app.models import User
from chat_app.models.users import UserCreate
from chat_app.settings import Settings


class Checked(NamedTuple):
    part: str
    wrong: str | None


async def check(settings: Settings, database: Database) -> AsyncIterator[Checked]:
    """Try all that the server needs, whatever fails on the way."""
    for part in ("settings", "database", "migrations", "media", *(("bus",) if settings.bus_url else ())):
        try:
            wrong = await _find_fault(part, settings, database)
        except Exception as error:
            wrong = _fault(part, error)
        yield Checked(part, wrong or None)


async def _find_fault(part: str, settings: Settings, database: Database) -> str:
    match part:
        case "settings":
            return "; ".join(settings.unsafe())
        case "database":
            async with database.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        case "migrations":
            return "" if await is_current(database) else "some are missing: run `python -m chat_app migrate`"
        case "media":
            await Storage(settings.media_location).check()
        case "bus" if settings.bus_url:
            async with connect(settings.bus_url.get_secret_value()) as client:
                await client.ping()
    return ""


def _fault(part: str, error: Exception) -> str:
    if part in ("database", "migrations"):
        return database_fault(error)
    if part == "bus":
        return bus_fault(error)
    # Of those that clients are told, the cause says more.
    cause = error.__cause__ if isinstance(error, ChatError) else error
    return (str(cause) or repr(cause)).partition("\n")[0]


async def create_user(database: Database, data: UserCreate) -> UUID:
    """Register somebody. Raises PhoneTaken."""
    async with database.transaction() as db:
        return (await UserManager(UserDatabase(db)).create(data)).id


async def revoke_sessions(database: Database, who: str) -> int:
    """End all sessions of a user, named by id or phone; the nodes find it in the database. Raises UserNotFound."""
    try:
        is_meant = col(User.id) == UUID(who)
    except ValueError:
        is_meant = col(User.phone) == plain_phone(who)
    async with database.transaction() as db:
        # Locked: the session of a login that is being committed ends too.
        user = await lock_user(db, is_meant)
        if user is None:
            raise UserNotFound
        return await sessions.revoke_sessions(db, user.id)
