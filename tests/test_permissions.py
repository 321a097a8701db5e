"""Authentication and permissions of every documented operation. A new operation needs a rule here.

P15: a chat one is not in answers like one that doesn't exist, on every route and command, and nothing happens.
"""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from fastapi.routing import iter_route_contexts

from chat_app.auth import AUDIENCE
from chat_app.crud.sessions import revoke_sessions
from chat_app.database import Database
from chat_app.live.commands import COMMANDS
from chat_app.settings import get_settings
from tests.clients import Person, Transport
from tests.operations import (
    API,
    ROUTES,
    Scene,
    event_names,
    fingerprint,
    kind,
    make_scene,
    named_by,
    refusal,
    request,
    valid_arguments,
)
from tests.raw import RawSocket
from tests.service import MakePerson, Service

PUBLIC = {"register", "login", "refresh", "healthz", "readyz", "metrics"} | {
    *("request_code", "login_with_code", "reset_password")
}
# Documents, and files with secret or signed URLs.
UNDOCUMENTED = {
    "/",
    "/asyncapi.json",
    "/docs",
    "/docs/",
    "/docs/events",
    "/docs/events/",
    "/docs/static",
    "/media/attachments/{attachment_id}",
    "/media/avatars/{key}/{size}",
    "/openapi.json",
}
# Only a member can do this: the creator can't leave.
BY_MEMBER = {"leave_chat"}
NAMES_NO_MESSAGE = {"mark_read"}
# A foreign chat has no results. `tests/live/test_search.py` has its rules.
SEARCHING = {"search_messages"}

NOT_AUTHENTICATED = (401, "not_authenticated")
CHAT_NOT_FOUND = (404, "chat_not_found")
MESSAGE_NOT_FOUND = (404, "message_not_found")
ATTACHMENT_NOT_FOUND = (404, "attachment_not_found")


@pytest.fixture
async def scene(transport: Transport, make_person: MakePerson) -> Scene:
    people = [await make_person(name, connected=True) for name in ("Creator", "Member", "Guest")]
    return await make_scene(transport, *people)


class TestRules:
    def test_every_operation_of_both_transports_has_a_rule(self) -> None:
        nobody = Person("http://nowhere", uuid4(), uuid4(), "", "Nobody")
        table = valid_arguments(Scene(nobody, nobody, nobody, str(uuid4()), 1))
        assert set(table) == ROUTES.keys() | COMMANDS.keys()

    def test_only_these_routes_need_no_token(self) -> None:
        assert {name for name, route in ROUTES.items() if route.is_public} == PUBLIC
        hidden = [route for route in iter_route_contexts(API.routes) if not getattr(route, "include_in_schema", False)]
        assert {route.path for route in hidden if route.path} == UNDOCUMENTED

    async def test_members_may_do_what_outsiders_may_not(self, transport: Transport, make_person: MakePerson) -> None:
        """Without this the tests of refusals could pass because of bad arguments."""
        answers = {}
        for name in sorted(named_by(transport, "chat_id")):
            people = [await make_person() for _ in range(3)]
            scene = await make_scene(transport, *people)
            person = scene.member if name in BY_MEMBER else scene.creator
            answers[name] = (await transport.call(person, name, **valid_arguments(scene)[name])).code
        assert answers == dict.fromkeys(answers)
        assert len(answers) > 15


