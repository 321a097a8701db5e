"""The members of a chat: listing, adding, removing, leaving."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from chat_app.crud import access, recording
from chat_app.crud.briefs import list_briefs
from chat_app.crud.entries import get_chat
from chat_app.crud.history import read_members
from chat_app.crud.sessions import clear_active_chat
from chat_app.crud.users import check_users_exist
from chat_app.database import Db, Transaction, note
from chat_app.delivery import order_delivery
from chat_app.errors import GroupFull, MemberNotFound
from chat_app.events import ChatsChanged, record
from chat_app.models import Chat, Membership, User
from chat_app.models.base import LIMITS
from chat_app.models.chats import ChatRead, ChatType, MemberList, MembersAdd, RemovedChat, RemovedReason
from chat_app.models.messages import SystemEvent
from chat_app.models.sessions import Actor


async def list_members(db: Db, actor: Actor, chat_id: UUID) -> MemberList:
    """The members of the chat, in the order of joining."""
    # Read before the rest, so that it is not newer.
    version = (await access.view_chat(db, actor, chat_id)).version
    members = await read_members(db, chat_id)
    users = await list_briefs(db, (member.user_id for member in members))
    return MemberList(items=members, users=users, version=version)


async def add_members(db: Transaction, actor: Actor, chat_id: UUID, data: MembersAdd) -> ChatRead:
    """Add users, all or none. A private chat becomes a group of the actor. Present members stay as they are.

    Raises UserNotFound, GroupFull.
    """
    chat, view = await access.lock_chat(db, actor, chat_id)
    await check_users_exist(db, data.user_ids)
    present = await access.audience_of(db, chat_id)
    joining = [user_id for user_id in dict.fromkeys(data.user_ids) if user_id not in present]
    if not joining:
        return await get_chat(db, actor, chat_id)
    if chat.member_count + len(joining) > LIMITS["members"]:
        raise GroupFull
    await recording.take_version(db, chat)
    chat.member_count += len(joining)
    converted = chat.type is ChatType.PRIVATE
    if converted:
        await _become_group(db, actor, chat, data.title or await _names(db, chat, joining))
    event = SystemEvent.BECAME_GROUP if converted else SystemEvent.MEMBERS_ADDED
    # The message moves the actor's read position; the visible start stays.
    visible_from_seq = view.visible_from_seq if data.share_history else chat.message_count + 1
    message = await recording.add_system_message(db, chat, actor, event, joining)
    await write_memberships(db, chat, joining, visible_from_seq=visible_from_seq)
    await recording.record_members(db, chat, message, joined=joining, to_all=converted)
    return await get_chat(db, actor, chat_id)


async def write_memberships(
    db: Transaction, chat: Chat, user_ids: Sequence[UUID], *, visible_from_seq: int, founding: bool = False
) -> None:
    """Put users into a locked chat. They have read all of it: who joins, up to the message that announces it.

    A former member starts anew, but for the read position and the counter of personal changes, which only go up.
    """
    fields = {
        **dict.fromkeys(("removed_at", "removed_reason", "title", "pinned_at", "muted_until", "archived_at", "draft")),
        "version": chat.version,
        # Founders were there from the beginning, so that they can catch up from version 0.
        "joined_version": 0 if founding else chat.version,
        **dict.fromkeys(("joined_at", "changed_at"), chat.changed_at),
        "visible_from_seq": visible_from_seq,
        "last_read_seq": chat.message_count,
        **dict.fromkeys(("marked_unread", "hidden"), False),
    }
    rows = [{"chat_id": chat.id, "user_id": user_id, "mine_version": 1, **fields} for user_id in user_ids]
    anew = {"mine_version": Membership.mine_version + 1, **fields}
    written = insert(Membership).values(rows)
    note(db, joined=user_ids)
    await db.exec(written.on_conflict_do_update(index_elements=["chat_id", "user_id"], set_=anew))


async def _become_group(db: Transaction, actor: Actor, chat: Chat, title: str) -> None:
    """Free the pair for a new private chat, and clear the own titles, which meant the peer."""
    chat.type, chat.title, chat.creator_id = ChatType.GROUP, title, actor.id
    chat.low_id = chat.high_id = None
    await db.exec(recording.change_mine(chat.id, title=None, changed_at=chat.changed_at))
    # The actor's row changes too: it shows that the actor is the creator.
    is_actor = col(Membership.user_id) == actor.id
    await db.exec(recording.change_memberships(chat.id, is_actor, version=chat.version))


async def _names(db: Transaction, chat: Chat, joining: list[UUID]) -> str:
    """A title made of the members' names."""
    people = chat.low_id, chat.high_id, *joining
    names = await db.exec(select(User.name).where(col(User.id).in_(people)).order_by(User.name))
    return ", ".join(names)[: LIMITS["title_length"]]


async def remove_member(db: Transaction, actor: Actor, chat_id: UUID, user_id: UUID) -> None:
    """Remove a member from the actor's group. Raises NotAGroup, NotCreator, CreatorCannotLeave, MemberNotFound."""
    chat = await access.lock_group(db, actor, chat_id, as_creator=True)
    if user_id not in await access.audience_of(db, chat_id):
        raise MemberNotFound
    await _part(db, actor, chat, user_id, RemovedReason.REMOVED)


async def leave_chat(db: Transaction, actor: Actor, chat_id: UUID) -> None:
    """Leave a group. Raises NotAGroup, CreatorCannotLeave."""
    chat = await access.lock_group(db, actor, chat_id)
    await _part(db, actor, chat, actor.id, RemovedReason.LEFT)


async def _part(db: Transaction, actor: Actor, chat: Chat, user_id: UUID, reason: RemovedReason) -> None:
    access.check_may_leave(chat, user_id)
    await recording.take_version(db, chat)
    chat.member_count -= 1
    await end_memberships(db, chat, [user_id], reason)
    left = reason is RemovedReason.LEFT
    event = SystemEvent.MEMBER_LEFT if left else SystemEvent.MEMBER_REMOVED
    message = await recording.add_system_message(db, chat, actor, event, [] if left else [user_id])
    await recording.record_members(db, chat, message)


async def end_memberships(db: Transaction, chat: Chat, user_ids: Sequence[UUID], reason: RemovedReason) -> None:
    """End memberships of a locked chat; the chat leaves the lists and the active chats of these users."""
    now, who = chat.changed_at, col(Membership.user_id).in_(user_ids)
    ended = {"removed_at": now, "removed_reason": reason, "version": chat.version, "changed_at": now}
    await db.exec(recording.change_memberships(chat.id, who, **ended))
    for user_id in user_ids:
        order_delivery(db, (chat.id, user_id))
    await clear_active_chat(db, chat.id, list(user_ids))
    note(db, removed=user_ids)
    removed = RemovedChat(chat_id=chat.id, version=chat.version, reason=reason)
    record(db, ChatsChanged(removed=[removed]), dict.fromkeys(user_ids, 1))
