"""The promises of who sees what (P16, P17, P18, P20), also while others send as fast as they can."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text

from chat_app.database import Database
from tests.clients import DEADLINE, Answer, HttpTransport, Person, SocketTransport, Transport
from tests.operations import Json, broken_table, request
from tests.process import Process
from tests.raw import RawSocket
from tests.service import MakePerson

At = Callable[[str, Person], Person]


@pytest.fixture
def transports(openapi: Json) -> list[Transport]:
    """Both transports, for tests that use them together."""
    return [SocketTransport(), HttpTransport(openapi)]


class Repeater:
    """Repeats operations in parallel until it is stopped."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.is_over = False
        self._more = asyncio.Event()

    async def repeat(self, do: Callable[[], Awaitable[Answer]]) -> None:
        while not self.is_over:
            self.answers.append(await do())
            self._more.set()

    async def wait_for_more(self, times: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.answers) + times
        while len(self.answers) < wanted:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), DEADLINE)


@asynccontextmanager
async def repeating(*actions: Callable[[], Awaitable[Answer]]) -> AsyncIterator[Repeater]:
    repeater = Repeater()
    running = [asyncio.create_task(repeater.repeat(action)) for action in actions]
    try:
        yield repeater
    finally:
        repeater.is_over = True
        await asyncio.gather(*running)


def sending(transport: Transport, person: Person, chat_id: str) -> Callable[[], Awaitable[Answer]]:
    """An action that sends a message."""
    return lambda: transport.call(
        person, "send_message", chat_id=chat_id, type="text", text="secret of later", client_id=str(uuid4())
    )


def versions_received(events: list[tuple[str, Json]], chat_id: str) -> list[int]:
    """The versions of a chat in these events."""
    changes = [event["version"] for name, event in events if name == "messages_changed"]
    return changes + [
        chat["version"] for _, event in events for chat in event.get("chats", []) if chat["id"] == chat_id
    ]


class Past:
    """A group with a history of every kind, three users who know it and two who don't."""

    SECRET = "secret"
    changes = 7

    def __init__(self, transport: Transport, people: dict[str, Person]) -> None:
        self.transport = transport
        self.creator, self.member, self.former = (people[name] for name in ("Creator", "Member", "Former"))
        self.outsider, self.newcomer = people["Outsider"], people["Newcomer"]
        self.seqs: list[int] = []

    @classmethod
    async def make(cls, transport: Transport, make_person: MakePerson) -> Self:
        names = ("Creator", "Member", "Former", "Outsider", "Newcomer")
        past = cls(transport, {name: await make_person(name, connected=True) for name in names})
        await past._fill()
        return past

    async def _fill(self) -> None:
        self.chat_id = (await self.transport.create_group(self.creator, self.member, self.former))["id"]
        first = await self._send(self.creator, type="text", text="secret text")
        await self._send(self.former, type="text", text="secret answer", reply_to=first)
        uploaded = await request(self.creator, "create_attachment", {})
        self.attachment_id = uploaded.json()["id"]
        await self._send(self.creator, type="file", attachment_id=self.attachment_id, text="secret caption")
        await self._send(self.member, type="contact", name="secret friend", phone="secret phone")
        await self.transport.do(self.former, "like_message", chat_id=self.chat_id, seq=first)
        await self.transport.do(self.former, "leave_chat", chat_id=self.chat_id)
        self.newest = (await self.transport.do(self.creator, "get_chat", chat_id=self.chat_id))["message_count"]
        self.secrets = [self.SECRET, self.attachment_id, self.former.id]

    async def _send(self, person: Person, **content: Any) -> int:
        sent = await self.transport.do(person, "send_message", chat_id=self.chat_id, client_id=str(uuid4()), **content)
        self.seqs.append(sent["seq"])
        seq: int = sent["seq"]
        return seq

    async def change_everything(self) -> None:
        """Edit, like, unlike, quote and delete messages from before the newcomer's joining."""
        first, _, file, contact, *_ = self.seqs
        chat = {"chat_id": self.chat_id}
        await self.transport.do(self.creator, "edit_message", **chat, seq=first, text="secret, edited")
        await self.transport.do(self.creator, "edit_message", **chat, seq=file, text="secret caption, edited")
        for seq in (first, contact):
            await self.transport.do(self.member, "like_message", **chat, seq=seq)
        await self.transport.do(self.member, "unlike_message", **chat, seq=contact)
        await self.transport.send(self.member, self.chat_id, "public", reply_to=first)
        await self.transport.do(self.creator, "delete_message", **chat, seq=file)
        await self.transport.do(self.member, "delete_message", **chat, seq=contact)
        await self.transport.send(self.creator, self.chat_id, "public", reply_to=first)

    async def everything_seen_by(self, person: Person) -> str:
        """All answers to all operations of a member, and all events, as text."""
        chat = {"chat_id": self.chat_id}
        calls: list[tuple[str, Json]] = [
            ("list_chats", {}),
            ("activate_chat", chat),
            ("list_chats", {"changed_since": "0.0"}),
        ]
        calls += [(name, chat) for name in ("get_chat", "list_members", "list_messages")]
        calls += [
            ("list_messages", chat | {bound: seq}) for bound in ("before", "after", "around") for seq in (0, 4, 9, 13)
        ]
        calls += [("list_changes", chat | {"since": since}) for since in range(0, 36, 3)]
        calls += [("search_messages", where | {"query": "secret"}) for where in ({}, chat)]
        calls += [("search_messages", chat | {"types": ["text", "file", "contact"]})]
        for seq in (0, 1, *self.seqs):
            where = chat | {"seq": max(1, seq)}
            calls += [(name, where) for name in ("get_message", "list_likes", "like_message", "unlike_message")]
        answers = [(await self.transport.call(person, name, **arguments)).data for name, arguments in calls]
        attachment = await request(person, "get_attachment", {"attachment_id": self.attachment_id})
        await person.settle()
        return json.dumps([answers, attachment.json() if attachment.is_success else None, person.socket.events])


