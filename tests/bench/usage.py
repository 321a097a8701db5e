"""The CPU time and memory of processes, in nanoseconds where the kernel has them."""

import math
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

TICKS = os.sysconf("SC_CLK_TCK")


class Cpu(NamedTuple):
    """Seconds of CPU time. `user` and `kernel` have steps of 10 ms, `total` has not."""

    total: float
    user: float
    kernel: float


@dataclass
class Usage:
    """CPU time so far, also of the whole machine and the generator, and bytes of memory now."""

    server: Cpu
    database: Cpu
    memory: int
    machine: float
    generator: float

    def since(self, before: "Usage", seconds: float) -> dict[str, float]:
        """The cores that each used."""
        cores = {
            "server": (self.server.total - before.server.total) / seconds,
            "database": (self.database.total - before.database.total) / seconds,
            "generator": (self.generator - before.generator) / seconds,
        }
        others = max(0.0, (self.machine - before.machine) / seconds - sum(cores.values()))
        return {f"{name}, cores": taken for name, taken in (cores | {"all else on the machine": others}).items()}

    def rates(self, before: "Usage", what: str, amount: float) -> dict[str, float]:
        """The number of `what` for each CPU-second."""
        total, user, kernel = (after - then for after, then in zip(self.server, before.server, strict=True))
        return {
            f"{what} per CPU-s of the server": per(amount, total),
            f"{what} per CPU-s of its user time": per(amount, user),
            f"{what} per CPU-s of its kernel time": per(amount, kernel),
            f"{what} per CPU-s, database included": per(amount, total + self.database.total - before.database.total),
        }


def per(amount: float, of: float) -> float:
    return amount / of if of else math.nan


def usage(server: int, database: int) -> Usage:
    """The usage of the processes with these ids, and of this one as the generator."""
    times = psutil.cpu_times()
    machine = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice
    memory = psutil.Process(server).memory_info().rss
    return Usage(cpu(server), cpu(database), memory, machine, time.process_time())


def cpu(pid: int) -> Cpu:
    """The CPU time of a process, its descendants and those that have ended."""
    found = [_own_cpu(pid)]
    for child in psutil.Process(pid).children(recursive=True):
        # A process that has just ended is counted by its parent from now on.
        with suppress(OSError):
            found.append(_own_cpu(child.pid))
    return Cpu(*map(sum, zip(*found, strict=True)))


def _own_cpu(pid: int) -> Cpu:
    # utime, stime, cutime and cstime, counted after the name, which may have spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    user, kernel, ended_user, ended_kernel = (int(ticks) / TICKS for ticks in fields)
    # clock_getcpuclockid(3) of Linux: unlike schedstat in /proc it includes threads that have ended.
    exact = time.clock_gettime(~pid << 3 | 2)
    return Cpu(exact + ended_user + ended_kernel, user + ended_user, kernel + ended_kernel)
