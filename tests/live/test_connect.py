"""The connection: authentication, the first events, and that every command is answered in order."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
import socketio

from chat_app.crud.sessions import revoke_sessions
from chat_app.database import Database
from chat_app.live.commands import COMMANDS, Command
from chat_app.models.base import LIMITS
from chat_app.settings import get_settings
from tests.clients import DEADLINE, Person, Socket, SocketTransport
from tests.faults import no_reads
from tests.raw import PATH, RawSocket
from tests.service import MakePerson, Service


@pytest.fixture
async def anna(anna: Person) -> Person:
    await anna.connect()
    return anna


@pytest.fixture
async def boris(boris: Person) -> Person:
    await boris.connect()
    return boris


@asynccontextmanager
async def joined(person: Person, **auth: Any) -> AsyncIterator[RawSocket]:
    """A connection that sends any packets."""
    raw = await RawSocket.open(person.base)
    assert (await raw.join({"token": person.token, **auth})).startswith("40{")
    assert (await raw.receive()).startswith('42["ready",')
    yield raw
    await raw.close()


async def next_packet(raw: RawSocket) -> str:
    """The next packet but `presence_changed`."""
    while (packet := await raw.receive()).startswith('42["presence_changed",'):
        pass
    return packet


async def next_ack(raw: RawSocket) -> tuple[str, Any]:
    """The number and the envelope of the next ack. Events before it are skipped."""
    while not (packet := await raw.receive()).startswith("43"):
        assert packet.startswith("42")
    number, _, content = packet[2:].partition("[")
    (ack,) = json.loads(f"[{content}")
    return number, ack


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition without an event."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # nothing sets an event for it
            await asyncio.sleep(0.01)


def connections_of(service: Service, person: Person) -> int:
    return len(service.live.connections.of_user(UUID(person.id)))


def token_of(person: Person, **claims: object) -> str:
    """A token of the person's session with a valid signature and other claims."""
    settings = get_settings()
    known = jwt.decode(person.token, options={"verify_signature": False})
    return jwt.encode(known | claims, settings.signing_secret.decode(), algorithm="HS256")


NO_TOKEN: list[tuple[object, str]] = [
    (None, "not_authenticated"),
    ({}, "not_authenticated"),
    ([], "not_authenticated"),
    (7, "not_authenticated"),
    ("token", "not_authenticated"),
    ({"token": None}, "not_authenticated"),
    ({"token": ""}, "not_authenticated"),
    ({"token": "garbage"}, "not_authenticated"),
    ({"token": "a.b.c"}, "not_authenticated"),
    ({"token": "\ud800"}, "not_authenticated"),
    ({"token": 7}, "invalid_input"),
    ({"token": ["x"]}, "invalid_input"),
]