class TestP16:
    """After a removal, leave or deletion was acked nothing newer reaches the removed user by any path."""

    @pytest.mark.parametrize(("way", "by"), [("remove_member", 0), ("leave_chat", 1), ("delete_chat", 0)])
    async def test_a_former_member_gets_nothing_more_while_others_go_on(
        self, way: str, by: int, make_person: MakePerson, transports: list[Transport]
    ) -> None:
        creator, leaver, *others = [
            await make_person(name, connected=True) for name in ("Creator", "Leaver", "Anna", "Boris", "Clara")
        ]
        chat_id = (await transports[1].create_group(creator, leaver, *others))["id"]
        for person in (creator, leaver, *others):
            await transports[0].do(person, "activate_chat", chat_id=chat_id)
        # One connection has the chat active, one follows the session, one has no chat active.
        await leaver.connect()
        await leaver.connect(active_chat_id=None)
        is_acked = False
        late: list[Answer] = []

        async def read() -> Answer:
            began_late = is_acked
            answer = await transports[1].call(leaver, "list_messages", chat_id=chat_id)
            late.extend([answer] if began_late else [])
            return answer

        senders = [sending(transports[number % 2], person, chat_id) for number, person in enumerate((creator, *others))]
        async with repeating(*senders) as sent, repeating(read) as reads:
            await sent.wait_for_more(20)
            await reads.wait_for_more(3)
            if way == "leave_chat":
                await transports[by].do(leaver, way, chat_id=chat_id)
            else:
                named = {"user_id": leaver.id} if way == "remove_member" else {}
                await transports[by].do(creator, way, chat_id=chat_id, **named)
            is_acked = True
            await sent.wait_for_more(20)
            await reads.wait_for_more(3)

        await leaver.settle()
        for socket in leaver.sockets:
            [place] = [number for number, (_, event) in enumerate(socket.events) if event.get("removed")]
            [removed] = socket.events[place][1]["removed"]
            assert removed["chat_id"] == chat_id
            # Nothing newer, and nothing at all of this chat after the removal.
            before = versions_received(socket.events[:place], chat_id)
            assert before
            assert max(before) < removed["version"]
            assert chat_id not in json.dumps(socket.events[place + 1 :])
        assert {answer.code for answer in late} == {"chat_not_found"}
        assert {answer.code for answer in reads.answers} == {None, "chat_not_found"}
        seen = [message for answer in reads.answers if answer.ok for message in answer.data["items"]]
        assert max(message["version"] for message in seen) < removed["version"]
        assert all(not answer.ok for answer in sent.answers[-1:]) == (way == "delete_chat")
        for other in transports:
            assert (await other.do(leaver, "list_chats"))["items"] == []
            assert (await other.call(leaver, "get_chat", chat_id=chat_id)).code == "chat_not_found"
        assert (await request(leaver, "get_active_chat", {})).json()["code"] == "no_active_chat"

    async def test_a_member_removed_during_an_activation_does_not_stay_subscribed(
        self, make_person: MakePerson, transports: list[Transport]
    ) -> None:
        socket, http = transports
        creator = await make_person("Creator")
        for _ in range(10):
            leaver = await make_person("Leaver", connected=True)
            chat_id = (await http.create_group(creator, leaver))["id"]
            await leaver.forget()
            opening = [socket.call(leaver, "activate_chat", chat_id=chat_id), leaver.connect(active_chat_id=chat_id)]
            removing = http.do(creator, "remove_member", chat_id=chat_id, user_id=leaver.id)
            await asyncio.gather(*opening, removing)
            await leaver.settle()
            counts = [len(other.events) for other in leaver.sockets]
            await http.send(creator, chat_id, "secret of later")
            await leaver.settle()
            assert [len(other.events) for other in leaver.sockets] == counts


