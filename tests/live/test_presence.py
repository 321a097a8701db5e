"""Typing, presence and changed profiles: who gets the events and who does not."""

from datetime import datetime
from uuid import UUID

import pytest

from chat_app.crud import avatars, members, users
from chat_app.crud.presence import list_peers
from chat_app.database import Database
from chat_app.events import recorded
from chat_app.live import presence
from chat_app.models.sessions import Actor
from chat_app.models.users import UserUpdate
from tests.clients import Person, SocketTransport, Transport
from tests.service import MakePerson, Service

TYPING = {"typing": True}


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "GRACE_SECONDS", 0.2)


async def private_chat(one: Person, other: Person) -> str:
    chat = await SocketTransport().do(one, "open_private_chat", user_id=other.id)
    chat_id: str = chat["id"]
    return chat_id


async def test_typing_reaches_others_who_have_the_chat_active(make_person: MakePerson) -> None:
    anna, boris, clara = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Clara")]
    socket = SocketTransport()
    group = await socket.do(anna, "create_group", title="G", member_ids=[boris.id, clara.id])
    for person in (anna, boris):
        await socket.do(person, "activate_chat", chat_id=group["id"])
    answer = await socket.call(anna, "set_typing", **TYPING)
    assert (answer.status, answer.data) == (204, None)
    received = await boris.socket.wait_for("typing_changed")
    assert received == {"chat_id": group["id"], "user_id": anna.id, "typing": True}
    await clara.settle()
    await anna.settle()
    assert clara.socket.named("typing_changed") == anna.socket.named("typing_changed") == []


async def test_typing_needs_an_own_chat(make_person: MakePerson) -> None:
    anna, boris, outsider = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Eve")]
    chat_id = await private_chat(anna, boris)
    await SocketTransport().do(boris, "activate_chat", chat_id=chat_id)
    assert (await SocketTransport().call(outsider, "set_typing", **TYPING)).code == "no_active_chat"
    assert (await SocketTransport().call(outsider, "set_typing", chat_id=chat_id, **TYPING)).code == "chat_not_found"
    await boris.settle()
    assert boris.socket.named("typing_changed") == []


async def test_typing_in_a_private_chat_reaches_every_connection_of_the_peer(make_person: MakePerson) -> None:
    anna, boris = [await make_person(name, connected=True) for name in ("Anna", "Boris")]
    tablet = await make_person("Boris's tablet", again=boris, connected=True)
    chat_id = await private_chat(anna, boris)
    await anna.open(chat_id)
    await boris.open(chat_id)
    other = await anna.connect(active_chat_id=None)
    for typing in (True, False):
        await SocketTransport().do(anna, "set_typing", typing=typing)
    await anna.settle()
    for person in (boris, tablet):
        assert [event["typing"] for event in await person.received("typing_changed")] == [True, False]
    assert other.named("typing_changed") == anna.socket.named("typing_changed") == []


async def test_reading_in_a_private_chat_reaches_every_connection_of_the_peer(
    transport: Transport, make_person: MakePerson
) -> None:
    anna, boris = [await make_person(name, connected=True) for name in ("Anna", "Boris")]
    tablet = await make_person("Boris's tablet", again=boris, connected=True)
    chat_id = await private_chat(anna, boris)
    await transport.send(boris, chat_id)
    await boris.open(chat_id)
    with_chat, idle = await anna.connect(active_chat_id=chat_id), anna.socket
    await transport.do(anna, "mark_read", chat_id=chat_id, seq=1)
    await anna.settle()
    read = {"chat_id": chat_id, "user_id": anna.id, "last_read_seq": 1}
    for person in (boris, tablet):
        assert await person.received("read_changed") == [read]
    assert with_chat.named("read_changed") == [read], "one's own window shows it, as in a group"
    assert idle.named("read_changed") == []


async def test_in_a_private_chat_that_became_a_group_typing_reaches_the_open_chat_only(make_person: MakePerson) -> None:
    anna, boris, clara = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Clara")]
    chat_id = await private_chat(anna, boris)
    await SocketTransport().do(anna, "add_members", chat_id=chat_id, user_ids=[clara.id])
    await clara.open(chat_id)
    await SocketTransport().do(anna, "set_typing", chat_id=chat_id, **TYPING)
    assert len(await clara.received("typing_changed")) == 1
    assert await boris.received("typing_changed") == []


