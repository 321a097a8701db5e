"""The promises of identity, order and commits (P2 to P10): each test would find a counter-example."""

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from chat_app import database as chat_database
from chat_app.database import Database
from chat_app.live import bus, cluster, server
from chat_app.settings import Settings
from tests.clients import DEADLINE, Answer, HttpTransport, Person, Socket, SocketTransport, Transport
from tests.conftest import free_port
from tests.operations import Json, event_names
from tests.process import Process
from tests.service import MakePerson, MakeUser, Service, making_people

At = Callable[[str, Person], Person]
Way = tuple[Transport, Person]
Everywhere = Callable[[Person], Awaitable[list[Way]]]

HTTP_ERRORS = (httpx.TransportError,)
# A test may hold a transaction for any time.
LONG = 600.0


@pytest.fixture
def transports(openapi: Json) -> list[Transport]:
    """Both transports, for tests that use them together."""
    return [SocketTransport(), HttpTransport(openapi)]


@pytest.fixture(scope="module")
async def second(service_settings: Settings) -> AsyncIterator[Service]:
    """Another node on the same database, without a bus."""
    async with Service(service_settings.model_copy(update={"port": free_port()})) as running:
        yield running


@pytest.fixture(scope="module")
async def patient(service_settings: Settings) -> AsyncIterator[Service]:
    """A node whose transactions may be held for any time."""
    async with Service(service_settings.model_copy(update={"port": free_port()}), patience=LONG) as running:
        yield running


@pytest.fixture
async def make_patient(patient: Service, make_user: MakeUser) -> AsyncIterator[MakePerson]:
    """As make_person, on the patient node."""
    async with making_people(patient, make_user) as make:
        yield make


@pytest.fixture
async def everywhere(second: Service, at: At, transports: list[Transport]) -> Everywhere:
    """The four ways in which a person reaches the service: either transport of either node."""

    async def ways(person: Person) -> list[Way]:
        people = (person, at(second.base, person))
        for who in people:
            await who.connect()
        return [(transport, who) for who in people for transport in transports]

    return ways


