"""The profile of a group, and its creator: shared by all members, changed by the creator only."""

from typing import Any
from uuid import UUID, uuid5

from sqlmodel import col

from chat_app.crud import access, recording
from chat_app.crud.avatars import replaced
from chat_app.crud.entries import get_chat
from chat_app.database import Db, Transaction
from chat_app.errors import MemberNotFound, NotAGroup
from chat_app.models import Membership
from chat_app.models.chats import ChatRead
from chat_app.models.groups import GroupRead
from chat_app.models.messages import SystemEvent
from chat_app.models.sessions import Actor
from chat_app.models.users import Avatar


async def get_group(db: Db, actor: Actor, chat_id: UUID) -> GroupRead:
    """The profile of one of the actor's groups. Raises NotAGroup."""
    if (await access.view_chat(db, actor, chat_id)).peer_id:
        raise NotAGroup
    return await read_group(db, chat_id)


_GROUP = "SELECT id AS chat_id, version, title, picture_key, description FROM chat WHERE id = $1"


async def read_group(db: Db, chat_id: UUID) -> GroupRead:
    """The profile of a group. The caller has decided that the user may see it."""
    (row,) = await db.fetch(_GROUP, chat_id)
    return GroupRead(**row, avatar=row["picture_key"] and Avatar.of(row["picture_key"]))


async def update_group(db: Transaction, actor: Actor, chat_id: UUID, fields: dict[str, Any]) -> GroupRead:
    """Change these columns of the actor's group, in one version. Files that are not shown any more are removed.

    Raises NotAGroup, NotCreator.
    """
    chat = await access.lock_group(db, actor, chat_id, as_creator=True)
    if "picture_key" in fields:
        fields = {"picture_key": replaced(db, chat.picture_key, fields["picture_key"])}
    changed = [name.replace("picture_key", "avatar") for name in fields if getattr(chat, name) != fields[name]]
    if changed:
        await recording.take_version(db, chat)
        chat.sqlmodel_update(fields)
        message = await recording.add_system_message(db, chat, actor, SystemEvent.GROUP_CHANGED, [], changed)
        await recording.record_members(db, chat, message)
    return await read_group(db, chat_id)


async def set_creator(db: Transaction, actor: Actor, chat_id: UUID, user_id: UUID) -> ChatRead:
    """Make another member the creator of the actor's group. Raises NotAGroup, NotCreator, MemberNotFound."""
    chat = await access.lock_group(db, actor, chat_id, as_creator=True)
    if user_id not in await access.audience_of(db, chat_id):
        raise MemberNotFound
    if user_id != actor.id:
        await recording.take_version(db, chat)
        # The new creator may have used the same client_id. A group of the former release gets its founding key now.
        chat.founding_key = chat.founding_key or founding_key(actor.id, chat.client_id)
        chat.creator_id, chat.client_id = user_id, None
        both = col(Membership.user_id).in_((actor.id, user_id))
        await db.exec(recording.change_memberships(chat_id, both, version=chat.version))
        message = await recording.add_system_message(db, chat, actor, SystemEvent.CREATOR_CHANGED, [user_id])
        await recording.record_members(db, chat, message)
    return await get_chat(db, actor, chat_id)


def founding_key(founder_id: UUID, client_id: UUID | None) -> UUID | None:
    """The identity of a group that was founded under a client_id. It stays when the group has another creator."""
    return uuid5(founder_id, str(client_id)) if client_id else None
