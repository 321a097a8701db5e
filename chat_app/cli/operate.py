"""What an operator does beside running the server: check its environment, create users, end sessions."""

from collections.abc import AsyncIterator
from uuid import UUID

from sqlmodel import col, text

from chat_app.addresses import bus_fault, database_fault
from chat_app.auth import UserManager, plain_phone
from chat_app.crud import sessions
from chat_app.crud.users import access_user
from chat_app.database import Database
from chat_app.errors import ChatError
from chat_app.live.bus import connect
from chat_app.media.storage import Storage
from chat_app.migrations import is_current
from chat_app.models import User
from chat_app.models.users import UserCreate
from chat_app.settings import Settings


async def check(settings: Settings, database: Database) -> AsyncIterator[tuple[str, str | None]]:
    """Check each part that the server needs, also after a failure. Yields the part and its fault."""
    for part in ("settings", "database", "migrations", "media", *(("bus",) if settings.bus_url else ())):
        try:
            fault = await find_fault(part, settings, database)
        except Exception as error:
            fault = _explain(part, error)
        yield part, fault


async def find_fault(part: str, settings: Settings, database: Database) -> str | None:
    """Use a part that the server needs. Returns its fault, or raises what the use raises."""
    match part:
        case "settings":
            return "; ".join(settings.unsafe())
        case "database":
            async with database.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        case "migrations" if not await is_current(database):
            return "some are missing: run `python -m chat_app migrate`"
        case "media":
            await Storage(settings.media_location).check()
        case "bus" if settings.bus_url:
            async with connect(settings.bus_url.get_secret_value()) as client:
                await client.ping()
    return None


def _explain(part: str, error: Exception) -> str:
    if explain := {"database": database_fault, "migrations": database_fault, "bus": bus_fault}.get(part):
        return explain(error)
    # The text of a ChatError is for clients. Its cause says more.
    cause = error.__cause__ if isinstance(error, ChatError) else error
    return (str(cause) or repr(cause)).partition("\n")[0]


async def create_user(database: Database, data: UserCreate) -> UUID:
    """Register a user. Raises PhoneTaken."""
    async with database.transaction() as db:
        return (await UserManager(db).create(data)).id


async def revoke_sessions(database: Database, id_or_phone: str) -> int:
    """End all sessions of a user. The nodes learn it from the database. Raises UserNotFound."""
    try:
        condition = col(User.id) == UUID(id_or_phone)
    except ValueError:
        condition = col(User.phone) == plain_phone(id_or_phone)
    async with database.transaction() as db:
        # With the user locked, a session that a login is committing now is ended too.
        user = await access_user(db, condition, lock=True)
        return await sessions.revoke_sessions(db, user.id)
