"""Starts processes that do not outlive the bench."""

import ctypes
import subprocess
from collections.abc import Sequence
from signal import SIGKILL
from typing import Any

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Popen in a session of its own: Ctrl-C reaches only the bench, which then ends its processes in order."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_parent,
        **options,
    )


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, SIGKILL)