class TestAuthentication:
    async def test_ready_has_the_user_the_session_and_the_limits(self, anna: Person) -> None:
        (ready,) = anna.socket.named("ready")
        fields = {"user_id", "session_id", "active_chat_id", "sync", "unread", "limits", "server_time", "online"}
        assert set(ready) == fields
        assert (ready["user_id"], ready["session_id"]) == (anna.id, str(anna.session_id))
        assert ready["active_chat_id"] is None and ready["limits"] == LIMITS
        assert ready["sync"] == (await anna.socket.call("list_chats")).data["sync"]
        assert abs(datetime.fromisoformat(ready["server_time"]) - datetime.now(UTC)) < timedelta(seconds=10)

    async def test_a_connect_without_a_valid_token_is_refused(self, service: Service, outsider: Person) -> None:
        for auth, code in NO_TOKEN:
            raw = await RawSocket.open(service.base)
            await raw.send("40" if auth is None else f"40{json.dumps(auth)}")
            packet = await raw.receive()
            assert packet.startswith("44")
            refusal = json.loads(packet[2:])
            assert set(refusal) == {"message", "data"}
            assert (refusal["data"]["code"], refusal["message"]) == (code, refusal["data"]["detail"])
            assert refusal["data"]["request_id"]
            await raw.close()

    async def test_the_message_of_a_refused_connect_says_what_to_do(self, service: Service, anna: Person) -> None:
        forged = jwt.encode({"sub": anna.id}, "another secret of thirty-two bytes", algorithm="HS256")
        tokens: list[tuple[object, str]] = [
            (None, "as `auth: { token }`"),
            ({"access_token": anna.token}, "as `auth: { token }`"),
            (anna.token, "as `auth: { token }`"),
            ({"token": f"Bearer {anna.token}"}, "leave that word out"),
            ({"token": f"bearer {anna.token}"}, "leave that word out"),
            ({"token": "kJ3v0Zq9XyR7uVbN2mTc8sLd4wEf6hGa"}, "send the `access_token` of a login"),
            ({"token": anna.token.partition(".")[2]}, "send the `access_token` of a login"),
            ({"token": anna.token[:-4]}, "send the `access_token` of a login"),
            ({"token": forged}, "or log in again"),
        ]
        for auth, advice in tokens:
            assert advice in await message_of(await RawSocket.open(service.base), auth), auth

    @pytest.mark.parametrize("place", ["?token=", "&access_token=", "header", "both"])
    async def test_a_token_in_another_place_is_named(self, place: str, service: Service, anna: Person) -> None:
        in_url = f"{PATH}&token={anna.token}" if place != "header" else PATH
        headers = {"Authorization": f"Bearer {anna.token}"} if place in ("header", "both") else {}
        for auth in (None, {}, {"active_chat_id": None}):
            message = await message_of(await RawSocket.open(service.base, in_url, **headers), auth)
            assert "URL or in a header" in message and "`auth: { token }`" in message
            assert anna.token not in message
        raw = await RawSocket.open(service.base, in_url, **headers)
        assert (await raw.join({"token": anna.token})).startswith("40{"), "beside the right place it is no fault"
        await raw.close()

    async def test_over_http_too_a_refusal_says_what_to_do(self, anna: Person) -> None:
        advices = {
            "": "as `Authorization: Bearer <token>`",
            anna.token: "as `Authorization: Bearer <token>`",
            f"Bearer Bearer {anna.token}": "leave that word out",
            "Bearer abc": "send the `access_token` of a login",
            f"Bearer {anna.token[:-4]}": "send the `access_token` of a login",
        }
        for header, advice in advices.items():
            refused = await anna.http.get("/api/v1/users/me", headers={"Authorization": header})
            assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")
            assert advice in refused.json()["detail"]

    async def test_a_connect_with_an_expired_token_is_refused(self, anna: Person) -> None:
        expired = token_of(anna, exp=datetime.now(UTC) - timedelta(seconds=1))
        assert await refusal_of(anna, {"token": expired}) == "token_expired"

    async def test_a_connect_with_a_token_of_a_revoked_session_is_refused(self, service: Service, anna: Person) -> None:
        async with service.database.transaction() as db:
            assert await revoke_sessions(db, UUID(anna.id)) == 1
        assert await refusal_of(anna, {"token": anna.token}) == "session_revoked"

    async def test_a_connect_with_unknown_fields_is_refused(self, anna: Person) -> None:
        for more in ({"active_chat_id": "x"}, {"active_chat_id": 7}, {"version": 2}):
            assert await refusal_of(anna, {"token": anna.token, **more}) == "invalid_input"

    async def test_a_connect_without_the_database_is_unavailable(
        self, service: Service, database: Database, outsider: Person
    ) -> None:
        with no_reads(database):
            assert await refusal_of(outsider, {"token": outsider.token}) == "unavailable"
        assert connections_of(service, outsider) == 0

    async def test_a_refused_connection_gets_no_events_and_no_answers(self, anna: Person, boris: Person) -> None:
        raw = await RawSocket.open(boris.base)
        assert (await raw.join({"token": "garbage"})).startswith("44")
        chat = await SocketTransport().open_private_chat(anna, boris)
        await boris.settle()
        fields = {"chat_id": chat["id"], "type": "text", "text": "x", "client_id": str(uuid4())}
        await raw.send("420" + json.dumps(["send_message", fields]))
        # The same transport may connect again. The next packet is the answer to that.
        assert (await raw.join({"token": boris.token})).startswith("40")
        assert (await raw.receive()).startswith('42["ready",')
        await raw.close()
        assert await SocketTransport().history(anna, chat["id"]) == []

    async def test_a_connection_outlives_its_access_token(self, anna: Person) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=1)
        token = token_of(anna, exp=soon)
        socket = Socket()
        anna.sockets.append(socket)
        await socket.connect(anna.base, {"token": token})
        await until(lambda: datetime.now(UTC) > soon)
        assert await refusal_of(anna, {"token": token}) == "token_expired"
        assert (await socket.call("list_chats")).ok

    @pytest.mark.one_node
    async def test_long_polling_connects_and_calls_commands(self, anna: Person, boris: Person) -> None:
        path = "/socket.io/?EIO=4&transport=polling"
        path += f"&sid={json.loads((await anna.http.get(path)).text[1:])['sid']}"
        await anna.http.post(path, content="40" + json.dumps({"token": anna.token}))
        assert '42["ready",' in await polled(anna, path)
        await anna.http.post(path, content="421" + json.dumps(["open_private_chat", {"user_id": boris.id}]))
        assert '431[{"ok":true,"status":201' in await polled(anna, path)
        await anna.http.post(path, content="1")

    @pytest.mark.one_node
    async def test_no_answer_is_a_script(self, anna: Person) -> None:
        """Pages of other origins may run the answers of any server as scripts, and so read JSONP."""
        path = "/socket.io/?EIO=4&transport=polling&j=0"
        opened = await polled(anna, path)
        path += f"&sid={json.loads(opened.removeprefix('0'))['sid']}"
        await anna.http.post(path, content="40" + json.dumps({"token": anna.token}))
        assert (await polled(anna, path)).startswith('40{"sid":')
        assert (await anna.http.post(path, content="1")).text.upper() == "OK"

    @pytest.mark.one_node
    async def test_a_poll_returns_all_waiting_answers_at_once(self, anna: Person) -> None:
        path = "/socket.io/?EIO=4&transport=polling"
        path += f"&sid={json.loads((await anna.http.get(path)).text[1:])['sid']}"
        await anna.http.post(path, content="40" + json.dumps({"token": anna.token}))
        commands = [f'42{number}["list_chats",{{}}]' for number in range(200)]
        assert (await anna.http.post(path, content="\x1e".join(commands))).is_success
        answers = ""
        while '43199[{"ok":true' not in answers:
            answers += await polled(anna, path)
        assert answers.count('[{"ok":true') == 200
        await anna.http.post(path, content="1")


