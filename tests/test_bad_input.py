"""P25: invalid input over HTTP and in packets is refused with the place and kind of its fault, and nothing is written.

The input is made from the published schemas, so a new operation or field is tested too.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from chat_app.database import Database
from chat_app.errors import DETAILS
from chat_app.live.commands import COMMANDS
from tests.clients import DEADLINE, SocketTransport, Transport
from tests.operations import (
    ROUTES,
    Json,
    Scene,
    event_names,
    fields_of,
    fingerprint,
    kind,
    make_scene,
    named_by,
    other_contents,
    refusal,
    request,
    valid_arguments,
)
from tests.raw import RawSocket
from tests.service import MakePerson, Service

INVALID = (422, "invalid_input")
# The schema of a picture does not check its content.
REFUSALS = {"/image": {INVALID, (422, "bad_image")}}
LONGEST_ANSWER = 1500
# The words of the library that validates; its sentences have no full stop.
FOREIGN = re.compile(r"Input should|Extra inputs|Value error|String should|List should|Field required|[^.]$")

WITH_QUERY = [name for name, route in ROUTES.items() if route.parameters("query")]
WITH_PATH = [name for name, route in ROUTES.items() if route.parameters("path")]
WITH_JSON = [name for name, route in ROUTES.items() if route.content_type == "application/json"]


class Written(str):
    """JSON text that Python's encoder would not write."""

    __slots__ = ()


