"""Starts the real server with one fault planted in it: `python -m tests.chaos.planted NAME run …`.

Each fault replaces one function by one that breaks a promise; a run with suitable faults has to see and name it. The
service itself has no switch for any of this.
"""

import asyncio
import os
import random
import sys
from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from sqlmodel import select

from chat_app import auth
from chat_app.crud import access, outbox, sending
from chat_app.crud import history as crud_history
from chat_app.database import Database
from chat_app.events import PresenceChanged, recorded
from chat_app.live.bus import Bus
from chat_app.live.connections import Connection
from chat_app.live.fanout import Fanout, encode
from chat_app.live.presence import Presence
from chat_app.live.server import Live
from chat_app.models import User
from chat_app.models.wire_json import as_json


class Planted(NamedTuple):
    """`faults`: those of a run that shows it. `kinds`: the violations of which one at least has to be named."""

    plant: Callable[[], None]
    kinds: tuple[str, ...]
    faults: tuple[str, ...] = ()


def replace(owner: Any, **functions: Any) -> None:
    """Replace functions. Raises KeyError where the owner does not define one, TypeError for another signature."""
    for name, function in functions.items():
        # One that is inherited may have lost its callers.
        former = vars(owner)[name]
        takes, given = signature(former).parameters, signature(function).parameters
        if "options" not in given and list(takes) != list(given):
            raise TypeError(f"{owner.__name__}.{name} takes {signature(former)}, not {signature(function)}")
        setattr(owner, name, function)


def ack_before_commit() -> None:
    """Senders are answered when the rows are written, a moment before they are committed."""
    send_messages, send, answer = outbox.send_messages, outbox.Outbox._send, outbox.Outbox._answer
    current: dict[Any, tuple[Any, Any]] = {}
    answered: set[int] = set()

    async def early(db: Any, drafts: Any, **options: Any) -> Any:
        results = await send_messages(db, drafts, **options)
        sender, batch = current[asyncio.current_task()]
        answer(sender, batch, results)
        answered.update(map(id, batch))
        await asyncio.sleep(0.1)
        return results

    async def remember(self: Any, batch: Any, **options: Any) -> None:
        current[asyncio.current_task()] = self, batch
        await send(self, batch, **options)
        answered.difference_update(map(id, batch))

    def answer_others(self: Any, batch: Any, results: Any) -> None:
        both = [(one, result) for one, result in zip(batch, results, strict=True) if id(one) not in answered]
        answer(self, [one for one, _ in both], [result for _, result in both])

    replace(outbox, send_messages=early)
    replace(outbox.Outbox, _send=remember, _answer=answer_others)


def events_before_commit() -> None:
    """Events leave a moment before the commit, and also if it fails."""
    commit = Database._commit

    async def early(self: Database, db: Any, until: float) -> None:
        if events := recorded(db):
            self.delivery.deliver(list(events))
            db.info["events"] = []
            await asyncio.sleep(0.1)
        await commit(self, db, until)

    replace(Database, _commit=early)


def no_membership_lock() -> None:
    """Who is a member is read before the chat is locked."""
    lock_to_send = access.lock_to_send

    async def unlocked(db: Any, drafts: Any, **options: Any) -> list[Any]:
        batch = await db.raw()
        early = {row["id"]: row for row in await batch.fetch(access._READ_LOCKED, as_json(drafts).decode())}
        await asyncio.sleep(0.03)
        rows = await lock_to_send(db, drafts, **options)
        members = ("members", "visible_from")
        return [dict(row) | {name: early.get(row["id"], row)[name] for name in members} for row in rows]

    replace(access, lock_to_send=unlocked)


def rooms() -> None:
    """A connection that once opened a chat gets its events for ever."""
    to_open = Fanout._to_open

    def to_room(self: Any, event: Any, chat_id: Any, reached: Any) -> None:
        room = {connection.key: 1 for connection in self.connections.with_open(chat_id)}
        to_open(self, event._replace(audience=room | dict(event.audience)), chat_id, reached)

    replace(Fanout, _to_open=to_room)
    replace(Connection, lose_chat=lambda self, chat_id, version: None)


