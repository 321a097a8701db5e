"""Faults planted for pytest: `make test ARGS="--planted NAME TEST"` runs a test against a service with one.

Each replaces a function, in the process of the tests and in the servers that they start, and breaks a promise. Those of
`tests/chaos/planted.py` can be planted here too. `TESTS` names a test that fails with each.
"""

import random
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

from sqlmodel import col, delete

from chat_app import auth, driver
from chat_app.crud import access, chats, likes, sending
from chat_app.crud.users import change_user
from chat_app.errors import ChatNotFound, NotCreator
from chat_app.live.cluster import Cluster
from chat_app.live.engine.fast_socket import FastSocket
from chat_app.logs import log
from chat_app.media import images
from chat_app.models import Like
from chat_app.models.chats import ChatType
from chat_app.settings import Settings
from tests.chaos import planted as chaos
from tests.chaos.planted import replace

BLOCK = 10


def likes_add_up() -> None:
    """Each like counts, also the second one by the same user."""
    like_message = likes.like_message

    async def count(db: Any, actor: Any, chat_id: Any, seq: int) -> Any:
        await access.lock_chat(db, actor, chat_id)
        is_own = (col(Like.chat_id) == chat_id, col(Like.seq) == seq, col(Like.user_id) == actor.id)
        await db.exec(delete(Like).where(*is_own))
        return await like_message(db, actor, chat_id, seq)

    replace(likes, like_message=count)


def pairs_in_any_order() -> None:
    """The index of pairs sees (Anna, Boris) and (Boris, Anna) as two."""
    insert_chat = chats._insert_chat

    async def insert(db: Any, values: Any, unique: Any, given: Any) -> Any:
        if values["type"] is ChatType.PRIVATE and random.random() < 0.5:
            values |= {"low_id": values["high_id"], "high_id": values["low_id"]}
        return await insert_chat(db, values, unique, given)

    replace(chats, _insert_chat=insert)


def newest_command_first() -> None:
    """Of the commands that wait on a connection, the newest runs first."""
    begin_next = FastSocket._begin_next

    def begin_newest(self: Any) -> None:
        self._inbox[:1], self._inbox[-1:] = self._inbox[-1:], self._inbox[:1]
        begin_next(self)

    replace(FastSocket, _begin_next=begin_newest)


def seqs_in_blocks() -> None:
    """Each sender takes seqs from a block of its own."""
    place = sending.Sending.place
    used: dict[tuple[UUID, UUID], int] = {}
    ends: dict[UUID, int] = {}

    def place_in_block(self: Any, draft: Any) -> Any:
        chat, key = self.chats.get(draft.chat_id), (draft.chat_id, draft.actor.id)
        if chat is None:
            return place(self, draft)
        if used.get(key, 0) % BLOCK == 0:
            used[key] = ends.get(chat.id, 0)
            ends[chat.id] = used[key] + BLOCK
        chat.message_count, used[key] = used[key], used[key] + 1
        return place(self, draft)

    replace(sending.Sending, place=place_in_block)


def absent_is_forbidden() -> None:
    """A chat that exists is forbidden to others, and one that does not is not found."""
    view_chat = access.view_chat

    async def forbid(db: Any, actor: Any, chat_id: Any) -> Any:
        try:
            return await view_chat(db, actor, chat_id)
        except ChatNotFound:
            if await db.fetch("SELECT FROM chat WHERE id = $1", chat_id):
                raise NotCreator from None
            raise

    replace(access, view_chat=forbid)


def phones_in_logs() -> None:
    """Each login logs its phone number."""
    log_in = auth.log_in

    async def log_phone(db: Any, phone: str, password: str, device: Any) -> Any:
        log.info("login", phone=phone)
        return await log_in(db, phone, password, device)

    replace(auth, log_in=log_phone)


def originals_as_uploaded() -> None:
    """The original of a picture is the file as it was uploaded."""
    replace(images, _copied=lambda image, data: data, _original=lambda image, data: data)


def unread_is_kept() -> None:
    """All that a connection does not read is kept, however much it is."""

    def write(self: Any) -> None:
        frames, self.frames = self.frames, []
        if not self.protocol.transport.is_closing():
            self.protocol.transport.writelines(frames)

    replace(FastSocket, flush=write)