class Gate:
    """Holds the commit of messages with the text HELD until it is opened, and refuses those with REFUSED."""

    HELD, REFUSED = "held at its commit", "refused at its commit"
    KEY = 20_261_121
    SET_UP = (
        f"""CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
            IF NEW.text = '{HELD}' THEN PERFORM pg_advisory_xact_lock_shared({KEY}); END IF;
            IF NEW.text = '{REFUSED}' THEN RAISE EXCEPTION 'refused'; END IF;
            RETURN NULL;
        END $$""",
        """CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON message DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION at_commit()""",
        f"SELECT pg_advisory_lock({KEY})",
    )
    TAKE_DOWN = ("DROP TRIGGER at_commit ON message", "DROP FUNCTION at_commit")

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    async def run(self, *statements: str) -> None:
        for statement in statements:
            await self.connection.execute(text(statement))

    async def reached(self) -> None:
        """Return when a commit is held here. Other transactions may wait for other locks."""
        held = text(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {self.KEY} AND NOT granted")
        async with asyncio.timeout(DEADLINE):
            while not (await self.connection.execute(held)).scalar_one():
                pass

    async def open(self) -> None:
        await self.run(f"SELECT pg_advisory_unlock({self.KEY})")


@pytest.fixture
async def gate(database: Database) -> AsyncIterator[Gate]:
    """A trigger that runs within COMMIT, which separates what happens before the commit from what happens after it."""
    async with database.engine.connect() as connection:
        made = Gate(await connection.execution_options(isolation_level="AUTOCOMMIT"))
        await made.run(*Gate.SET_UP)
        yield made
        await made.run("SELECT pg_advisory_unlock_all()", *Gate.TAKE_DOWN)


def content(words: str = "hello", client_id: str | None = None) -> Json:
    return {"type": "text", "text": words, "client_id": client_id or str(uuid4())}


async def rows(database: Database, condition: str, **values: Any) -> list[Any]:
    """Messages read from the table."""
    async with database.engine.connect() as connection:
        statement = text(f"SELECT seq, sender_id::text, text FROM message WHERE {condition} ORDER BY seq")
        return list(await connection.execute(statement, values))


async def whole_history(transport: Transport, person: Person, chat_id: str) -> list[Json]:
    """All messages that a member can read, from the newest page back."""
    items: list[Json] = []
    page = await transport.do(person, "list_messages", chat_id=chat_id, limit=100)
    items = page["items"]
    while page["has_before"]:
        page = await transport.do(person, "list_messages", chat_id=chat_id, limit=100, before=items[0]["seq"])
        items = page["items"] + items
    return items


class TestP2:
    """The ack is sent after COMMIT returned, and nobody sees an event of a change before its commit."""

    async def test_nobody_receives_a_message_before_its_commit(
        self, transport: Transport, make_patient: MakePerson, gate: Gate
    ) -> None:
        anna, boris = await make_patient("Anna", connected=True), await make_patient("Boris", connected=True)
        chat = await transport.open_private_chat(anna, boris)
        for person in (anna, boris):
            await transport.do(person, "activate_chat", chat_id=chat["id"])
            await person.forget()
        connections = [await anna.connect(active_chat_id=chat["id"]), boris.socket]

        sending = asyncio.create_task(transport.send(anna, chat["id"], Gate.HELD))
        await gate.reached()
        await boris.settle()
        await connections[0].call("list_chats")
        assert [name for socket in connections for name, _ in socket.events if name.endswith("s_changed")] == []
        assert not sending.done()
        assert await transport.history(boris, chat["id"]) == []

        await gate.open()
        message = await sending
        for socket in connections:
            received = await socket.wait_for("messages_changed")
            assert [event["seq"] for event in received["messages"]] == [message["seq"]]

    async def test_a_failed_commit_is_not_acked_and_has_no_effect(
        self, transport: Transport, make_person: MakePerson, gate: Gate
    ) -> None:
        anna, boris = await make_person("Anna", connected=True), await make_person("Boris", connected=True)
        chat = await transport.open_private_chat(anna, boris)
        for person in (anna, boris):
            await transport.do(person, "activate_chat", chat_id=chat["id"])
            await person.forget()
        answer = await transport.call(anna, "send_message", chat_id=chat["id"], **content(Gate.REFUSED))
        assert not answer.ok
        for person in (anna, boris):
            await person.settle()
            # They may have to resync, and find nothing.
            assert set(event_names(person)) <= {"resync_required"}
            assert await transport.history(person, chat["id"]) == []
        assert (await transport.send(anna, chat["id"]))["seq"] == 1

    async def test_a_crash_between_commit_and_ack_loses_and_doubles_nothing(
        self,
        service_settings: Settings,
        transports: list[Transport],
        make_person: MakePerson,
        gate: Gate,
        at: At,
        patient: Service,
    ) -> None:
        """Also P1, P3 and P4: another process on the same database finds all acked messages, and the retry of the
        message that was not acked finds it.
        """
        people = await make_person("Anna"), await make_person("Boris")
        node = Process(service_settings, patience=LONG)
        await node.start()
        anna, boris = (at(node.base, person) for person in people)
        http = transports[1]
        chat_id = (await http.open_private_chat(anna, boris))["id"]
        group = {"title": "Ours", "member_ids": [boris.id], "client_id": str(uuid4())}
        group_id = (await http.do(anna, "create_group", **group))["id"]
        acked, held = content("acked"), content(Gate.HELD)
        before = await http.do(anna, "send_message", chat_id=chat_id, **acked)
        sync = (await http.do(boris, "list_chats"))["sync"]
        sending = asyncio.create_task(http.do(anna, "send_message", chat_id=chat_id, **held))
        await gate.reached()
        await node.kill()
        with pytest.raises(httpx.TransportError):
            await sending

        await gate.open()
        anna, boris = (at(patient.base, person) for person in people)
        # The retry waits for the lock of the chat, which the commit holds that continues without its client.
        for transport in transports:
            again = [await transport.call(anna, "send_message", chat_id=chat_id, **sent) for sent in (held, acked)]
            assert [(answer.status, answer.data["seq"]) for answer in again] == [(200, 2), (200, 1)]
            founded = await transport.call(anna, "create_group", **group)
            assert (founded.status, founded.data["id"]) == (200, group_id)
            assert [message["seq"] for message in await transport.history(boris, chat_id)] == [1, 2]
            listed = await transport.do(boris, "list_chats", changed_since=sync)
            assert [chat["last_message"]["text"] for chat in listed["items"] if chat["id"] == chat_id] == [Gate.HELD]
            changes = await transport.do(boris, "list_changes", chat_id=chat_id, since=before["version"])
            assert [message["text"] for message in changes["messages"]] == [Gate.HELD]


class TestP3:
    """Sends with the same chat, sender and client_id make one message; other content is 409 and not written."""

    @pytest.mark.parametrize("texts", [["the same"], ["one", "another", "a third"]], ids=["same", "different"])
    async def test_simultaneous_sends_over_both_transports_and_two_nodes_make_one_message(
        self, texts: list[str], make_person: MakePerson, everywhere: Everywhere, database: Database
    ) -> None:
        anna, boris = await make_person("Anna"), await make_person("Boris", connected=True)
        chat_id = (await SocketTransport().open_private_chat(anna, boris))["id"]
        client_id = str(uuid4())
        ways = [(words, way) for words in texts for way in await everywhere(anna)]
        answers: list[list[Answer]] = await asyncio.gather(
            *(
                transport.call_at_once(
                    who, 36 // len(ways), "send_message", chat_id=chat_id, **content(words, client_id)
                )
                for words, (transport, who) in ways
            )
        )
        written = await rows(database, "chat_id = :chat_id", chat_id=UUID(chat_id))
        assert len(written) == 1
        won = written[0].text
        for (words, _), some in zip(ways, answers, strict=True):
            assert {(answer.status, answer.code) for answer in some} <= (
                {(201, None), (200, None)} if words == won else {(409, "client_id_reused")}
            )
        every = [answer for some in answers for answer in some]
        assert Counter(answer.status for answer in every)[201] == 1
        assert {answer.data["seq"] for answer in every if answer.ok} == {1}
        assert len(every) == 36

    async def test_later_sends_return_the_message_as_it_is_then(
        self, transport: Transport, make_person: MakePerson
    ) -> None:
        anna, boris = await make_person("Anna"), await make_person("Boris")
        chat_id = (await transport.open_private_chat(anna, boris))["id"]
        first, other = content("first"), content("other")
        where = {"chat_id": chat_id, "seq": (await transport.do(anna, "send_message", chat_id=chat_id, **first))["seq"]}

        async def again(**changes: str) -> tuple[int, Any]:
            answer = await transport.call(anna, "send_message", chat_id=chat_id, **first | changes)
            return answer.status, answer.data and (answer.data["seq"], answer.data["text"])

        await transport.do(anna, "edit_message", **where, text="edited")
        assert await again() == (200, (1, "edited"))
        assert await again(text="edited") == (409, None)
        await transport.do(anna, "delete_message", **where)
        assert await again() == (200, (1, None))
        assert await again(text="other") == (409, None)
        # From another sender, and in another chat, the same client_id is another message.
        assert (await transport.do(boris, "send_message", chat_id=chat_id, **first))["seq"] == 2
        group = await transport.create_group(anna, boris)
        assert (await transport.do(anna, "send_message", chat_id=group["id"], **first))["seq"] == 2
        assert (await transport.do(anna, "send_message", chat_id=chat_id, **other))["seq"] == 3


class TestP4:
    """A send that was answered with a definite error never appears."""

    async def test_a_refused_message_is_never_seen(
        self, transport: Transport, make_person: MakePerson, database: Database
    ) -> None:
        anna, boris = await make_person("Anna", connected=True), await make_person("Boris", connected=True)
        outsider = await make_person("Outsider", connected=True)
        chat_id = (await transport.open_private_chat(anna, boris))["id"]
        for person in (anna, boris):
            await transport.do(person, "activate_chat", chat_id=chat_id)
        used = content("kept")
        await transport.do(anna, "send_message", chat_id=chat_id, **used)
        refused = [
            (anna, {"reply_to": 99}),
            (anna, {"client_id": used["client_id"]}),
            (anna, {"surprise": True}),
            (anna, {"type": "image", "attachment_id": str(uuid4())}),
            (anna, {"type": "system"}),
            (anna, {"chat_id": str(uuid4())}),
            (anna, {"text": "never" * 2000}),
            (outsider, {}),
        ]
        for person, changes in refused:
            answer = await transport.call(person, "send_message", **{"chat_id": chat_id, **content("never"), **changes})
            assert 400 <= answer.status < 500
        await transport.send(anna, chat_id, "kept too")
        assert [row.seq for row in await rows(database, "chat_id = :chat_id", chat_id=UUID(chat_id))] == [1, 2]
        assert await rows(database, "text LIKE 'never%'") == []
        for person in (anna, boris, outsider):
            await person.settle()
            assert "never" not in json.dumps(person.socket.events)
            assert "never" not in json.dumps(await transport.do(person, "list_chats"))


class TestP5:
    """A like is a set, and like_count equals the rows."""

    @pytest.mark.parametrize("people", [1, 5])
    async def test_concurrent_likes_and_unlikes_leave_the_number_of_the_count(
        self,
        people: int,
        make_person: MakePerson,
        everywhere: Everywhere,
        transports: list[Transport],
        database: Database,
    ) -> None:
        creator, *others = [await make_person(f"Person {number}") for number in range(5)]
        chat_id = (await transports[1].create_group(creator, *others))["id"]
        message = await transports[1].send(creator, chat_id)
        where = {"chat_id": chat_id, "seq": message["seq"]}
        ways = [way for person in [creator, *others][:people] for way in await everywhere(person)]
        toggles = itertools.islice(itertools.product(range(40), ways), 40)
        answers = await asyncio.gather(
            *(
                transport.call(person, "like_message" if (number + round_) % 2 else "unlike_message", **where)
                for number, (round_, (transport, person)) in enumerate(toggles)
            )
        )
        assert Counter(answer.status for answer in answers) == {200: 40}
        after = await transports[1].do(creator, "get_message", **where)
        likers = {user["id"] for user in (await transports[1].do(creator, "list_likes", **where))["items"]}
        async with database.engine.connect() as connection:
            statement = text('SELECT user_id::text FROM "like" WHERE chat_id = :chat_id AND seq = :seq')
            written = [row.user_id for row in await connection.execute(statement, where)]
        assert sorted(written) == sorted(likers)
        assert after["like_count"] == len(written)
        for person in (creator, *others):
            assert (await transports[1].do(person, "get_message", **where))["liked"] == (person.id in likers)


class TestP6:
    """Concurrent private-chat creations by the same pair, from both sides, give one chat."""

    async def test_a_hundred_openings_from_both_sides_open_one_chat(
        self, make_person: MakePerson, everywhere: Everywhere
    ) -> None:
        anna, boris = await make_person("Anna"), await make_person("Boris")
        pairs = [(way, peer) for person, peer in ((anna, boris), (boris, anna)) for way in await everywhere(person)]
        openings = [
            transport.call_at_once(who, 20 if transport.name == "http" else 5, "open_private_chat", user_id=peer.id)
            for (transport, who), peer in pairs
        ]
        answers = [answer for some in await asyncio.gather(*openings) for answer in some]
        assert Counter(answer.status for answer in answers) == {201: 1, 200: 99}
        assert len({answer.data["id"] for answer in answers}) == 1
        for person in (anna, boris):
            assert len((await SocketTransport().do(person, "list_chats"))["items"]) == 1


class TestP7:
    """In a chat seq is 1..n without gap or repeat, and every member's history is the same from their visible start."""

    async def test_ten_simultaneous_senders_make_one_history_for_all_members(
        self, make_person: MakePerson, everywhere: Everywhere, transports: list[Transport]
    ) -> None:
        people = [await make_person(f"Person {number}") for number in range(10)]
        newcomer = await make_person("Newcomer")
        http = transports[1]
        chat_id = (await http.create_group(*people))["id"]

        async def send_and_change(person: Person, way: Way) -> list[int]:
            transport, who = way
            seqs = []
            for number in range(30):
                sent = await transport.send(who, chat_id, f"{person.name} {number}")
                seqs.append(sent["seq"])
                if number % 10 == 4:
                    await transport.do(who, "edit_message", chat_id=chat_id, seq=seqs[-3], text="edited")
                if number % 10 == 9:
                    await transport.do(who, "delete_message", chat_id=chat_id, seq=seqs[-5])
            return seqs

        sending = [
            send_and_change(person, (await everywhere(person))[number % 4]) for number, person in enumerate(people)
        ]
        *sent_seqs, _ = await asyncio.gather(
            *sending, http.do(people[0], "add_members", chat_id=chat_id, user_ids=[newcomer.id])
        )
        histories = [await whole_history(http, person, chat_id) for person in (*people, newcomer)]
        assert [message["seq"] for message in histories[0]] == list(range(1, 303))
        assert all(history == histories[0] for history in histories[1:10])
        start = (await http.do(newcomer, "get_chat", chat_id=chat_id))["mine"]["visible_from_seq"]
        assert start > 1
        assert histories[10] == histories[0][start - 1 :]
        for person, seqs in zip(people, sent_seqs, strict=True):
            assert seqs == sorted(set(seqs))
            mine = [message["seq"] for message in histories[0] if message["sender_id"] == person.id]
            assert [seq for seq in mine if seq in seqs] == seqs


class TestP8:
    """Messages of one connection, sent one after another without waiting for acks, get increasing seqs."""

    async def test_sends_without_waiting_for_acks_keep_their_order(self, make_person: MakePerson) -> None:
        anna, boris = await make_person("Anna", connected=True), await make_person("Boris", connected=True)
        chat_id = (await SocketTransport().open_private_chat(anna, boris))["id"]

        async def send_without_waiting(person: Person) -> list[Json]:
            acks: list[asyncio.Future[Json]] = []
            for number in range(60):
                acks.append(asyncio.get_running_loop().create_future())
                # Refused commands in between do not change the order.
                sent = {"chat_id": chat_id, **content(str(number))} if number % 7 else {}
                await person.socket.client.emit("send_message", sent, callback=acks[-1].set_result)
            return await asyncio.wait_for(asyncio.gather(*acks), DEADLINE)

        for acks in await asyncio.gather(send_without_waiting(anna), send_without_waiting(boris)):
            messages = [ack["data"] for ack in acks if ack["ok"]]
            assert [int(message["text"]) for message in messages] == [number for number in range(60) if number % 7]
            seqs = [message["seq"] for message in messages]
            assert seqs == sorted(set(seqs))


class TestP9:
    """If an ack, or a receipt, came before another send began, its seq is lower."""

    async def test_a_later_send_anywhere_has_a_higher_seq(
        self, make_person: MakePerson, everywhere: Everywhere, transports: list[Transport]
    ) -> None:
        people = [await make_person("Anna"), await make_person("Boris")]
        chat_id = (await transports[1].open_private_chat(*people))["id"]
        ways = [way for person in people for way in await everywhere(person)]
        order = random.Random(9).choices(ways, k=40)
        assert [(await transport.send(who, chat_id))["seq"] for transport, who in order] == list(range(1, 41))

    async def test_a_reply_to_a_received_message_has_a_higher_seq(
        self, transport: Transport, make_person: MakePerson
    ) -> None:
        people = [await make_person(name, connected=True) for name in ("Anna", "Boris", "Clara")]
        chat_id = (await transport.create_group(*people))["id"]
        for person in people:
            await transport.do(person, "activate_chat", chat_id=chat_id)

        def has(words: str) -> Callable[[Json], bool]:
            return lambda event: any(message["text"] == words for message in event["messages"])

        async def converse(opener: Person, answerer: Person) -> None:
            for number in range(10):
                words = f"{opener.name} asks {number}"
                sending = asyncio.create_task(transport.send(opener, chat_id, words))
                received = await answerer.socket.wait_for("messages_changed", has(words))
                answer = await transport.send(answerer, chat_id, f"answer to {words}")
                assert answer["seq"] > received["messages"][-1]["seq"]
                await sending

        await asyncio.gather(*(converse(*pair) for pair in itertools.permutations(people, 2)))


class TestP10:
    """A connection gets the changes of a chat in increasing version; a skipped one is visible and fetchable."""

    async def test_every_member_gets_every_change_in_the_order_of_the_versions(
        self, make_person: MakePerson, transports: list[Transport]
    ) -> None:
        people = [await make_person(f"Person {number}", connected=True) for number in range(8)]
        chat_id = (await transports[0].create_group(*people))["id"]
        opened = [await transports[0].do(person, "activate_chat", chat_id=chat_id) for person in people]
        for person in people:
            await person.connect(active_chat_id=None)  # so that both transports run at the same time

        async def act(person: Person, seed: int) -> None:
            chance = random.Random(seed)
            own: list[int] = [(await transports[seed % 2].send(person, chat_id))["seq"]]
            for _ in range(12):
                transport, where = chance.choice(transports), {"chat_id": chat_id, "seq": chance.choice(own)}
                match chance.choice(["send", "send", "like", "unlike", "edit"]):
                    case "send":
                        own.append((await transport.send(person, chat_id))["seq"])
                    case "edit":
                        await transport.do(person, "edit_message", **where, text=str(chance.random()))
                    case liking:
                        await transport.do(person, f"{liking}_message", **where | {"seq": chance.randint(1, 9)})

        await asyncio.gather(*(act(person, seed) for seed, person in enumerate(people)))
        version = (await transports[1].do(people[0], "get_chat", chat_id=chat_id))["version"]
        assert version > 60
        for person, answer in zip(people, opened, strict=True):
            await person.settle()
            changes = person.socket.named("messages_changed")
            assert_without_gap(changes, answer["page"]["version"], version)
            for socket in person.sockets:
                assert_only_up(socket, chat_id)

    async def test_changes_of_another_node_show_as_a_gap_and_can_be_fetched(
        self, make_person: MakePerson, second: Service, at: At, transports: list[Transport]
    ) -> None:
        socket, http = transports
        anna, boris = await make_person("Anna", connected=True), await make_person("Boris")
        chat_id = (await socket.open_private_chat(anna, boris))["id"]
        window = (await socket.do(anna, "activate_chat", chat_id=chat_id))["page"]["version"]
        for words in ("one", "two"):
            await http.send(at(second.base, boris), chat_id, words)
        await http.send(boris, chat_id, "three")
        event = await anna.socket.wait_for("messages_changed")
        assert (window, event["since"], event["version"]) == (1, 3, 4)
        changes = await socket.do(anna, "list_changes", chat_id=chat_id, since=window)
        assert [message["text"] for message in changes["messages"]] == ["one", "two", "three"]
        assert changes["version"] == event["version"]


def assert_without_gap(changes: list[Json], first: int, last: int) -> None:
    """Check that a window gets all versions: each change begins where the one before ended."""
    ends = [first, *(change["version"] for change in changes)]
    assert [change["since"] for change in changes] == ends[:-1]
    assert ends == sorted(set(ends)) and ends[-1] == last


def assert_only_up(socket: Socket, chat_id: str) -> None:
    """Check that the versions of a chat, and those of its own part, only go up on a connection."""
    received = socket.named("chats_changed")
    shared = [chat["version"] for event in received for chat in event["chats"] if chat["id"] == chat_id]
    mine = [part["version"] for event in received for part in event["mine"] if part["chat_id"] == chat_id]
    assert shared == sorted(set(shared)) and mine == sorted(mine)
    assert shared


def test_the_timers_keep_the_promised_times() -> None:
    """Tests wait as long as a busy machine needs. These are the timers of the service itself."""
    assert chat_database.PATIENCE_SECONDS <= 3, "P23: a lost database"
    assert server.SESSION_CHECK_SECONDS < 5, "P19: a session that another process ended"
    assert cluster.COMPARE_SECONDS < 4, "P23: active chats without the bus"
    assert bus.SILENT_SECONDS + bus.HEARTBEAT_SECONDS + bus.RETRY_SECONDS + cluster.GATHER_SECONDS < 5, (
        "P13: a resync after the bus is back"
    )
