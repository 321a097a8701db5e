"""Typing, presence and changed profiles: who is told, and who is not."""

from datetime import datetime

import pytest

from chat_app.live import presence
from tests.clients import Person, SocketDoor
from tests.service import MakePerson

TYPING = {"typing": True}


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "GRACE_SECONDS", 0.2)


async def private_chat(one: Person, other: Person) -> str:
    chat = await SocketDoor().do(one, "open_private_chat", user_id=other.id)
    chat_id: str = chat["id"]
    return chat_id


async def test_typing_is_told_to_others_who_have_the_chat_active(make_person: MakePerson) -> None:
    anna, boris, clara = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Clara")]
    socket = SocketDoor()
    group = await socket.do(anna, "create_group", title="G", member_ids=[boris.id, clara.id])
    for person in (anna, boris):
        await socket.do(person, "activate_chat", chat_id=group["id"])
    answer = await socket.call(anna, "set_typing", **TYPING)
    assert (answer.status, answer.data) == (204, None)
    told = await boris.socket.wait_for("typing_changed")
    assert told == {"chat_id": group["id"], "user_id": anna.id, "typing": True}
    await clara.settle()
    await anna.settle()
    assert clara.socket.named("typing_changed") == anna.socket.named("typing_changed") == []


async def test_typing_needs_a_chat_of_ones_own(make_person: MakePerson) -> None:
    anna, boris, stranger = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Eve")]
    chat_id = await private_chat(anna, boris)
    await SocketDoor().do(boris, "activate_chat", chat_id=chat_id)
    assert (await SocketDoor().call(stranger, "set_typing", **TYPING)).code == "no_active_chat"
    assert (await SocketDoor().call(stranger, "set_typing", chat_id=chat_id, **TYPING)).code == "chat_not_found"
    await boris.settle()
    assert boris.socket.named("typing_changed") == []


async def test_private_peers_are_told_when_somebody_comes_and_goes(make_person: MakePerson) -> None:
    anna, boris, stranger = [await make_person(name) for name in ("Anna", "Boris", "Eve")]
    await anna.connect()
    await stranger.connect()
    await private_chat(anna, boris)
    first, second = await boris.connect(), await boris.connect()
    came = await anna.socket.wait_for("presence_changed", lambda told: told["online"])
    assert came == {"user_id": boris.id, "online": True, "last_seen_at": None}
    assert (await first.wait_for("presence_changed"))["user_id"] == anna.id, "who is online already is told"

    await first.close()
    await anna.settle()
    assert [told["online"] for told in anna.socket.named("presence_changed")] == [True], "there is another connection"
    await second.close()
    went = await anna.socket.wait_for("presence_changed", lambda told: not told["online"])
    assert datetime.fromisoformat(went["last_seen_at"]) and went["user_id"] == boris.id
    profile = (await anna.http.get(f"/api/v1/users/{boris.id}")).json()
    assert profile["last_seen_at"] == went["last_seen_at"]
    await stranger.settle()
    assert stranger.socket.named("presence_changed") == []


async def test_whoever_comes_back_within_the_grace_was_never_away(
    make_person: MakePerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "GRACE_SECONDS", 60)
    anna, boris = [await make_person(name, connected=True) for name in ("Anna", "Boris")]
    await private_chat(anna, boris)
    await boris.socket.close()
    await boris.connect()
    await anna.settle()
    assert [told for told in anna.socket.named("presence_changed") if not told["online"]] == []


async def test_members_who_have_the_group_open_are_told_too(make_person: MakePerson) -> None:
    anna, boris, clara = [await make_person(name) for name in ("Anna", "Boris", "Clara")]
    socket = SocketDoor()
    for person in (anna, clara):
        await person.connect()
    group = await socket.do(anna, "create_group", title="G", member_ids=[boris.id, clara.id])
    await socket.do(anna, "activate_chat", chat_id=group["id"])
    assert (await anna.socket.wait_for("presence_changed"))["user_id"] == clara.id
    await boris.connect()
    assert await anna.socket.wait_for("presence_changed", lambda told: told["user_id"] == boris.id)
    await clara.settle()
    assert clara.socket.named("presence_changed") == [], "it has nothing open"


async def test_a_new_name_is_told_to_private_peers(make_person: MakePerson) -> None:
    anna, boris, stranger = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Eve")]
    await private_chat(anna, boris)
    await anna.http.patch("/api/v1/users/me", json={"bio": "new"})
    await anna.http.patch("/api/v1/users/me", json={"name": "Anna Maria"})
    told = await boris.socket.wait_for("users_changed")
    assert told == {"users": [{"id": anna.id, "name": "Anna Maria", "avatar": None}]}
    await boris.settle()
    await stranger.settle()
    assert len(boris.socket.named("users_changed")) == 1 and stranger.socket.named("users_changed") == []