class TestUnauthenticated:
    @pytest.mark.parametrize("header", [None, "Bearer garbage", "Basic Og==", "garbage"])
    async def test_every_protected_route_refuses_unauthenticated_requests(
        self, header: str | None, make_person: MakePerson, database: Database
    ) -> None:
        people = [await make_person() for _ in range(3)]
        table = valid_arguments(Scene(*people, str(uuid4()), 1))
        before = await fingerprint(database)
        anonymous = people[0]
        anonymous.http.headers.pop("Authorization")
        if header is not None:
            anonymous.http.headers["Authorization"] = header
        protected = ROUTES.keys() - PUBLIC
        answers = {name: await request(anonymous, name, table[name]) for name in protected}
        assert {name: kind(answer.json()) for name, answer in answers.items()} == dict.fromkeys(
            protected, NOT_AUTHENTICATED
        )
        assert {answer.headers["www-authenticate"] for answer in answers.values()} == {"Bearer"}
        assert await fingerprint(database) == before

    @pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
    async def test_unauthenticated_requests_are_refused_before_their_body_is_read(
        self, body: bytes, make_person: MakePerson
    ) -> None:
        people = [await make_person() for _ in range(3)]
        table = valid_arguments(Scene(*people, str(uuid4()), 1))
        anonymous = people[0]
        anonymous.http.headers.pop("Authorization")
        with_body = {name: route for name, route in ROUTES.items() if route.content_type and name not in PUBLIC}
        assert len(with_body) > 10
        for name, route in with_body.items():
            headers = {"Content-Type": route.content_type or ""}
            url = route.url(table[name])
            answer = await anonymous.http.request(route.method, url, content=body, headers=headers)
            assert kind(answer.json()) == NOT_AUTHENTICATED, name

    async def test_no_command_is_answered_without_a_login(
        self, service: Service, make_person: MakePerson, database: Database
    ) -> None:
        people = [await make_person() for _ in range(3)]
        table = valid_arguments(Scene(*people, str(uuid4()), 1))
        before = await fingerprint(database)
        raw = await RawSocket.open(service.base)
        commands = [f"42{number}{json.dumps([name, table[name]])}" for number, name in enumerate(COMMANDS)]
        await raw.send(*commands)
        refused = await raw.join({"token": "garbage"})
        assert refused.startswith("44{")
        await raw.send(*commands)
        # Packets are answered in order, so the commands got no answer.
        assert (await raw.join({"token": people[0].token})).startswith("40{")
        assert (await raw.receive()).startswith('42["ready"')
        assert await fingerprint(database) == before
        await raw.close()


Forge = Callable[[Person], Awaitable[str]]


def signed(person: Person, *, key: str | None = None, algorithm: str = "HS256", **changes: Any) -> str:
    """A token as the service makes them, with changes. None leaves a claim out."""
    now = datetime.now(UTC)
    claims = {
        "sub": person.id,
        "sid": str(person.session_id),
        "aud": AUDIENCE,
        "iat": now,
        "exp": now + timedelta(minutes=5),
    }
    kept = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(kept, get_settings().signing_secret.decode() if key is None else key, algorithm=algorithm)


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "of another secret": ({"key": "another secret that is long enough"}, "not_authenticated"),
    "without a signature": ({"key": "", "algorithm": "none"}, "not_authenticated"),
    "of another algorithm": ({"algorithm": "HS512"}, "not_authenticated"),
    "for something else": ({"aud": "another"}, "not_authenticated"),
    "that never expires": ({"exp": None}, "not_authenticated"),
    "without a session": ({"sid": None}, "not_authenticated"),
    "of a session that is no id": ({"sid": "1"}, "not_authenticated"),
    "of a user that is a number": ({"sub": None, "iss": "1"}, "not_authenticated"),
    "that expired": ({"exp": datetime(2020, 1, 1, tzinfo=UTC)}, "token_expired"),
    "of a session that never was": ({"sid": str(uuid4())}, "session_revoked"),
    "of somebody else's session": ({"sub": str(uuid4())}, "session_revoked"),
}


class TestInvalidToken:
    async def test_a_token_without_changes_is_accepted(self, make_person: MakePerson) -> None:
        person = await make_person()
        assert await _refusals(person, signed(person)) == {None}

    @pytest.mark.parametrize("fault", FORGED)
    async def test_a_forged_token_is_refused_by_both_transports(self, fault: str, make_person: MakePerson) -> None:
        person = await make_person()
        changes, code = FORGED[fault]
        assert await _refusals(person, signed(person, **changes)) == {code}

    async def test_a_token_of_a_revoked_session_is_refused_by_both_transports(
        self, make_person: MakePerson, database: Database
    ) -> None:
        person = await make_person()
        async with database.transaction() as db:
            await revoke_sessions(db, UUID(person.id))
        assert await _refusals(person, person.token) == {"session_revoked"}

    @pytest.mark.parametrize("auth", [None, {}, {"token": ""}, {"token": None}, {"Token": "x"}, "garbage", [], 5])
    async def test_a_connect_without_a_token_is_refused(self, auth: Any, service: Service) -> None:
        raw = await RawSocket.open(service.base)
        refused = await raw.join(auth)
        assert json.loads(refused.removeprefix("44"))["data"]["code"] == "not_authenticated"
        await raw.close()


