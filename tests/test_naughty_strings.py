"""Texts that break programs are stored exactly as sent or refused with 422, in the same way over both transports."""

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import pytest

from chat_app.api.http_protocol import HEAD_BYTES
from tests.clients import Person, SocketTransport, Transport, answer_of, http_answer
from tests.operations import ROUTES, Json
from tests.raw import RawSocket
from tests.service import MakePerson, Service

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
# Refused by every field: PostgreSQL can't store NUL, and UTF-8 can't encode a lone surrogate.
NOWHERE = {"NUL": "a\x00b", "only NUL": "\x00"}
UNDECODABLE = {
    "high surrogate": r"a\ud800b",
    "low surrogate": r"\udc00",
    "surrogates the wrong way round": r"\udc00\ud800",
}
# Refused by fields of one line, stored by others.
LINES = {
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f",
    "ANSI escapes": "\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b[2J",
    "newlines": "one\ntwo\r\nthree\rfour\n",
    "only spaces": "   ",
    "tab": "a\tb",
}
# Stored by every field.
ANYWHERE = {
    "bidi overrides": "\u202eevil\u202c \u2066isolate\u2069 \u200f",
    "zero width": "a\u200bb\u200cc\u200dd\u2060e\ufeff",
    "C1 controls": "a\x80\x85\x9fb",
    "line separators": "a\u2028b\u2029c",
    "noncharacters": "a\ufffe\uffff\U0001ffffb",
    "private use": "\ue000\U000f0000",
    "replacement": "\ufffd",
    "SQL": "'; DROP TABLE message; -- \" \\ $$ %s %(x)s :name ?",
    "LIKE": "%_\\%\\_",
    "HTML": "<script>alert('x')</script><img src=x onerror=alert(1)>&amp;&#0;",
    "formats": "{0} {self.__class__} %d %n %s ${jndi:ldap://x} {{7*7}}",
    "path": "../../etc/passwd C:\\CON /dev/null",
    "JSON": '{"a": [null, "\\u0000"]}',
    "escapes that are text": r"\u0000 \x00 \n \ud800",
    "emoji ZWJ": "👨‍👩‍👧‍👦🏳️‍🌈👩🏽‍🚀🇷🇺",
    "composed": COMPOSED,
    "decomposed": DECOMPOSED,
    "spaces around": "  middle  ",
    "wide spaces around": "\u00a0\u3000middle\u2003",
    "dotless": "ıİſßŉΣς",
    "ligature": "﷽ﬃ",
    "other digits": "١٢٣ ４５",
    "null": "null",
    "number": "-0 1e400 NaN",
    "one": "x",
    "a hundred": "ё" * 100,
    "a hundred beyond the BMP": "😀" * 100,
}
# Refused or stored by their length alone.
LONG = {
    "empty": "",
    "combining marks": "e" + "\u0301" * 10_000,
    "few combining marks": "e" + "\u0301" * 7_000,
    "101": "x" * 101,
    "8000": "x" * 8_000,
    "8001": "x" * 8_001,
    "20,000": "x" * 20_000,
}
STRINGS = NOWHERE | LINES | ANYWHERE | LONG

# Conversion to lower case is not one to one.
MATCHED_OTHERWISE = {"dotless"}


class Field(NamedTuple):
    """A text field: the operation and arguments that send it, and its place in the answer."""

    operation: str
    arguments: Callable[[str], Json]
    found: Callable[[Any], Any]
    longest: int
    is_line: bool = True
    shortest: int = 1

    def keeps(self, name: str, text: str) -> bool:
        """Whether the field has to store this text. Otherwise it has to refuse it."""
        fits = self.shortest <= len(text) <= self.longest
        return fits and name not in NOWHERE and not (self.is_line and name in LINES)


class Scene(NamedTuple):
    anna: Person
    boris: Person
    chat_id: str
    seq: int
    group_id: str