async def message_of(raw: RawSocket, auth: object) -> str:
    """The message with which a connect is refused."""
    await raw.send("40" if auth is None else f"40{json.dumps(auth)}")
    refusal = json.loads((await raw.receive()).removeprefix("44"))
    await raw.close()
    assert refusal["data"]["code"] == "not_authenticated"
    message: str = refusal["message"]
    return message


async def polled(person: Person, path: str) -> str:
    """The body of a poll."""
    return (await person.http.get(path)).text


async def refusal_of(person: Person, auth: object) -> str:
    """The code with which a handshake is refused."""
    client = socketio.AsyncClient(reconnection=False)
    received: list[Any] = []
    client.on("connect_error", received.append)
    try:
        await client.connect(person.base, auth=auth, transports=["websocket"], wait_timeout=DEADLINE)
    except socketio.exceptions.ConnectionError:
        code: str = received[0]["data"]["code"]
        return code
    finally:
        await client.disconnect()
    raise AssertionError("the connect was not refused")


class TestFirstEvents:
    async def test_ready_is_the_first_event_and_no_later_one_is_missing(self, anna: Person, boris: Person) -> None:
        transport = SocketTransport()
        chat = await transport.open_private_chat(anna, boris)
        sending = True

        async def keep_sending() -> None:
            while sending:
                await transport.send(boris, chat["id"])

        task = asyncio.create_task(keep_sending())
        sockets = [await anna.connect(active_chat_id=chat["id"]) for _ in range(5)]
        sending = False
        await task
        await anna.settle()
        newest = (await transport.do(boris, "get_chat", chat_id=chat["id"]))["version"]
        for socket in sockets:
            assert [name for name, _ in socket.events].index("ready") == 0
            versions = [event["version"] for event in socket.named("messages_changed")]
            assert versions == list(range(versions[0] if versions else newest, newest + 1))[: len(versions) or None]
        assert sockets[0].named("messages_changed")

    async def test_a_change_during_the_connect_is_in_the_sync_or_in_an_event(self, anna: Person, boris: Person) -> None:
        transport = SocketTransport()
        chat = await transport.open_private_chat(anna, boris)
        sending = asyncio.create_task(transport.send(boris, chat["id"]))
        socket = await anna.connect()
        await sending
        await anna.settle()
        listed = await transport.do(anna, "list_chats")
        assert socket.named("ready")[0]["sync"] == listed["sync"] or socket.named("chats_changed")