def bus_drops() -> None:
    """What comes over the bus gets lost now and then, without anybody noticing the gap."""
    take = Bus._take

    def forget(self: Any, message: Any, events: Any) -> None:
        take(self, message, [] if random.random() < 0.3 else events)

    replace(Bus, _take=forget)


def idempotency_per_process() -> None:
    """A node knows only the client ids that it saw itself."""
    # A server has its database; elsewhere the second message breaks the index and so is a crash.
    if url := os.environ.get("CHAT_DATABASE_URL"):
        asyncio.run(_without_unique_client_ids(url))
    known: set[Any] = set()
    of, place = sending._Chat.of.__func__, sending.Sending.place  # type: ignore[attr-defined]

    def of_this_process(cls: Any, chat_id: Any, row: Any) -> Any:
        chat = of(cls, chat_id, row)
        chat.known = {key: value for key, value in chat.known.items() if (chat_id, *key) in known}
        return chat

    def remember(self: Any, draft: Any) -> Any:
        placed = place(self, draft)
        known.add((draft.chat_id, draft.actor.id, draft.data.client_id))
        return placed

    sending._Chat.of = classmethod(of_this_process)  # type: ignore[method-assign,assignment]
    replace(sending.Sending, place=remember)


async def _without_unique_client_ids(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("DROP INDEX IF EXISTS message_client_id_key")
    await connection.close()


def changes_off_by_one() -> None:
    """A page of changes begins one version too late."""
    list_changes = crud_history.list_changes

    async def late(db: Any, actor: Any, chat_id: Any, *, since: int, limit: int = 100) -> Any:
        changes = await list_changes(db, actor, chat_id, since=since, limit=limit)
        changes.messages = [message for message in changes.messages if message.version > since + 1]
        return changes

    replace(crud_history, list_changes=late)


def ignored_revocation() -> None:
    """Connections outlive their session."""

    async def look_away(self: Any) -> None:
        pass

    replace(Connection, end=lambda self: None)
    replace(Live, end_sessions=look_away)


def presence_to_all() -> None:
    """Every connection gets everybody's presence."""

    async def deliver(self: Any, user_id: UUID, online: bool) -> None:
        packet = encode(PresenceChanged(user_id=user_id, online=online, last_seen_at=None))
        for connection in self.connections:
            if connection.actor.id != user_id:
                connection.send(packet)

    replace(Presence, _deliver=deliver)


def session_outlives_password() -> None:
    """A login checks the password once, and writes the session later, whatever became of the password meanwhile."""

    async def check_password(self: Any, is_meant: Any, password: str) -> User | None:
        user = (await self.db.exec(select(User).where(is_meant))).first()
        await self.db.close()
        if user is None or user.hashed_password is None:
            return None
        check = auth._passwords.verify_and_update
        is_right, _ = await auth._off_loop(check, password, user.hashed_password)
        await asyncio.sleep(0.3)
        return user if is_right else None

    replace(auth.UserManager, check_password=check_password)


CUTS = ("clients-cut", "node-kill")
PLANTED = {
    "ack-before-commit": Planted(ack_before_commit, ("lost", "not committed"), ("pg-crash", "node-kill")),
    "events-before-commit": Planted(
        events_before_commit, ("early event", "not committed"), ("pg-crash", "pg-backends")
    ),
    "no-membership-lock": Planted(no_membership_lock, ("late accept",)),
    "rooms": Planted(rooms, ("leak",)),
    "bus-drops": Planted(bus_drops, ("missed", "snapshot")),
    "idempotency-per-process": Planted(idempotency_per_process, ("duplicate",), CUTS),
    "changes-off-by-one": Planted(changes_off_by_one, ("changes", "snapshot"), CUTS),
    "ignored-revocation": Planted(ignored_revocation, ("revoked session",)),
    "presence-to-all": Planted(presence_to_all, ("audience",), CUTS),
    "session-outlives-password": Planted(session_outlives_password, ("revoked session", "credential")),
}


def main() -> None:
    name = sys.argv.pop(1)
    PLANTED[name].plant()
    from chat_app.cli.commands import main as run

    run()


if __name__ == "__main__":
    main()
