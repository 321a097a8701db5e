"""The common parts of every shared change of a locked chat: its version, its system message and its events."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Update, update
from sqlmodel import col

from chat_app.crud.access import audience_of
from chat_app.crud.entries import mentioned, mine_of, preview, read_for_members, shared_part
from chat_app.crud.history import read_changed_members, read_message, shared_message
from chat_app.crud.users import list_briefs
from chat_app.database import Transaction, read_clock
from chat_app.delivery import order_delivery
from chat_app.events import ChatsChanged, MessagesChanged, record
from chat_app.models import Chat, Membership, Message
from chat_app.models.messages import MessageShared, MessageType, System, SystemEvent
from chat_app.models.sessions import Actor
from chat_app.models.wire_json import construct


async def take_version(db: Transaction, chat: Chat) -> datetime:
    """Give the locked chat its next version, for one shared change. Returns the time of the change."""
    chat.version += 1
    chat.changed_at = await read_clock(db)
    return chat.changed_at


async def add_system_message(
    db: Transaction, chat: Chat, actor: Actor, event: SystemEvent, user_ids: Iterable[UUID]
) -> Message:
    """Write what happened into the chat, in the version of the change; an actor who stays has read it."""
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
    # The sender of a message has read up to it.
    await db.exec(change_mine(chat.id, is_member(actor.id), last_read_seq=message.seq, changed_at=chat.changed_at))
    # Clients take the position from the message, without a version: it must not overtake an earlier change of `mine`.
    order_delivery(db, (chat.id, actor.id))
    return message


def is_member(user_id: UUID) -> ColumnElement[bool]:
    return (col(Membership.user_id) == user_id) & col(Membership.removed_at).is_(None)


def change_memberships(chat_id: UUID, *which: ColumnElement[bool], **values: Any) -> Update:
    """A statement that writes to memberships of a chat beside the session, which must read them anew."""
    changed = update(Membership).where(col(Membership.chat_id) == chat_id, *which).values(**values)
    return changed.execution_options(synchronize_session=False)


def change_mine(chat_id: UUID, *which: ColumnElement[bool], changed_at: Any, **values: Any) -> Update:
    """As change_memberships, for the personal part: it takes the next `mine.version`."""
    mine_version = Membership.mine_version + 1
    return change_memberships(chat_id, *which, mine_version=mine_version, changed_at=changed_at, **values)


async def record_message(db: Transaction, chat: Chat, message: Message, *, liker: Actor | None = None) -> None:
    """Record that a message was edited or deleted, or that `liker` liked or unliked it: only the liker gets `liked`.

    The list shows another text of the newest message, but no likes.
    """
    message.version = chat.version
    changed = await read_message(db, liker.id if liker else message.sender_id, chat.id, message.seq)
    audience = dict(await audience_of(db, chat.id))
    own = {liker.id: audience.pop(liker.id)} if liker else {}
    record(db, messages_changed(chat, [shared_message(changed)]), audience)
    if own:
        record(db, messages_changed(chat, [changed]), own)
    elif changed.seq == chat.message_count:
        record(db, ChatsChanged(chats=[shared_part(chat, preview(changed.__dict__))]), audience)


async def record_members(
    db: Transaction, chat: Chat, message: Message, *, joined: Collection[UUID] = (), to_all: bool = False
) -> None:
    """Record the change of members that a system message is about.

    `joined` get the whole entry of a chat that is new to them; with `to_all` every member does, as the personal part
    changed too.
    """
    await db.flush()
    audience = await audience_of(db, chat.id)
    system = await read_message(db, message.sender_id, chat.id, message.seq)
    shared = shared_part(chat, preview(system.__dict__))
    entries = await read_for_members(db, chat.id, audience if to_all else joined)
    newcomers = await list_briefs(db, joined)
    referred = await list_briefs(db, mentioned([shared]))
    for user_id, entry in entries.items():
        users = referred if user_id in joined else newcomers
        whole = ChatsChanged(chats=[shared], mine=[mine_of(entry)], users=users)
        record(db, whole, {user_id: audience[user_id]})
    rest = {user_id: seen_from for user_id, seen_from in audience.items() if user_id not in entries}
    if rest:
        record(db, ChatsChanged(chats=[shared], users=newcomers), rest)
    members = await read_changed_members(db, chat.id, chat.version - 1, chat.version)
    record(db, messages_changed(chat, [shared_message(system)], members=members, users=newcomers), audience)


def messages_changed(chat: Any, messages: Sequence[MessageShared], **more: Any) -> MessagesChanged:
    """The newest change of a chat, in which each message took a version. `chat` is its row, or its part of a batch."""
    fields = {"since": chat.version - len(messages), "version": chat.version, "message_count": chat.message_count}
    fields |= {"chat_id": chat.id, "messages": messages, "members": [], "users": []}
    return construct(MessagesChanged, fields | more)
