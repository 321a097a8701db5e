"""Permissions: every one in the program is decided here."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from chat_app.crud.statements import read_sql
from chat_app.database import Db, Transaction
from chat_app.delivery import order_delivery
from chat_app.errors import (
    ChatNotFound,
    CreatorCannotLeave,
    InvalidInput,
    MessageDeleted,
    MessageNotFound,
    NotAGroup,
    NotAuthor,
    NotCreator,
)
from chat_app.events import Audience
from chat_app.logs import log_authorized
from chat_app.models import Chat, Message
from chat_app.models.chats import ChatType
from chat_app.models.messages import MessageBase, MessageType
from chat_app.models.sessions import Actor
from chat_app.models.wire_json import as_json

# What an actor must be allowed beside seeing a message.
Check = Callable[[Chat, Message, Actor], None] | None


class View(NamedTuple):
    """The extent of a chat that one member sees. It is read before all other parts of an answer."""

    visible_from_seq: int
    joined_version: int
    version: int
    message_count: int
    # The other user of a private chat.
    peer_id: UUID | None
    last_read_seq: int


_VIEW = """
SELECT visible_from_seq, joined_version, chat.version, message_count,
    CASE user_id WHEN low_id THEN high_id WHEN high_id THEN low_id END AS peer_id, last_read_seq
FROM membership JOIN chat ON chat.id = chat_id WHERE chat_id = $1 AND user_id = $2 AND removed_at IS NULL
"""


async def view_chat(db: Db, actor: Actor, chat_id: UUID) -> View:
    """The actor's view; a chat they are not in does not exist for them. Raises ChatNotFound."""
    view = await _view(db, actor, chat_id)
    log_authorized(chat=chat_id)
    return view


async def _view(db: Db, actor: Actor, chat_id: UUID) -> View:
    rows = await db.fetch(_VIEW, chat_id, actor.id)
    if not rows:
        raise ChatNotFound
    return View(*rows[0])


async def lock_chat(db: Transaction, actor: Actor, chat_id: UUID) -> tuple[Chat, View]:
    """For every shared change: the chat, locked until the commit, and the actor's view. Raises ChatNotFound."""
    chat, view = await _lock(db, actor, chat_id)
    log_authorized(chat=chat_id)
    return chat, view


async def _lock(db: Transaction, actor: Actor, chat_id: UUID) -> tuple[Chat, View]:
    chat = await db.get(Chat, chat_id, with_for_update={"key_share": True}, populate_existing=True)
    if chat is None:
        raise ChatNotFound
    order_delivery(db, chat_id)
    # In a later statement: one that waited for a lock still sees the past. A deleted chat has no members.
    return chat, await _view(db, actor, chat_id)


async def lock_group(db: Transaction, actor: Actor, chat_id: UUID, *, as_creator: bool = False) -> Chat:
    """As lock_chat, for changes of groups, some of which only the creator may make. Raises NotAGroup, NotCreator."""
    chat, _ = await _lock(db, actor, chat_id)
    if chat.type is not ChatType.GROUP:
        raise NotAGroup
    if as_creator and chat.creator_id != actor.id:
        raise NotCreator
    log_authorized(chat=chat_id)
    return chat


async def lock_message(db: Transaction, actor: Actor, chat_id: UUID, seq: int, check: Check) -> tuple[Chat, Message]:
    """As lock_chat, with a message that the actor may see, deleted or not. Raises MessageNotFound, and as `check`."""
    chat, view = await _lock(db, actor, chat_id)
    message = await db.get(Message, (chat_id, seq), populate_existing=True)
    if message is None or seq < view.visible_from_seq:
        raise MessageNotFound
    if check:
        check(chat, message, actor)
    log_authorized(chat=chat_id, seq=seq)
    return chat, message


# A statement of its own: one that waited for a lock still sees the past in everything else.
_LOCK_CHATS = "SELECT FROM chat WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE"

JSON_COLUMNS = ("extra", "reactions", "forwarded", "payload")
MESSAGE_COLUMNS = (*(name for name in MessageBase.model_fields if name not in JSON_COLUMNS), *JSON_COLUMNS)
# The driver reads JSON only as a column of its own.
_QUOTED = ", ".join(f"message.{name}::text" if name in JSON_COLUMNS else f"message.{name}" for name in MESSAGE_COLUMNS)

_READ_LOCKED = read_sql("read_locked.sql", quoted=_QUOTED)