def fields(scene: Scene) -> dict[str, Field]:
    """The fields of operations that both transports have."""
    chat = {"chat_id": scene.chat_id}

    def message(**content: Any) -> Json:
        return chat | {"client_id": str(uuid4())} | content

    return {
        "text": Field("send_message", lambda text: message(type="text", text=text), lambda m: m["text"], 8000, False),
        "caption": Field(
            "send_message",
            lambda text: message(type="location", latitude=1, longitude=1, text=text),
            lambda m: m["text"],
            8000,
            False,
        ),
        "contact name": Field(
            "send_message",
            lambda text: message(type="contact", name=text, phone="1"),
            lambda m: m["contact"]["name"],
            100,
        ),
        "contact phone": Field(
            "send_message",
            lambda text: message(type="contact", name="Anna", phone=text),
            lambda m: m["contact"]["phone"],
            40,
            False,
        ),
        "edited text": Field(
            "edit_message", lambda text: chat | {"seq": scene.seq, "text": text}, lambda m: m["text"], 8000, False
        ),
        "extra": Field(
            "send_message",
            lambda text: message(type="custom", extra={"text": [text]}),
            lambda m: m["extra"]["text"][0],
            4096 - len('{"text":[""]}'),
            False,
            0,
        ),
        "draft": Field(
            "update_mine",
            lambda text: chat | {"draft": {"text": text}},
            lambda c: c["mine"]["draft"]["text"],
            2000,
            False,
            0,
        ),
        "own title": Field("update_mine", lambda text: chat | {"title": text}, lambda c: c["mine"]["title"], 100),
        "group title": Field(
            "create_group", lambda text: {"title": text, "member_ids": [scene.boris.id]}, lambda c: c["title"], 100
        ),
        "another group title": Field(
            "update_group", lambda text: {"chat_id": scene.group_id, "title": text}, lambda g: g["title"], 100
        ),
        "description": Field(
            "update_group",
            lambda text: {"chat_id": scene.group_id, "description": text},
            lambda g: g["description"],
            500,
            False,
        ),
    }


FIELDS = list(fields(Scene(*[None] * 5)))  # type: ignore[arg-type]  # for their names


@pytest.fixture
async def scene(make_person: MakePerson) -> Scene:
    anna, boris = await make_person("Anna", connected=True), await make_person("Boris")
    transport = SocketTransport()
    chat = await transport.open_private_chat(anna, boris)
    message = await transport.send(anna, chat["id"])
    group = await transport.create_group(anna, boris)
    return Scene(anna, boris, chat["id"], message["seq"], group["id"])


@pytest.mark.parametrize("name", FIELDS)
async def test_every_field_stores_or_refuses_them_over_both_transports(
    name: str, transport: Transport, scene: Scene
) -> None:
    field = fields(scene)[name]
    found, expected = {}, {}
    for kind, text in STRINGS.items():
        answer = await transport.call(scene.anna, field.operation, **field.arguments(text))
        found[kind] = field.found(answer.data) if answer.ok else (answer.status, answer.code)
        expected[kind] = text if field.keeps(kind, text) else (422, "invalid_input")
        if answer.ok and "seq" in answer.data:
            again = await transport.do(scene.boris, "get_message", chat_id=scene.chat_id, seq=answer.data["seq"])
            assert field.found(again) == text
    assert found == expected


async def test_the_title_of_a_converted_chat_stores_or_refuses_them(
    transport: Transport, make_person: MakePerson
) -> None:
    anna, clara = await make_person("Anna"), await make_person("Clara")
    for kind, text in STRINGS.items():
        chat = await transport.open_private_chat(anna, await make_person("Boris"))
        answer = await transport.call(anna, "add_members", chat_id=chat["id"], user_ids=[clara.id], title=text)
        fits = 1 <= len(text) <= 100 and kind not in NOWHERE | LINES
        assert (answer.data["title"] if answer.ok else answer.status) == (text if fits else 422), kind