async def _refusals(person: Person, token: str) -> set[str | None]:
    """The codes with which the two transports refuse a token, None for accepting it."""
    async with httpx.AsyncClient(base_url=person.base, verify=False) as http:
        answer = await http.get("/api/v1/users/me", headers={"Authorization": f"Bearer {token}"})
    raw = await RawSocket.open(person.base)
    packet = await raw.join({"token": token})
    await raw.close()
    refused = packet.startswith("44")
    return {
        None if answer.is_success else answer.json()["code"],
        json.loads(packet[2:])["data"]["code"] if refused else None,
    }


class TestForeignChat:
    @pytest.fixture(params=["never was in it", "was removed from it", "left it", "knows one of the pair"])
    async def outsider(
        self, request: pytest.FixtureRequest, transport: Transport, scene: Scene
    ) -> tuple[Scene, Person]:
        """A chat with content, and a user who is not in it."""
        if request.param == "knows one of the pair":
            await transport.open_private_chat(scene.creator, scene.guest)
            pair = await transport.open_private_chat(scene.creator, scene.member)
            message = await transport.send(scene.creator, pair["id"])
            return scene._replace(chat_id=pair["id"], seq=message["seq"]), scene.guest
        if request.param != "never was in it":
            await transport.do(scene.creator, "add_members", chat_id=scene.chat_id, user_ids=[scene.guest.id])
            await transport.do(scene.guest, "activate_chat", chat_id=scene.chat_id)
            await transport.send(scene.guest, scene.chat_id, "I was here")
        if request.param == "was removed from it":
            await transport.do(scene.creator, "remove_member", chat_id=scene.chat_id, user_id=scene.guest.id)
        if request.param == "left it":
            await transport.do(scene.guest, "leave_chat", chat_id=scene.chat_id)
        return scene, scene.guest

    async def test_a_foreign_chat_answers_like_one_that_does_not_exist_and_nothing_happens(
        self, transport: Transport, outsider: tuple[Scene, Person], database: Database
    ) -> None:
        scene, person = outsider
        for member in (scene.creator, scene.member):
            await transport.do(member, "activate_chat", chat_id=scene.chat_id)
        table, nowhere = valid_arguments(scene), str(uuid4())
        for somebody in (scene.creator, scene.member, person):
            await somebody.forget()
        before = await fingerprint(database)

        operations = named_by(transport, "chat_id") - SEARCHING
        answers = {name: await refusal(transport, person, name, table[name]) for name in operations}
        assert answers == {
            name: await refusal(transport, person, name, table[name] | {"chat_id": nowhere}) for name in operations
        }
        assert {name: kind(answer) for name, answer in answers.items()} == dict.fromkeys(operations, CHAT_NOT_FOUND)

        assert await fingerprint(database) == before
        await transport.send(scene.creator, scene.chat_id, "only the member gets an event")
        for somebody in (scene.creator, scene.member, person):
            await somebody.settle()
        assert event_names(person) == []
        assert event_names(scene.member) == ["messages_changed", "chats_changed"]

    async def test_a_foreign_chat_cannot_be_active_on_a_connection(
        self, transport: Transport, outsider: tuple[Scene, Person]
    ) -> None:
        scene, person = outsider
        socket = await person.connect(active_chat_id=scene.chat_id)
        assert socket.named("ready")[0]["active_chat_id"] is None
        assert not (await socket.call("list_messages")).ok
        await transport.send(scene.creator, scene.chat_id)
        await person.settle()
        assert {name for name, _ in socket.events} <= {"ready", "presence_changed"}

    async def test_a_deleted_chat_does_not_exist_for_its_former_members(
        self, transport: Transport, scene: Scene, database: Database
    ) -> None:
        await transport.do(scene.creator, "delete_chat", chat_id=scene.chat_id)
        table, nowhere = valid_arguments(scene), str(uuid4())
        before = await fingerprint(database)
        operations = named_by(transport, "chat_id") - SEARCHING
        for person in (scene.creator, scene.member):
            for name in operations:
                answer = await refusal(transport, person, name, table[name])
                assert kind(answer) == CHAT_NOT_FOUND
                assert answer == await refusal(transport, person, name, table[name] | {"chat_id": nowhere})
        assert await fingerprint(database) == before


