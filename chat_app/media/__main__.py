"""The worker process: calls the functions that come in on stdin, answers on stdout, and ends when stdin does."""

import os
import pickle
import resource
import signal
import sys
from contextlib import suppress

from chat_app.errors import ChatError

MEMORY_BYTES = 1 << 30
# The parent gives up and kills earlier; this is for a job that hangs after its parent is gone.
ALARM_SECONDS = 40
NICENESS = 10


def main() -> None:
    """A job is (function, arguments), an answer (is a result, result or error): eight bytes of size, then a pickle."""
    jobs = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Whatever a library prints must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.nice(NICENESS)
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    while size := jobs.read(8):
        signal.alarm(ALARM_SECONDS)
        answer = pickle.dumps(_answer(jobs.read(int.from_bytes(size))))
        signal.alarm(0)
        with suppress(BrokenPipeError):
            answers.write(len(answer).to_bytes(8) + answer)
            answers.flush()


def _answer(job: bytes) -> tuple[bool, object]:
    function, arguments = pickle.loads(job)
    try:
        return True, function(*arguments)
    except ChatError as error:
        return False, error


if __name__ == "__main__":
    main()
