"""The stores of files for tests: a folder, and a bucket in a process that speaks S3."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable

import httpx
import obstore
import pytest

from chat_app.media.storage import Storage
from tests.conftest import free_port
from tests.service import Service

Files = Callable[[], list[str]]

START_SECONDS = 40


class Bucket:
    """An S3 server in a process of its own, with one bucket in memory."""

    url = "s3://bucket/some/prefix"

    def __init__(self) -> None:
        self.port = str(free_port())
        self.endpoint = f"http://127.0.0.1:{self.port}"
        # The variables that every S3 client reads.
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "eu-central-1",
        }
        self.process: Process | None = None

    async def start(self) -> None:
        command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", self.port)
        self.process = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=DEVNULL)
        async with asyncio.timeout(START_SECONDS), httpx.AsyncClient() as client:
            while True:
                try:
                    return (await client.put(f"{self.endpoint}/bucket")).raise_for_status() and None
                except httpx.TransportError:
                    assert self.process.returncode is None
                    await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """End the server; its data is lost."""
        if self.process:
            self.process.kill()
            await self.process.wait()
            self.process = None

    def open(self) -> Storage:
        """The bucket as the service opens it."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("AWS_")]:
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            return Storage(self.url)


@pytest.fixture(scope="session")
async def bucket() -> AsyncIterator[Bucket]:
    """One bucket for all tests."""
    made = Bucket()
    await made.start()
    yield made
    await made.stop()


def keys_in(storage: Storage) -> set[str]:
    return {found["path"] for page in obstore.list(storage._store) for found in page}


@pytest.fixture(params=["file", "s3"])
def files(request: pytest.FixtureRequest, service: Service, monkeypatch: pytest.MonkeyPatch) -> Files:
    """`files()`: the keys that this test has added. A test with this fixture runs with a folder and with a bucket."""
    if request.param == "s3":
        storage = request.getfixturevalue("bucket").open()
        monkeypatch.setattr(service.node, "storage", storage)
        monkeypatch.setattr(service.database, "remove_files", storage.delete)
    storage = service.node.storage
    before = keys_in(storage)
    return lambda: sorted(keys_in(storage) - before)
