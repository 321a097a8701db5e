"""P25: packets that no client library sends. The process survives, others are not affected, and nothing is left.

Over a plain WebSocket and polling, at both layers: Engine.IO, which carries packets, and Socket.IO in them.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import product

import pytest
from websockets import ConnectionClosed
from websockets.asyncio.client import connect

from tests.clients import DEADLINE, Person
from tests.operations import event_names, kind
from tests.raw import RawSocket
from tests.service import MakePerson, Service

# More than a packet may have.
TOO_LONG = 300_000
POLLING = "/socket.io/?EIO=4&transport=polling"

UNREADABLE = {
    "no JSON": ["427["],
    "half of it": ['427["list_chats"'],
    "two of them": ['427["list_chats",{}]["list_chats",{}]'],
    "an object": ['427{"0":"list_chats"}'],
    "a text": ['427"list_chats"'],
    "a number": ["427 1"],
    "nothing": ["427"],
    "a raw NUL": ['427["list_chats",{"cursor":"\x00"}]'],
    "nesting": ['427["list_chats",' + "[" * 10_000 + "]" * 10_000 + "]"],
    "nesting of objects": ['427["list_chats",' + '{"a":' * 10_000 + "1" + "}" * 10_000 + "]"],
    "digits": ['427["list_chats",{"limit":' + "9" * 5000 + "}]"],
    "a placeholder": ['451-7["get_chat",{"chat_id":{"_placeholder":true,"num":0}}]', b"abc"],
    "a placeholder for what was not sent": ['451-7["get_chat",{"chat_id":{"_placeholder":true,"num":5}}]', b"abc"],
    "a placeholder for what never comes": ['451-7["get_chat",{"chat_id":{"_placeholder":true,"num":0}}]'],
    "a placeholder that is no number": ['451-7["get_chat",{"chat_id":{"_placeholder":true,"num":"0"}}]', b"abc"],
    "millions of attachments": ['459999999-7["get_chat",{}]', b"a", b"b"],
}
IGNORED = {
    "an empty message": ["4"],
    "a message that is an object": ['4{"a":1}'],
    "a message that is a list": ["4[1]"],
    "a message that is null": ["4null"],
    "an unknown type": ["47[]", "49", "4x"],
    "a command without a number": ['42["nonexistent",{}]'],
    "a number of digits that are none": ['42²["list_chats",{}]'],
    "a command for another namespace": ['42/admin,7["list_chats",{}]'],
    "a disconnect from another namespace": ["41/admin,"],
    "acks of nothing": ['437["x"]', '43["x"]', '437{"a":1}', "43"],
    "an ack with attachments": ['461-7[{"_placeholder":true,"num":0}]', b"abc"],
    "an error": ['44{"message":"x"}'],
    "too many attachments": ['4599999999999-7["list_chats",{}]'],
    "binary data that was not announced": [b"abc", b"\x04\xff", b""],
    "a second connect": ['40{"token":"x"}', "40", "40[]"],
    "a connect that is no JSON": ["40{"],
    "a pong, a probe and a noop": ["3", "3probe", "2probe", "6"],
}
ENDING = {
    "an unknown type of packet": ["9"],
    "no packet": ["hello"],
    "an empty frame": [""],
    "base64": ["bYWJj"],
    "broken base64": ["b!!!"],
    "a long packet": ['427["list_chats",{"cursor":"' + "x" * TOO_LONG + '"}]'],
    "a long binary frame": [b"x" * TOO_LONG],
}


WRONG_QUERIES = (
    *("", "EIO=3&transport=polling", "EIO=4&transport=pigeon", "EIO=4&transport=polling&j=x", "x" * 5000),
    *("EIO=4&transport=polling&sid=unknown", "EIO=4&transport=polling&sid=%00", "%ED%A0%80=%FF"),
    "EIO=4&EIO=5&transport=polling&transport=websocket&sid=a&sid=b",
)
POSTED = (
    *(b"", b"x", b"9", b"4", b"4x", b"b!!!", b"\xff\xfe", b"d=", b"d", b"42[", b'427["list_chats",{}]', b"\x1e"),
    *(b"\x1e".join([b"4"] * 100), b'40{"token":"x"}', b"5", b"2probe", b"4" * TOO_LONG),
)


@pytest.fixture(scope="module")
async def people(make_lasting_person: MakePerson) -> list[Person]:
    return [await make_lasting_person("Bystander", connected=True), await make_lasting_person("Attacker")]


@pytest.fixture
async def bystander(service: Service, people: list[Person]) -> AsyncIterator[Person]:
    """A connected user who must not be affected. In the end they have the only connection."""
    person = people[0]
    await person.forget()
    yield person
    assert (await person.http.get("/healthz")).is_success
    assert event_names(person) == []
    async with asyncio.timeout(DEADLINE):
        while len(service.live.connections) > 1:
            await person.settle()


@pytest.fixture
async def attacker(people: list[Person], bystander: Person) -> Person:
    """An ordinary user, with a bystander."""
    return people[1]


@pytest.fixture
async def raw(service: Service, attacker: Person) -> AsyncIterator[RawSocket]:
    """A logged-in connection that sends any packets."""
    opened = await RawSocket.connected(service.base, attacker.token)
    yield opened
    await opened.close()


class TestConnection:
    async def test_a_connection_gets_an_error_for_an_unreadable_command_and_goes_on(self, raw: RawSocket) -> None:
        answers = {}
        for case, packets in UNREADABLE.items():
            await raw.send(*packets)
            answers[case] = kind((await raw.answer_to(7))["error"])
            assert (await raw.call("list_chats"))["ok"]
        assert answers == dict.fromkeys(UNREADABLE, (422, "invalid_input"))

    async def test_a_connection_gets_no_answer_to_other_packets_and_goes_on(self, raw: RawSocket) -> None:
        packets_of = {}
        for case, packets in IGNORED.items():
            await raw.send(*packets)
            assert (await raw.call("list_chats"))["ok"], case
            packets_of[case], raw.received = raw.received, []
        assert packets_of == {case: [] for case in IGNORED}

    async def test_a_connection_ends_after_an_invalid_packet(self, service: Service, attacker: Person) -> None:
        for packets in ENDING.values():
            raw = await RawSocket.connected(service.base, attacker.token)
            await raw.send(*packets)
            with pytest.raises(ConnectionClosed):
                await raw.receive()

    async def test_a_command_may_have_a_number_of_a_hundred_digits(self, raw: RawSocket) -> None:
        number = 10**100 - 1
        await raw.send(f'42{number}["list_chats",{{}}]', f'42{number}9["list_chats",{{}}]')
        assert (await raw.answer_to(number))["ok"]
        assert (await raw.call("list_chats"))["ok"]

    async def test_a_connection_is_refused_other_namespaces_and_keeps_its_own(self, raw: RawSocket) -> None:
        await raw.send('40/admin,{"token":"x"}', "40/" + "x" * 10_000 + ",")
        assert (await raw.call("list_chats"))["ok"]
        assert all(packet.startswith("44/") for packet in raw.received)

    async def test_a_connection_ends_after_text_that_is_not_utf8(self, raw: RawSocket) -> None:
        await raw.socket.send(b"42\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed):
            await raw.receive()

    async def test_a_disconnected_client_is_not_answered_and_may_connect_again(
        self, raw: RawSocket, attacker: Person
    ) -> None:
        await raw.send("41", '427["list_chats",{}]')
        assert (await raw.join({"token": attacker.token})).startswith("40{")
        assert (await raw.receive()).startswith('42["ready"')
        assert (await raw.call("list_chats"))["ok"]

    async def test_a_closed_connection_is_not_answered_and_removed(self, service: Service, raw: RawSocket) -> None:
        await raw.send("1", '427["list_chats",{}]')
        # The fixture of the bystander checks that it was removed.
        await raw.socket.close()
        assert raw.received == []

    async def test_a_flood_of_invalid_commands_is_answered_in_order(self, raw: RawSocket) -> None:
        numbers = range(1000, 1200)
        await raw.send(*(f'42{number}["list_chats",{{"limit":0}}]' for number in numbers))
        assert [kind((await raw.answer_to(number))["error"]) for number in numbers] == [(422, "invalid_input")] * 200
        assert raw.received == []


class TestUnauthenticatedTransport:
    """A transport before the login."""

    async def test_a_transport_may_stay_without_a_login(self, service: Service, bystander: Person) -> None:
        opened = [await RawSocket.open(service.base) for _ in range(30)]
        await opened[0].send("41", "42", '427["list_chats",{}]', b"x", "451-[1]", '451-7["x"]', "430[]", "2probe")
        await bystander.settle()
        for transport in opened:
            await transport.close()

    async def test_a_wrong_url_opens_no_transport(self, bystander: Person) -> None:
        for query, method in product(WRONG_QUERIES, ("GET", "POST", "PUT")):
            answer = await bystander.http.request(method, f"/socket.io/?{query}")
            assert 400 <= answer.status_code < 500, query

    async def test_polling_survives_every_posted_body(self, bystander: Person) -> None:
        for content in POSTED:
            async with polling(bystander) as url:
                answer = await bystander.http.post(url, content=content, headers={"Content-Type": "text/plain"})
                assert answer.status_code < 500, content[:20]

    async def test_an_upgrade_may_break_off(self, service: Service, bystander: Person) -> None:
        for packets in (["2probe"], ["2probe", "garbage"], ["garbage"], [""], [b"x"], []):
            async with polling(bystander) as url:
                address = (service.base + url).replace("http", "ws", 1).replace("polling", "websocket")
                socket = await connect(address, compression=None, proxy=None)
                with suppress(ConnectionClosed):
                    for packet in packets:
                        await socket.send(packet)
                await socket.close()

    @pytest.mark.one_node
    async def test_a_frame_may_be_split_during_the_upgrade(
        self, service: Service, bystander: Person, attacker: Person
    ) -> None:
        for cut in (1, 3, 6, 15):
            async with polling(bystander) as url:
                await bystander.http.post(url, content=f'40{{"token":"{attacker.token}"}}')
                while '42["ready"' not in (await bystander.http.get(url)).text:
                    pass
                address = (service.base + url).replace("http", "ws", 1).replace("polling", "websocket")
                socket = await connect(address, compression=None, proxy=None)
                await socket.send("2probe")
                assert await socket.recv() == "3probe"
                frame = masked(b'427["list_chats",{}]')
                # The first part comes with the packet that ends the polling, the rest after its end.
                socket.transport.write(masked(b"5") + b"\x82\x81\x00\x00\x00\x00b" + frame[:cut])
                await asyncio.sleep(0.2)
                socket.transport.write(frame[cut:])
                async with asyncio.timeout(DEADLINE):
                    while not str(await socket.recv()).startswith("437["):
                        pass
                await socket.close()

    async def test_a_polling_transport_works_and_may_be_abandoned(self, bystander: Person, attacker: Person) -> None:
        async with polling(bystander) as url:
            posted = await bystander.http.post(url, content=f'40{{"token":"{attacker.token}"}}')
            assert posted.is_success
            assert (await bystander.http.get(url)).text.startswith("40{")


def masked(text: bytes) -> bytes:
    """A frame as clients send it, masked with zeros."""
    return bytes((0x81, 0x80 | len(text))) + bytes(4) + text


@asynccontextmanager
async def polling(person: Person) -> AsyncIterator[str]:
    """The URL of a polling transport, which is closed after the block."""
    handshake = json.loads((await person.http.get(POLLING)).text[1:])
    url = f"{POLLING}&sid={handshake['sid']}"
    yield url
    await person.http.post(url, content="1")
