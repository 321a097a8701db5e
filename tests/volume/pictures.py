"""Odd pictures as avatars and attachments: each is taken or refused, and nothing crashes."""

import asyncio
import base64
from collections import Counter
from random import Random

import orjson
from PIL import Image

from tests.media import pictures
from tests.operations import ROUTES, Json, Route
from tests.volume.device import Device
from tests.volume.servers import Servers

AT_ONCE = 4
AVATAR, ATTACHMENT = ROUTES["set_avatar"], ROUTES["create_attachment"]
CONTENT_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif", "application/pdf", "image/svg+xml", "x/y")
BOUNDARY = "boundary"


def originals(random: Random) -> list[bytes]:
    """Pictures of every format, with all that their formats know."""
    small, photo = pictures.corners(), Image.frombytes("RGB", (120, 80), random.randbytes(120 * 80 * 3))
    found = [pictures.loaded(kind) for kind in pictures.FORMATS]
    found += [pictures.animation(kind) for kind in ("GIF", "WEBP")]
    found += [pictures.encoded(photo, "JPEG", progressive=True), pictures.encoded(photo, "WEBP", lossless=True)]
    found += [pictures.encoded(small.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA", "I;16")]
    found += [pictures.encoded(small.convert(mode), "JPEG") for mode in ("L", "CMYK")]
    return [*found, pictures.many_scans(60, 40, 5), pictures.png_header(3, 3)]


class Odd:
    """`picture()`: one that is broken, or its head promises something else than its body."""

    def __init__(self, random: Random) -> None:
        self.random, self.originals = random, originals(random)

    def picture(self) -> bytes:
        random, data = self.random, self.random.choice(self.originals)
        for _ in range(random.choice((1, 1, 2, 3))):
            at = random.randrange(len(data) + 1)
            match random.randrange(6):
                case 0:
                    data = data[:at]
                case 1:
                    data = self._flipped(data, len(data))
                case 2:
                    # Sizes, depths and lengths stand there.
                    data = self._flipped(data, min(64, len(data)))
                case 3:
                    data = data[:at] + random.choice(self.originals)[at:]
                case 4:
                    data = data[:at] + random.randbytes(random.randrange(1, 40)) + data[at:]
                case 5:
                    data = data[:at] + data[at : at + random.randrange(1, 500)] * random.choice((2, 50)) + data[at:]
        return data

    def _flipped(self, data: bytes, until: int) -> bytes:
        changed = bytearray(data)
        for _ in range(self.random.choice((1, 4, 30)) if until else 0):
            changed[self.random.randrange(until)] = self.random.choice((0, 0xFF, self.random.randrange(256)))
        return bytes(changed)


def _avatar(picture: bytes) -> tuple[Route, bytes, str]:
    return AVATAR, orjson.dumps({"image": base64.b64encode(picture).decode()}), "application/json"


def _attachment(picture: bytes, random: Random) -> tuple[Route, bytes, str]:
    return ATTACHMENT, multipart({}, picture, random.choice(CONTENT_TYPES)), f"multipart/form-data; boundary={BOUNDARY}"


def multipart(fields: Json, content: bytes, content_type: str) -> bytes:
    """A form with a file in it."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{value}\r\n'.encode(errors="replace") for name, value in fields.items()]
    file = f'{head}"file"; filename="a file"\r\nContent-Type: {content_type}\r\n\r\n'.encode()
    return b"".join(parts) + file + content + f"\r\n--{BOUNDARY}--\r\n".encode()


async def run(servers: Servers, count: int, random: Random) -> str:
    """Half as avatars, half as attachments. Returns the figures."""
    odd, node = Odd(random), servers.nodes[0]
    statuses: Counter[int] = Counter()
    left = iter(range(count))

    async def upload(device: Device) -> None:
        for _ in left:
            picture = odd.picture()
            route, body, kind = _avatar(picture) if random.random() < 0.5 else _attachment(picture, random)
            try:
                status, answer = await device.request(node, route.method, route.path, body, kind)
            except Exception as error:
                status, answer = 0, repr(error).encode()
            statuses[status] += 1
            if not (200 <= status < 500 or status == 503):
                path = servers.folder / f"picture-{len(servers.violations)}"
                path.write_bytes(picture)
                servers.violations.append(f"P25 {status} {answer[:200].decode()} for {path}")

    devices = [Device(servers, await servers.log_in()) for _ in range(AT_ONCE)]
    await asyncio.gather(*map(upload, devices))
    for device in devices:
        device.close()
    return f"statuses {dict(sorted(statuses.items()))}"
