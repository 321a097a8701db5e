"""One's own picture."""

from fastapi import APIRouter

from chat_app.api.asker import Asker, AskerRoute
from chat_app.api.deps import DatabaseDep, StorageDep
from chat_app.api.problems import responses
from chat_app.crud import avatars
from chat_app.errors import BadImage
from chat_app.models.users import Avatar, AvatarUpload

router = APIRouter(prefix="/users/me/avatar", tags=["users"], route_class=AskerRoute)


@router.put("", responses=responses(BadImage))
async def set_avatar(database: DatabaseDep, actor: Asker, storage: StorageDep, data: AvatarUpload) -> Avatar:
    """Set your picture: JPEG, PNG, WebP or GIF, at most 10 MB and 40 megapixels.

    It is kept as it is, and cut to squares of 400, 100 and 50 pixels; all four without metadata.
    """
    async with avatars.stored_avatar(actor, storage, data.image) as key, database.transaction() as session:
        return await avatars.set_avatar(session, actor, key)


@router.delete("", status_code=204)
async def delete_avatar(database: DatabaseDep, actor: Asker) -> None:
    """Remove your picture."""
    async with database.transaction() as session:
        await avatars.delete_avatar(session, actor)