def assert_other_namespace(packet: str, namespace: str) -> None:
    """The refusal of a connect to a namespace."""
    head, _, content = packet.partition(",")
    assert head == f"44{namespace}"
    refusal = json.loads(content)
    assert (refusal["data"]["code"], refusal["message"]) == ("not_found", refusal["data"]["detail"])
    assert "connect without a path" in refusal["message"]


NONSENSE = ["", "x", "4", "4x", "42", "42[", "4245[", "9", "49", "44", "45", "451-", "43", "430[1]", "2probe", "6", "5"]


class TestHostileClients:
    @pytest.mark.one_node
    async def test_connecting_twice_over_one_transport_changes_nothing(
        self, service: Service, anna: Person, boris: Person
    ) -> None:
        chat = await SocketTransport().open_private_chat(anna, boris)
        async with joined(boris) as raw:
            await raw.send("40" + json.dumps({"token": anna.token}))
            await raw.send("40")
            await raw.send('420["list_chats",{}]')
            number, ack = await next_ack(raw)
            assert (number, ack["ok"]) == ("0", True)
            assert [one["mine"]["peer"]["id"] for one in ack["data"]["items"]] == [anna.id]
            assert (connections_of(service, boris), connections_of(service, anna)) == (2, 1)
            await SocketTransport().send(anna, chat["id"])
            assert (await next_packet(raw)).startswith('42["chats_changed",')

    async def test_event_names_and_internal_names_are_no_commands(self, service: Service, anna: Person) -> None:
        async with joined(anna) as raw:
            for name in ("connect", "disconnect", "ready", "chats_changed", "*", "__class__", ""):
                for argument in ([], [{"token": anna.token}], ["sid", {}, {"token": anna.token}]):
                    await raw.send("42" + json.dumps([name, *argument]))
                    assert (await raw.ack(json.dumps([name, *argument])))["error"]["code"] == "unknown_command"
                assert connections_of(service, anna) == 2
            assert (await raw.call("list_chats"))["ok"]

    async def test_other_namespaces_do_not_exist(self, anna: Person) -> None:
        async with joined(anna) as raw:
            await raw.send("40/admin," + json.dumps({"token": anna.token}))
            assert_other_namespace(await next_packet(raw), "/admin")
            await raw.send('42/admin,1["list_chats",{}]')
            await raw.send('422["list_chats",{}]')
            assert (await next_ack(raw))[0] == "2"

    async def test_a_connect_to_another_namespace_says_what_to_do(self, service: Service, anna: Person) -> None:
        """The official client makes a namespace of the path of its address."""
        raw = await RawSocket.open(service.base)
        for namespace in ("/api/v1", "/socket.io"):
            await raw.send(f"40{namespace}," + json.dumps({"token": anna.token}))
            assert_other_namespace(await raw.receive(), namespace)
        assert (await raw.join({"token": anna.token})).startswith("40{")
        await raw.close()
        client, received = socketio.AsyncClient(reconnection=False), list[Any]()
        client.on("connect_error", received.append, namespace="/chat")
        options: Any = {"namespaces": ["/chat"], "transports": ["websocket"], "wait_timeout": DEADLINE}
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(service.base, {"token": anna.token}, **options)
        assert "connect without a path" in received[0]["message"]

    @pytest.mark.one_node
    async def test_a_disconnected_client_gets_no_more_events(
        self, service: Service, anna: Person, boris: Person
    ) -> None:
        chat = await SocketTransport().open_private_chat(anna, boris)
        async with joined(boris, active_chat_id=chat["id"]) as raw:
            assert connections_of(service, boris) == 2
            await raw.send("41")
            await raw.send('420["list_chats",{}]')
            await until(lambda: connections_of(service, boris) == 1)
            await SocketTransport().send(anna, chat["id"])
            await boris.settle()
            await raw.close()
            late = [packet async for packet in raw.socket]
            assert [packet for packet in late if "presence_changed" not in packet] == []

    async def test_malformed_packets_do_not_affect_others(self, service: Service, anna: Person, boris: Person) -> None:
        for packet in NONSENSE:
            async with joined(anna) as raw:
                await raw.send(packet)
                assert (await boris.socket.call("list_chats")).ok
        # Only the connection of the fixture is left.
        await until(lambda: connections_of(service, anna) == 1)
        assert (await anna.socket.call("list_chats")).ok


