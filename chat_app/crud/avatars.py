"""The picture of a user, in four sizes: the files are written before the row, and go after it."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chat_app.crud.users import record_user
from chat_app.database import Transaction, remove_files
from chat_app.errors import UserNotFound
from chat_app.media import images
from chat_app.media.storage import Storage
from chat_app.media.worker import in_worker
from chat_app.models import User
from chat_app.models.sessions import Actor
from chat_app.models.users import Avatar
from chat_app.signing import sign

SIZES = tuple(Avatar.model_fields)
# Of the forty digits in a key: as many tell the picture, the others are random.
FINGERPRINT = 20


@asynccontextmanager
async def stored_avatar(actor: Actor, storage: Storage, image: str) -> AsyncIterator[str]:
    """The key of the stored pictures, for set_avatar to be called inside; they go again if that fails.

    To be called outside of a transaction: it takes a while. Raises BadImage, TooLarge.
    """
    pictures = await in_worker(images.avatars_of_text, image, owner=actor.id)
    key = f"{_fingerprint(actor, pictures.digest)}{secrets.token_hex(FINGERPRINT // 2)}.{pictures.suffix}"
    async with storage.stored({path: getattr(pictures, path.rpartition("/")[2]) for path in avatar_paths(key)}):
        yield key


async def set_avatar(db: Transaction, actor: Actor, key: str) -> Avatar:
    """Show these pictures; the ones before go with the commit. For the same picture again nothing changes."""
    user = await _lock_user(db, actor)
    if user.avatar_key is not None and user.avatar_key[:FINGERPRINT] == key[:FINGERPRINT]:
        remove_files(db, avatar_paths(key))
        key = user.avatar_key
    else:
        await _replace(db, user, key)
    avatar = Avatar.of(key)
    assert avatar is not None
    return avatar


async def delete_avatar(db: Transaction, actor: Actor) -> None:
    """Show no picture any more. Resent: nothing happens."""
    await _replace(db, await _lock_user(db, actor), None)


def avatar_paths(key: str) -> list[str]:
    """Where the four pictures are stored."""
    return [f"avatars/{key}/{size}" for size in SIZES]


async def _lock_user(db: Transaction, actor: Actor) -> User:
    # Of two uploads at once the second sees the key of the first, and removes its files.
    user = await db.get(User, actor.id, with_for_update={"key_share": True}, populate_existing=True)
    if user is None:
        raise UserNotFound
    return user


async def _replace(db: Transaction, user: User, key: str | None) -> None:
    if user.avatar_key is not None:
        remove_files(db, avatar_paths(user.avatar_key))
    if user.avatar_key != key:
        user.avatar_key = key
        await db.flush()
        await record_user(db, user)


def _fingerprint(actor: Actor, digest: bytes) -> str:
    # Keyed, and by user: nobody can find out from an address whether it shows a picture that they have.
    return sign("", actor.id.bytes + digest).hex()[:FINGERPRINT]
