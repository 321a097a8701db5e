"""The picture of a group over HTTP: as that of a user, but of all members, and set by the creator only."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest

from chat_app.crud import groups
from chat_app.errors import Internal, Unavailable
from tests.api.test_avatars import SIZES, as_text, key_of, settled
from tests.clients import Answer, Person, http_answer
from tests.media.pictures import SECRET, corners, encoded, loaded
from tests.service import MakePerson, Service
from tests.stores import Files


async def found(anna: Person, *others: Person) -> str:
    body = {"title": "Trip", "member_ids": [other.id for other in others]}
    made: str = (await anna.http.post("/api/v1/chats/groups", json=body)).json()["id"]
    return made


async def upload(person: Person, chat_id: str, data: bytes) -> Answer:
    return http_answer(await person.http.put(f"/api/v1/chats/{chat_id}/avatar", json={"image": as_text(data)}))


async def entry(person: Person, chat_id: str) -> Any:
    return (await person.http.get(f"/api/v1/chats/{chat_id}")).json()


async def test_all_members_see_the_same_four_pictures_without_metadata(
    anna: Person, boris: Person, files: Files
) -> None:
    chat_id = await found(anna, boris)
    answer = await upload(anna, chat_id, loaded("JPEG"))
    assert (answer.status, set(answer.data["avatar"])) == (200, set(SIZES))
    seen = await entry(boris, chat_id)
    assert (seen["avatar"], seen["version"]) == (answer.data["avatar"], answer.data["version"])
    system = {"event": "group_changed", "user_ids": [], "title": None, "fields": ["avatar"]}
    assert seen["last_message"]["system"] == system
    async with httpx.AsyncClient() as outsider:
        for url in seen["avatar"].values():
            response = await outsider.get(url)
            assert (response.status_code, response.headers["content-type"]) == (200, "image/jpeg")
            assert SECRET not in response.content
    (listed,) = (await boris.http.get("/api/v1/chats")).json()["items"]
    assert listed["avatar"] == seen["avatar"]
    assert len(files()) == 4


async def test_the_same_picture_changes_nothing_and_another_replaces_it(
    anna: Person, boris: Person, service: Service, files: Files
) -> None:
    chat_id = await found(anna, boris)
    first = (await upload(anna, chat_id, loaded("PNG"))).data
    assert (await upload(anna, chat_id, loaded("PNG"))).data == first
    await settled(service)
    assert {path.split("/")[1] for path in files()} == {key_of(first["avatar"])}
    second = (await upload(anna, chat_id, encoded(corners(), "PNG"))).data
    await settled(service)
    assert second["version"] == first["version"] + 1
    assert {path.split("/")[1] for path in files()} == {key_of(second["avatar"])}
    for _ in range(2):
        assert (await anna.http.delete(f"/api/v1/chats/{chat_id}/avatar")).status_code == 204
    await settled(service)
    after = await entry(boris, chat_id)
    assert (after["avatar"], after["version"], files()) == (None, second["version"] + 1, [])


async def test_the_address_does_not_tell_whether_a_user_has_the_same_picture(anna: Person, boris: Person) -> None:
    chat_id, other_id = await found(anna, boris), await found(anna, boris)
    own = http_answer(await anna.http.put("/api/v1/users/me/avatar", json={"image": as_text(loaded("PNG"))})).data
    keys = [key_of((await upload(anna, each, loaded("PNG"))).data["avatar"]) for each in (chat_id, other_id)]
    assert len({key[:20] for key in (key_of(own), *keys)}) == 3


async def test_without_the_right_no_picture_is_read(
    anna: Person, boris: Person, make_person: MakePerson, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_id, clara = await found(anna, boris), await make_person("Clara")
    pair = (await anna.http.post("/api/v1/chats/private", json={"user_id": boris.id})).json()["id"]
    for person, where, code in (
        (boris, chat_id, "not_creator"),
        (anna, pair, "not_a_group"),
        (clara, chat_id, "chat_not_found"),
        (anna, str(uuid4()), "chat_not_found"),
    ):
        assert (await upload(person, where, b"no picture")).code == code
    assert (await upload(anna, chat_id, b"no picture")).code == "bad_image"
    assert files() == []


async def test_two_pictures_at_once_leave_the_files_of_one(
    anna: Person, boris: Person, service: Service, files: Files
) -> None:
    chat_id = await found(anna, boris)
    pictures = [loaded("PNG"), encoded(corners(), "PNG"), loaded("JPEG")]
    answers = await asyncio.gather(*(upload(anna, chat_id, data) for data in pictures))
    assert [answer.status for answer in answers] == [200] * 3
    await settled(service)
    shown = (await entry(anna, chat_id))["avatar"]
    assert {path.split("/")[1] for path in files()} == {key_of(shown)} and len(files()) == 4


@pytest.mark.parametrize(("error", "kept"), [(Internal, 0), (Unavailable, 4)])
async def test_a_failed_change_keeps_files_only_if_its_outcome_is_unknown(
    anna: Person, boris: Person, files: Files, monkeypatch: pytest.MonkeyPatch, error: type[Exception], kept: int
) -> None:
    chat_id = await found(anna, boris)

    async def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(groups, "read_group", fail)
    assert not (await upload(anna, chat_id, loaded("PNG"))).ok
    assert len(files()) == kept


async def test_a_large_picture_is_accepted_as_that_of_a_user(anna: Person, boris: Person) -> None:
    """Above the limit of other bodies."""
    chat_id = await found(anna, boris)
    data = encoded(corners(), "PNG")
    padded = {"image": " " * 2**21 + as_text(data)}
    assert http_answer(await anna.http.put(f"/api/v1/chats/{chat_id}/avatar", json=padded)).status == 200
