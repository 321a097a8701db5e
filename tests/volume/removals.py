"""Races of a removal, or of leaving, against what the removed person sends from other nodes.

After the ack no send of theirs is accepted (P17), and nothing newer reaches them (P16). The database shows it
once more: no message of theirs has its place between a removal and the next joining.
"""

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import uuid4

from chat_app.background import end_tasks
from tests.chaos.nodes import Node
from tests.volume.device import Device
from tests.volume.places import misplaced
from tests.volume.servers import Servers
from tests.volume.sharing import UNAVAILABLE, check_available, share, surely

COUPLES = 16
SENDS_AFTER = 2
# In whatever is sent after the ack of a removal.
NEWER = "newer than the removal"


GONE = {404}


@dataclass
class Figures:
    sends: int = 0
    in_flight: int = 0
    after: int = 0
    newer: int = 0
    unavailable: int = 0


@dataclass
class Couple:
    """The creator of a group, and the member who is removed from it, comes back and is removed again."""

    servers: Servers
    random: Random
    figures: Figures
    creator: Device
    member: Device
    chat_id: str = ""
    is_member: bool = True
    acked: bool = False

    async def prepare(self) -> None:
        for device in (self.creator, self.member):
            await device.connect(*self.servers.nodes)
        self.member.forbid(NEWER)
        group = await self._do(self.creator, "create_group", {"title": "group", "member_ids": [self.member.user_id]})
        self.chat_id = group["id"]

    async def race(self) -> None:
        if not self.is_member:
            args = {"chat_id": self.chat_id, "user_ids": [self.member.user_id]}
            await self._do(self.creator, "add_members", args)
        await asyncio.gather(*(self._open(node) for node in self.servers.nodes))
        self.acked, self.is_member = False, True
        ways = [(node, self.random.random() < 0.5) for node in self.servers.nodes]
        sending = [asyncio.create_task(self._send(*way)) for way in ways]
        try:
            await asyncio.sleep(self.random.uniform(0, 0.02))
            await self._remove()
            self.acked, self.is_member = True, False
            await asyncio.gather(*(self._send_newer(node) for node in self.servers.nodes), *sending)
        finally:
            await end_tasks(sending)
        await self._read()

    async def _remove(self) -> None:
        args = {"chat_id": self.chat_id}
        if self.random.random() < 0.5:
            await self._do(self.creator, "remove_member", args | {"user_id": self.member.user_id}, ends=True)
        else:
            await self._do(self.member, "leave_chat", args, ends=True)

    async def _open(self, node: Node) -> None:
        args = {"chat_id": self.chat_id}
        await surely(lambda: self.member.call(node, "activate_chat", args, by_socket=True))

    async def _send(self, node: Node, by_socket: bool) -> None:
        """One message after the other, until some that were begun after the ack are answered."""
        after = 0
        while after < SENDS_AFTER:
            is_after = self.acked
            status = await self._message(self.member, node, "from the member", by_socket=by_socket)
            self.figures.sends += 1
            self.figures.after += is_after
            self.figures.in_flight += self.acked and not is_after
            after += is_after
            if is_after and status < 300:
                text = f"accepted from a removed member, {node.name}, {'socket' if by_socket else 'http'}: a message"
                self.servers.violations.append(f"P17 {text} that was begun after the ack")
            elif status >= 300 and status not in GONE | {UNAVAILABLE}:
                self.servers.violations.append(f"a send of the removed member got {status}")

    async def _send_newer(self, node: Node) -> None:
        by_socket = self.random.random() < 0.5
        status = await self._message(self.creator, node, NEWER, by_socket=by_socket)
        self.figures.newer += 1
        if status not in (201, UNAVAILABLE):
            self.servers.violations.append(f"a send of the creator got {status}")

    async def _read(self) -> None:
        """What the removed member asks for is not there for them."""
        args = {"chat_id": self.chat_id, "since": 0}
        for name in ("list_messages", "get_chat", "list_changes", "list_members"):
            by_socket, node = self.random.random() < 0.5, self.random.choice(self.servers.nodes)
            kept = {key: value for key, value in args.items() if key == "chat_id" or name == "list_changes"}
            status, _ = await self.member.call(node, name, kept, by_socket=by_socket)
            self.figures.unavailable += status == UNAVAILABLE
            if status not in GONE | {UNAVAILABLE}:
                self.servers.violations.append(f"P16 {name} of a removed member got {status} from {node.name}")

    async def _message(self, device: Device, node: Node, text: str, *, by_socket: bool) -> int:
        args = {"chat_id": self.chat_id, "type": "text", "text": text, "client_id": str(uuid4())}
        status, _ = await device.call(node, "send_message", args, by_socket=by_socket)
        self.figures.unavailable += status == UNAVAILABLE
        return status

    async def _do(self, device: Device, name: str, args: dict[str, Any], *, ends: bool = False) -> Any:
        """What has to succeed, over either transport of any node."""
        by_socket, node = self.random.random() < 0.5, self.random.choice(self.servers.nodes)
        return await surely(lambda: device.call(node, name, args, by_socket=by_socket), ends=ends)


async def run(servers: Servers, count: int, random: Random) -> str:
    """Half of the races with a bus, half without. Returns the figures."""
    figures = Figures()
    couples = []
    for _ in range(min(COUPLES, count)):
        creator, member = Device(servers, await servers.log_in()), Device(servers, await servers.log_in())
        couples.append(Couple(servers, Random(random.getrandbits(32)), figures, creator, member))
    await asyncio.gather(*(couple.prepare() for couple in couples))
    for is_up, races in ((True, (count + 1) // 2), (False, count // 2)):
        await servers.set_bus(is_up=is_up)
        await share(servers, races, couples)
    await _check_places(servers)
    check_available(servers, figures.unavailable, figures.sends + figures.newer)
    for couple in couples:
        couple.member.close()
        couple.creator.close()
    return (
        f"{figures.sends} sends, {figures.in_flight} in flight at the ack, {figures.after} begun after it, "
        f"{figures.newer} newer messages of others, {figures.unavailable} answers of 503"
    )


async def _check_places(servers: Servers) -> None:
    connection = await servers.postgres.connect()
    rows = await connection.fetch("SELECT chat_id, seq, sender_id, type, payload FROM message ORDER BY chat_id, seq")
    await connection.close()
    servers.violations += misplaced(rows)