PACKETS: list[tuple[str, str]] = [
    ('["nothing",{}]', "unknown_command"),
    ('["nothing"]', "unknown_command"),
    ('["nothing",1,2,3]', "unknown_command"),
    ('["List_Chats"]', "unknown_command"),
    (json.dumps(["x" * 10_000, {}]), "unknown_command"),
    ('["\\ud800",{}]', "unknown_command"),
    ("[]", "unknown_command"),
    ("[null]", "unknown_command"),
    ("[7,{}]", "unknown_command"),
    ('[["list_chats"],{}]', "unknown_command"),
    ('[{"list_chats":1}]', "unknown_command"),
    ('{"list_chats":1}', "invalid_input"),
    ('"list_chats"', "invalid_input"),
    ("true", "invalid_input"),
    ('["get_chat"]', "invalid_input"),
    ('["get_chat",{}]', "invalid_input"),
    ('["get_chat",null]', "invalid_input"),
    ('["get_chat",[]]', "invalid_input"),
    ('["get_chat",["x"]]', "invalid_input"),
    ('["get_chat",7]', "invalid_input"),
    ('["get_chat","x"]', "invalid_input"),
    ('["get_chat",true]', "invalid_input"),
    ('["get_chat",{"chat_id":NaN}]', "invalid_input"),
    ('["list_chats",{},{}]', "invalid_input"),
    ('["list_chats",{"limit":1e400}]', "invalid_input"),
    ('["list_chats",{"limit":1,"more":1}]', "invalid_input"),
    ('["list_chats",{"\\ud800":1}]', "invalid_input"),
    ('["list_chats",' + '{"cursor":' * 50 + "1" + "}" * 50 + "]", "invalid_input"),
    ('["send_message",[]]', "invalid_input"),
    ('["send_message",7]', "invalid_input"),
    ('["send_message",{"type":{}}]', "invalid_input"),
    ('["list_chats"]', "ok"),
    ('["list_chats",{}]', "ok"),
]


