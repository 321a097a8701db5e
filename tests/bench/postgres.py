"""PostgreSQL with default durability, in a process of its own that owns the bench's temporary folder.

Its stdin ends with the bench. Then it stops the server and removes the folder. When the server is
ready it prints a line of JSON: the folder and the address.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from chat_app.cli.embedded import embedded_postgres
from chat_app.cli.process import Refusal


def main() -> None:
    with (
        TemporaryDirectory(prefix="chat-bench-", ignore_cleanup_errors=True) as folder,
        embedded_postgres(Path(folder) / "postgres") as url,
    ):
        sys.stdout.write(json.dumps([folder, url]) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    try:
        main()
    except Refusal as error:
        sys.exit(str(error))
