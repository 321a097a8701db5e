"""Races of a change of the password against logins with the old one.

After the ack no session lives that was opened with it, and it opens none (P19).
"""

import asyncio
from dataclasses import dataclass
from random import Random
from urllib.parse import urlencode

import orjson

from chat_app.background import end_tasks
from tests.chaos.nodes import Node
from tests.chaos.wire import Http
from tests.operations import Json
from tests.volume.servers import Servers
from tests.volume.sharing import UNAVAILABLE, share, surely

OWNERS = 8
LOGINS = 2
# Of the races, as each login takes its time.
SHARE_LATE = 0.25
FORM = "application/x-www-form-urlencoded"
START_SECONDS = 60.0


@dataclass
class Figures:
    logins: int = 0
    opened: int = 0
    in_flight: int = 0


@dataclass
class Owner:
    """Somebody who changes a password again and again, in one session."""

    servers: Servers
    random: Random
    figures: Figures
    phone: str
    password: str = "the first password"
    token: str = ""
    is_acked: bool = False

    async def prepare(self) -> None:
        args = {"phone": self.phone, "password": self.password, "name": "Somebody"}
        async with asyncio.timeout(START_SECONDS):
            while (await self._ask("POST", "/auth/register", args))[0] == 503:
                pass
            while not (tokens := await self._log_in(self.password)):
                pass
        self.token = tokens["access_token"]

    async def race(self) -> None:
        """Logins one after the other while the password is changed; some after it."""
        former, self.password, self.is_acked = self.password, f"password {self.random.getrandbits(64)}", False
        logins = [asyncio.create_task(self._open(former)) for _ in range(LOGINS)]
        await asyncio.sleep(self.random.uniform(0, 0.3))
        args = {"current_password": former, "new_password": self.password}
        try:
            await surely(lambda: self._ask("POST", "/auth/password", args, self.token), ends=True)
        except BaseException:
            await end_tasks(logins)
            raise
        self.is_acked = True
        if self.random.random() < SHARE_LATE and await self._log_in(former):
            self.servers.violations.append("P19 a login with the old password, begun after the ack, succeeded")
        for opened in await asyncio.gather(*logins):
            for tokens in opened:
                await self._check_ended(tokens)

    async def _open(self, password: str) -> list[Json]:
        """One login after the other, until the change is acked. Returns the tokens of those that succeeded."""
        opened = []
        while not self.is_acked:
            await asyncio.sleep(self.random.uniform(0, 0.3))
            is_before, tokens = not self.is_acked, await self._log_in(password)
            opened += [tokens] if tokens else []
            self.figures.in_flight += is_before and self.is_acked
        return opened

    async def _log_in(self, password: str) -> Json | None:
        body = urlencode({"username": self.phone, "password": password}).encode()
        self.figures.logins += 1
        status, tokens = await self._ask("POST", "/auth/login", body)
        if status not in (200, 401, 503):
            self.servers.violations.append(f"a login got {status}")
        self.figures.opened += status == 200
        return tokens if status == 200 else None

    async def _check_ended(self, tokens: Json) -> None:
        status, _ = await self._ask("GET", "/users/me", b"", tokens["access_token"])
        refreshed, _ = await self._ask("POST", "/auth/refresh", {"refresh_token": tokens["refresh_token"]})
        if not {status, refreshed} <= {401, UNAVAILABLE}:
            text = f"P19 a session opened with the old password lives: reading got {status}, refreshing {refreshed}"
            self.servers.violations.append(text)

    async def _ask(self, method: str, path: str, body: Json | bytes, token: str | None = None) -> tuple[int, Json]:
        node: Node = self.random.choice(self.servers.nodes)
        http, kind = Http(node.port), FORM if isinstance(body, bytes) else "application/json"
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        status, answer = await http.request(method, f"/api/v1{path}", content, kind, token)
        http.close()
        return status, orjson.loads(answer) if answer else {}


async def run(servers: Servers, count: int, random: Random) -> str:
    """Half of the races with a bus, half without. Returns the figures."""
    figures = Figures()
    owners = [
        Owner(servers, Random(random.getrandbits(32)), figures, f"+7903{number:07d}")
        for number in range(min(OWNERS, count))
    ]
    await asyncio.gather(*(owner.prepare() for owner in owners))
    for is_up, races in ((True, (count + 1) // 2), (False, count // 2)):
        await servers.set_bus(is_up=is_up)
        await share(servers, races, owners)
    return (
        f"{figures.logins} logins with the old password, {figures.in_flight} in flight at the ack, "
        f"{figures.opened} opened a session"
    )