NESTED = Written("[" * 10_000 + "]" * 10_000)
# Invalid in every field.
HOSTILE = ("nul \x00", "lone surrogate \ud800", *map(Written, ("NaN", "-Infinity", "1e400", "9" * 5000)), NESTED)
# Valid in some fields, invalid where the schema excludes them.
ORDINARY = (
    *(None, True, -1, 1.5, 2**53, 2**64, "", "1", "words", "x" * 20_000),
    *([], [None], {}),
)
# Invalid values that a schema accepts.
UNFIT = {
    "phone": ("", "anna", "+7", "+7916", "1" * 50),
    "emoji": ("x", "👍👍", "👍 ", "🏻", "\ufe0f", "👍\ufe0f", "\u200d", "a👍", "🇷"),
    "cursor": ("x", "eHx4", "fHw=", "MXwxfDE=", "OTk5OTk5OTk5OTk5OTk5OTk5OTl8MXwx", "-", "=", "...."),
    "changed_since": ("x", ".", "-", "9" * 300, "-62135596800000000.0", "1" * 30, "1.1.x", "1.1.-1", f"1.1.{2**63}"),
}
NOT_JSON = (
    *(b"{", b'{"a":', b"{'a': 1}", b"nul", b"{}}", b"\xff\xfe", b'{"a": "\xff"}', b"\x00", b"}", b'"', b"{,}"),
    *(NESTED.encode(), b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
)
NO_OBJECT = (b"null", b"[]", b'"text"', b"1", b"true", b"[{}]", b"NaN", b"1e400")
NOT_IN_A_PATH = (
    *("%00", "x", "-1", "9" * 30, "%ED%A0%80", "0", "1.5", "1e400", "NaN", "null", "%FF", "%F0%9F%98%80", "%D9%A3"),
    *("..%2f..", "%0d%0aX-Injected:1", "'--", "{}", "[]", "a" * 5000, " ", "%20"),
)
STRANGE = (
    *("/%00", "/api/v1", "/api/v1/%2e%2e/", "/docs/..%2f", "/" + "a" * 5000, "/media/avatars/x/y", "/%ED%A0%80"),
    *("/media/attachments/%00?expires=9&signature=", "/media/attachments/x?expires=%D9%A3&signature=%ED%A0%80"),
)
NOT_A_NUMBER = ("", "x", "-1", "1.5", "true", 2**53, 2**64, "1e400", "NaN", "\x00", "9" * 5000)
MULTIPART = "multipart/form-data; boundary=b"
NOT_A_TEXT = ("", "\x00", "nul \x00", "x" * 501)


NOT_FOUND = {
    "attachment_id": "attachment_not_found",
    "chat_id": "chat_not_found",
    "from_chat_id": "message_not_found",
    "from_seq": "message_not_found",
    "member_ids": "user_not_found",
    "reply_to": "message_not_found",
    "seq": "message_not_found",
    "session_id": "session_not_found",
    "user_id": "user_not_found",
    "user_ids": "user_not_found",
}
ELSEWHERE = {("mark_read", "seq"): None, ("search_messages", "chat_id"): None}
ELSEWHERE |= dict.fromkeys((("remove_member", "user_id"), ("set_creator", "user_id")), "member_not_found")


def written(value: Any) -> str:
    """The value as JSON, including hostile values."""
    if isinstance(value, Written):
        return value
    if isinstance(value, dict):
        parts = [f"{json.dumps(name)}:{written(part)}" for name, part in value.items()]
        return f"{{{','.join(parts)}}}"
    return f"[{','.join(map(written, value))}]" if isinstance(value, list) else json.dumps(value)


def faults(schema: Json, valid: Json, *, every: int = 1) -> Iterator[tuple[str, Json]]:
    """Arguments with one fault each and the JSON pointer to it, with every nth of the invalid values of a field."""
    check = Draft202012Validator(schema, format_checker=FormatChecker())
    check.validate(valid)
    for name in valid:
        rest = {other: value for other, value in valid.items() if other != name}
        if not check.is_valid(rest):
            yield f"/{name}", rest
    for name in sorted(fields_of(schema)):
        wrong = [value for value in ORDINARY if not check.is_valid(valid | {name: value})]
        # The phone of a contact is any text.
        unfit = () if "type" in valid else UNFIT.get(name, ())
        for value in (*wrong, *unfit, *HOSTILE)[::every]:
            yield f"/{name}", valid | {name: value}
    yield "/surprise", valid | {"surprise": 1}
    yield "/__proto__", valid | {"__proto__": {}}
    yield "/a~1b~0c", valid | {"a/b~c": None}
    yield "", valid | {"x" * 1000: 1, "\x00": 1, "\ud800": 1} | {str(number): number for number in range(1000)}


def complaint(what: Any, answer: Json, pointer: str) -> str | None:
    """The fault of the answer to an input that is invalid at this pointer, None without a fault."""
    shown = written(what)[:200]
    if kind(answer) not in REFUSALS.get(pointer, {INVALID}):
        return f"{shown}: {kind(answer)}"
    if len(json.dumps(answer)) > LONGEST_ANSWER * max(1, len(answer.get("errors", []))):
        return f"{shown}: a long answer"
    if foreign := [detail for detail in details(answer) if FOREIGN.search(detail) or detail == DETAILS["value_error"]]:
        return f"{shown}: {foreign}"
    pointers = [error["pointer"] for error in answer.get("errors", [])]
    # Input nested too deeply or with too many digits is not JSON to the parser, so the error names no field.
    if kind(answer) == INVALID and not any(f"{found}/".startswith(f"{pointer}/") for found in pointers):
        return None if pointers == [""] else f"{shown}: {pointers}"
    return None


def details(answer: Json) -> list[str]:
    """The texts of the errors in an answer."""
    return [error["detail"] for error in answer.get("errors", [])]


@pytest.fixture(scope="module")
async def scene(make_lasting_person: MakePerson) -> Scene:
    """One scene for all tests, since none changes anything."""
    people = [await make_lasting_person(name) for name in ("Creator", "Member", "Guest")]
    made = await make_scene(SocketTransport(), *people)
    await SocketTransport().do(made.creator, "activate_chat", chat_id=made.chat_id)
    return made


@pytest.fixture(autouse=True)
async def nothing_changes(scene: Scene, database: Database, service: Service) -> AsyncIterator[None]:
    """After each test: no row was written, no event was delivered, and no transaction is open."""
    await scene.creator.forget()
    before = await fingerprint(database)
    yield
    assert await fingerprint(database) == before
    await scene.creator.settle()
    assert event_names(scene.creator) == []
    # A connection that its request did not release would never return to the pool.
    async with asyncio.timeout(DEADLINE):
        while service.database.engine.pool.checkedout():  # type: ignore[attr-defined]  # of the kind of pool in use
            await scene.creator.settle()


class TestRoutes:
    async def send(self, scene: Scene, name: str, content: bytes, **headers: str) -> Json:
        """Send a request with this body."""
        route = ROUTES[name]
        sent = {"Content-Type": "application/json"} | headers
        url = route.url(valid_arguments(scene)[name])
        response = await scene.creator.http.request(route.method, url, content=content, headers=sent)
        answer: Json = response.json()
        return answer

    @pytest.mark.parametrize("name", WITH_JSON)
    async def test_routes_refuse_a_body_with_any_fault(self, name: str, scene: Scene) -> None:
        route = ROUTES[name]
        complaints = [
            complaint(broken, await self.send(scene, name, written(broken).encode()), pointer)
            # Commands are faster, so they are tested with all values of the same fields.
            for pointer, broken in faults(route.body_schema(), route.body(valid_arguments(scene)[name]), every=2)
        ]
        assert [found for found in complaints if found] == []
        assert len(complaints) > 10

    async def test_routes_refuse_a_body_that_is_no_object_or_no_json(self, scene: Scene) -> None:
        answers = {
            (name, content[:20]): await self.send(scene, name, content)
            for name in WITH_JSON
            for content in (*NO_OBJECT, b"", *(NOT_JSON if name == "register" else NOT_JSON[:2]))
        }
        assert {case: kind(answer) for case, answer in answers.items()} == dict.fromkeys(answers, INVALID)
        assert max(len(json.dumps(answer)) for answer in answers.values()) < LONGEST_ANSWER
        texts = {detail for answer in answers.values() for detail in details(answer)}
        assert [detail for detail in texts if FOREIGN.search(detail)] == []

    async def test_routes_refuse_a_body_of_another_content_type(self, scene: Scene) -> None:
        answers, texts = {}, set()
        for name in WITH_JSON:
            valid = written(ROUTES[name].body(valid_arguments(scene)[name])).encode()
            for content_type in ("text/plain", "application/xml", "multipart/form-data", "", "x/y; z"):
                answer = await self.send(scene, name, valid, **{"Content-Type": content_type})
                answers[name, content_type] = kind(answer)
                texts.update(details(answer))
        assert answers == dict.fromkeys(answers, INVALID)
        assert texts == {"Send JSON: the Content-Type is application/json.", "This has to be an object, as JSON."}

    @pytest.mark.parametrize("name", WITH_QUERY)
    async def test_routes_refuse_a_query_with_any_fault(self, name: str, scene: Scene) -> None:
        valid = valid_arguments(scene)[name]
        complaints = []
        for parameter, schema in ROUTES[name].parameters("query").items():
            for value in self.unfit(parameter, schema):
                answer = await request(scene.creator, name, valid | {parameter: value})
                complaints.append(complaint({parameter: value}, answer.json(), f"/{parameter}"))
        assert [found for found in complaints if found] == []
        assert complaints

    def unfit(self, name: str, schema: Json) -> Iterator[Any]:
        [shape, *_] = schema.get("anyOf", [schema])
        match shape["type"]:
            case "integer":
                yield from NOT_A_NUMBER
            case "boolean":
                yield from ("", "x", "2", "\x00")
            case "array":
                yield from ("x", "", "\x00", ["x", "y"], [str(uuid4()) for _ in range(101)])
            case "string":
                yield from (*NOT_A_TEXT, *UNFIT.get(name, ()))

    async def test_routes_refuse_a_path_with_any_fault(self, scene: Scene) -> None:
        answers = {}
        for name in WITH_PATH:
            route, valid = ROUTES[name], valid_arguments(scene)[name]
            values = NOT_IN_A_PATH if name == "get_message" else NOT_IN_A_PATH[:5]
            for parameter, value in product(route.parameters("path"), values):
                url = route.url(valid | {parameter: value})
                response = await scene.creator.http.request(route.method, url, json=route.body(valid))
                answers[name, parameter, value] = kind(response.json())
        refused = {INVALID, (404, "not_found"), (405, "method_not_allowed")}
        assert {case: answer for case, answer in answers.items() if answer not in refused} == {}

    async def test_unknown_paths_get_404(self, scene: Scene) -> None:
        answers = {path[:50]: kind((await scene.creator.http.get(path)).json()) for path in STRANGE}
        assert answers == dict.fromkeys(answers, (404, "not_found"))

    async def test_unknown_methods_get_405(self, scene: Scene) -> None:
        methods = ("TRACE", "CONNECT", "PROPFIND")
        answers = {method: (await scene.creator.http.request(method, "/api/v1/users/me")).json() for method in methods}
        assert {kind(answer) for answer in answers.values()} == {(405, "method_not_allowed")}


class TestForms:
    async def test_a_login_form_needs_both_fields(self, scene: Scene) -> None:
        for fields in ({}, {"username": "+79990000000"}, {"password": "long enough"}, {"username": "", "password": ""}):
            answer = (await scene.creator.http.post("/api/v1/auth/login", data=fields)).json()
            assert kind(answer) == INVALID
            assert {*details(answer)} == {"This is required."}

    @pytest.mark.parametrize(
        ("path", "content_type"),
        [("auth/login", "application/x-www-form-urlencoded"), ("attachments", "multipart/form-data")],
    )
    async def test_json_in_the_place_of_a_form_is_answered_with_the_content_type_of_the_form(
        self, path: str, content_type: str, scene: Scene
    ) -> None:
        sent = {"username": "+79990000000", "password": "long enough"}
        answer = (await scene.creator.http.post(f"/api/v1/{path}", json=sent)).json()
        assert kind(answer) == INVALID
        (error,) = answer["errors"]
        assert (error["pointer"], error["code"]) == ("", "content_type_expected")
        assert error["detail"] == f"Send a form: the Content-Type is {content_type}."

    async def test_a_login_form_with_a_malformed_phone_is_bad_credentials(self, scene: Scene) -> None:
        for phone in ("\x00", "anna", "+7", "x" * 20_000, "١٢٣", b"\xed\xa0\x80", "' OR 1=1"):
            fields = {"username": phone, "password": "\x00long"}
            answer = await scene.creator.http.post("/api/v1/auth/login", data=fields)
            assert kind(answer.json()) == (401, "bad_credentials")

    async def test_an_upload_form_needs_a_valid_duration(self, scene: Scene) -> None:
        for duration in ("x", "-1", "NaN", "Infinity", "1e400", "\x00", "9" * 5000, "86401"):
            answer = (await request(scene.creator, "create_attachment", {"duration": duration})).json()
            assert complaint(duration, answer, "/duration") is None

    @pytest.mark.parametrize(
        ("content_type", "content"),
        [
            ("application/json", b"{}"),
            ("application/x-www-form-urlencoded", b"file=x"),
            ("multipart/form-data", b"no boundary"),
            (MULTIPART, b""),
            (MULTIPART, b"garbage"),
            (MULTIPART, b"--b\r\n\r\nno name\r\n--b--\r\n"),
            (MULTIPART, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nno file\r\n--b--\r\n'),
            (MULTIPART, b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n' * 2000 + b"--b--\r\n"),
            (MULTIPART, b"--b\r\n" + b"X: y\r\n" * 20_000 + b"\r\n\r\n--b--\r\n"),
        ],
        ids=["json", "form", "no boundary", "empty", "garbage", "no name", "no file", "many fields", "many headers"],
    )
    async def test_an_upload_form_needs_a_file(self, content_type: str, content: bytes, scene: Scene) -> None:
        sent = {"content": content, "headers": {"Content-Type": content_type}}
        answer = (await scene.creator.http.post("/api/v1/attachments", **sent)).json()
        assert kind(answer) == INVALID
        assert [detail for detail in details(answer) if FOREIGN.search(detail)] == []


class TestCommands:
    @pytest.fixture
    async def raw(self, service: Service, scene: Scene) -> AsyncIterator[RawSocket]:
        """A connection of the creator. It has to survive everything that it sends."""
        opened = await RawSocket.connected(service.base, scene.creator.token)
        yield opened
        assert (await opened.call("list_chats"))["ok"]
        assert opened.received == []
        await opened.close()

    @pytest.mark.parametrize("name", COMMANDS)
    async def test_commands_refuse_an_argument_with_any_fault(self, name: str, raw: RawSocket, scene: Scene) -> None:
        schema = COMMANDS[name].input.json_schema()
        for valid in (valid_arguments(scene)[name], *other_contents(name)):
            complaints = [
                complaint(broken, (await raw.call(name, written(broken))).get("error", {}), pointer)
                for pointer, broken in faults(schema, valid)
            ]
            assert [found for found in complaints if found] == []
            assert len(complaints) > 10

    async def test_commands_refuse_an_argument_that_is_no_object_or_no_json(self, raw: RawSocket) -> None:
        texts = [content.decode() for content in (*NO_OBJECT, *NOT_JSON) if content.isascii()]
        answers = {
            (name, argument[:20]): (await raw.call(name, argument)).get("error", {})
            for name in COMMANDS
            for argument in (*texts, "{},{}", "{},null")
        }
        assert {case: kind(answer) for case, answer in answers.items()} == dict.fromkeys(answers, INVALID)
        assert max(len(json.dumps(answer)) for answer in answers.values()) < LONGEST_ANSWER
        texts = {detail for answer in answers.values() for detail in details(answer)}
        assert [detail for detail in texts if FOREIGN.search(detail)] == []

    async def test_unknown_commands_are_answered(self, raw: RawSocket) -> None:
        contents = (
            '["list"]',
            '["__class__",{}]',
            '["connect",{}]',
            '["disconnect"]',
            '[""]',
            '["\\ud800"]',
            "[]",
            "[1]",
        )
        answers = {content: kind((await raw.ack(content))["error"]) for content in contents}
        assert answers == dict.fromkeys(contents, (404, "unknown_command"))


class TestUnknownIds:
    @pytest.mark.parametrize("field", NOT_FOUND)
    async def test_unknown_ids_get_the_code_of_their_kind(self, transport: Transport, field: str, scene: Scene) -> None:
        unknown: Json = dict.fromkeys(("seq", "reply_to", "from_seq"), 10**6)
        unknown |= {"user_ids": [str(uuid4())], "member_ids": [str(uuid4())]}
        found, expected = {}, {}
        for name in named_by(transport, field):
            code = ELSEWHERE.get((name, field), NOT_FOUND[field])
            if code is None:
                continue
            arguments = valid_arguments(scene)[name]
            if field == "attachment_id" and name.startswith("send"):
                arguments["type"] = "file"
            elif field.startswith("from_"):
                del arguments["text"]
                arguments |= {"type": "forward", "from_chat_id": scene.chat_id, "from_seq": scene.seq}
            arguments[field] = unknown.get(field, str(uuid4()))
            found[name] = kind(await refusal(transport, scene.creator, name, arguments))
            expected[name] = (404, code)
        assert found == expected
