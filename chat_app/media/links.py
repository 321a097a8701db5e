"""URLs of media: signed ones, which open a file without an Authorization header until they expire, and their host.

In development a phone or an emulator reaches the service under another host than a browser beside it. URLs are made
with a mark in the place of the host, and each answer and event gets the host of its client where it is sent.
"""

import hmac
import re
import time
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlencode
from uuid import UUID

from chat_app.settings import get_settings
from chat_app.signing import sign

Variant = Literal["file", "preview"]

# URLs change once an hour, so that browsers can cache the files. Each is valid for one to two hours.
STEP_SECONDS = 3600
HOST = re.compile(rb"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


def attachment_url(attachment_id: UUID, variant: Variant) -> str:
    """The URL of the file or its preview."""
    expires = str((int(time.time()) // STEP_SECONDS + 2) * STEP_SECONDS)
    signature = _signature(str(attachment_id), variant, expires)
    query = urlencode({"variant": variant, "expires": expires, "signature": signature})
    return f"{get_settings().base_url}/media/attachments/{attachment_id}?{query}"


def is_signed(attachment_id: str, variant: str, expires: str, signature: str) -> bool:
    """Whether these parts of a URL were signed here and have not expired."""
    made = _signature(attachment_id, variant, expires)
    # After the signature is checked, `expires` is known to be a number.
    return hmac.compare_digest(made.encode(), signature.encode(errors="replace")) and int(expires) > time.time()


def _signature(*parts: str) -> str:
    return sign("media link\n", "\n".join(parts)).hex()


def host_of(scope: Mapping[str, Any]) -> bytes | None:
    """The start of the URLs for the client of a request or a handshake. None: every client gets the same URLs.

    The header may hold anything. If it is not a host, perhaps with a port, the start is empty and the URLs are paths.
    """
    if get_settings().any_host is None:
        return None
    host = dict(scope["headers"]).get(b"host", b"")
    scheme = scope["scheme"].replace("ws", "http").encode()
    return b"%b://%b" % (scheme, host) if HOST.fullmatch(host) else b""


def at_host(json: bytes, host: bytes | None) -> bytes:
    """An answer or event for the client with this `host_of`."""
    mark = get_settings().any_host if host is not None else None
    return json if host is None or mark is None else json.replace(mark.encode(), host)
