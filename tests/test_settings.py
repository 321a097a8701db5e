"""Settings with generated values."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from pydantic import ValidationError

from chat_app.settings import Settings, _development_secret


def test_simultaneous_starts_on_one_folder_use_the_same_secret(tmp_path: Path) -> None:
    # Without the cache of earlier calls.
    read = _development_secret.__wrapped__
    for attempt in range(20):
        start = Barrier(8)

        def begin(_: int, folder: Path = tmp_path / str(attempt), start: Barrier = start) -> bytes:
            start.wait()
            return read(folder)

        with ThreadPoolExecutor(8) as servers:
            (secret,) = set(servers.map(begin, range(8)))
        assert len(secret) >= 32
        assert [path.name for path in (tmp_path / str(attempt)).iterdir()] == ["secret"]


def test_an_unknown_phone_region_is_refused_at_the_start() -> None:
    assert Settings(phone_region="DE").phone_region == "DE"
    with pytest.raises(ValidationError, match="phone_region"):
        Settings(phone_region="XX")