async def lock_to_send(
    db: Db, drafts: Sequence[dict[str, Any]], *, patience: float | None = None, sources: Iterable[UUID] = ()
) -> list[Any]:
    """For sends, by chat_id, sender_id, client_id and reply_to: a row for each chat, locked, with its present members,
    the first seq that each may see, the messages that were sent under these client ids before, and those quoted.

    `sources`: chats to lock together with these, for `read_originals`.
    """
    raw = await db.raw()
    await raw.lock(_LOCK_CHATS, {*sources, *(draft["chat_id"] for draft in drafts)}, patience=patience)
    # As JSON, since the driver takes ten times as long for arrays.
    rows = await raw.fetch(_READ_LOCKED, as_json(drafts).decode())
    for row in rows:
        order_delivery(db, row["id"])
    return rows


_READ_ORIGINALS = read_sql("read_originals.sql", columns=", ".join(f"message.{name}" for name in MESSAGE_COLUMNS))


async def read_originals(db: Db, wanted: Iterable[tuple[UUID, UUID, int]]) -> list[Any]:
    """The messages to be forwarded, by user, locked chat and seq: those that the user sees."""
    named = [{"user_id": user_id, "chat_id": chat_id, "seq": seq} for user_id, chat_id, seq in wanted]
    return await db.fetch(_READ_ORIGINALS, as_json(named).decode())


def check_may_leave(chat: Chat, user_id: UUID) -> None:
    """The creator can only delete the group."""
    if chat.creator_id == user_id:
        raise CreatorCannotLeave


_AUDIENCE = """
SELECT chat_id, user_id, visible_from_seq FROM membership WHERE chat_id = ANY($1::uuid[]) AND removed_at IS NULL
"""


async def list_audience(db: Db, chat_ids: Sequence[UUID]) -> dict[UUID, dict[UUID, int]]:
    """The members of chats with the first seq that each may see. Those of locked chats may send, and get the events."""
    audiences: dict[UUID, dict[UUID, int]] = {chat_id: {} for chat_id in chat_ids}
    for chat_id, user_id, visible_from_seq in await db.fetch(_AUDIENCE, list(chat_ids)):
        audiences[chat_id][user_id] = visible_from_seq
    return audiences


async def audience_of(db: Db, chat_id: UUID) -> Audience:
    """The members of one chat, as list_audience."""
    return (await list_audience(db, [chat_id]))[chat_id]


# The chats that the user $1 is in, and the condition for what they see of the messages of these. A search excludes
# tombstones and system messages too.
VISIBLE_CHATS = """
SELECT chat_id, visible_from_seq, message_count, updated_at FROM membership JOIN chat ON chat.id = chat_id
WHERE user_id = $1 AND removed_at IS NULL
"""
IS_VISIBLE = "seq >= visible_from_seq"

_PRESENT = """
SELECT chat_id, user_id FROM membership JOIN unnest($1::uuid[], $2::uuid[]) AS pair (chat_id, user_id)
USING (chat_id, user_id) WHERE removed_at IS NULL
"""


async def list_present(db: Db, memberships: Iterable[tuple[UUID, UUID]]) -> set[tuple[UUID, UUID]]:
    """Those of the pairs of a chat and a user that are present memberships."""
    chat_ids, user_ids = [list(ids) for ids in zip(*memberships, strict=True)] or ([], [])
    return {(chat_id, user_id) for chat_id, user_id in await db.fetch(_PRESENT, chat_ids, user_ids)}


def check_may_edit(_chat: Chat, message: Message, actor: Actor) -> None:
    """Authors edit their own messages; nobody edits a system message or a forwarded one."""
    if message.type is MessageType.SYSTEM or message.sender_id != actor.id or message.forwarded:
        raise NotAuthor
    if message.deleted_at:
        raise MessageDeleted


def check_may_delete(chat: Chat, message: Message, actor: Actor) -> None:
    """Authors delete their own messages, the creator of a group anyone's; nobody a system message."""
    if message.type is MessageType.SYSTEM or actor.id not in (message.sender_id, chat.creator_id):
        raise NotAuthor


def check_is_not_deleted(_chat: Chat, message: Message, _actor: Actor) -> None:
    """Every member reacts to every message, but not to a tombstone."""
    if message.deleted_at:
        raise MessageDeleted


def check_may_pin(chat: Chat, message: Message, actor: Actor) -> None:
    """Every member pins every message of a user."""
    if message.type is MessageType.SYSTEM:
        raise InvalidInput.at("/seq", "system_message", "A system message can't be pinned.")
    check_is_not_deleted(chat, message, actor)
