"""Runs the service where the name server never answers: `python -m tests.silent_names run …`."""

import socket
import sys
import time
from typing import Any

HOST = "silent.example.org"
# As long as a resolver tries, and longer than the service may take to end.
SECONDS = 60

_getaddrinfo = socket.getaddrinfo


def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    if host in (HOST, HOST.encode()):
        sys.stdout.write("looking up\n")
        sys.stdout.flush()
        time.sleep(SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _getaddrinfo(host, *arguments, **options)


if __name__ == "__main__":
    socket.getaddrinfo = getaddrinfo
    # uvloop calls the C library and not this function, so asyncio's own loop runs.
    sys.modules["uvloop"] = None  # type: ignore[assignment]
    from chat_app.cli.commands import main

    main()