class TestP17:
    """A message is accepted only if its sender is a member at its commit."""

    async def test_messages_of_a_member_during_the_removal_come_before_it_or_are_refused(
        self,
        transport: Transport,
        make_person: MakePerson,
        transports: list[Transport],
        process: Process,
        at: At,
        database: Database,
    ) -> None:
        creator, leaver = await make_person("Creator"), await make_person("Leaver")
        chat_id = (await transports[1].create_group(creator, leaver))["id"]
        elsewhere = at(process.base, leaver)
        ways = [(each, who) for each in transports for who in (leaver, elsewhere)]
        for who in (leaver, elsewhere):
            await who.connect()
        async with repeating(*(sending(each, who, chat_id) for each, who in ways)) as sent:
            await sent.wait_for_more(30)
            await transport.do(creator, "remove_member", chat_id=chat_id, user_id=leaver.id)
            at_ack = len(sent.answers)
            await sent.wait_for_more(12)
        assert {answer.code for answer in sent.answers} == {None, "chat_not_found"}
        # At most one send of each way was still in flight.
        assert not any(answer.ok for answer in sent.answers[at_ack + len(ways) :])
        history = await transports[1].history(creator, chat_id, limit=100)
        removal = history[-1]
        assert removal["system"], "a message was accepted after the removal"
        assert removal["system"]["event"] == "member_removed"
        accepted = {answer.data["seq"] for answer in sent.answers if answer.ok}
        assert max(accepted) < removal["seq"]
        async with database.engine.connect() as connection:
            statement = text("SELECT seq FROM message WHERE chat_id = :chat AND sender_id = :sender")
            written = await connection.execute(statement, {"chat": UUID(chat_id), "sender": UUID(leaver.id)})
            assert set(written.scalars()) == accepted


