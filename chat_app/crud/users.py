"""Profiles: reading them, finding people, editing one's own."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from sqlalchemy import false, func, or_
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from chat_app.crud.presence import list_contacts
from chat_app.database import Db, Transaction
from chat_app.errors import UsernameTaken, UserNotFound
from chat_app.events import UsersChanged, record
from chat_app.models import User
from chat_app.models.sessions import Actor
from chat_app.models.users import UserBrief, UserLookup, UserMe, UserRead, UserUpdate, brief, profile


async def get_me(db: Transaction, actor: Actor) -> UserMe:
    """One's own account: the only place where a phone is told."""
    return profile(await _access_user(db, actor.id), UserMe)


async def update_me(db: Transaction, actor: Actor, data: UserUpdate) -> UserMe:
    """Change what was sent. Raises UsernameTaken."""
    user = await _access_user(db, actor.id)
    former_name = user.name
    user.sqlmodel_update(data.model_dump(exclude_unset=True))
    try:
        await db.flush()
    except IntegrityError as error:
        raise UsernameTaken from error
    if user.name != former_name:
        await record_user(db, user)
    return profile(user, UserMe)


async def record_user(db: Transaction, user: User) -> None:
    """The name or picture has changed: for private peers, and for members who have a chat with the user active."""
    event = UsersChanged(users=[brief(user.id, user.name, user.avatar_key)])
    peers, members = await list_contacts(db, user.id)
    if peers:
        record(db, event, dict.fromkeys(peers, 0))
    for chat_id, user_ids in members.items():
        record(db, event, dict.fromkeys(user_ids, 0), chat_id)


async def get_user(db: Transaction, user_id: UUID) -> UserRead:
    """Anybody's public profile. Raises UserNotFound."""
    return profile(await _access_user(db, user_id), UserRead)


async def lookup_user(db: Transaction, data: UserLookup) -> UserRead:
    """The profile behind a phone number that the asker knows already. Raises UserNotFound."""
    user = (await db.exec(select(User).where(User.phone == data.phone))).first()
    if user is None:
        raise UserNotFound
    return profile(user, UserRead)


async def search_users(db: Transaction, *, query: str | None, ids: Sequence[UUID] | None, limit: int) -> list[UserRead]:
    """Users whose name or username begins so or is alike, or by ids; never by phone."""
    statement = select(User)
    if ids is not None:
        statement = statement.where(col(User.id).in_(ids))
        limit = len(ids)
    if query is not None:
        name, username, wanted = func.lower(User.name), func.lower(User.username), query.lower()
        begins = or_(name.startswith(wanted, autoescape=True), username.startswith(wanted, autoescape=True))
        alike = or_(name.op("%")(wanted), username.op("%")(wanted))
        statement = statement.where(or_(begins, name.contains(f" {wanted}", autoescape=True), alike))
        closeness = func.greatest(func.similarity(name, wanted), func.similarity(username, wanted))
        # Of somebody without a username nobody knows how it begins, and what is not known would come first.
        statement = statement.order_by(func.coalesce(begins, false()).desc(), closeness.desc())
    users = await db.exec(statement.order_by(func.lower(User.name), col(User.id)).limit(limit))
    return [profile(user, UserRead) for user in users]


async def list_briefs(db: Db, user_ids: Iterable[UUID]) -> list[UserBrief]:
    """Who is meant by these ids, in the order of the ids."""
    wanted = set(user_ids)
    if not wanted:
        return []
    rows = await db.fetch(
        'SELECT id, name, avatar_key FROM "user" WHERE id = ANY($1::uuid[]) ORDER BY id', list(wanted)
    )
    return [brief(*row) for row in rows]


async def check_users_exist(db: Transaction, user_ids: Iterable[UUID]) -> None:
    """All of them or UserNotFound."""
    wanted = set(user_ids)
    found = await db.exec(select(User.id).where(col(User.id).in_(wanted)))
    if wanted - set(found):
        raise UserNotFound


async def _access_user(db: Transaction, user_id: UUID) -> User:
    user = await db.get(User, user_id)
    if user is None:
        raise UserNotFound
    return user
