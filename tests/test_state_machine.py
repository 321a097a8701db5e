"""Random operations of four users over either transport have the outcomes of a plain model of DESIGN §6.

`--hypothesis-profile=long` does twenty times as much. A failure shows the shortest sequence that was found.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.clients import Answer, HttpTransport, Person, SocketTransport, Transport
from tests.operations import Json
from tests.service import MakePerson
from tests.state_model import LATER, Chat, Message, Model, Outcome, Refused

NAMES = ("Anna", "Boris", "Clara", "David")
EXAMPLES, STEPS = 8, 50
CHECK_EVERY = 5
# Few, so that each gets many operations.
MOST_CHATS = 4

CHATS: Bundle[Chat] = Bundle("chats")
USERS = st.integers(0, len(NAMES) - 1)
SEVERAL = st.sets(USERS, min_size=1, max_size=3).map(sorted)
TRANSPORTS = st.sampled_from(("http", "socket"))
# Few, so that values repeat.
TEXTS = st.sampled_from(("yes", "no", "perhaps"))
EXTRAS = st.sampled_from(({"a": 1}, {"a": [1]}))
EMOJIS = st.sampled_from(("👍", "❤️", "🎉", "🔥"))
TITLES = st.sampled_from(("Trip", "Work"))
OWN = st.fixed_dictionaries(
    {},
    optional={
        "title": st.none() | TITLES,
        "muted_until": st.sampled_from((None, LATER, "2001-01-01T00:00:00Z")),
        "archived": st.none() | st.booleans(),
        "marked_unread": st.none() | st.booleans(),
        "draft": st.none() | TEXTS,
    },
).filter(bool)
USED_IDS = st.integers(1, 3).map(lambda number: str(UUID(int=number)))
# Title and description, one of them at least.
GROUP_FIELDS = st.fixed_dictionaries({}, optional={"title": TITLES, "description": st.none() | TEXTS}).filter(bool)
# Distance from the newest message: 0 is the newest, -1 doesn't exist yet.
BACK = st.integers(-1, 6)


def facts(data: Json) -> Json:
    """The part of an answer that the model predicts: whether something was edited, deleted or pinned, not when."""
    times = {
        name.removesuffix("_at"): bool(data[name])
        for name in ("edited_at", "deleted_at", "pinned_at", "archived_at")
        if name in data
    }
    kept = {name: value for name, value in data.items() if not name.endswith("_at")} | times
    if kept.get("forwarded"):
        kept["forwarded"] = {"author_id": kept["forwarded"]["author_id"]}
    return kept


def chat_facts(chat: Json) -> Json:
    mine = facts(chat["mine"])
    del mine["version"]
    mine["muted_until"] = chat["mine"]["muted_until"]
    mine["draft"] = mine["draft"] and {name: mine["draft"][name] for name in ("text", "reply_to")}
    mine["peer"] = mine["peer"] and mine["peer"]["id"]
    return facts(chat) | {"mine": mine, "last_message": chat["last_message"] and facts(chat["last_message"])}


def members_facts(members: list[Json]) -> Json:
    return {
        member["user_id"]: {name: member[name] for name in ("is_creator", "last_read_seq", "removed_at")}
        for member in members
    }


class Chats(RuleBasedStateMachine):
    """Each rule calls the model first, then the service."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make_person: MakePerson, transports: dict[str, Transport]
    ) -> None:
        super().__init__()
        self.loop, self.transports = loop, transports
        self.people: list[Person] = self.run(*(make_person(name, connected=True) for name in NAMES))
        self.ids = [person.id for person in self.people]
        self.model = Model(dict(zip(self.ids, NAMES, strict=True)))
        self.steps = 0
        self.has_failed = False
        self.compared: dict[tuple[Any, ...], Any] = {}

    def run(self, *coroutines: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run coroutines together in the loop of the service. The state machine runs in another thread."""

        async def together() -> list[Any]:
            return await asyncio.gather(*coroutines)

        return asyncio.run_coroutine_threadsafe(together(), self.loop).result(30)

    def do(
        self, transport: str, user: int, operation: str, chat: Chat | None = None, **arguments: Any
    ) -> Outcome | None:
        """Do the same with the model and the service. Returns the outcome of a success."""
        self.steps += 1
        subject = [chat] if chat else []
        expected: Outcome | Refused
        try:
            expected = getattr(self.model, operation)(self.ids[user], *subject, **arguments)
        except Refused as refusal:
            expected = refusal
        if chat:
            arguments["chat_id"] = chat.id
        if source := arguments.pop("source", None):
            operation, arguments["type"], arguments["from_chat_id"] = "send_message", "forward", source.id
        [answer] = self.run(self.transports[transport].call(self.people[user], operation, **arguments))
        self.has_failed = True
        self.compare(self.ids[user], chat, expected, answer)
        self.has_failed = False
        return expected if isinstance(expected, Outcome) else None

    def compare(self, user: str, chat: Chat | None, expected: Outcome | Refused, answer: Answer) -> None:
        if isinstance(expected, Refused):
            assert (answer.status, answer.code) == (expected.status, expected.code)
            return
        assert (answer.status, answer.code) == (expected.status, None)
        match expected.shown:
            case Chat() as shown:
                shown.id = shown.id or answer.data["id"]
                assert chat_facts(answer.data) == self.model.chat(user, shown)
            case tuple() as places:
                assert tuple((found["chat_id"], found["seq"]) for found in answer.data["items"]) == places
            case Message() as shown:
                assert chat is not None
                assert facts(answer.data) == self.model.message(user, chat, shown)
            case dict() as shown:
                assert answer.data == shown

    def created(self, outcome: Outcome | None) -> MultipleResults[Chat] | Chat:
        return outcome.shown if outcome and outcome.status == 201 else multiple()

    @initialize(target=CHATS, transport=TRANSPORTS, members=SEVERAL.filter(lambda members: members != [0]))
    def start_with_a_group(self, transport: str, members: list[int]) -> Any:
        member_ids = [self.ids[member] for member in members]
        return self.created(self.do(transport, 0, "create_group", title="Trip", member_ids=member_ids, client_id=None))

    def wants_chats(self) -> bool:
        return len(self.model.chats) < MOST_CHATS

    @precondition(wants_chats)
    @rule(target=CHATS, transport=TRANSPORTS, user=USERS, peer=USERS)
    def open_private_chat(self, transport: str, user: int, peer: int) -> Any:
        return self.created(self.do(transport, user, "open_private_chat", user_id=self.ids[peer]))

    @precondition(wants_chats)
    @rule(target=CHATS, transport=TRANSPORTS, user=USERS, title=TITLES, members=SEVERAL, client_id=st.none() | USED_IDS)
    def create_group(self, transport: str, user: int, title: str, members: list[int], client_id: str | None) -> Any:
        member_ids = [self.ids[member] for member in members]
        return self.created(
            self.do(transport, user, "create_group", title=title, member_ids=member_ids, client_id=client_id)
        )

    @rule(
        transport=TRANSPORTS,
        user=USERS,
        chat=CHATS,
        text=TEXTS,
        client_id=st.none() | USED_IDS,
        reply_to=st.none() | BACK,
        extra=st.none() | EXTRAS,
    )
    def send_message(
        self,
        transport: str,
        user: int,
        chat: Chat,
        text: str,
        client_id: str | None,
        reply_to: int | None,
        extra: Json | None = None,
    ) -> None:
        self.do(
            transport,
            user,
            "send_message",
            chat,
            text=text,
            client_id=client_id or str(UUID(int=1000 + self.steps)),
            reply_to=None if reply_to is None else max(1, chat.message_count - reply_to),
            type="custom" if extra else "text",
            extra=extra,
        )

    @rule(transport=TRANSPORTS, chat=CHATS, back=BACK, what=st.sampled_from(("edit", "delete", "like")))
    def send_and_touch(self, transport: str, chat: Chat, back: int, what: str) -> None:
        """Random users seldom change their own message. Here a member sends one and then changes it."""
        if chat.members:
            user = self.ids.index(min(chat.members))
            self.send_message(transport, user, chat, "yes", None, max(0, back))
            text = {"text": "no"} if what == "edit" else {}
            self.do(transport, user, f"{what}_message", chat, seq=max(1, chat.message_count), **text)

    @rule(
        transport=TRANSPORTS,
        user=USERS,
        chat=CHATS,
        back=BACK,
        sent=st.fixed_dictionaries({}, optional={"text": st.none() | TEXTS, "extra": st.none() | EXTRAS}).filter(bool),
    )
    def edit_message(self, transport: str, user: int, chat: Chat, back: int, sent: Json) -> None:
        self.do(transport, user, "edit_message", chat, seq=max(1, chat.message_count - back), **sent)

    @rule(
        transport=TRANSPORTS,
        user=USERS,
        chat=CHATS,
        back=BACK,
        operation=st.sampled_from(
            ("like_message", "unlike_message", "delete_message", "pin_message", "pin_message", "unpin_message")
        ),
    )
    def touch_message(self, transport: str, user: int, chat: Chat, back: int, operation: str) -> None:
        self.do(transport, user, operation, chat, seq=max(1, chat.message_count - back))

    @rule(
        transport=TRANSPORTS,
        user=USERS,
        chat=CHATS,
        back=BACK,
        emoji=EMOJIS,
        operation=st.sampled_from(("react", "react", "unreact")),
    )
    def react(self, transport: str, user: int, chat: Chat, back: int, emoji: str, operation: str) -> None:
        self.do(transport, user, operation, chat, seq=max(1, chat.message_count - back), emoji=emoji)

    @rule(
        transport=TRANSPORTS,
        user=USERS,
        chat=CHATS,
        source=CHATS,
        back=BACK,
        client_id=st.none() | USED_IDS,
        reply_to=st.none() | BACK,
        extra=st.none() | EXTRAS,
    )
    def forward_message(
        self,
        transport: str,
        user: int,
        chat: Chat,
        source: Chat,
        back: int,
        client_id: str | None,
        reply_to: int | None,
        extra: Json | None,
    ) -> None:
        fields = {
            "client_id": client_id or str(UUID(int=1000 + self.steps)),
            "from_seq": max(1, source.message_count - back),
            "reply_to": None if reply_to is None else max(1, chat.message_count - reply_to),
            "extra": extra,
        }
        self.do(transport, user, "forward_message", chat, source=source, **fields)

    @rule(transport=TRANSPORTS, user=USERS, chat=CHATS, back=BACK)
    def mark_read(self, transport: str, user: int, chat: Chat, back: int) -> None:
        self.do(transport, user, "mark_read", chat, seq=max(0, chat.message_count - back))

    @rule(transport=TRANSPORTS, user=USERS, chat=CHATS, title=st.none() | TITLES)
    def rename_chat(self, transport: str, user: int, chat: Chat, title: str | None) -> None:
        self.do(transport, user, "rename_chat", chat, title=title)

    @rule(transport=TRANSPORTS, user=USERS, chat=CHATS, sent=OWN, back=st.none() | BACK)
    def update_mine(self, transport: str, user: int, chat: Chat, sent: Json, back: int | None) -> None:
        if sent.get("draft"):
            reply_to = None if back is None else max(1, chat.message_count - back)
            sent = sent | {"draft": {"text": sent["draft"], "reply_to": reply_to}}
        self.do(transport, user, "update_mine", chat, **sent)

    @rule(transport=TRANSPORTS, user=USERS, chat=CHATS, hide=st.booleans())
    def clear_chat(self, transport: str, user: int, chat: Chat, hide: bool) -> None:
        self.do(transport, user, "clear_chat", chat, hide=hide)

    @rule(
        transport=TRANSPORTS,
        user=USERS,
        chat=CHATS,
        operation=st.sampled_from(
            ("pin_chat", "unpin_chat", "activate_chat", "leave_chat", "delete_chat", "get_group", "delete_group_avatar")
        ),
    )
    def touch_chat(self, transport: str, user: int, chat: Chat, operation: str) -> None:
        self.do(transport, user, operation, chat)

    @rule(transport=TRANSPORTS, user=USERS, chat=CHATS, others=SEVERAL, share=st.booleans(), title=st.none() | TITLES)
    def add_members(
        self, transport: str, user: int, chat: Chat, others: list[int], share: bool, title: str | None
    ) -> None:
        user_ids = [self.ids[other] for other in others]
        self.do(transport, user, "add_members", chat, user_ids=user_ids, share_history=share, title=title)

    @rule(transport=TRANSPORTS, user=USERS, chat=CHATS, other=USERS)
    def remove_member(self, transport: str, user: int, chat: Chat, other: int) -> None:
        self.do(transport, user, "remove_member", chat, user_id=self.ids[other])

    @rule(transport=TRANSPORTS, user=USERS, chat=CHATS, fields=GROUP_FIELDS)
    def update_group(self, transport: str, user: int, chat: Chat, fields: dict[str, str | None]) -> None:
        self.do(transport, user, "update_group", chat, **fields)

    @rule(transport=TRANSPORTS, user=USERS, chat=CHATS, other=USERS, by_creator=st.booleans())
    def set_creator(self, transport: str, user: int, chat: Chat, other: int, by_creator: bool) -> None:
        """Random users are seldom the creator."""
        if by_creator and chat.creator_id:
            user = self.ids.index(chat.creator_id)
        self.do(transport, user, "set_creator", chat, user_id=self.ids[other])

    @rule(transport=TRANSPORTS, user=USERS, chat=st.none() | CHATS, query=st.sampled_from(("yes", "no", "per")))
    def search_messages(self, transport: str, user: int, chat: Chat | None, query: str) -> None:
        self.do(transport, user, "search_messages", chat, query=query, limit=100)

    @rule(transport=TRANSPORTS, user=USERS, chat=CHATS, back=st.integers(-1, 12))
    def list_changes(self, transport: str, user: int, chat: Chat, back: int) -> None:
        self.do(transport, user, "list_changes", chat, since=max(0, chat.version - back))

    @invariant()
    def all_users_see_the_state_of_the_model(self) -> None:
        if self.steps % CHECK_EVERY == 0:
            self.look(self.transports["http" if self.steps % 25 == 0 else "socket"], again=False)

    def look(self, transport: Transport, *, again: bool) -> None:
        """All users read their lists, and the changed chats or all of them again."""
        if not self.has_failed:
            self.has_failed = True
            self.run(*(self.read(transport, person, again) for person in self.people))
            self.has_failed = False

    async def read(self, transport: Transport, person: Person, again: bool) -> None:
        mine = self.model.chats_of(person.id)
        page = await transport.do(person, "list_chats", limit=100)
        listed = page["items"]
        assert page["unread"] == self.model.unread(person.id)
        assert [chat_facts(chat) for chat in listed] == [self.model.chat(person.id, chat) for chat in mine]
        if ids := [chat.id for chat in self.model.chats]:
            known = {chat["id"]: chat for chat in (await transport.do(person, "list_chats", ids=ids))["items"]}
            assert [known.pop(chat["id"]) for chat in listed] == listed
            hidden = {chat.id: self.model.chat(person.id, chat) for chat in self.model.hidden_of(person.id)}
            assert {chat_id: chat_facts(chat) for chat_id, chat in known.items()} == hidden
        for archived in (True, False):
            kept = [chat["id"] for chat in listed if bool(chat["mine"]["archived_at"]) == archived]
            found = await transport.do(person, "list_chats", archived=archived, limit=100)
            assert [chat["id"] for chat in found["items"]] == kept
        for chat in mine:
            await self.read_page(transport, person, chat, again)
            await self.read_members(transport, person, chat, again)
            await self.read_pinned(transport, person, chat, again)

    async def read_page(self, transport: Transport, person: Person, chat: Chat, again: bool) -> None:
        expected = [self.model.message(person.id, chat, seen) for seen in self.model.messages_of(person.id, chat)]
        if self.is_new(expected, "page", person.id, chat.id) or again:
            page = await transport.do(person, "list_messages", chat_id=chat.id, limit=100)
            assert [facts(message) for message in page["items"]] == expected
            assert (page["has_before"], page["has_after"]) == (False, False)

    async def read_pinned(self, transport: Transport, person: Person, chat: Chat, again: bool) -> None:
        expected = self.model.pinned_of(person.id, chat)
        if self.is_new(expected, "pinned", person.id, chat.id) or again:
            pinned = await transport.do(person, "list_pinned_messages", chat_id=chat.id)
            assert [message["seq"] for message in pinned["items"]] == expected

    async def read_members(self, transport: Transport, person: Person, chat: Chat, again: bool) -> None:
        expected = self.model.members(chat)
        if self.is_new(expected, "members", person.id, chat.id) or again:
            members = await transport.do(person, "list_members", chat_id=chat.id)
            assert members_facts(members["items"]) == expected and members["version"] == chat.version

    def is_new(self, expected: Any, *where: Any) -> bool:
        """Whether this part of the model has changed since the last comparison."""
        before, self.compared[where] = self.compared.get(where), expected
        return before != expected

    async def read_active(self, person: Person) -> None:
        answer = await self.transports["http"].call(person, "get_active_chat")
        active = self.model.active.get(person.id)
        shown = answer.data["chat"]["id"] if answer.ok else answer.code
        assert shown == (active.id if active else "no_active_chat")

    def teardown(self) -> None:
        try:
            self.look(self.transports["socket"], again=True)
            if not self.has_failed:
                self.run(*(self.read_active(person) for person in self.people))
        finally:
            self.run(*(person.close() for person in self.people))


@pytest.mark.timeout(3600)
async def test_operations_have_the_outcomes_of_the_model(make_person: MakePerson, openapi: Json) -> None:
    loop = asyncio.get_running_loop()
    transports: dict[str, Transport] = {"http": HttpTransport(openapi), "socket": SocketTransport()}
    profile = settings(
        # 100 unless another profile is loaded.
        max_examples=EXAMPLES * settings.default.max_examples // 100,
        # The same steps in each run, so that a failure is caused by a change. The long profile is random.
        derandomize=settings.default.max_examples == 100,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    def machine() -> Chats:
        return Chats(loop, make_person, transports)

    await asyncio.to_thread(run_state_machine_as_test, machine, settings=profile)
