"""Starts the real server as a part needs it: `python -m tests.volume.launch PLANTED run …`; PLANTED may be none.

It writes what the server holds to a file after each sweep, which the service itself reports nowhere, and may plant a
fault, so that a part can be seen to fail.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chat_app.crud import history
from chat_app.errors import BadImage
from chat_app.live.engine.server import ChatServer
from chat_app.live.engine.sockets import Socket
from chat_app.media import worker
from tests.chaos import planted
from tests.chaos.planted import replace


def count_what_is_held(path: Path) -> None:
    sweep = ChatServer.sweep

    async def counted(self: ChatServer) -> None:
        await sweep(self)
        namespaces = self.manager.rooms.values()
        counts = {
            "connections": len(self.connections),
            "sockets": len(self.eio.sockets),
            "transports": sum(self.transports.values()),
            "environments": len(self.environ),
            "rooms": sum(len(rooms) for rooms in namespaces),
            "announced packets": len(self._binary_packet),
            "tasks": len(asyncio.all_tasks()),
        }
        written = path.with_suffix(".new")
        written.write_text(json.dumps(counts))
        written.rename(path)

    replace(ChatServer, sweep=counted)


def tasks_left() -> None:
    """A task stays behind for each packet that can't be read."""
    log_malformed, left = Socket.log_malformed, set()

    def leave(self: Any, error: Exception) -> None:
        log_malformed(self, error)
        left.add(asyncio.ensure_future(asyncio.Event().wait()))

    replace(Socket, log_malformed=leave)


def packets_crash() -> None:
    """Nobody catches what a packet raises."""

    def crash(self: Any, error: Exception) -> None:
        raise ZeroDivisionError from error

    replace(Socket, log_malformed=crash)


def requests_crash() -> None:
    """A use case that takes numbers to be small."""
    list_changes = history.list_changes

    async def crash(db: Any, actor: Any, chat_id: Any, *, since: int, limit: int = 100) -> Any:
        return await list_changes(db, actor, chat_id, since=1 // (since < 1000) * since, limit=limit)

    replace(history, list_changes=crash)


def pictures_crash() -> None:
    """Nobody catches what the process of a broken picture raises."""
    in_process = worker._in_process

    async def crash(function: Any, args: Any) -> Any:
        try:
            return await in_process(function, args)
        except BadImage as error:
            raise ZeroDivisionError from error

    replace(worker, _in_process=crash)


PLANTED: dict[str, Callable[[], None]] = {name: fault.plant for name, fault in planted.PLANTED.items()} | {
    "tasks-left": tasks_left,
    "packets-crash": packets_crash,
    "requests-crash": requests_crash,
    "pictures-crash": pictures_crash,
}


def main() -> None:
    name = sys.argv.pop(1)
    count_what_is_held(Path(os.environ.pop("COUNTS_FILE")))
    if name != "none":
        PLANTED[name]()
    from chat_app.cli.commands import main as run

    run()


if __name__ == "__main__":
    main()
