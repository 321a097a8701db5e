"""Addresses that open a file without a header: signed, and good for a while."""

import hmac
import time
from typing import Literal
from urllib.parse import urlencode
from uuid import UUID

from chat_app.settings import get_settings
from chat_app.signing import sign

Variant = Literal["file", "preview"]

# Addresses change once an hour, so that browsers find in their cache what they have, and are good for one to two.
STEP_SECONDS = 3600


def attachment_url(attachment_id: UUID, variant: Variant) -> str:
    """Where the file, or its preview, can be had."""
    expires = str((int(time.time()) // STEP_SECONDS + 2) * STEP_SECONDS)
    signature = _signature(str(attachment_id), variant, expires)
    query = urlencode({"variant": variant, "expires": expires, "signature": signature})
    return f"{get_settings().base_url}/media/attachments/{attachment_id}?{query}"


def is_signed(attachment_id: str, variant: str, expires: str, signature: str) -> bool:
    """Whether these are the parts of an address that was made here, and it is still good."""
    made = _signature(attachment_id, variant, expires)
    # What was signed here is a number: only then may it be read as one.
    return hmac.compare_digest(made.encode(), signature.encode(errors="replace")) and int(expires) > time.time()


def _signature(*parts: str) -> str:
    return sign("media link\n", "\n".join(parts)).hex()
