"""The common parts of every shared change of a locked chat: its version, its system message and its events."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Update, update
from sqlmodel import col

from chat_app.crud.access import audience_of
from chat_app.crud.briefs import list_briefs
from chat_app.crud.entries import mentioned, mine_of, preview, read_for_members, shared_part
from chat_app.crud.history import (
    people_in,
    quoted_message,
    read_changed_members,
    read_message,
    read_messages,
    shared_message,
)
from chat_app.database import Transaction, read_clock
from chat_app.delivery import order_delivery
from chat_app.events import Audience, ChatsChanged, MessagesChanged, Recording, record
from chat_app.models import Chat, Membership, Message
from chat_app.models.chats import ChatType
from chat_app.models.messages import MessageShared, MessageType, System, SystemEvent
from chat_app.models.sessions import Actor
from chat_app.models.users import UserBrief
from chat_app.models.wire_json import construct

Messages = Sequence[MessageShared]
Users = Sequence[UserBrief]


async def take_version(db: Transaction, chat: Chat) -> datetime:
    """Give the locked chat its next version, for one shared change. Returns the time of the change."""
    chat.version += 1
    chat.changed_at = await read_clock(db)
    return chat.changed_at


async def add_system_message(
    db: Transaction, chat: Chat, actor: Actor, event: SystemEvent, user_ids: Iterable[UUID], fields: Sequence[str] = ()
) -> Message:
    """Write what happened into the chat, in the version of the change; an actor who stays has read it."""
    if chat.last_user_seq is None:
        chat.last_user_seq = chat.message_count
    chat.message_count += 1
    chat.updated_at = chat.changed_at
    is_titled = event in (SystemEvent.GROUP_CREATED, SystemEvent.BECAME_GROUP) or "title" in fields
    title = chat.title if is_titled else None
    system = System(event=event, user_ids=list(user_ids), title=title, fields=list(fields) or None)
    message = Message(
        chat_id=chat.id,
        seq=chat.message_count,
        version=chat.version,
        type=MessageType.SYSTEM,
        sender_id=actor.id,
        payload=system.model_dump(mode="json"),
        sent_at=chat.changed_at,
    )
    db.add(message)
    await db.flush()
    # The sender of a message has read up to it.
    read = {"last_read_seq": message.seq, "marked_unread": False}
    await db.exec(change_mine(chat.id, is_member(actor.id), **read, changed_at=chat.changed_at))
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


async def record_message(
    db: Transaction,
    chat: Chat,
    message: Message,
    *,
    liker: Actor | None = None,
    is_listed: bool = True,
    is_pin: bool = False,
) -> None:
    """Record that a message was edited, deleted or pinned, or that `liker` liked it or reacted, or took that back.

    Only the liker gets `liked` and `reacted`. `is_listed`: the list shows what was changed of its newest message. A
    pinned message may be older than what the receivers know, so they get its people.
    """
    message.version = chat.version
    seqs = {message.seq, message.reply_to or message.seq}
    *replied, changed = await read_messages(db, liker.id if liker else message.sender_id, chat.id, seqs)
    quoted = [quoted_message(original) for original in replied]
    audience = dict(await audience_of(db, chat.id))
    own = {liker.id: audience.pop(liker.id)} if liker else {}
    # In a private chat both know each other, but not the authors of forwarded messages.
    has_others = chat.type is ChatType.GROUP or any(each.forwarded for each in (*quoted, changed))
    people = await list_briefs(db, people_in(quoted if liker else [*quoted, changed])) if has_others else []
    record_messages(db, chat, [shared_message(changed)], audience, quoted, people, [changed] if is_pin else [])
    if own:
        record_messages(db, chat, [changed], own, quoted, people, [])
    elif is_listed and not is_pin and changed.seq == chat.message_count:
        sender = [user for user in people if user.id == changed.sender_id]
        seeing = {user_id: seen_from for user_id, seen_from in audience.items() if seen_from <= changed.seq}
        record(db, ChatsChanged(chats=[shared_part(chat, preview(changed.__dict__))], users=sender), seeing)


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
    referred = await list_briefs(db, mentioned([shared]))
    concerned = [user for user in referred if user.id in people_in([system])]
    for user_id, entry in entries.items():
        users = referred if user_id in joined else concerned
        whole = ChatsChanged(chats=[shared], mine=[mine_of(entry)], users=users)
        record(db, whole, {user_id: audience[user_id]})
    rest = {user_id: seen_from for user_id, seen_from in audience.items() if user_id not in entries}
    if rest:
        record(db, ChatsChanged(chats=[shared], users=concerned), rest)
    members = await read_changed_members(db, chat.id, chat.version - 1, chat.version)
    newcomers = [user for user in referred if user.id in joined]
    record(db, messages_changed(chat, [shared_message(system)], members=members, users=newcomers), audience)


def record_messages(
    db: Recording, chat: Any, messages: Messages, audience: Audience, quoted: Messages, people: Users, new: Messages
) -> None:
    """Record `messages_changed`, for each receiver with those of the quoted messages that they see.

    `quoted`: in ascending seq. `new`: those of the messages whose people the receivers may not know, in ascending seq
    above those. `people`: the people of both, and perhaps more. Nodes of the former release deliver an event without a
    look at its quoted messages, so receivers who see others of them get another event.
    """
    shown = [*quoted, *new]
    # By the number of these that they do not see.
    parts: dict[int, dict[UUID, int]] = {}
    for user_id, seen_from in audience.items() if shown else ():
        hidden = sum(message.seq < seen_from for message in shown)
        parts.setdefault(hidden, {})[user_id] = seen_from
    for hidden, receivers in parts.items() if shown else [(0, audience)]:
        named = people_in(shown[hidden:])
        users = [user for user in people if user.id in named]
        record(db, messages_changed(chat, messages, replied=quoted[hidden:], users=users), receivers)


def messages_changed(chat: Any, messages: Messages, **more: Any) -> MessagesChanged:
    """The newest change of a chat, in which each message took a version. `chat` is its row, or its part of a batch."""
    fields = {"since": chat.version - len(messages), "version": chat.version, "message_count": chat.message_count}
    fields |= {"chat_id": chat.id, "messages": messages, "members": [], "users": [], "replied": []}
    return construct(MessagesChanged, fields | more)
