"""The picture of a user or a group, in four sizes: the files are written before the row, and removed after it."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

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
async def stored_avatar(actor: Actor, storage: Storage, image: str, chat_id: UUID | None = None) -> AsyncIterator[str]:
    """The key of the stored pictures, of the actor or a group. Set it inside: if that fails, they are removed.

    Call this outside of a transaction: it takes a while. Raises BadImage, TooLarge.
    """
    pictures = await in_worker(images.avatars_of_text, image, LIMITS["avatar_bytes"], owner=actor.id)
    # Keyed, and by user or group: an address does not reveal whether it shows a picture that its reader has.
    fingerprint = sign("", (chat_id or actor.id).bytes + pictures.digest).hex()[:FINGERPRINT]
    key = f"{fingerprint}{secrets.token_hex(FINGERPRINT // 2)}.{pictures.suffix}"
    async with storage.stored({path: getattr(pictures, path.rpartition("/")[2]) for path in avatar_paths(key)}):
        yield key


async def set_avatar(db: Transaction, actor: Actor, key: str) -> Avatar:
    """Show these pictures; the former ones go with the commit. For the same picture again nothing changes."""
    # Of two uploads at once the second sees the key of the first, and removes its files.
    user = await access_user(db, col(User.id) == actor.id, lock=True)
    shown = replaced(db, user.avatar_key, key) or key
    await change_user(db, user, {"avatar_key": shown})
    return Avatar.of(shown)


async def delete_avatar(db: Transaction, actor: Actor) -> None:
    """Show no picture any more. A second time nothing happens."""
    user = await access_user(db, col(User.id) == actor.id, lock=True)
    await change_user(db, user, {"avatar_key": replaced(db, user.avatar_key, None)})


def avatar_paths(key: str) -> list[str]:
    """The keys of the four stored pictures."""
    return [f"avatars/{key}/{size}" for size in SIZES]


def replaced(db: Transaction, former: str | None, key: str | None) -> str | None:
    """The key to show instead of the former one, which stays for the same picture. The other's files are removed."""
    is_same = former is not None and key is not None and former[:FINGERPRINT] == key[:FINGERPRINT]
    shown, unused = (former, key) if is_same else (key, former)
    if unused is not None:
        remove_files(db, avatar_paths(unused))
    return shown
