"""Chats: opening, founding and deleting them, each member's own settings of them, and the active one."""

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import func, or_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from chat_app.crud import access, recording
from chat_app.crud.avatars import replaced
from chat_app.crud.briefs import list_briefs
from chat_app.crud.entries import get_chat as get_chat
from chat_app.crud.entries import list_chats as list_chats
from chat_app.crud.entries import mentioned, mine_of, read_for_members, shared_part
from chat_app.crud.groups import founding_key, read_group
from chat_app.crud.history import list_messages, people_in, read_members, read_pinned
from chat_app.crud.members import end_memberships, write_memberships
from chat_app.crud.presence import is_online
from chat_app.crud.users import check_users_exist
from chat_app.database import Db, Transaction, note, read_clock
from chat_app.delivery import order_delivery
from chat_app.errors import ChatNotFound, ClientIdReused, GroupFull, InvalidInput, NoActiveChat
from chat_app.events import ActiveChatSet, ChatsChanged, ReadChanged, TypingChanged, record
from chat_app.models import Chat, Membership, Session
from chat_app.models.base import LIMITS, NOW, new_id
from chat_app.models.chats import ChatRead, ChatType, GroupCreate, RemovedReason
from chat_app.models.messages import SystemEvent
from chat_app.models.screens import OpenChat
from chat_app.models.sessions import Actor


async def open_private_chat(
    db: Transaction, actor: Actor, user_id: UUID, *, chat_id: UUID | None = None
) -> tuple[ChatRead, bool]:
    """The private chat of two people, and whether it is new; there is never a second. Raises UserNotFound."""
    if user_id == actor.id:
        raise InvalidInput.at("/user_id", "yourself", "A private chat needs somebody else.")
    await check_users_exist(db, [user_id])
    low_id, high_id = sorted((actor.id, user_id))
    pair = {"low_id": low_id, "high_id": high_id}
    values = {"id": chat_id or new_id(), "type": ChatType.PRIVATE, "member_count": 2, **pair}
    chat = await _insert_chat(db, values)
    if chat is None:
        existing_id = (await db.exec(select(Chat.id).filter_by(**pair))).first()
        if existing_id is None:  # it became a group between the two statements
            return await open_private_chat(db, actor, user_id, chat_id=chat_id)
        return await get_chat(db, actor, existing_id), False
    await write_memberships(db, chat, [low_id, high_id], visible_from_seq=1, founding=True)
    # Who changes their name or picture meanwhile either waits and sees this chat, or is waited for.
    await db.fetch('SELECT FROM "user" WHERE id = ANY($1::uuid[]) ORDER BY id FOR SHARE', [low_id, high_id])
    entries = await read_for_members(db, chat.id, [low_id, high_id])
    for member_id, entry in entries.items():
        record(db, ChatsChanged(chats=[shared_part(chat, None)], mine=[mine_of(entry)]), {member_id: 1})
    return entries[actor.id], True


async def create_group(
    db: Transaction, actor: Actor, data: GroupCreate, *, chat_id: UUID | None = None
) -> tuple[ChatRead, bool]:
    """Found a group, and whether it is new: the same client_id again is the same group.

    Raises UserNotFound, GroupFull, ClientIdReused.
    """
    members = list(dict.fromkeys([actor.id, *data.member_ids]))
    if len(members) == 1:
        raise InvalidInput.at("/member_ids", "yourself", "A group needs somebody else.")
    if len(members) > LIMITS["members"]:
        raise GroupFull
    await check_users_exist(db, members[1:])
    key = founding_key(actor.id, data.client_id)
    content = {"title": data.title, "member_ids": sorted(map(str, data.member_ids))}
    content_hash = hashlib.sha256(orjson.dumps(content)).digest()
    values = {"title": data.title, "member_count": len(members), "content_hash": content_hash, "founding_key": key}
    values |= {"creator_id": actor.id, "client_id": data.client_id}
    chat = await _insert_chat(db, {"id": chat_id or new_id(), "type": ChatType.GROUP, **values})
    if chat is None:
        # Groups of the former release have no founding key.
        is_same = (col(Chat.creator_id) == actor.id) & (col(Chat.client_id) == data.client_id)
        same = select(Chat.id, Chat.content_hash).where((col(Chat.founding_key) == key) | is_same)
        existing_id, former_hash = (await db.exec(same)).one()
        if former_hash != content_hash:
            raise ClientIdReused
        return await get_chat(db, actor, existing_id), False
    await write_memberships(db, chat, members, visible_from_seq=1, founding=True)
    message = await recording.add_system_message(db, chat, actor, SystemEvent.GROUP_CREATED, members[1:])
    await recording.record_members(db, chat, message, joined=members)
    return await get_chat(db, actor, chat.id), True


