"""Starts the real server with another clock at the right rate: `python -m tests.shifted_clock SECONDS run …`."""

import datetime
import sys
import time
from typing import Any

# Every module that reads the clock has to be imported before it is shifted.
import chat_app.main  # noqa: F401
from chat_app.cli.commands import main

SHIFTED_PACKAGES = ("chat_app", "jwt", "fastapi_users", "redis", "engineio")


class AnyDatetime(type):
    """Every datetime counts as an instance of the shifted class, also those that libraries make."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, datetime.datetime)


def shift(seconds: float) -> None:
    """Shift the clock for the program and its libraries. Timers use another clock, which stays."""
    real, right = time.time, datetime.datetime

    class Shifted(right, metaclass=AnyDatetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return right.now(tz) + datetime.timedelta(seconds=seconds)

    time.time = lambda: real() + seconds
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in SHIFTED_PACKAGES and getattr(module, "datetime", None) is right:
            module.datetime = Shifted  # type: ignore[attr-defined]


if __name__ == "__main__":
    shift(float(sys.argv.pop(1)))
    main()