class TestP18:
    """A newcomer sees nothing from before the own joining, by any path, also not after later changes."""

    @pytest.fixture
    async def past(self, transport: Transport, make_person: MakePerson) -> Past:
        """A group with messages that the newcomer must not see."""
        return await Past.make(transport, make_person)

    async def test_a_newcomer_sees_nothing_from_before(self, past: Past) -> None:
        transport = past.transport
        await transport.do(past.creator, "add_members", chat_id=past.chat_id, user_ids=[past.newcomer.id])
        await self.check(past, past.newcomer, start=past.newest + 1)

    async def test_a_newcomer_with_shared_history_sees_only_what_the_adder_sees(self, past: Past) -> None:
        transport, chat_id = past.transport, past.chat_id
        between = past.outsider
        await transport.do(past.creator, "add_members", chat_id=chat_id, user_ids=[between.id])
        await transport.send(past.creator, chat_id, "public")
        shared = {"user_ids": [past.newcomer.id], "share_history": True}
        await transport.do(between, "add_members", chat_id=chat_id, **shared)
        await self.check(past, past.newcomer, start=past.newest + 1)

    async def test_a_member_who_rejoins_sees_nothing_from_before(self, past: Past) -> None:
        transport, chat_id = past.transport, past.chat_id
        await transport.do(
            past.creator, "add_members", chat_id=chat_id, user_ids=[past.newcomer.id], share_history=True
        )
        assert (await transport.do(past.newcomer, "get_message", chat_id=chat_id, seq=past.seqs[0]))["text"]
        own = await transport.send(past.newcomer, chat_id, "secret, my own")
        await transport.do(past.newcomer, "leave_chat", chat_id=chat_id)
        await past.newcomer.forget()
        past.seqs.append(own["seq"])
        await transport.do(past.creator, "add_members", chat_id=chat_id, user_ids=[past.newcomer.id])
        await self.check(past, past.newcomer, start=own["seq"] + 2)

    async def test_a_newcomer_with_the_shared_history_of_a_founder_sees_everything(self, past: Past) -> None:
        """Without this the other tests could pass because nothing is ever shown."""
        shared = {"user_ids": [past.newcomer.id], "share_history": True}
        await past.transport.do(past.creator, "add_members", chat_id=past.chat_id, **shared)
        everything = await past.everything_seen_by(past.newcomer)
        for secret in past.secrets:
            assert secret in everything

    async def check(self, past: Past, newcomer: Person, start: int) -> None:
        """Change everything from before, and search for it in everything that the newcomer can read."""
        transport, chat_id = past.transport, past.chat_id
        opened = await transport.do(newcomer, "activate_chat", chat_id=chat_id)
        assert opened["chat"]["mine"]["visible_from_seq"] == start
        await past.change_everything()
        everything = await past.everything_seen_by(newcomer)
        for secret in past.secrets:
            assert secret not in everything
        # Every version still has an event, so that no version is a gap.
        changes = newcomer.socket.named("messages_changed")
        since = [event["since"] for event in changes]
        assert since == [opened["page"]["version"], *(event["version"] for event in changes)][:-1]
        assert len([event for event in changes if not event["messages"]]) >= past.changes
        seqs = [message["seq"] for event in changes for message in event["messages"]]
        assert seqs
        assert min(seqs) >= start


class Account:
    """A registered user with sessions, and all answers that they got."""

    def __init__(self, phone: str) -> None:
        self.phone = phone
        self.received: list[str] = []
        self.tokens: list[str] = []
        self.person: Person

    @classmethod
    async def open(cls, base: str, phone: str, password: str) -> Self:
        account = cls(phone)
        async with httpx.AsyncClient(base_url=f"{base}/api/v1/auth", verify=False) as http:
            me = (await http.post("/register", json={"phone": phone, "password": password})).json()
            for answer in (
                await http.post("/login", data={"username": phone, "password": password}),
                await http.post("/login", data={"username": phone, "password": password}),
            ):
                account.keep(answer)
            account.keep(await http.post("/refresh", json={"refresh_token": account.tokens[-1]}))
            headers = {"Authorization": f"Bearer {account.tokens[0]}"}
            changed = {"current_password": password, "new_password": password}
            (await http.post("/password", json=changed, headers=headers)).raise_for_status()
        account.person = Person(base, UUID(me["id"]), uuid4(), account.tokens[0], "New user")
        await account.person.connect()
        return account

    def keep(self, answer: httpx.Response) -> None:
        tokens = answer.raise_for_status().json()
        self.received.append(answer.text)
        self.tokens += [tokens["access_token"], tokens["refresh_token"]]

    async def do(self, transport: Transport, operation: str, **arguments: Any) -> Any:
        data = await transport.do(self.person, operation, **arguments)
        self.received.append(json.dumps(data))
        return data


