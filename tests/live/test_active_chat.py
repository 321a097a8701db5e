"""The active chat of a connection and a session, and the events that depend on it."""

from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import pytest

from chat_app.database import Database
from tests.clients import Answer, HttpTransport, Person, Socket, SocketTransport, Transport, http_answer, in_step
from tests.faults import no_commits, no_reads_after_commits, once_read
from tests.service import MakePerson, Service

ACTIVE = "/api/v1/chats/active"


@pytest.fixture
async def chat(anna: Person, boris: Person, clara: Person) -> str:
    """A group of all three. All are connected."""
    for person in (anna, boris, clara):
        await person.connect()
    created: dict[str, Any] = await SocketTransport().create_group(anna, boris, clara)
    return str(created["id"])


@pytest.fixture
async def other_chat(anna: Person, boris: Person) -> str:
    created: dict[str, Any] = await SocketTransport().open_private_chat(anna, boris)
    return str(created["id"])


async def get_active(person: Person) -> Answer:
    """GET the session's active chat."""
    return http_answer(await person.http.get(ACTIVE))


async def set_active(person: Person, chat_id: str | None) -> Answer:
    """PUT the session's active chat."""
    if chat_id is None:
        return http_answer(await person.http.delete(ACTIVE))
    return http_answer(await person.http.put(ACTIVE, json={"chat_id": chat_id}))


async def all_in_step() -> None:
    for wait in in_step:
        await wait()


async def is_open(socket: Socket, transport: Transport, sender: Person, chat_id: str) -> bool:
    """Whether this connection gets a new message of the chat in `messages_changed`."""
    # Events of earlier commits of other nodes may not have arrived yet.
    await all_in_step()
    socket.events.clear()
    await transport.send(sender, chat_id)
    await all_in_step()
    assert (await socket.call("list_chats")).ok
    assert [chat["id"] for event in socket.named("chats_changed") for chat in event["chats"]] == [chat_id]
    return bool(socket.named("messages_changed"))