async def test_answers_say_who_is_online(transport: Transport, make_person: MakePerson) -> None:
    anna, boris = [await make_person(name, connected=True) for name in ("Anna", "Boris")]
    clara = await make_person("Clara")
    group = await SocketTransport().create_group(anna, boris, clara)
    screen = await transport.do(anna, "activate_chat", chat_id=group["id"])
    assert set(screen["online"]) == {anna.id, boris.id}
    for person in (boris, clara):
        profile = (await anna.http.get(f"/api/v1/users/{person.id}")).json()
        assert (profile["online"], profile["last_seen_at"]) == (person is boris, None)
    await transport.do(boris, "like_message", chat_id=group["id"], seq=1)
    (liker,) = (await transport.do(anna, "list_likes", chat_id=group["id"], seq=1))["items"]
    assert (liker["id"], liker["online"]) == (boris.id, True)
    found = (await anna.http.get("/api/v1/users", params={"ids": [boris.id, clara.id]})).json()["items"]
    assert {user["id"]: user["online"] for user in found} == {boris.id: True, clara.id: False}
    assert (await clara.http.get("/api/v1/users/me")).json()["online"] is False


async def test_ready_says_who_is_online(make_person: MakePerson) -> None:
    anna, boris, clara, dora = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Clara", "Dora")]
    await private_chat(anna, boris)
    await private_chat(anna, await make_person("Absent"))
    group = await SocketTransport().create_group(clara, anna, dora)
    without, with_group = await anna.connect(), await anna.connect(active_chat_id=group["id"])
    assert without.named("ready")[0]["online"] == [boris.id]
    assert set(with_group.named("ready")[0]["online"]) == {boris.id, clara.id, dora.id}
    await anna.settle()
    assert with_group.named("presence_changed") == [], "what ready says is not repeated"


async def test_an_announcement_that_is_outdated_when_it_is_delivered_is_dropped(
    make_person: MakePerson, service: Service
) -> None:
    anna, boris = [await make_person(name, connected=True) for name in ("Anna", "Boris")]
    await private_chat(anna, boris)
    await anna.forget()
    presence = service.live.presence
    await presence._announce([UUID(boris.id)], online=False)
    assert await anna.received("presence_changed") == []
    await presence._announce([UUID(boris.id)], online=True)
    assert len(await anna.received("presence_changed")) == 1, "or this test means nothing"


async def test_private_peers_get_presence(make_person: MakePerson) -> None:
    anna, boris, outsider = [await make_person(name) for name in ("Anna", "Boris", "Eve")]
    await anna.connect()
    await outsider.connect()
    await private_chat(anna, boris)
    first, second = await boris.connect(), await boris.connect()
    online = await anna.socket.wait_for("presence_changed", lambda event: event["online"])
    assert online == {"user_id": boris.id, "online": True, "last_seen_at": None}
    assert first.named("ready")[0]["online"] == [anna.id]

    await first.close()
    await anna.settle()
    assert [event["online"] for event in anna.socket.named("presence_changed")] == [True], "another connection is open"
    await second.close()
    offline = await anna.socket.wait_for("presence_changed", lambda event: not event["online"])
    assert datetime.fromisoformat(offline["last_seen_at"]) and offline["user_id"] == boris.id
    profile = (await anna.http.get(f"/api/v1/users/{boris.id}")).json()
    assert (profile["online"], profile["last_seen_at"]) == (False, offline["last_seen_at"])
    anna.socket.events.clear()
    await boris.connect()
    back = await anna.socket.wait_for("presence_changed")
    assert back == {"user_id": boris.id, "online": True, "last_seen_at": offline["last_seen_at"]}
    await outsider.settle()
    assert outsider.socket.named("presence_changed") == []


async def test_a_reconnect_within_the_grace_causes_no_event(
    make_person: MakePerson, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence, "GRACE_SECONDS", 60)
    anna, boris = [await make_person(name, connected=True) for name in ("Anna", "Boris")]
    await private_chat(anna, boris)
    await boris.socket.close()
    await boris.connect()
    await anna.settle()
    assert [event for event in anna.socket.named("presence_changed") if not event["online"]] == []


async def test_members_who_have_the_group_open_get_presence(make_person: MakePerson) -> None:
    anna, boris, clara = [await make_person(name) for name in ("Anna", "Boris", "Clara")]
    socket = SocketTransport()
    for person in (anna, clara):
        await person.connect()
    group = await socket.do(anna, "create_group", title="G", member_ids=[boris.id, clara.id])
    screen = await socket.do(anna, "activate_chat", chat_id=group["id"])
    assert set(screen["online"]) == {anna.id, clara.id}
    await boris.connect()
    assert await anna.socket.wait_for("presence_changed", lambda event: event["user_id"] == boris.id)
    await clara.settle()
    assert clara.socket.named("presence_changed") == [], "a connection without an active chat got presence"


