"""The profile of a group, and its creator."""

from fastapi import APIRouter

from chat_app.api.deps import ChatIdPath, CurrentActor, NodeDep, ReadingDep, SessionDep
from chat_app.api.operations import Operation, Protected
from chat_app.api.problems import responses
from chat_app.crud import access, avatars, groups
from chat_app.errors import BadImage, MemberNotFound, NotAGroup, NotCreator
from chat_app.models.chats import ChatRead
from chat_app.models.groups import CreatorSet, GroupRead, GroupUpdate
from chat_app.models.users import AvatarUpload

router = APIRouter(prefix="/chats/{chat_id}", tags=["chats"], route_class=Operation)
# Pictures are too large for a packet.
http_router = APIRouter(prefix="/chats/{chat_id}", tags=["chats"], route_class=Protected)


@router.get("/group", responses=responses(NotAGroup))
async def get_group(db: ReadingDep, actor: CurrentActor, chat_id: ChatIdPath) -> GroupRead:
    """Get the profile of a group: with its description, which the list of chats does not have."""
    return await groups.get_group(db, actor, chat_id)


@router.patch("/group", responses=responses(NotCreator, NotAGroup))
async def update_group(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: GroupUpdate) -> GroupRead:
    """Change the title and the description of your own group: all members see them. null removes the description.

    Every member gets `chats_changed` with the system message `group_changed`, which names the changed fields. Members
    who have the chat active get `messages_changed` too.
    """
    return await groups.update_group(db, actor, chat_id, data.model_dump(exclude_unset=True))


@http_router.put("/avatar", responses=responses(BadImage, NotCreator, NotAGroup))
async def set_group_avatar(node: NodeDep, actor: CurrentActor, chat_id: ChatIdPath, data: AvatarUpload) -> GroupRead:
    """Set the picture of your own group: otherwise as `set_avatar`. Every member gets `chats_changed`."""
    async with node.database.transaction() as db:  # without the right no picture is read
        await access.lock_group(db, actor, chat_id, as_creator=True)
    stored = avatars.stored_avatar(actor, node.storage, data.image, chat_id=chat_id)
    async with stored as key, node.database.transaction() as db:
        return await groups.update_group(db, actor, chat_id, {"picture_key": key})


@router.delete("/avatar", responses=responses(NotCreator, NotAGroup))
async def delete_group_avatar(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath) -> None:
    """Remove the picture of your own group. Every member gets `chats_changed`."""
    await groups.update_group(db, actor, chat_id, {"picture_key": None})


@router.put("/creator", responses=responses(NotCreator, NotAGroup, MemberNotFound))
async def set_creator(db: SessionDep, actor: CurrentActor, chat_id: ChatIdPath, data: CreatorSet) -> ChatRead:
    """Make a member the creator of your own group: you stay a member, and may leave then.

    Every member gets `chats_changed` with the system message `creator_changed`. Members who have the chat active get
    `messages_changed` with both members.
    """
    return await groups.set_creator(db, actor, chat_id, data.user_id)
