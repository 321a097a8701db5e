"""Disks that get full: for root, since each is a file system of its own."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

from tests.chaos.faults import fault
from tests.chaos.stage import Stage

MEGABYTES = 700
FULL_SECONDS = 6
# With these names the folders of the run stand on disks of their own.
DISKS = {"disk-db": "postgres-disk", "disk-media": "media"}


@contextmanager
def disks(folder: Path, faults: object) -> Iterator[None]:
    """Mount what these faults fill. Raises SystemExit where that is not allowed."""
    wanted = [folder / DISKS[name] for name in DISKS if name in set(faults)]  # type: ignore[call-overload]
    if wanted and os.geteuid() != 0:
        raise SystemExit("A full disk needs root: run make chaos as root, or choose other faults")
    mounted = []
    try:
        for place in wanted:
            place.mkdir(mode=0o711)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m,mode=711", "tmpfs", place], check=True)
            mounted.append(place)
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", "--lazy", place], check=False)


async def fill(place: Path) -> str:
    """Take all that is left of a disk, for a while."""
    ballast, taken = place / "ballast", 0
    try:
        with ballast.open("wb") as file:
            while left := _free(place):
                # Others may take some of it at the same time.
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), taken, left)
                    taken += left
        await asyncio.sleep(FULL_SECONDS)
    finally:
        ballast.unlink()
    return f"{taken >> 20} MB taken for {FULL_SECONDS} s"


def _free(place: Path) -> int:
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


@fault("disk-db", is_special=True)
async def fill_database(stage: Stage, random: Random) -> str:
    """PostgreSQL may give up; then it is started again, as a supervisor would."""
    detail = await fill(stage.folder / DISKS["disk-db"])
    if not stage.postgres.processes():
        await stage.postgres.stop()
        await stage.postgres.start()
        detail += ", and PostgreSQL had to be started again"
    return detail


@fault("disk-media", is_special=True)
async def fill_media(stage: Stage, random: Random) -> str:
    return await fill(stage.folder / DISKS["disk-media"])
