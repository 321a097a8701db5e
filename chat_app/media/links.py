"""Signed URLs that open a file without an Authorization header until they expire."""

import hmac
import time
from typing import Literal
from urllib.parse import urlencode
from uuid import UUID

from chat_app.settings import get_settings
from chat_app.signing import sign

Variant = Literal["file", "preview"]

# URLs change once an hour, so that browsers can cache the files. Each is valid for one to two hours.
STEP_SECONDS = 3600


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
