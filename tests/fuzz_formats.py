"""Valid values of the formats that schemas name. schemathesis.toml loads this module."""

import base64
import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image

# Numbers without users: the demo users must not be locked out or changed.
PHONES = st.integers(0, 9_999_999).map(lambda number: f"+7916{number:07d}")
SECONDS = st.integers(0, 4_000_000_000_000_000)


def picture(size: tuple[int, int]) -> str:
    """A small PNG in base64."""
    written = io.BytesIO()
    Image.new("RGB", size).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


schemathesis.openapi.format("phone", PHONES)
schemathesis.openapi.format("byte", st.tuples(st.integers(1, 9), st.integers(1, 9)).map(picture))
schemathesis.openapi.format(
    "chat-cursor",
    st.tuples(SECONDS, SECONDS, st.uuids()).map(
        lambda parts: base64.urlsafe_b64encode("|".join(map(str, parts)).encode()).decode()
    ),
)
schemathesis.openapi.format(
    "user-cursor", st.tuples(SECONDS, st.uuids()).map(lambda parts: f"{parts[0] / 1e6:.6f}_{parts[1].hex}")
)
schemathesis.openapi.format("emoji", st.sampled_from(("👍", "❤️", "❤", "🎉", "👩🏽‍🚀", "🏳️‍🌈")))
schemathesis.openapi.format(
    "search-cursor",
    st.tuples(SECONDS, st.uuids(), SECONDS).map(
        lambda parts: base64.urlsafe_b64encode("|".join(map(str, parts)).encode()).decode()
    ),
)
schemathesis.openapi.format(
    "sync",
    st.tuples(SECONDS, st.integers(0, 9999), SECONDS).map(lambda parts: ".".join(map(str, parts))),
)
