"""The objects that both transports use and that a process has once."""

from dataclasses import dataclass

from chat_app.crud.outbox import Outbox
from chat_app.database import Database
from chat_app.limits import Limits
from chat_app.live.bus import Bus
from chat_app.media.storage import Storage
from chat_app.sms import CodeSender


@dataclass
class Components:
    """The value of `app.state.components`. `bus` is None if this process is the only one."""

    database: Database
    storage: Storage
    limits: Limits
    outbox: Outbox
    codes: CodeSender
    bus: Bus | None