async def _insert_chat(db: Transaction, values: dict[str, Any]) -> Chat | None:
    """The new chat, or None when a committed one has the same pair or was founded under the same client_id."""
    now = await read_clock(db)
    times = {"created_at": now, "updated_at": now, "changed_at": now}
    new = insert(Chat).values(message_count=0, version=1, **times, **values).on_conflict_do_nothing()
    chat = (await db.exec(new.returning(Chat))).scalars().first()
    if chat is not None:
        order_delivery(db, chat.id)
        note(db, chat=chat.id)
    return chat


async def delete_chat(db: Transaction, actor: Actor, chat_id: UUID) -> None:
    """End the actor's group for all members. Raises NotAGroup, NotCreator."""
    chat = await access.lock_group(db, actor, chat_id, as_creator=True)
    members = list(await access.audience_of(db, chat_id))
    chat.deleted_at = await recording.take_version(db, chat)
    chat.member_count = 0
    chat.picture_key = replaced(db, chat.picture_key, None)
    await db.flush()
    await end_memberships(db, chat, members, RemovedReason.DELETED)


async def rename_chat(db: Transaction, actor: Actor, chat_id: UUID, title: str | None) -> ChatRead:
    """Give a chat a title that only the actor sees; None takes it back."""
    return (await change_own(db, actor, chat_id, title=title))[0]


async def pin_chat(db: Transaction, actor: Actor, chat_id: UUID) -> ChatRead:
    """Keep a chat on top of the actor's list; the latest pin comes first."""
    pinned_at = func.coalesce(Membership.pinned_at, NOW)
    return (await change_own(db, actor, chat_id, pinned_at=pinned_at, hidden=False))[0]


async def unpin_chat(db: Transaction, actor: Actor, chat_id: UUID) -> ChatRead:
    """Let a pinned chat go back to its place."""
    return (await change_own(db, actor, chat_id, pinned_at=None))[0]


async def mark_read(db: Transaction, actor: Actor, chat_id: UUID, seq: int) -> ChatRead:
    """Move the actor's read position forward, to the newest message at most; never back. The chat is unmarked."""
    view = await access.view_chat(db, actor, chat_id)
    position = min(seq, view.message_count)
    furthest = func.greatest(Membership.last_read_seq, position)
    chat, is_changed = await change_own(db, actor, chat_id, last_read_seq=furthest, marked_unread=False)
    # It never moves back, so one that was there before is there still.
    if is_changed and view.last_read_seq < position:
        await record_read(db, actor, chat_id, position, view)
    return chat


async def record_read(db: Transaction, actor: Actor, chat_id: UUID, position: int, view: access.View) -> None:
    event = ReadChanged(chat_id=chat_id, user_id=actor.id, last_read_seq=position)
    record(db, event, await access.audience_of(db, chat_id), peer_id=view.peer_id)


