"""A process of its own that disturbs a server until it is ended, by uploads of a photo or by logins.

It prints the status of each request on a line.
"""

import asyncio
import base64
import os
import sys
from io import BytesIO

import httpx
from PIL import Image

LOGINS_PER_SECOND = 20
PHOTO_BYTES = 4 * 2**20


def photo() -> bytes:
    """A JPEG of about 4 MB: noise, which does not compress."""
    width, height = 2400, 1800
    image = Image.frombytes("RGB", (width // 2, height // 2), os.urandom(width * height * 3 // 4)).resize(
        (width, height)
    )
    for quality in range(98, 10, -4):
        image.save(file := BytesIO(), "JPEG", quality=quality)
        if file.tell() <= PHOTO_BYTES:
            break
    return file.getvalue()


async def upload(client: httpx.AsyncClient, token: str) -> None:
    """Upload photos one after the other."""
    body = {"image": base64.b64encode(photo()).decode()}
    headers = {"Authorization": f"Bearer {token}"}
    while True:
        _print_status(await client.put("/api/v1/users/me/avatar", json=body, headers=headers))


async def log_in(client: httpx.AsyncClient, password: str, *phones: str) -> None:
    """Log in at a fixed rate, whether or not earlier logins were answered."""

    async def one(phone: str) -> None:
        _print_status(await client.post("/api/v1/auth/login", data={"username": phone, "password": password}))

    async with asyncio.TaskGroup() as group:
        for number in range(sys.maxsize):
            group.create_task(one(phones[number % len(phones)]))
            await asyncio.sleep(1 / LOGINS_PER_SECOND)


def _print_status(response: httpx.Response) -> None:
    sys.stdout.write(f"{response.status_code}\n")
    sys.stdout.flush()


async def main(kind: str, base: str, *arguments: str) -> None:
    # Plain HTTP needs no certificates. The pool must not delay logins.
    limits = httpx.Limits(max_connections=1000)
    async with httpx.AsyncClient(base_url=base, timeout=60, verify=False, limits=limits) as client:
        await (upload if kind == "upload" else log_in)(client, *arguments)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