@pytest.mark.parametrize(("field", "longest", "shortest"), [("name", 100, 1), ("bio", 500, 0)])
async def test_a_profile_stores_or_refuses_them(field: str, longest: int, shortest: int, scene: Scene) -> None:
    found, expected = {}, {}
    for kind, text in STRINGS.items():
        answer = http_answer(await scene.anna.http.patch("/api/v1/users/me", json={field: text}))
        fits = shortest <= len(text) <= longest and kind not in (NOWHERE | LINES if field == "name" else NOWHERE)
        expected[kind] = (text, text) if fits else 422
        seen = await scene.boris.http.get(f"/api/v1/users/{scene.anna.id}")
        found[kind] = (answer.data[field], seen.json()[field]) if answer.ok else answer.status
    assert found == expected


async def test_a_username_refuses_them(scene: Scene) -> None:
    for kind, text in (STRINGS | {"end of line": "anna\n", "other letters": "аnna"}).items():
        if kind == "null":  # a valid username
            continue
        answer = http_answer(await scene.anna.http.patch("/api/v1/users/me", json={"username": text}))
        assert (answer.status, answer.code) == (422, "invalid_input"), kind


async def test_search_finds_users_with_such_names(scene: Scene) -> None:
    for kind, text in STRINGS.items():
        fits = len(text) <= 100 and kind not in NOWHERE | LINES
        is_name = fits and (await scene.anna.http.patch("/api/v1/users/me", json={"name": text})).is_success
        answer = http_answer(await scene.boris.http.get("/api/v1/users", params={"query": text, "limit": 100}))
        if not 1 <= len(text) <= 100 or kind in NOWHERE:
            # Escaped in a URL the longest ones exceed the limit of a head.
            assert answer.status == (431 if len(quote(text)) > HEAD_BYTES else 422), kind
            continue
        assert answer.status == 200, kind
        if is_name and kind not in MATCHED_OTHERWISE:
            assert scene.anna.id in [user["id"] for user in answer.data["items"]], kind


async def test_search_finds_messages_with_such_texts(transport: Transport, scene: Scene) -> None:
    for kind, text in STRINGS.items():
        message = {"chat_id": scene.chat_id, "type": "text", "text": text, "client_id": str(uuid4())}
        sent = await transport.call(scene.anna, "send_message", **message)
        answer = await transport.call(scene.boris, "search_messages", query=text, limit=100)
        if not 2 <= len(text) <= 100 or kind in NOWHERE:
            is_too_long = transport.name == "http" and len(quote(text)) > HEAD_BYTES
            assert answer.status == (431 if is_too_long else 422), kind
            continue
        has_words = re.search(r"[^\W\d_]|[0-9]", text)
        found = [item["seq"] for item in answer.data["items"]]
        assert sent.ok and found[:1] == ([sent.data["seq"]] if has_words else []), kind


@pytest.mark.parametrize("kind", UNDECODABLE)
async def test_texts_that_cannot_be_decoded_are_refused_over_both_transports(
    kind: str, scene: Scene, service: Service
) -> None:
    raw = await RawSocket.connected(service.base, scene.anna.token)
    answers = {}
    for name, field in fields(scene).items():
        arguments = field.arguments("HERE")
        ack = await raw.call(field.operation, json.dumps(arguments).replace("HERE", UNDECODABLE[kind]))
        route = ROUTES[field.operation]
        body = json.dumps(route.body(arguments)).replace("HERE", UNDECODABLE[kind])
        headers = {"Content-Type": "application/json"}
        sent = await scene.anna.http.request(route.method, route.url(arguments), content=body, headers=headers)
        answers[name] = answer_of(ack)[::2], http_answer(sent)[::2]
    await raw.close()
    assert answers == dict.fromkeys(answers, ((422, "invalid_input"),) * 2)


async def test_the_name_of_a_file_makes_them_harmless(scene: Scene) -> None:
    for kind, text in STRINGS.items():
        file = {"file": (text, b"Notes", "text/plain")}
        answer = http_answer(await scene.anna.http.post("/api/v1/attachments", files=file))
        assert answer.status in (201, 422), kind
        if answer.ok:
            assert answer.data["name"] and not set(answer.data["name"]) & {"/", "\\", "\x00", "\r", "\n"}, kind
            opened = await scene.boris.http.get(answer.data["url"])
            assert (opened.status_code, opened.content) == (200, b"Notes"), kind