class TestActivation:
    async def test_activation_returns_all_that_a_screen_needs(
        self, transport: Transport, chat: str, anna: Person, boris: Person, clara: Person
    ) -> None:
        await transport.send(boris, chat, "hello")
        answer = await transport.call(anna, "activate_chat", chat_id=chat)
        screen = {"chat", "page", "members", "users", "pinned", "online", "description"}
        assert answer.status == 200 and set(answer.data) == screen
        entry = await transport.do(anna, "get_chat", chat_id=chat)
        assert answer.data["chat"] == entry
        assert answer.data["page"] == await transport.do(anna, "list_messages", chat_id=chat)
        assert answer.data["page"]["version"] == entry["version"]
        assert answer.data["members"] == (await transport.do(anna, "list_members", chat_id=chat))["items"]
        assert {user["id"] for user in answer.data["users"]} == {anna.id, boris.id, clara.id}
        assert (await get_active(anna)).data == answer.data

    async def test_a_connection_gets_messages_of_its_active_chat_only(
        self, transport: Transport, chat: str, other_chat: str, anna: Person, boris: Person
    ) -> None:
        assert not await is_open(boris.socket, transport, anna, chat)
        assert (await boris.socket.call("activate_chat", {"chat_id": chat})).ok
        assert await is_open(boris.socket, transport, anna, chat)
        assert not await is_open(boris.socket, transport, anna, other_chat)
        assert (await boris.socket.call("activate_chat", {"chat_id": other_chat})).ok
        assert not await is_open(boris.socket, transport, anna, chat)
        assert await is_open(boris.socket, transport, anna, other_chat)

    async def test_null_clears_the_active_chat_of_the_connection_and_the_session(
        self, transport: Transport, chat: str, anna: Person, boris: Person
    ) -> None:
        await boris.open(chat)
        assert (await get_active(boris)).data["chat"]["id"] == chat
        answer = await boris.socket.call("activate_chat", {"chat_id": None})
        assert (answer.status, answer.data) == (204, None)
        assert (await get_active(boris)).code == "no_active_chat"
        assert not await is_open(boris.socket, transport, anna, chat)

    async def test_a_refused_activation_changes_nothing(
        self, transport: Transport, chat: str, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        foreign = (await transport.open_private_chat(clara, outsider))["id"]
        await boris.open(chat)
        for chat_id in (foreign, str(uuid4())):
            answer = await transport.call(boris, "activate_chat", chat_id=chat_id)
            assert (answer.status, answer.code) == (404, "chat_not_found")
        assert await is_open(boris.socket, transport, anna, chat)
        assert (await get_active(boris)).data["chat"]["id"] == chat

    async def test_a_malformed_chat_id_is_refused(self, transport: Transport, anna: Person) -> None:
        for argument in ({}, {"chat_id": "x"}, {"chat_id": 7}, {"chat": str(uuid4())}):
            answer = await transport.call(anna, "activate_chat", **argument)
            assert (answer.status, answer.code) == (422, "invalid_input"), argument
        if isinstance(transport, HttpTransport):  # HTTP clears it by DELETE
            assert (await transport.call(anna, "activate_chat", chat_id=None)).status == 422

    async def test_no_change_is_lost_between_the_snapshot_and_the_events(
        self, transport: Transport, chat: str, anna: Person, boris: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[Any] = []

        async def send() -> None:
            sent.append(await transport.send(boris, chat))

        once_read(monkeypatch, send)
        opened = (await anna.socket.call("activate_chat", {"chat_id": chat})).data
        assert [message["seq"] for message in opened["page"]["items"]] == [1]
        (event,) = await anna.received("messages_changed")
        assert [message["seq"] for message in event["messages"]] == [sent[0]["seq"]] == [2]
        assert event["since"] == opened["page"]["version"]


class TestHandshake:
    async def test_the_handshake_can_name_the_active_chat(
        self, transport: Transport, chat: str, anna: Person, boris: Person
    ) -> None:
        socket = await anna.connect(active_chat_id=chat)
        assert socket.named("ready")[0]["active_chat_id"] == chat
        assert await is_open(socket, transport, boris, chat)
        assert not await is_open(anna.socket, transport, boris, chat)

    async def test_a_handshake_without_a_chat_takes_that_of_the_session(
        self, transport: Transport, chat: str, anna: Person, boris: Person
    ) -> None:
        await set_active(anna, chat)
        socket = await anna.connect()
        assert socket.named("ready")[0]["active_chat_id"] == chat
        assert await is_open(socket, transport, boris, chat)

    async def test_null_in_the_handshake_means_no_active_chat(
        self, transport: Transport, chat: str, anna: Person, boris: Person
    ) -> None:
        await set_active(anna, chat)
        socket = await anna.connect(active_chat_id=None)
        assert socket.named("ready")[0]["active_chat_id"] is None
        assert not await is_open(socket, transport, boris, chat)

    async def test_a_foreign_chat_in_the_handshake_counts_as_null(
        self, transport: Transport, chat: str, anna: Person, outsider: Person
    ) -> None:
        for chat_id in (chat, str(uuid4())):
            socket = await outsider.connect(active_chat_id=chat_id)
            assert socket.named("ready")[0]["active_chat_id"] is None
        await transport.send(anna, chat)
        await outsider.settle()
        events = [name for socket in outsider.sockets for name, _ in socket.events]
        assert [name for name in events if name != "presence_changed"] == ["ready"] * 2


class TestSession:
    async def test_connections_without_a_choice_of_their_own_follow_http(
        self, transport: Transport, chat: str, other_chat: str, anna: Person, boris: Person
    ) -> None:
        assert (await set_active(anna, chat)).data["chat"]["id"] == chat
        assert await is_open(anna.socket, transport, boris, chat)
        await set_active(anna, other_chat)
        assert await is_open(anna.socket, transport, boris, other_chat)
        answer = await set_active(anna, None)
        assert (answer.status, answer.data) == (204, None)
        assert not await is_open(anna.socket, transport, boris, other_chat)

    @pytest.mark.parametrize("way", ["command", "null command", "handshake"])
    async def test_connections_with_a_choice_of_their_own_keep_it(
        self, transport: Transport, chat: str, other_chat: str, anna: Person, boris: Person, way: str
    ) -> None:
        if way == "handshake":
            socket = await anna.connect(active_chat_id=chat)
        else:
            socket = await anna.connect()
            await socket.call("activate_chat", {"chat_id": chat if way == "command" else None})
        await set_active(anna, other_chat)
        assert not await is_open(socket, transport, boris, other_chat)
        assert await is_open(socket, transport, boris, chat) == (way != "null command")

    async def test_a_command_also_sets_the_chat_of_the_session_and_others_follow(
        self, transport: Transport, chat: str, anna: Person, boris: Person
    ) -> None:
        second = await anna.connect()
        await anna.open(chat)
        assert (await get_active(anna)).data["chat"]["id"] == chat
        assert await is_open(second, transport, boris, chat)

    async def test_a_handshake_does_not_set_the_chat_of_the_session(self, chat: str, anna: Person) -> None:
        await anna.connect(active_chat_id=chat)
        assert (await get_active(anna)).code == "no_active_chat"

    async def test_each_session_of_a_user_has_its_own_active_chat(
        self, transport: Transport, chat: str, anna: Person, boris: Person, make_person: MakePerson
    ) -> None:
        phone = await make_person(again=anna, connected=True)
        await anna.open(chat)
        assert (await get_active(phone)).code == "no_active_chat"
        assert not await is_open(phone.socket, transport, boris, chat)


@pytest.mark.parametrize("take_place", [False, True], ids=["failed", "unknown"])
class TestFailedCommit:
    """After a 503 the former chat stays active, also if the commit did take place."""

    @pytest.mark.parametrize("to", ["another chat", "none"])
    async def test_the_former_chat_stays_open(
        self,
        take_place: bool,
        to: str,
        transport: Transport,
        chat: str,
        other_chat: str,
        anna: Person,
        boris: Person,
        service: Service,
        database: Database,
    ) -> None:
        await anna.open(chat)
        with no_commits(service.database, database, take_place=take_place):
            answer = await anna.socket.call("activate_chat", {"chat_id": other_chat if to == "another chat" else None})
        assert (answer.status, answer.code) == (503, "unavailable")
        assert await is_open(anna.socket, transport, boris, chat)
        assert not await is_open(anna.socket, transport, boris, other_chat)

    async def test_a_connection_without_a_choice_goes_on_following(
        self,
        take_place: bool,
        transport: Transport,
        chat: str,
        other_chat: str,
        anna: Person,
        boris: Person,
        service: Service,
        database: Database,
    ) -> None:
        with no_commits(service.database, database, take_place=take_place):
            assert (await anna.socket.call("activate_chat", {"chat_id": other_chat})).status == 503
        await set_active(anna, chat)
        assert await is_open(anna.socket, transport, boris, chat)

    async def test_changes_of_the_former_chat_during_the_activation_are_delivered(
        self,
        take_place: bool,
        transport: Transport,
        chat: str,
        other_chat: str,
        anna: Person,
        boris: Person,
        service: Service,
        database: Database,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await anna.open(chat)
        await anna.forget()
        sent: list[Any] = []
        with ExitStack() as stack:

            async def send_during_the_activation() -> None:
                sent.append(await transport.send(boris, chat))
                stack.enter_context(no_commits(service.database, database, take_place=take_place))

            once_read(monkeypatch, send_during_the_activation)
            assert (await anna.socket.call("activate_chat", {"chat_id": other_chat})).status == 503
        (change,) = await anna.received("messages_changed")
        assert change["version"] == sent[0]["version"]

    async def test_a_removal_from_the_former_chat_during_the_activation_closes_it(
        self,
        take_place: bool,
        transport: Transport,
        chat: str,
        other_chat: str,
        anna: Person,
        boris: Person,
        service: Service,
        database: Database,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        former = (await transport.create_group(boris, anna))["id"]
        socket = await anna.connect(active_chat_id=former)
        with ExitStack() as stack:

            async def remove_during_the_activation() -> None:
                await transport.do(boris, "remove_member", chat_id=former, user_id=anna.id)
                stack.enter_context(no_commits(service.database, database, take_place=take_place))

            once_read(monkeypatch, remove_during_the_activation)
            assert (await socket.call("activate_chat", {"chat_id": other_chat})).status == 503
        await anna.settle()
        assert (await socket.call("list_messages")).code == "no_active_chat"

    async def test_following_connections_keep_the_former_chat(
        self,
        take_place: bool,
        transport: Transport,
        chat: str,
        other_chat: str,
        anna: Person,
        boris: Person,
        service: Service,
        database: Database,
    ) -> None:
        await set_active(anna, chat)
        with no_commits(service.database, database, take_place=take_place):
            assert (await set_active(anna, other_chat)).status == 503
        assert await is_open(anna.socket, transport, boris, chat)


class TestSecondReadOverHttp:
    """Connections follow after the commit, so the answer has to have all changes until then."""

    async def test_a_failed_second_read_still_returns_the_chat(
        self,
        transport: Transport,
        chat: str,
        other_chat: str,
        anna: Person,
        boris: Person,
        service: Service,
        database: Database,
    ) -> None:
        await set_active(anna, chat)
        with no_reads_after_commits(service.database, database, "SET active_chat_id"):
            answer = await set_active(anna, other_chat)
        assert answer.status == 200 and answer.data["chat"]["id"] == other_chat
        assert await is_open(anna.socket, transport, boris, other_chat)

    async def test_a_message_before_the_connections_follow_is_in_the_answer(
        self, transport: Transport, chat: str, anna: Person, boris: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[Any] = []

        async def send() -> None:
            sent.append(await transport.send(anna, chat))

        once_read(monkeypatch, send)
        answer = await set_active(boris, chat)
        assert answer.data["page"]["items"][-1]["seq"] == sent[0]["seq"]

    async def test_a_membership_that_ended_before_the_second_read_is_not_found(
        self, transport: Transport, chat: str, anna: Person, boris: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also after a new joining: the removal has closed the chat, but its version is below that of the answer."""

        async def remove_and_add() -> None:
            await transport.do(anna, "remove_member", chat_id=chat, user_id=boris.id)
            await transport.do(anna, "add_members", chat_id=chat, user_ids=[boris.id])

        # The first reading reads the page and the pinned messages.
        once_read(monkeypatch, remove_and_add, times=3)
        answer = await set_active(boris, chat)
        assert (answer.status, answer.code) == (404, "chat_not_found")
        assert not await is_open(boris.socket, transport, anna, chat)


class TestLosingTheChat:
    @pytest.mark.parametrize("way", ["removal", "leaving", "deletion"])
    async def test_a_lost_chat_is_active_on_no_connection(
        self, transport: Transport, chat: str, anna: Person, boris: Person, clara: Person, way: str
    ) -> None:
        follower = await boris.connect()
        await boris.open(chat)
        assert await is_open(follower, transport, anna, chat)
        if way == "removal":
            await transport.do(anna, "remove_member", chat_id=chat, user_id=boris.id)
        elif way == "leaving":
            await transport.do(boris, "leave_chat", chat_id=chat)
        else:
            await transport.do(anna, "delete_chat", chat_id=chat)
        assert (await get_active(boris)).code == "no_active_chat"
        for socket in boris.sockets:
            assert (await socket.call("list_messages")).code == "no_active_chat"
        assert (await boris.connect()).named("ready")[0]["active_chat_id"] is None

    async def test_rejoining_does_not_open_the_chat_again(
        self, transport: Transport, chat: str, anna: Person, boris: Person
    ) -> None:
        await boris.open(chat)
        await transport.do(anna, "remove_member", chat_id=chat, user_id=boris.id)
        await transport.do(anna, "add_members", chat_id=chat, user_ids=[boris.id])
        await boris.settle()
        assert not await is_open(boris.socket, transport, anna, chat)

    async def test_remaining_members_keep_the_chat_open(
        self, transport: Transport, chat: str, anna: Person, boris: Person, clara: Person
    ) -> None:
        await clara.open(chat)
        await transport.do(anna, "remove_member", chat_id=chat, user_id=boris.id)
        await clara.settle()
        assert await is_open(clara.socket, transport, anna, chat)
        assert (await get_active(clara)).ok


class TestWithoutChatId:
    async def test_commands_without_a_chat_id_use_the_active_chat(self, chat: str, anna: Person) -> None:
        await anna.open(chat)
        fields = {"type": "text", "text": "here", "client_id": str(uuid4())}
        sent = await anna.socket.call("send_message", fields)
        assert (sent.status, sent.data["chat_id"]) == (201, chat)
        assert (await anna.socket.call("send_message", fields | {"chat_id": None})).status == 200
        page = await anna.socket.call("list_messages", {"limit": 1})
        assert page.data["items"] == [sent.data]

    async def test_commands_use_the_chat_of_the_connection_and_not_of_the_session(
        self, chat: str, other_chat: str, anna: Person
    ) -> None:
        await anna.open(chat)
        await set_active(anna, other_chat)
        fields = {"type": "text", "text": "here", "client_id": str(uuid4())}
        assert (await anna.socket.call("send_message", fields)).data["chat_id"] == chat

    async def test_routes_use_the_chat_of_the_session(self, chat: str, anna: Person, boris: Person) -> None:
        await set_active(anna, chat)
        fields = {"type": "text", "text": "here", "client_id": str(uuid4())}
        sent = http_answer(await anna.http.post(f"{ACTIVE}/messages", json=fields))
        assert (sent.status, sent.data["chat_id"]) == (201, chat)
        assert http_answer(await anna.http.post(f"{ACTIVE}/messages", json=fields)).status == 200
        fields["text"] = "other"
        assert http_answer(await anna.http.post(f"{ACTIVE}/messages", json=fields)).code == "client_id_reused"
        page = http_answer(await anna.http.get(f"{ACTIVE}/messages", params={"limit": 1}))
        assert page.data["items"] == [sent.data] and page.data["has_before"]
        assert http_answer(await anna.http.get(f"{ACTIVE}/messages?before=2&after=1")).status == 422

    async def test_commands_and_routes_without_an_active_chat_are_refused(self, anna: Person) -> None:
        await anna.connect()
        fields = {"type": "text", "text": "where?", "client_id": str(uuid4())}
        answers = [
            await get_active(anna),
            http_answer(await anna.http.get(f"{ACTIVE}/messages")),
            http_answer(await anna.http.post(f"{ACTIVE}/messages", json=fields)),
            await anna.socket.call("list_messages"),
            await anna.socket.call("send_message", fields),
        ]
        assert [(answer.status, answer.code) for answer in answers] == [(409, "no_active_chat")] * 5
