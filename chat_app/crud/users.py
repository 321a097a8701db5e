"""Accounts and profiles: reading, finding and changing them."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, false, func, or_
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from chat_app.crud.access import list_audience
from chat_app.crud.briefs import list_briefs
from chat_app.crud.entries import mine_of, read_for_peers
from chat_app.crud.presence import is_online, read_watchers
from chat_app.database import Transaction, note
from chat_app.delivery import order_delivery
from chat_app.errors import UsernameTaken, UserNotFound
from chat_app.events import ChatsChanged, UsersChanged, record
from chat_app.models import User
from chat_app.models.sessions import Actor
from chat_app.models.users import (
    Avatar,
    LookedUp,
    LookedUpList,
    UserLookup,
    UserMe,
    UserRead,
    UsersLookup,
    UserUpdate,
    brief,
)

Profile = TypeVar("Profile", bound=UserRead)


async def get_me(db: Transaction, actor: Actor) -> UserMe:
    """The actor's own account: the only answer with a phone."""
    return profile(db, await access_user(db, col(User.id) == actor.id), UserMe)


async def update_me(db: Transaction, actor: Actor, data: UserUpdate) -> UserMe:
    """Change the fields that were sent. Raises UsernameTaken."""
    user = await access_user(db, col(User.id) == actor.id)
    try:
        await change_user(db, user, data.model_dump(exclude_unset=True))
    except IntegrityError as error:
        raise UsernameTaken from error
    return profile(db, user, UserMe)


async def change_user(db: Transaction, user: User, fields: dict[str, Any]) -> User:
    """Change an account. A new name or picture is recorded for the private peers, as a part of their entries too, and
    for members who have a chat with the user active.
    """
    former = user.name, user.avatar_key
    user.sqlmodel_update(fields)
    await db.flush()
    note(db, user=user.id)
    if (user.name, user.avatar_key) != former:
        event = UsersChanged(users=[brief(user.id, user.name, user.avatar_key)])
        _, peers, chats = await read_watchers(db, user.id)
        if peers:
            record(db, event, dict.fromkeys(peers, 0))
            await _renew_peer(db, user.id)
        for chat_id, members in (await list_audience(db, chats)).items():
            if others := members.keys() - {user.id, *peers}:
                record(db, event, dict.fromkeys(others, 0), chat_id)
    return user


# Without the locks of the chats, which would hold up their messages. Locked in the order in which sends write.
_RENEW_PEER = """
UPDATE membership SET mine_version = mine_version + 1, changed_at = clock_timestamp() FROM (
    SELECT chat_id, user_id FROM membership JOIN chat ON chat.id = chat_id
    WHERE (low_id = $1 OR high_id = $1) AND user_id != $1 ORDER BY chat_id, user_id FOR NO KEY UPDATE OF membership
) AS theirs WHERE membership.chat_id = theirs.chat_id AND membership.user_id = theirs.user_id
"""


async def _renew_peer(db: Transaction, user_id: UUID) -> None:
    """Give the private peers of a user the new `mine.peer`."""
    await db.fetch(_RENEW_PEER, user_id)
    for peer_id, chat in (await read_for_peers(db, user_id)).items():
        order_delivery(db, (chat.id, peer_id))
        record(db, ChatsChanged(mine=[mine_of(chat)]), {peer_id: chat.mine.visible_from_seq})


async def lock_user(db: Transaction, is_meant: ColumnElement[bool]) -> User | None:
    """The user, locked until the commit, as other transactions have left it.

    Code that opens a session, sets a password or replaces a picture calls this first, so that each sees what the other
    has written.
    """
    statement = select(User).where(is_meant).with_for_update(key_share=True)
    return (await db.exec(statement, execution_options={"populate_existing": True})).first()


async def access_user(db: Transaction, is_meant: ColumnElement[bool], *, lock: bool = False) -> User:
    """The user, locked as by `lock_user` or not. Raises UserNotFound."""
    user = await lock_user(db, is_meant) if lock else (await db.exec(select(User).where(is_meant))).first()
    if user is None:
        raise UserNotFound
    return user


async def get_user(db: Transaction, user_id: UUID) -> UserRead:
    """The public profile of a user. Raises UserNotFound."""
    return profile(db, await access_user(db, col(User.id) == user_id), UserRead)


async def lookup_user(db: Transaction, data: UserLookup) -> UserRead:
    """The profile behind a phone number that the client knows already. Raises UserNotFound."""
    return profile(db, await access_user(db, col(User.phone) == data.phone), UserRead)


async def lookup_users(db: Transaction, data: UsersLookup) -> LookedUpList:
    """The profiles behind several phone numbers, None for a number without a user."""
    users = await db.exec(select(User).where(col(User.phone).in_(data.phones)))
    found = {user.phone: profile(db, user, UserRead) for user in users}
    return LookedUpList(items=[LookedUp(phone=phone, user=found.get(phone)) for phone in data.phones])


async def search_users(db: Transaction, *, query: str | None, ids: Sequence[UUID] | None, limit: int) -> list[UserRead]:
    """Users whose name or username begins like the query or resembles it, or by ids; never by phone."""
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
        # The comparison with a missing username is null, which would come first.
        statement = statement.order_by(func.coalesce(begins, false()).desc(), closeness.desc())
    users = await db.exec(statement.order_by(func.lower(User.name), col(User.id)).limit(limit))
    return [profile(db, user, UserRead) for user in users]


def profile(db: Transaction, user: User, kind: type[Profile]) -> Profile:
    """The public profile of a user, or a larger model."""
    avatar = user.avatar_key and Avatar.of(user.avatar_key)
    more = {"avatar": avatar, "online": is_online(db, user.id)}
    return kind.model_validate(user, update=more, from_attributes=True)


async def check_users_exist(db: Transaction, user_ids: Iterable[UUID]) -> None:
    """Raises UserNotFound unless all of them exist."""
    wanted = set(user_ids)
    if len(await list_briefs(db, wanted)) < len(wanted):
        raise UserNotFound