def find(secrets: list[str], where: str) -> list[str]:
    """The secrets that occur in a text. The end of a long one is enough."""
    return [secret for secret in secrets if (secret[-20:] if len(secret) > 60 else secret) in where]


class TestP20:
    """Phones, hashes, tokens and own titles are in no answer, event, log or metric that isn't their owner's."""

    PASSWORDS = "annas long password", "boris' long password"
    PHONES = "+79991234501", "+79991234502"
    OWN_TITLE, TEXT, FRIEND = "Annas own title", "Annas words", "+7 999 765-43-21"
    DRAFT, EXTRA = "Annas unsent words", "Annas attribute"

    async def test_a_conversation_shows_them_to_their_owners_only(
        self, process: Process, openapi: Json, database: Database
    ) -> None:
        began = len(process.written)
        anna, boris = [
            await Account.open(process.base, *account) for account in zip(self.PHONES, self.PASSWORDS, strict=True)
        ]
        try:
            await self.converse(anna, boris, [SocketTransport(), HttpTransport(openapi)])
            await self.make_mistakes(anna, database)
            metrics = (await boris.person.http.get("/metrics")).text
            boris_received = [*boris.received, json.dumps(boris.person.socket.events)]
        finally:
            await anna.person.close()
            await boris.person.close()
        await process.wait_for(event="disconnected", user=boris.person.id)

        hashes = await self.hashes(database)
        phones = [phone for number in self.PHONES for phone in (number, number[1:], number[-10:])]
        in_no_log = [
            *(*phones, *self.PASSWORDS, *anna.tokens, *boris.tokens, *hashes),
            *(self.OWN_TITLE, self.TEXT, self.FRIEND, self.DRAFT, self.EXTRA, "one-time"),
        ]
        log = "\n".join(process.written[began:])
        assert anna.person.id in log, "the log has to have this user for this test to mean anything"
        assert find(in_no_log, log) == []
        assert find(in_no_log, metrics) == []
        annas = [*phones[:3], self.PASSWORDS[0], *anna.tokens, self.OWN_TITLE, self.DRAFT, *hashes, "hashed_password"]
        assert find(annas, "\n".join(boris_received)) == []
        # Their owners get them; without this the test would mean nothing.
        owners = json.dumps([anna.received, anna.person.socket.events])
        theirs = [self.PHONES[0], self.OWN_TITLE, self.DRAFT, *anna.tokens]
        assert find(theirs, owners) == theirs
        shared = [self.TEXT, self.FRIEND, self.EXTRA]
        assert find(shared, "\n".join(boris_received)) == shared

    async def converse(self, anna: Account, boris: Account, transports: list[Transport]) -> None:
        """Do what users do, and keep all answers."""
        for transport in transports:
            chat = await anna.do(transport, "open_private_chat", user_id=boris.person.id)
            group = await anna.do(transport, "create_group", title="Ours", member_ids=[boris.person.id])
            for chat_id in (chat["id"], group["id"]):
                for account in (anna, boris):
                    await account.do(transport, "activate_chat", chat_id=chat_id)
                await anna.do(transport, "rename_chat", chat_id=chat_id, title=self.OWN_TITLE)
                await anna.do(transport, "pin_chat", chat_id=chat_id)
                await anna.do(transport, "update_mine", chat_id=chat_id, draft={"text": self.DRAFT})
                contact = {"type": "contact", "name": "Friend", "phone": self.FRIEND, "extra": {self.EXTRA: 1}}
                for kind in (contact, {"type": "text", "text": self.TEXT}):
                    sent = await anna.do(transport, "send_message", chat_id=chat_id, client_id=str(uuid4()), **kind)
                await boris.do(transport, "like_message", chat_id=chat_id, seq=2)
                await anna.do(transport, "edit_message", chat_id=chat_id, seq=sent["seq"], text=f"{self.TEXT}, edited")
                await boris.do(transport, "mark_read", chat_id=chat_id, seq=2)
                for name in ("get_chat", "list_messages", "list_members"):
                    await boris.do(transport, name, chat_id=chat_id)
                await boris.do(transport, "list_changes", chat_id=chat_id, since=0)
                await boris.do(transport, "list_likes", chat_id=chat_id, seq=2)
            await boris.do(transport, "list_chats")
            await boris.do(transport, "list_chats", changed_since="0.0")
            assert (await boris.do(transport, "search_messages", query=self.TEXT))["items"]
        http = transports[1]
        for name, arguments in (
            ("lookup_user", {"phone": anna.phone}),
            ("get_user", {"user_id": anna.person.id}),
            ("search_users", {"query": "New user"}),
            ("search_users", {"ids": [anna.person.id]}),
        ):
            await boris.do(http, name, **arguments)
        for name in ("get_me", "list_sessions", "list_chats"):
            await anna.do(http, name)
        await anna.do(http, "update_me", name="Anna", bio="Here I am")
        await anna.person.settle()
        await boris.person.settle()

    async def make_mistakes(self, anna: Account, database: Database) -> None:
        """Send secrets to wrong places, and cause errors in requests with secrets."""
        http, phone, token = anna.person.http, anna.phone, anna.person.token
        user = {"phone": phone, "password": self.PASSWORDS[0]}
        api = "/api/v1"
        for path in (f"{api}/users/{phone}", f"/{phone}", f"{api}/users?query={phone}", f"{api}/users?cursor={token}"):
            await http.get(path, headers={"X-Request-ID": phone})
        await http.get(f"{api}/{token}")
        await http.get(f"{api}/users/me", headers={"User-Agent": f"App/1.0 {phone} {token}"})
        await http.post(f"{api}/chats/groups", json={phone: token, "title": [phone], "member_ids": [phone, token]})
        await http.patch(f"{api}/users/me", json={"name": f"{phone}\x00", token: phone})
        await http.post(f"{api}/auth/register", json=user)
        await http.post(f"{api}/auth/register", json=user | {phone: phone})
        await http.post(f"{api}/auth/register", json=user | {"name": f"{phone}\x00"})
        await http.post(f"{api}/auth/register", content=f'{{"phone": "{phone}"')
        await http.post(f"{api}/auth/login", data={"username": phone, "password": self.PASSWORDS[0] + "!"})
        with_code = {"phone": phone, "code": "000000"}
        await http.post(f"{api}/auth/codes/login", json=with_code | {"password": self.PASSWORDS[0]})
        await http.post(f"{api}/auth/codes/reset", json=with_code | {"new_password": self.PASSWORDS[0]})
        await http.post(f"{api}/auth/codes/verify", json=with_code)
        await http.post(f"{api}/auth/refresh", json={"refresh_token": anna.tokens[-1][:-4] + "AAAA"})
        async with broken_table(database, "like"):
            chat = (await http.get(f"{api}/chats")).json()["items"][0]
            await http.put(f"{api}/chats/{chat['id']}/messages/2/like")
        # A client may put its token into the URL or anywhere else.
        raw = await RawSocket.open(anna.person.base, f"/socket.io/?EIO=4&transport=websocket&token={token}")
        await raw.join({"token": token, "phone": phone})
        await raw.join({"token": token[:-4]})
        await raw.join({"token": token})
        await raw.call(phone)
        await raw.call(token)
        await raw.call("lookup_user", json.dumps({"phone": phone}))
        await raw.call("get_chat", json.dumps({"chat_id": phone, phone: token}))
        await raw.call("send_message", json.dumps({"type": phone, "text": self.TEXT, token: phone}))
        await raw.send(f'427["{token}"', f"43{phone[1:]}[1]", f"44{token}", f"40{{{token}", f"4{token}", f"9{token}")
        await raw.close()

    async def hashes(self, database: Database) -> list[str]:
        """The hashes in the tables, in the forms in which they might be shown."""
        statement = """
            SELECT hashed_password, encode(refresh_hash, 'hex'), encode(refresh_hash, 'base64'),
                encode(address_hash, 'hex'), encode(address_hash, 'base64')
            FROM "user" JOIN session ON session.user_id = "user".id WHERE phone = ANY(:phones)
        """
        async with database.engine.connect() as connection:
            rows = await connection.execute(text(statement), {"phones": list(self.PHONES)})
            return [value for row in rows for value in row]
