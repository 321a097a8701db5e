"""Signatures of the service: HMACs with its secret, each for one purpose. Access tokens are signed in `auth`."""

import hmac

from chat_app.settings import get_settings


def sign(purpose: str, content: str | bytes) -> bytes:
    """The signature of a content. A signature for one purpose is not valid for another."""
    plain = content.encode(errors="replace") if isinstance(content, str) else content
    return hmac.digest(get_settings().signing_secret, purpose.encode() + plain, "sha256")
