"""Search: all words of a message, the last one by its beginning, in what its user may see, and the gallery."""

from typing import Any
from uuid import uuid4

import pytest

from chat_app.crud import search
from chat_app.limits import RATES
from tests.clients import Person, Transport
from tests.operations import request
from tests.service import MakePerson

Json = dict[str, Any]

CHAT = "0190a5b2-7c4e-7d10-8a3b-2f6c5d4e3b2a"


@pytest.fixture(params=["rare", "common"])
def words(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Found by the index, or by reading the newest messages: with the same results."""
    if request.param == "common":
        monkeypatch.setattr(search, "COMMON", 1)
    name: str = request.param
    return name


async def found(transport: Transport, person: Person, query: str | None = None, **more: Any) -> list[str | None]:
    """The texts of a page."""
    arguments = more if query is None else {"query": query, **more}
    return [item["text"] for item in (await transport.do(person, "search_messages", **arguments))["items"]]


async def pages(transport: Transport, person: Person, **arguments: Any) -> list[Json]:
    """All pages."""
    read = [await transport.do(person, "search_messages", **arguments)]
    while read[-1]["next_cursor"]:
        read.append(await transport.do(person, "search_messages", cursor=read[-1]["next_cursor"], **arguments))
    return read


@pytest.mark.usefixtures("words")
class TestWords:
    @pytest.mark.parametrize(
        ("text", "queries", "others"),
        [
            (
                "Привет, КАК дела?",
                ["привет", "ПРИВЕТ как", "дела привет", "при", "как де"],
                ["приветы", "пр как"],
            ),
            ("Meet at the STATION", ["meet", "the meet", "station", "MEET stat"], ["stations", "stat meet", "meeting"]),
            ("Пошли гулять", ["пошли гуля"], ["пошёл", "гулял", "гуляю"]),
            ("«Ёлка» (new-year), и/или привет.как…ок👍", ["ёлка new year", "или", "как ок", "ок"], ["елка", "ривет"]),
            ("foo_bar <b>bold</b> a@example.com 3.14", ["bar", "bold", "example.com", "3.14", "14"], ["old", "xample"]),
            ("it's 100% d'être", ["it's", "être d", "100%"], ["tre"]),
        ],
    )
    async def test_messages_with_all_words_are_found_by_them(
        self, transport: Transport, anna: Person, boris: Person, text: str, queries: list[str], others: list[str]
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.send(anna, chat["id"], text)
        await transport.send(anna, chat["id"], "Другое other")
        for query in queries:
            assert await found(transport, boris, query) == [text], query
        for query in others:
            assert await found(transport, boris, query) == [], query

    async def test_an_edited_message_is_found_by_its_new_words_and_a_deleted_one_by_none(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        message = await transport.send(anna, chat["id"], "before")
        where = {"chat_id": chat["id"], "seq": message["seq"]}
        await transport.do(anna, "edit_message", **where, text="after")
        assert (await found(transport, boris, "before"), await found(transport, boris, "after")) == ([], ["after"])
        await transport.do(anna, "delete_message", **where)
        assert await found(transport, boris, "after") == []
        assert await found(transport, boris, chat_id=chat["id"], types=["text"]) == []

    async def test_a_query_of_operators_is_a_query_of_its_words(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.send(anna, chat["id"], "one two")
        for query in (
            "one & two",
            "(one | !two)",
            "'one' <-> two:*",
            "one\\ two'",
            "one %_ two",
            "#one two",
            "one\ttwo",
        ):
            assert await found(transport, boris, query) == ["one two"], query
        for query in ("!!", "& |", "🙂🙂", "##", "__"):
            assert await found(transport, boris, query) == [], query

    async def test_words_longer_than_a_key_of_the_index_are_found_by_their_beginning(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        texts = ["ж" * 8000, "a" + "ж" * 99 + "x" * 600, "ok " + "w" * 7000]
        for text in texts:
            await transport.send(anna, chat["id"], text)
        assert await found(transport, boris, "ж" * 100) == [texts[0]]
        assert await found(transport, boris, "a" + "ж" * 99) == [texts[1]]
        assert await found(transport, boris, "ok www") == [texts[2]]

    async def test_captions_are_searched_and_system_messages_are_not(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        group = await transport.create_group(anna, boris, title="Station")
        place = {"type": "location", "latitude": 1, "longitude": 1, "text": "The station", "client_id": str(uuid4())}
        await transport.do(anna, "send_message", chat_id=group["id"], **place)
        assert await found(transport, boris, "station") == ["The station"]
        assert await found(transport, boris, chat_id=group["id"], types=["system"]) == []


@pytest.mark.usefixtures("words")
class TestPages:
    async def test_pages_are_in_the_order_of_sending_through_all_chats(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chats = [
            await transport.open_private_chat(anna, boris),
            await transport.create_group(anna, boris, clara, title="Trip"),
        ]
        await transport.do(boris, "rename_chat", chat_id=chats[1]["id"], title="Holidays")
        senders = (anna, boris)
        for number in range(9):
            await transport.send(senders[number % 2], chats[number % 3 // 2]["id"], f"word {number}")
        read = await pages(transport, boris, query="word", limit=2)
        assert [item["text"] for page in read for item in page["items"]] == [f"word {n}" for n in range(8, -1, -1)]
        assert all(1 <= len(page["items"]) <= 2 for page in read)
        assert await found(transport, boris, "word", sender_id=boris.id) == ["word 7", "word 5", "word 3", "word 1"]
        assert await found(transport, boris, "word", chat_id=chats[1]["id"]) == ["word 8", "word 5", "word 2"]

        page = await transport.do(boris, "search_messages", query="word")
        expected = {
            chats[0]["id"]: {"type": "private", "title": None, "peer": "Anna", "mine_title": None},
            chats[1]["id"]: {"type": "group", "title": "Trip", "peer": None, "mine_title": "Holidays"},
        }
        shown = {chat.pop("id"): chat | {"peer": chat["peer"] and chat["peer"]["name"]} for chat in page["chats"]}
        assert shown == expected
        assert {user["name"] for user in page["users"]} == {"Anna", "Boris"}

    async def test_the_active_chat_does_not_limit_a_search(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        chats = [await transport.open_private_chat(anna, other) for other in (boris, clara)]
        for chat in chats:
            await transport.send(anna, chat["id"], "word")
        await transport.do(anna, "activate_chat", chat_id=chats[0]["id"])
        assert await found(transport, anna, "word") == ["word", "word"]

    async def test_a_result_is_the_message_as_its_user_sees_it(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        upload = (await request(anna, "create_attachment", {})).json()
        file = {"type": "file", "attachment_id": upload["id"], "text": "Notes", "client_id": str(uuid4())}
        message = await transport.do(anna, "send_message", chat_id=chat["id"], **file)
        where = {"chat_id": chat["id"], "seq": message["seq"]}
        await transport.do(boris, "like_message", **where)
        (result,) = (await transport.do(boris, "search_messages", query="notes"))["items"]
        assert result["liked"] and result["attachment"]["name"] == "notes.txt"
        assert result == await transport.do(boris, "get_message", **where)

    async def test_a_gallery_has_all_messages_of_its_types(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        contents: list[Json] = [
            {"type": "text", "text": "one"},
            {"type": "contact", "name": "Zoya", "phone": "1"},
            {"type": "location", "latitude": 1, "longitude": 1},
            {"type": "location", "latitude": 2, "longitude": 2, "text": "one"},
        ]
        for content in contents:
            await transport.do(anna, "send_message", chat_id=chat["id"], client_id=str(uuid4()), **content)

        async def seqs(**arguments: Any) -> list[int]:
            read = await pages(transport, boris, chat_id=chat["id"], limit=1, **arguments)
            return [item["seq"] for page in read for item in page["items"]]

        assert await seqs(types=["location"]) == [4, 3]
        assert await seqs(types=["contact", "location"]) == [4, 3, 2]
        assert await seqs(types=["location", "text"], query="one") == [4, 1]
        assert await seqs(types=["image"]) == []


class TestCommonWords:
    async def test_short_pages_have_every_result_once(
        self, transport: Transport, anna: Person, boris: Person, clara: Person, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chats = [
            await transport.open_private_chat(anna, boris),
            await transport.create_group(anna, boris, clara),
            await transport.create_group(anna, boris),
        ]
        for number in range(40):
            await transport.send(anna, chats[number % 7 % 3]["id"], f"word {number}")
        for most in (1, 2, 3, 7, 20):
            monkeypatch.setattr(search, "COMMON", 1)
            monkeypatch.setattr(search, "MOST_READ", most)
            read = await pages(transport, boris, query="word")
            assert [item["text"] for page in read for item in page["items"]] == [f"word {n}" for n in range(39, -1, -1)]
            assert len(read) > 1 or most > 7


@pytest.mark.usefixtures("words")
class TestVisibility:
    async def test_newcomers_find_what_they_see_and_former_members_nothing(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        group = await transport.create_group(anna, boris)
        where = {"chat_id": group["id"]}
        await transport.send(anna, group["id"], "word early")
        await transport.do(anna, "add_members", **where, user_ids=[clara.id])
        await transport.send(anna, group["id"], "word late")
        both = ["word late", "word early"]
        assert (await found(transport, clara, "word"), await found(transport, boris, "word")) == (["word late"], both)
        assert await found(transport, clara, **where, types=["text"]) == ["word late"]
        await transport.do(anna, "remove_member", **where, user_id=clara.id)
        await transport.do(boris, "leave_chat", **where)
        for person in (boris, clara):
            assert await found(transport, person, "word") == await found(transport, person, "word", **where) == []
            assert await found(transport, person, **where, types=["text"]) == []
        assert await found(transport, anna, "word") == both
        await transport.do(anna, "add_members", **where, user_ids=[clara.id], share_history=True)
        assert await found(transport, clara, "word") == both
        await transport.do(anna, "delete_chat", **where)
        for person in (anna, clara):
            assert await found(transport, person, "word") == []

    async def test_a_foreign_chat_answers_like_a_word_that_nobody_wrote(
        self, transport: Transport, anna: Person, boris: Person, outsider: Person
    ) -> None:
        chat = await transport.open_private_chat(anna, boris)
        await transport.send(anna, chat["id"], "word")
        nothing = {"items": [], "chats": [], "users": [], "next_cursor": None}
        page = await transport.do(boris, "search_messages", query="word")
        for arguments in (
            {"query": "word"},
            {"query": "word", "chat_id": chat["id"]},
            {"query": "word", "chat_id": str(uuid4())},
            {"types": ["text"], "chat_id": chat["id"]},
            {"query": "word", "sender_id": anna.id},
        ):
            assert await transport.do(outsider, "search_messages", **arguments) == nothing
        assert await transport.do(boris, "search_messages", query="nobody", chat_id=chat["id"]) == nothing
        assert len(page["items"]) == 1


class TestInput:
    @pytest.mark.parametrize(
        "arguments",
        [
            *({}, {"chat_id": CHAT}, {"types": ["text"]}, {"query": "word", "types": ["text"]}),
            *({"query": query} for query in ("", "x", "x" * 101, "a\0b")),
            *({"chat_id": CHAT, "types": types} for types in ([], ["sticker"], ["text"] * 101)),
            *({"query": "word", "limit": limit} for limit in (0, 101)),
            *({"query": "word", "cursor": cursor} for cursor in ("x", "MXwyfDM=", "?")),
            {"query": "word", "sender_id": "anna"},
        ],
        ids=str,
    )
    async def test_other_input_is_refused(self, transport: Transport, anna: Person, arguments: Json) -> None:
        answer = await transport.call(anna, "search_messages", **arguments)
        if arguments.get("types") == [] and transport.name == "http":
            return  # no such parameter in a URL
        assert (answer.status, answer.code) == (422, "invalid_input")

    async def test_a_search_counts_sixty_times_a_minute(self) -> None:
        assert RATES["user"]["search_messages"] == (60, 60)

    async def test_a_search_is_no_event(self, transport: Transport, make_person: MakePerson) -> None:
        anna = await make_person(connected=True)
        await anna.forget()
        await found(transport, anna, "word")
        assert await anna.received_all() == []