class TestEveryCommandIsAnswered:
    async def test_every_packet_with_a_number_is_answered(self, anna: Person) -> None:
        async with joined(anna) as raw:
            for packet, code in PACKETS:
                await raw.send(f"425{packet}")
                number, ack = await next_ack(raw)
                assert number == "5"
                assert ("ok" if ack["ok"] else ack["error"]["code"]) == code, packet
                if not ack["ok"]:
                    fields = {"type", "title", "status", "detail", "code", "request_id"}
                    assert set(ack) == {"ok", "error"} and set(ack["error"]) - {"errors"} == fields

    async def test_a_command_with_binary_data_is_answered(self, anna: Person) -> None:
        async with joined(anna) as raw:
            await raw.send('451-3["send_message",{"type":"text","text":{"_placeholder":true,"num":0}}]')
            await raw.send(b"\x00\xff")
            number, ack = await next_ack(raw)
            assert (number, ack["error"]["code"]) == ("3", "invalid_input")
            await raw.send('451-4["list_chats",{"_placeholder":true,"num":0}]')
            await raw.send(b"")
            assert (await next_ack(raw))[1]["error"]["code"] == "invalid_input"

    async def test_a_command_that_crashes_is_answered(
        self, service: Service, anna: Person, boris: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chat = await SocketTransport().open_private_chat(anna, boris)

        async def crash(db: Any, connection: Any, data: Any) -> None:
            await COMMANDS["pin_chat"].handler(db, connection, data)
            raise RuntimeError("secret text")

        command = Command("crash", crash, COMMANDS["pin_chat"].argument)
        monkeypatch.setitem(COMMANDS, "crash", command)
        await anna.forget()
        ack = await anna.socket.client.call("crash", {"chat_id": chat["id"]}, timeout=DEADLINE)
        assert (ack["error"]["status"], ack["error"]["code"]) == (500, "internal")
        assert ack["error"]["request_id"] and "secret" not in json.dumps(ack)
        # The change was rolled back, and the connection and the database still work.
        assert await anna.received("chats_changed") == []
        answer = await anna.socket.call("get_chat", {"chat_id": chat["id"]})
        assert answer.data["mine"]["pinned_at"] is None

    async def test_an_ack_has_the_number_of_its_command(self, anna: Person) -> None:
        numbers = ["0", "9", "10", "4294967296", "1" * 50, "3", "3"]
        async with joined(anna) as raw:
            for number in numbers:
                await raw.send(f'42{number}["list_chats",{{}}]')
            assert [(await next_ack(raw))[0] for _ in numbers] == numbers

    async def test_a_command_without_a_number_gets_no_ack(self, anna: Person, boris: Person) -> None:
        async with joined(anna) as raw:
            await raw.send("42" + json.dumps(["open_private_chat", {"user_id": boris.id}]))
            await raw.send('42["nothing"]')
            await raw.send('421["list_chats",{}]')
            number, ack = await next_ack(raw)
            assert number == "1" and len(ack["data"]["items"]) == 1

    async def test_commands_are_answered_in_the_order_sent(self, anna: Person, boris: Person) -> None:
        chat = await SocketTransport().open_private_chat(anna, boris)
        async with joined(anna) as raw:
            for number in range(50):
                fields = {"chat_id": chat["id"], "type": "text", "text": f"{number}", "client_id": str(uuid4())}
                await raw.send(f"42{number}" + json.dumps(["send_message", fields]))
            acks = [await next_ack(raw) for _ in range(50)]
        assert [int(number) for number, _ in acks] == list(range(50))
        assert [ack["data"]["seq"] for _, ack in acks] == list(range(1, 51))
        assert [ack["data"]["text"] for _, ack in acks] == [f"{number}" for number in range(50)]

    async def test_each_command_sees_the_changes_of_the_one_before(self, anna: Person, boris: Person) -> None:
        chat = (await SocketTransport().open_private_chat(anna, boris))["id"]
        commands: list[tuple[str, dict[str, Any]]] = [
            ("activate_chat", {"chat_id": chat}),
            ("send_message", {"type": "text", "text": "1", "client_id": str(uuid4())}),
            ("edit_message", {"chat_id": chat, "seq": 1, "text": "2"}),
            ("like_message", {"chat_id": chat, "seq": 1}),
            ("delete_message", {"chat_id": chat, "seq": 1}),
            ("like_message", {"chat_id": chat, "seq": 1}),
            ("activate_chat", {"chat_id": None}),
            ("list_messages", {}),
        ]
        async with joined(anna) as raw:
            for number, command in enumerate(commands):
                await raw.send(f"42{number}" + json.dumps(command))
            acks = [(await next_ack(raw))[1] for _ in commands]
        assert [ack.get("status") or ack["error"]["code"] for ack in acks] == [
            200,
            201,
            200,
            200,
            204,
            "message_deleted",
            204,
            "no_active_chat",
        ]

    async def test_the_ack_comes_after_the_events_of_the_command(self, anna: Person, boris: Person) -> None:
        chat = await SocketTransport().open_private_chat(anna, boris)
        async with joined(anna, active_chat_id=chat["id"]) as raw:
            fields = {"type": "text", "text": "x", "client_id": str(uuid4())}
            await raw.send("421" + json.dumps(["send_message", fields]))
            frames = [await next_packet(raw) for _ in range(3)]
        assert sorted(frame.split(",")[0][:20] for frame in frames[:2]) == [
            '42["chats_changed"',
            '42["messages_changed'[:20],
        ]
        assert frames[2].startswith("431[")


class TestSessionsOfOneUser:
    async def test_every_connection_of_every_session_gets_events(
        self, anna: Person, boris: Person, make_person: MakePerson
    ) -> None:
        phone = await make_person(again=anna, connected=True)
        await anna.connect()
        chat = await SocketTransport().open_private_chat(boris, anna)
        for person in (anna, phone):
            await person.settle()
            for socket in person.sockets:
                assert [event["chats"][0]["id"] for event in socket.named("chats_changed")] == [chat["id"]]