async def test_a_new_name_reaches_private_peers(make_person: MakePerson) -> None:
    anna, boris, outsider = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Eve")]
    await private_chat(anna, boris)
    await anna.http.patch("/api/v1/users/me", json={"bio": "new"})
    await anna.http.patch("/api/v1/users/me", json={"name": "Anna Maria"})
    received = await boris.socket.wait_for("users_changed")
    assert received == {"users": [{"id": anna.id, "name": "Anna Maria", "avatar": None}]}
    await boris.settle()
    await outsider.settle()
    assert len(boris.socket.named("users_changed")) == 1 and outsider.socket.named("users_changed") == []


async def test_a_removed_member_with_the_chat_still_open_gets_no_presence_and_no_profiles(
    make_person: MakePerson, service: Service, database: Database
) -> None:
    socket = SocketTransport()
    boris, anna, clara = [await make_person(name, connected=True) for name in ("Boris", "Anna", "Clara")]
    dora = await make_person("Dora")
    chat_id = (await socket.create_group(anna, boris, clara))["id"]
    for person in (boris, clara):
        await person.open(chat_id)
    async with database.transaction() as db:  # as on another node whose event is lost
        await members.remove_member(db, Actor(UUID(anna.id), anna.session_id), UUID(chat_id), UUID(boris.id))
    await socket.do(anna, "add_members", chat_id=chat_id, user_ids=[dora.id])
    await boris.forget()
    (stale,) = service.live.connections.of_user(UUID(boris.id))
    assert str(stale.active_chat_id) == chat_id, "or this test means nothing"

    await dora.connect(active_chat_id=chat_id)
    await clara.socket.wait_for("presence_changed", lambda change: change["user_id"] == dora.id)
    await dora.http.patch("/api/v1/users/me", json={"name": "Dora Maria"})
    await clara.socket.wait_for("users_changed", lambda change: change["users"][0]["id"] == dora.id)
    await dora.socket.close()
    await clara.socket.wait_for("presence_changed", lambda change: not change["online"])

    await boris.settle()
    assert [event for event in boris.socket.events if event[0] != "ready"] == []


@pytest.mark.parametrize("change", ["name", "picture"])
async def test_the_audience_of_a_changed_profile_is_read_in_its_transaction(
    change: str, make_person: MakePerson, database: Database
) -> None:
    socket = SocketTransport()
    anna, boris, clara, removed, outsider = [await make_person(name) for name in ("A", "B", "C", "R", "S")]
    private, group = [
        await socket.open_private_chat(anna, boris),
        await socket.create_group(anna, boris, clara, removed),
    ]
    await socket.create_group(clara, outsider)
    await socket.do(anna, "remove_member", chat_id=group["id"], user_id=removed.id)
    actor = Actor(UUID(anna.id), anna.session_id)

    async with database.transaction() as db:
        if change == "name":
            await users.update_me(db, actor, UserUpdate(name="Anna Maria"))
        else:
            await avatars.set_avatar(db, actor, "0" * 40 + ".png")
        events = recorded(db)

    assert private["id"] != group["id"]
    assert [(each.event.event, set(each.audience), each.open_chat_id) for each in events] == [
        ("users_changed", {UUID(boris.id)}, None),
        ("chats_changed", {UUID(boris.id)}, None),
        ("users_changed", {UUID(clara.id)}, UUID(group["id"])),
    ]
    assert events[0].event == events[2].event


async def test_members_of_a_foreign_chat_are_no_peers(make_person: MakePerson, database: Database) -> None:
    socket = SocketTransport()
    anna, boris, clara = [await make_person(name) for name in ("Anna", "Boris", "Clara")]
    await socket.open_private_chat(boris, clara)
    chat_id = UUID((await socket.create_group(anna, boris))["id"])
    async with database.reading() as db:
        assert await list_peers(db, UUID(boris.id), chat_id) == {UUID(anna.id), UUID(clara.id)}
        await socket.do(anna, "remove_member", chat_id=str(chat_id), user_id=boris.id)
        assert await list_peers(db, UUID(boris.id), chat_id) == {UUID(clara.id)}