def nobody_compares() -> None:
    """Without the bus, nobody looks into the database for what other nodes changed."""

    async def look_away(self: Any) -> None:
        pass

    replace(Cluster, _compare=look_away)


def locks_crash() -> None:
    """An error of the database that passes is taken for a mistake of the service."""
    replace(driver, _is_passing=lambda error: False)


def any_secret() -> None:
    """A production start accepts every secret."""
    unsafe = Settings.unsafe
    replace(Settings, unsafe=lambda self: [text for text in unsafe(self) if "CHAT_SECRET" not in text])


def proof_ends_nothing() -> None:
    """The first proof of a number leaves its former sessions and its password as they are."""

    async def verify(db: Any, user: Any, hashed: Any) -> None:
        await change_user(db, user, {"is_verified": True})

    replace(auth, _set_password=verify)


PLANTED: dict[str, Callable[[], None]] = {name: fault.plant for name, fault in chaos.PLANTED.items()} | {
    "likes-add-up": likes_add_up,
    "pairs-in-any-order": pairs_in_any_order,
    "newest-command-first": newest_command_first,
    "seqs-in-blocks": seqs_in_blocks,
    "absent-is-forbidden": absent_is_forbidden,
    "phones-in-logs": phones_in_logs,
    "originals-as-uploaded": originals_as_uploaded,
    "unread-is-kept": unread_is_kept,
    "nobody-compares": nobody_compares,
    "locks-crash": locks_crash,
    "any-secret": any_secret,
    "proof-ends-nothing": proof_ends_nothing,
}
_CRASH = "tests/test_promises.py::TestP2::test_a_crash_between_commit_and_ack_loses_and_doubles_nothing"
_COMMIT = "tests/test_promises.py::TestP2::test_nobody_receives_a_message_before_its_commit"
TESTS = {
    "ack-before-commit": _COMMIT,
    "events-before-commit": _COMMIT,
    "no-membership-lock": "tests/test_promises_privacy.py::TestP17",
    "rooms": "tests/test_promises_privacy.py::TestP16",
    "bus-drops": "tests/system/test_delivery.py::test_an_event_arrives_within_a_second_of_the_ack",
    "idempotency-per-process": _CRASH,
    "changes-off-by-one": "tests/test_promises.py::TestP10",
    "ignored-revocation": "tests/api/test_credentials.py::TestDeactivation",
    "presence-to-all": "tests/live/test_presence.py",
    "session-outlives-password": "tests/api/test_credentials.py::TestP19",
    "likes-add-up": "tests/test_promises.py::TestP5",
    "pairs-in-any-order": "tests/test_promises.py::TestP6",
    "newest-command-first": "tests/test_promises.py::TestP8",
    "seqs-in-blocks": "tests/test_promises.py::TestP9",
    "absent-is-forbidden": "tests/test_permissions.py::TestForeignChat",
    "phones-in-logs": "tests/test_promises_privacy.py::TestP20",
    "originals-as-uploaded": "tests/media/test_images.py::test_no_attachment_keeps_metadata_or_a_trailer",
    "unread-is-kept": "tests/live/test_slow_readers.py::test_a_connection_with_too_much_unread_data_is_cut",
    "nobody-compares": "tests/cluster/test_faults.py::test_without_a_bus_the_own_node_goes_on_and_others_catch_up",
    "locks-crash": "tests/test_database_faults.py::TestHeld",
    "any-secret": "tests/test_limits.py::test_a_production_start_refuses_unsafe_settings",
    "proof-ends-nothing": "tests/api/test_ownership.py::TestTheFirstProof",
}

# The module of a server's command line, and what comes before its own arguments.
launcher = ["chat_app"]


def plant(name: str) -> None:
    """Plant a fault in this process, and in the servers that it starts from here on."""
    PLANTED[name]()
    launcher[:] = ["tests.planted", name]


def main() -> None:
    plant(sys.argv.pop(1))
    from chat_app.cli.commands import main as run

    run()


if __name__ == "__main__":
    main()
