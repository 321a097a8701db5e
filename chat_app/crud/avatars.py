"""The picture of a user, in four sizes: the files are written before the row, and removed after it."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlmodel import col

from chat_app.crud.users import access_user, change_user
from chat_app.database import Transaction, remove_files
from chat_app.media import images
from chat_app.media.storage import Storage
from chat_app.media.worker import in_worker
from chat_app.models import User
from chat_app.models.base import LIMITS
from chat_app.models.sessions import Actor
from chat_app.models.users import Avatar
from chat_app.signing import sign

SIZES = tuple(Avatar.model_fields)
# As many of the forty digits of a key identify the picture; the others are random.
FINGERPRINT = 20


@asynccontextmanager
async def stored_avatar(actor: Actor, storage: Storage, image: str) -> AsyncIterator[str]:
    """The key of the stored pictures. Call set_avatar inside: if that fails, they are removed.

    Call this outside of a transaction: it takes a while. Raises BadImage, TooLarge.
    """
    pictures = await in_worker(images.avatars_of_text, image, LIMITS["avatar_bytes"], owner=actor.id)
    # Keyed, and by user: an address does not reveal whether it shows a picture that its reader has.
    fingerprint = sign("", actor.id.bytes + pictures.digest).hex()[:FINGERPRINT]
    key = f"{fingerprint}{secrets.token_hex(FINGERPRINT // 2)}.{pictures.suffix}"
    async with storage.stored({path: getattr(pictures, path.rpartition("/")[2]) for path in avatar_paths(key)}):
        yield key


async def set_avatar(db: Transaction, actor: Actor, key: str) -> Avatar:
    """Show these pictures; the former ones go with the commit. For the same picture again nothing changes."""
    # Of two uploads at once the second sees the key of the first, and removes its files.
    user = await access_user(db, col(User.id) == actor.id, lock=True)
    if user.avatar_key is not None and user.avatar_key[:FINGERPRINT] == key[:FINGERPRINT]:
        remove_files(db, avatar_paths(key))
        key = user.avatar_key
    else:
        await _replace(db, user, key)
    return Avatar.of(key)


async def delete_avatar(db: Transaction, actor: Actor) -> None:
    """Show no picture any more. A second time nothing happens."""
    await _replace(db, await access_user(db, col(User.id) == actor.id, lock=True), None)


def avatar_paths(key: str) -> list[str]:
    """The keys of the four stored pictures."""
    return [f"avatars/{key}/{size}" for size in SIZES]


async def _replace(db: Transaction, user: User, key: str | None) -> None:
    if user.avatar_key is not None:
        remove_files(db, avatar_paths(user.avatar_key))
    await change_user(db, user, {"avatar_key": key})
