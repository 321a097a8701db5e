"""A node that dies between a commit and its publication: `python -m tests.chaos.crash COMMITS MODULE … run …`."""

import asyncio
import os
import runpy
import signal
import sys
from itertools import count
from typing import Any

from chat_app.live.cluster import ClusterFanout
from tests.chaos.nodes import Node
from tests.chaos.planted import replace

# For so many commits, on a machine that is busy with other things.
CRASH_SECONDS = 120.0


async def start_to_crash(node: Node, commits: int) -> asyncio.Task[None]:
    """Start a node that publishes so many commits and dies after the next one. The task ends with the node."""
    await node.start_as(sys.executable, "-m", "tests.chaos.crash", str(commits), *node.launcher[2:])
    return asyncio.create_task(node.end_by_itself(CRASH_SECONDS))


def crash_after(commits: int) -> None:
    publish, commit = ClusterFanout.deliver, count(1)

    def publish_or_die(self: Any, events: Any) -> int:
        if next(commit) > commits:
            os.kill(os.getpid(), signal.SIGKILL)
        return publish(self, events)

    replace(ClusterFanout, deliver=publish_or_die)


def main() -> None:
    crash_after(int(sys.argv.pop(1)))
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