class TestMessageBeforeTheVisibleStart:
    async def test_an_earlier_message_answers_like_one_that_does_not_exist_and_nothing_happens(
        self, transport: Transport, scene: Scene, database: Database
    ) -> None:
        add = {"chat_id": scene.chat_id, "user_ids": [scene.guest.id]}
        await transport.do(scene.creator, "add_members", **add)
        # Own messages are no exception for a member who rejoins.
        own = await transport.send(scene.guest, scene.chat_id, "Mine")
        await transport.do(scene.creator, "remove_member", chat_id=scene.chat_id, user_id=scene.guest.id)
        await transport.do(scene.creator, "add_members", **add)
        operations = named_by(transport, "seq") - NAMES_NO_MESSAGE | {"send_message"}
        before = await fingerprint(database)
        for seq in (scene.seq, own["seq"]):
            table = valid_arguments(scene._replace(seq=seq))
            nowhere = valid_arguments(scene._replace(seq=10_000))
            answers = {name: await refusal(transport, scene.guest, name, table[name]) for name in operations}
            assert answers == {name: await refusal(transport, scene.guest, name, nowhere[name]) for name in operations}
            assert {name: kind(answer) for name, answer in answers.items()} == dict.fromkeys(
                operations, MESSAGE_NOT_FOUND
            )
        assert await fingerprint(database) == before


class TestAttachment:
    async def upload(self, person: Person) -> str:
        uploaded = await request(person, "create_attachment", {})
        attachment_id: str = uploaded.json()["id"]
        return attachment_id

    async def test_an_attachment_is_visible_to_its_owner_and_then_to_those_who_see_its_message(
        self, transport: Transport, scene: Scene
    ) -> None:
        attachment_id = await self.upload(scene.creator)
        assert await self.who_sees(attachment_id, scene) == ["Creator"]

        file = {"type": "file", "attachment_id": attachment_id}
        await transport.do(scene.creator, "send_message", chat_id=scene.chat_id, client_id=str(uuid4()), **file)
        await transport.do(scene.creator, "add_members", chat_id=scene.chat_id, user_ids=[scene.guest.id])
        assert await self.who_sees(attachment_id, scene) == ["Creator", "Member"]

        await transport.do(scene.creator, "remove_member", chat_id=scene.chat_id, user_id=scene.member.id)
        assert await self.who_sees(attachment_id, scene) == ["Creator"]

    async def who_sees(self, attachment_id: str, scene: Scene) -> list[str]:
        seen_by = []
        for person in (scene.creator, scene.member, scene.guest):
            answer = await request(person, "get_attachment", {"attachment_id": attachment_id})
            if answer.is_success:
                seen_by.append(person.name)
            else:
                nothing = await request(person, "get_attachment", {"attachment_id": str(uuid4())})
                assert kind(answer.json()) == ATTACHMENT_NOT_FOUND
                assert answer.json() | {"request_id": None} == nothing.json() | {"request_id": None}
        return seen_by

    async def test_a_foreign_attachment_cannot_be_sent(
        self, transport: Transport, scene: Scene, database: Database
    ) -> None:
        theirs = await self.upload(scene.creator)
        before = await fingerprint(database)
        message = {"chat_id": scene.chat_id, "type": "file", "client_id": str(uuid4())}
        refused = await refusal(transport, scene.member, "send_message", message | {"attachment_id": theirs})
        assert kind(refused) == ATTACHMENT_NOT_FOUND
        assert refused == await refusal(
            transport, scene.member, "send_message", message | {"attachment_id": str(uuid4())}
        )
        assert await fingerprint(database) == before


async def test_a_session_of_another_user_is_not_found_and_stays(make_person: MakePerson) -> None:
    anna, boris = await make_person(), await make_person()
    refused = await request(anna, "revoke_session", {"session_id": str(boris.session_id)})
    nothing = await request(anna, "revoke_session", {"session_id": str(uuid4())})
    assert kind(refused.json()) == (404, "session_not_found")
    assert refused.json() | {"request_id": None} == nothing.json() | {"request_id": None}
    assert (await request(boris, "get_me", {})).is_success
