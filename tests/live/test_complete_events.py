"""A client can draw every event: it has the people and the quoted messages that the event refers to."""

from typing import Any
from uuid import UUID

from chat_app.crud.messages import send_messages
from chat_app.database import Database
from chat_app.events import recorded
from chat_app.models.sessions import Actor
from tests.cast import draft
from tests.clients import Person, SocketTransport, Transport
from tests.media.pictures import corners, encoded

SOCKET = SocketTransport()
Json = dict[str, Any]


def brief(person: Person) -> Json:
    return {"id": person.id, "name": person.name, "avatar": None}


def actor_of(person: Person) -> Actor:
    return Actor(UUID(person.id), person.session_id)


def names(event: Json) -> list[str]:
    return sorted(user["name"] for user in event["users"])


class TestPeople:
    async def test_a_message_to_a_group_comes_with_its_sender(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        for person in (anna, boris, clara):
            await person.forget()
        sent = await transport.send(boris, chat["id"])
        for person in (anna, boris, clara):
            (event,) = await person.received("chats_changed")
            assert event["users"] == [brief(boris)]
        await transport.do(boris, "edit_message", chat_id=chat["id"], seq=sent["seq"], text="better")
        await transport.do(anna, "delete_message", chat_id=chat["id"], seq=sent["seq"])
        assert [event["users"] for event in await clara.received("chats_changed")] == [[brief(boris)]] * 3

    async def test_in_a_private_chat_both_know_each_other(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await boris.forget()
        sent = await transport.send(anna, chat["id"])
        await transport.do(anna, "edit_message", chat_id=chat["id"], seq=sent["seq"], text="better")
        assert [event["users"] for event in await boris.received("chats_changed")] == [[], []]

    async def test_a_system_message_comes_with_all_people_in_it(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        await clara.forget()
        await transport.do(boris, "add_members", chat_id=chat["id"], user_ids=[outsider.id])
        await transport.do(anna, "remove_member", chat_id=chat["id"], user_id=outsider.id)
        await transport.do(boris, "leave_chat", chat_id=chat["id"])
        events = await clara.received("chats_changed")
        assert [names(event) for event in events] == [["Boris", "Outsider"], ["Anna", "Outsider"], ["Boris"]]


class TestQuotes:
    async def test_a_reply_comes_with_the_quoted_message(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris, clara)
        asked = await transport.send(boris, chat["id"], "question")
        await transport.do(anna, "like_message", chat_id=chat["id"], seq=asked["seq"])
        await clara.open(chat["id"])
        await clara.forget()
        answer = await transport.send(anna, chat["id"], "answer", reply_to=asked["seq"])
        await transport.do(anna, "edit_message", chat_id=chat["id"], seq=answer["seq"], text="better")
        await transport.do(boris, "like_message", chat_id=chat["id"], seq=answer["seq"])
        quoted = await transport.do(clara, "get_message", chat_id=chat["id"], seq=asked["seq"])
        del quoted["liked"], quoted["reacted"]
        events = await clara.received("messages_changed")
        assert [event["replied"] for event in events] == [[quoted]] * 3
        assert [event["users"] for event in events] == [[brief(boris)]] * 3
        assert [[message["seq"] for message in event["messages"]] for event in events] == [[answer["seq"]]] * 3

    async def test_who_does_not_see_the_quoted_message_gets_the_event_without_it(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chat = await transport.create_group(anna, boris)
        asked = await transport.send(boris, chat["id"], "before Clara")
        await transport.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        for person in (boris, clara):
            await person.open(chat["id"])
            await person.forget()
        answer = await transport.send(anna, chat["id"], "as you said", reply_to=asked["seq"])
        await transport.do(anna, "edit_message", chat_id=chat["id"], seq=answer["seq"], text="better")
        for person, seqs, people in ((boris, [asked["seq"]], ["Boris"]), (clara, [], [])):
            for event in await person.received("messages_changed"):
                assert [message["seq"] for message in event["replied"]] == seqs and names(event) == people
                assert [message["reply_to"] for message in event["messages"]] == [asked["seq"]]
        caught = [
            await transport.do(person, "list_changes", chat_id=chat["id"], since=answer["version"] - 1)
            for person in (boris, clara)
        ]
        assert [[message["text"] for message in changes["replied"]] for changes in caught] == [["before Clara"], []]
        assert [names(changes) for changes in caught] == [["Anna", "Boris"], ["Anna"]]

    async def test_a_node_that_only_passes_events_on_shows_nothing_hidden(
        self, database: Database, anna: Person, boris: Person, clara: Person
    ) -> None:
        """A node of the former release cuts `messages`, but not `replied`."""
        chat = await SOCKET.create_group(anna, boris)
        hidden, chat_id = await SOCKET.send(boris, chat["id"]), UUID(chat["id"])
        await SOCKET.do(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id])
        seen = await SOCKET.send(boris, chat["id"])
        async with database.transaction() as db:
            drafts = [draft(actor_of(boris), chat_id, reply_to=one["seq"]) for one in (hidden, seen)]
            await send_messages(db, [*drafts, draft(actor_of(anna), chat_id)])
            events = [event for event in recorded(db) if event.kind.event == "messages_changed"]
        by_audience = {frozenset(event.audience): event.event.model_dump() for event in events}
        replied = {audience: [row["seq"] for row in event["replied"]] for audience, event in by_audience.items()}
        ids = [UUID(person.id) for person in (anna, boris, clara)]
        assert replied == {frozenset(ids[:2]): [hidden["seq"], seen["seq"]], frozenset(ids[2:]): [seen["seq"]]}
        assert [len(event["messages"]) for event in by_audience.values()] == [3, 3]

    async def test_a_quoted_picture_comes_with_its_file(self, anna: Person, boris: Person) -> None:
        chat = await SOCKET.open_private_chat(anna, boris)
        file = {"file": ("a file", encoded(corners(), "PNG"), "image/png")}
        uploaded = (await anna.http.post("/api/v1/attachments", files=file)).json()
        picture = await SOCKET.send(anna, chat["id"], type="image", attachment_id=uploaded["id"])
        await boris.open(chat["id"])
        await boris.forget()
        await SOCKET.send(anna, chat["id"], "This one", reply_to=picture["seq"])
        await SOCKET.do(anna, "delete_message", chat_id=chat["id"], seq=picture["seq"])
        await SOCKET.send(anna, chat["id"], "That one", reply_to=picture["seq"])
        first, _, last = await boris.received("messages_changed")
        assert first["replied"][0]["attachment"]["name"] == "a file" and first["replied"][0]["text"] == picture["text"]
        (tombstone,) = last["replied"]
        assert tombstone["deleted_at"] and tombstone["attachment"] is None and "liked" not in tombstone

    async def test_a_quoted_system_message_comes_with_its_people(
        self, anna: Person, boris: Person, clara: Person, outsider: Person
    ) -> None:
        chat = await SOCKET.create_group(anna, boris, clara)
        await SOCKET.do(boris, "add_members", chat_id=chat["id"], user_ids=[outsider.id])
        await clara.open(chat["id"])
        await clara.forget()
        await SOCKET.send(anna, chat["id"], "Welcome", reply_to=2)
        (event,) = await clara.received("messages_changed")
        assert names(event) == ["Boris", "Outsider"]

    async def test_a_quote_of_the_same_batch_or_page_is_not_repeated(
        self, database: Database, anna: Person, boris: Person
    ) -> None:
        chat = await SOCKET.open_private_chat(anna, boris)
        actor, chat_id = actor_of(anna), UUID(chat["id"])
        async with database.transaction() as db:
            await send_messages(db, [draft(actor, chat_id), draft(actor, chat_id, reply_to=1)])
            (event,) = [event.event for event in recorded(db) if event.kind.event == "messages_changed"]
        assert event.model_dump()["replied"] == []
        assert (await SOCKET.do(boris, "list_changes", chat_id=chat["id"], since=0))["replied"] == []