async def change_own(db: Transaction, actor: Actor, chat_id: UUID, **values: object) -> tuple[ChatRead, bool]:
    """The chat, and whether the personal part differed and was changed: no version is taken, only the actor gets it."""
    differs = or_(*(col(getattr(Membership, name)).is_distinct_from(value) for name, value in values.items()))
    change = recording.change_mine(chat_id, recording.is_member(actor.id), differs, changed_at=NOW, **values)
    is_changed = (await db.exec(change.returning(col(Membership.version)))).first() is not None
    chat = await get_chat(db, actor, chat_id)
    if is_changed:
        order_delivery(db, (chat_id, actor.id))
        record(db, ChatsChanged(mine=[mine_of(chat)]), {actor.id: chat.mine.visible_from_seq})
    return chat, is_changed


async def set_typing(db: Transaction, actor: Actor, chat_id: UUID, typing: bool) -> None:
    """Show the other members that the actor types, or stopped. Raises ChatNotFound."""
    view = await access.view_chat(db, actor, chat_id)
    others = dict(await access.audience_of(db, chat_id))
    others.pop(actor.id, None)
    record(db, TypingChanged(chat_id=chat_id, user_id=actor.id, typing=typing), others, peer_id=view.peer_id)


async def active_chat(db: Transaction, actor: Actor) -> UUID:
    """The active chat of the actor's session. Raises NoActiveChat."""
    row = await db.get(Session, actor.session_id, populate_existing=True)
    if row is None or row.active_chat_id is None:
        raise NoActiveChat
    return row.active_chat_id


async def activate_chat(db: Transaction, actor: Actor, chat_id: UUID) -> int:
    """Make a chat the active one of the actor's session. Raises ChatNotFound.

    Returns the chat's version: removals up to it came before, and until the commit there is none.
    """
    # The lock keeps out a removal, which clears active chats, between the reading and the writing.
    await db.get(Membership, (chat_id, actor.id), with_for_update={"read": True})
    order_delivery(db, (chat_id, actor.id))
    version = (await access.view_chat(db, actor, chat_id)).version
    await _set_active(db, actor, chat_id, version)
    return version


async def check_is_open(db: Db, actor: Actor, chat_id: UUID, version: int) -> None:
    """Raises ChatNotFound if the membership with which the chat was activated has ended, even if another has begun."""
    if (await access.view_chat(db, actor, chat_id)).joined_version > version:
        raise ChatNotFound


async def clear_active(db: Transaction, actor: Actor) -> None:
    """No chat is active in the actor's session any more."""
    await _set_active(db, actor, None)


async def _set_active(db: Transaction, actor: Actor, chat_id: UUID | None, version: int = 0) -> None:
    await db.fetch("UPDATE session SET active_chat_id = $2 WHERE id = $1", actor.session_id, chat_id)
    event = ActiveChatSet(session_id=actor.session_id, chat_id=chat_id, version=version, user_id=actor.id)
    record(db, event, {})


async def open_chat(db: Db, actor: Actor, chat_id: UUID) -> OpenChat:
    """All that a screen needs: the chat, its newest page, its members and the users that these refer to."""
    chat = await get_chat(db, actor, chat_id)
    page = await list_messages(db, actor, chat_id)
    members = await read_members(db, chat_id)
    pinned = await read_pinned(db, actor.id, chat_id, chat.mine.visible_from_seq)
    people = mentioned([chat]) | {member.user_id for member in members} | {user.id for user in page.users}
    users = await list_briefs(db, people | people_in(pinned))
    # The page was read after the chat and may be newer; the version must not be newer than the chat.
    page.version = min(page.version, chat.version)
    online = [member.user_id for member in members if is_online(db, member.user_id)]
    description = (await read_group(db, chat_id)).description if chat.type is ChatType.GROUP else None
    return OpenChat(
        chat=chat, page=page, members=members, users=users, pinned=pinned, online=online, description=description
    )


async def list_changed(db: Transaction, chat_ids: Iterable[UUID], within: timedelta) -> dict[UUID, int]:
    """The versions of those of the chats that changed within a time."""
    is_recent = col(Chat.changed_at) > func.clock_timestamp() - within
    rows = await db.exec(select(Chat.id, Chat.version).where(col(Chat.id).in_(set(chat_ids)), is_recent))
    return dict(rows.all())
