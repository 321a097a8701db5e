"""What every shared change of a locked chat has in common: its version, its system message, and who is told what."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Update, and_, update
from sqlmodel import col

from chat_app.crud.access import audience_of
from chat_app.crud.entries import mentioned, mine_of, preview, read_for_members, shared_part
from chat_app.crud.history import read_members, read_messages, shared_message
from chat_app.crud.users import list_briefs
from chat_app.database import Transaction, read_clock
from chat_app.delivery import order_delivery
from chat_app.events import ChatsChanged, MessagesChanged, record
from chat_app.models import Chat, Membership, Message
from chat_app.models.messages import MessageShared, MessageType, System, SystemEvent
from chat_app.models.sessions import Actor


async def take_version(db: Transaction, chat: Chat) -> datetime:
    """Give the locked chat its next version, for one shared change. Returns the time of the change."""
    chat.version += 1
    chat.changed_at = await read_clock(db)
    return chat.changed_at


async def add_system_message(
    db: Transaction, chat: Chat, actor: Actor, event: SystemEvent, user_ids: Iterable[UUID]
) -> Message:
    """Tell in the chat what happened, in the version of the change; an actor who stays has read it."""
    chat.message_count += 1
    chat.updated_at = chat.changed_at
    title = chat.title if event in (SystemEvent.GROUP_CREATED, SystemEvent.BECAME_GROUP) else None
    message = Message(
        chat_id=chat.id,
        seq=chat.message_count,
        version=chat.version,
        type=MessageType.SYSTEM,
        sender_id=actor.id,
        payload=System(event=event, user_ids=list(user_ids), title=title).model_dump(mode="json"),
        sent_at=chat.changed_at,
    )
    db.add(message)
    await db.flush()
    await move_own_read_position(db, chat, actor.id, message.seq)
    return message


def change_memberships(chat_id: UUID, *which: ColumnElement[bool], **values: Any) -> Update:
    """A statement that writes to memberships of a chat beside the session, which must read them anew."""
    changed = update(Membership).where(col(Membership.chat_id) == chat_id, *which).values(**values)
    return changed.execution_options(synchronize_session=False)


def change_mine(chat_id: UUID, *which: ColumnElement[bool], changed_at: Any, **values: Any) -> Update:
    """As change_memberships, for what is personal: it takes the next `mine.version`."""
    mine_version = Membership.mine_version + 1
    return change_memberships(chat_id, *which, mine_version=mine_version, changed_at=changed_at, **values)


async def move_own_read_position(db: Transaction, chat: Chat, user_id: UUID, seq: int) -> None:
    """Whoever causes a message has read up to it."""
    is_own = and_(col(Membership.user_id) == user_id, col(Membership.removed_at).is_(None))
    await db.exec(change_mine(chat.id, is_own, last_read_seq=seq, changed_at=chat.changed_at))
    # The message tells its sender of it without naming the version: not before what was the version before.
    order_delivery(db, (chat.id, user_id))


async def record_message(db: Transaction, chat: Chat, message: Message) -> None:
    """A message was edited or deleted; the list shows it if it is the newest."""
    message.version = chat.version
    (changed,) = await read_messages(db, message.sender_id, chat.id, "seq = $3", message.seq)
    audience = await audience_of(db, chat.id)
    record(db, messages_changed(chat, [shared_message(changed)]), audience)
    if changed.seq == chat.message_count:
        record(db, ChatsChanged(chats=[shared_part(chat, preview(changed))]), audience)


async def record_like(db: Transaction, chat: Chat, actor: Actor, message: Message) -> None:
    """A message was liked or unliked; only the actor is told `liked`."""
    message.version = chat.version
    (changed,) = await read_messages(db, actor.id, chat.id, "seq = $3", message.seq)
    audience = dict(await audience_of(db, chat.id))
    own = {actor.id: audience.pop(actor.id)}
    record(db, messages_changed(chat, [shared_message(changed)]), audience)
    record(db, messages_changed(chat, [changed]), own)


async def record_members(
    db: Transaction,
    chat: Chat,
    message: Message,
    *,
    changed: Iterable[UUID],
    joined: Collection[UUID] = (),
    to_all: bool = False,
) -> None:
    """Members changed, as a system message tells.

    `joined` get the whole entry of a chat that is new to them; `to_all`: everybody does, for what is personal
    changed too.
    """
    await db.flush()
    audience = await audience_of(db, chat.id)
    shared = shared_part(chat, preview(message))
    entries = await read_for_members(db, chat.id, audience if to_all else joined)
    newcomers = await list_briefs(db, joined)
    referred = await list_briefs(db, mentioned([shared]))
    for user_id, entry in entries.items():
        users = referred if user_id in joined else newcomers
        told = ChatsChanged(chats=[shared], mine=[mine_of(entry)], users=users)
        record(db, told, {user_id: audience[user_id]})
    rest = {user_id: seen_from for user_id, seen_from in audience.items() if user_id not in entries}
    if rest:
        record(db, ChatsChanged(chats=[shared], users=newcomers), rest)
    (system,) = await read_messages(db, message.sender_id, chat.id, "seq = $3", message.seq)
    members = await read_members(db, chat.id, "user_id = ANY($2::uuid[])", list(changed))
    told_messages = messages_changed(chat, [shared_message(system)])
    record(db, told_messages.model_copy(update={"members": members, "users": newcomers}), audience)


def messages_changed(chat: Chat, messages: Sequence[MessageShared]) -> MessagesChanged:
    """The change that the chat's newest version is."""
    return MessagesChanged(
        chat_id=chat.id,
        since=chat.version - 1,
        version=chat.version,
        message_count=chat.message_count,
        messages=list(messages),
    )
