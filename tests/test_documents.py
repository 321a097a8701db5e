"""The published documents are complete, valid and equal to the code from which they are made."""

import inspect
import re
from collections.abc import Iterator
from types import NoneType
from typing import Any, get_args
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from sqlmodel import SQLModel

from chat_app import errors, events, limits
from chat_app.cli import seed
from chat_app.events import CLIENT_EVENTS
from chat_app.live.commands import COMMANDS
from chat_app.main import create_api
from chat_app.models.base import LIMITS, Update
from chat_app.models.messages import CREATES, PAYLOADS, MessageShared
from chat_app.settings import get_settings
from chat_app.web import examples
from chat_app.web.asyncapi import asyncapi
from chat_app.web.openapi import ABOUT, FORM, Problem

Node = dict[str, Any]

# Summaries begin with one of these.
VERBS = re.compile(
    "(Add|Change|Check|Clear|Close|Create|Delete|Edit|End|Find|Get|Give|Leave|Like|List|Log|Make|Mark|Open|Pin|Register|Remove"
    "|Send|Set|Show|Unpin|Upload|Verify) "
)


@pytest.fixture(scope="module")
def api() -> FastAPI:
    return create_api(get_settings())


@pytest.fixture(scope="module")
def http(api: FastAPI) -> Node:
    return api.openapi()


@pytest.fixture(scope="module")
def live() -> Node:
    return asyncapi()


@pytest.fixture(params=["http", "live"])
def either(request: pytest.FixtureRequest) -> Node:
    """Each of the two documents."""
    found: Node = request.getfixturevalue(request.param)
    return found


def nodes(node: Any) -> Iterator[Node]:
    """Every object of a document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def operations(http: Node) -> dict[str, Node]:
    """All operations by name: routes, and events as webhooks."""
    return {
        f"{method} {path}": operation
        for paths in (http["paths"], http["webhooks"])
        for path, methods in paths.items()
        for method, operation in methods.items()
    }


def bodies(operation: Node) -> Iterator[tuple[str, Node]]:
    """Every request and response body, with `request` or its status."""
    parts = {"request": operation.get("requestBody", {}), **operation["responses"]}
    for status, part in parts.items():
        for content in part.get("content", {}).values():
            yield status, content


def shown(content: Node, root: Node) -> list[Any]:
    """The examples of a body."""
    found = [resolve(example, root) for example in content.get("examples", {}).values()]
    return [example["value"] for example in found] + [content[key] for key in ("example",) if key in content]


def refusals(operation: Node) -> set[str]:
    """The codes of the errors of a route."""
    answers = [answer for status, answer in operation["responses"].items() if status >= "400"]
    return {code for answer in answers for code in answer["content"]["application/problem+json"]["examples"]}


def longest(schemas: dict[str, Node], field: str) -> set[int]:
    """The lengths to which the inputs bound a field."""
    found = [node for fields in schemas.values() for node in nodes(fields.get(field, {}))]
    return {node[key] for node in found for key in ("maxLength", "maxItems") if key in node}


def resolve(node: Node, root: Node) -> Any:
    """Resolve a reference. Raises KeyError if it points to nothing."""
    target: Any = root
    for step in node["$ref"].removeprefix("#/").split("/") if "$ref" in node else ():
        target = target[step.replace("~1", "/").replace("~0", "~")]
    return target if "$ref" in node else node


def check(value: Any, schema: Node, root: Node) -> None:
    """Raise if the value is invalid, formats included."""
    whole = {**schema, "components": root["components"]}
    Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


class TestOpenAPI:
    def test_the_document_is_valid(self, http: Node) -> None:
        assert http["openapi"].startswith("3.1.")
        OpenAPIV31SpecValidator(http).validate()

    def test_every_route_and_event_has_a_description(self, http: Node) -> None:
        assert [name for name, operation in operations(http).items() if not operation.get("description")] == []

    def test_every_body_has_a_valid_example(self, http: Node) -> None:
        for name, operation in operations(http).items():
            for status, content in bodies(operation):
                assert shown(content, http), f"{name} {status} has no example"
                for value in shown(content, http):
                    check(value, content["schema"], http)

    def test_every_answer_but_204_has_a_body(self, http: Node) -> None:
        for name, operation in operations(http | {"webhooks": {}}).items():
            for status, answer in operation["responses"].items():
                assert (status == "204") != ("content" in answer), f"{name} {status}"

    def test_authorize_uses_the_login_route(self, http: Node) -> None:
        (scheme,) = http["components"]["securitySchemes"].values()
        address = scheme["flows"]["password"]["tokenUrl"]
        # Swagger resolves a relative URL against the page and not against the service.
        assert urljoin("/docs/", address) in http["paths"]

    def test_every_path_parameter_has_a_valid_example(self, http: Node) -> None:
        for name, operation in operations(http).items():
            for parameter in operation.get("parameters", []):
                if parameter["in"] == "path":
                    check(parameter["example"], parameter["schema"], http)
                else:
                    assert not parameter["required"] or name.endswith(("/changes", "/reactions"))

    def test_operation_ids_are_unique_names(self, http: Node) -> None:
        ids = [operation["operationId"] for operation in operations(http).values()]
        assert len(ids) == len(set(ids))
        assert all(re.fullmatch("[a-z_]+", operation_id) for operation_id in ids)

    def test_every_operation_is_under_one_tag_and_tags_are_in_reading_order(self, http: Node) -> None:
        tags = [tag["name"] for tag in ABOUT["openapi_tags"]]
        assert [tag["name"] for tag in http["tags"]] == tags
        found = {name: operation["tags"] for name, operation in operations(http).items()}
        assert {name: of for name, of in found.items() if len(of) != 1} == {}
        assert {tag for (tag,) in found.values()} == set(tags)

    def test_summaries_say_what_an_operation_does(self, http: Node) -> None:
        summaries = {name: route["summary"] for name, route in operations(http | {"webhooks": {}}).items()}
        assert summaries["get /api/v1/chats"] == "List your chats"
        assert {name: text for name, text in summaries.items() if not VERBS.match(f"{text} ") or len(text) > 60} == {}
        assert len(set(summaries.values())) == len(summaries)

    def test_operations_without_a_token_say_so(self, http: Node) -> None:
        public = {name for name, operation in operations(http).items() if operation["security"] == []}
        assert {"post /api/v1/auth/login", "get /healthz", "post event: ready"} <= public
        assert "get /api/v1/chats" not in public

    def test_login_takes_a_phone_and_a_password(self, http: Node) -> None:
        assert list(http["components"]["schemas"]["Body_login"]["properties"]) == ["username", "password"]

    def test_routes_document_the_errors_that_follow_from_their_structure(self, http: Node) -> None:
        protected = 0
        for operation in operations(http | {"webhooks": {}}).values():
            protected += bool(operation["security"])
            expected = {"408", "431", "500", "503"} | ({"401", "429"} if operation["security"] else set())
            assert expected <= set(operation["responses"])
        assert protected > 20

    def test_errors_that_follow_from_the_path_are_documented(self, http: Node) -> None:
        for name, operation in operations(http | {"webhooks": {}}).items():
            codes = refusals(operation)
            assert ("chat_not_found" in codes) >= ("{chat_id}" in name), name
            assert ("message_not_found" in codes) >= ("{seq}" in name), name

    def test_errors_that_follow_from_the_input_are_documented(self, http: Node) -> None:
        for name, operation in operations(http | {"webhooks": {}}).items():
            codes = refusals(operation)
            assert ("invalid_input" in codes) == bool({"parameters", "requestBody"} & operation.keys()), name
            assert ("too_large" in codes) >= ("requestBody" in operation), name

    def test_answers_that_ask_to_wait_have_the_header(self, http: Node) -> None:
        for name, operation in operations(http | {"webhooks": {}}).items():
            waiting = {status for status, answer in operation["responses"].items() if "headers" in answer}
            assert waiting == {"429", "503"} & operation["responses"].keys(), name

    def test_429_is_documented_where_it_can_come_with_the_rates(self, http: Node) -> None:
        for name, operation in operations(http | {"webhooks": {}}).items():
            own = [
                rates[operation["operationId"]] for rates in limits.RATES.values() if operation["operationId"] in rates
            ]
            assert ("rate_limited" in refusals(operation)) == bool(own or operation["security"]), name
            for rate in own:
                assert f"{rate.times:,} in {rate.seconds:,} s" in operation["responses"]["429"]["description"], name

    def test_a_route_without_a_rate_has_no_429(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The tables themselves stay, as the documents have their order.
        rates = {action: rate for action, rate in limits.RATES["address"].items() if action != "refresh"}
        monkeypatch.setitem(limits.RATES, "address", rates)
        monkeypatch.setitem(limits.RATES, "all", limits.RATES["all"] | {"healthz": limits.Rate(7, 60)})
        paths = create_api(get_settings()).openapi()["paths"]
        assert "429" not in paths["/api/v1/auth/refresh"]["post"]["responses"]
        assert "7 in 60 s by all clients together" in paths["/healthz"]["get"]["responses"]["429"]["description"]

    def test_the_limits_are_those_of_the_schemas(self, http: Node) -> None:
        pages = [
            parameter["schema"]["maximum"]
            for operation in operations(http).values()
            for parameter in operation.get("parameters", [])
            if parameter["name"] == "limit"
        ]
        assert len(pages) > 5
        assert set(pages) == {LIMITS["page"]}
        inputs = {name: schema.get("properties", {}) for name, schema in http["components"]["schemas"].items()}
        assert longest(inputs, "title") == {LIMITS["title_length"]}
        assert longest(inputs, "name") == {LIMITS["name_length"]}
        assert longest(inputs, "text") == {LIMITS["text_length"], LIMITS["draft_length"]}
        assert longest(inputs, "user_ids") | longest(inputs, "member_ids") == {LIMITS["members_at_once"]}

    def test_every_event_is_a_webhook(self, http: Node) -> None:
        assert list(http["webhooks"]) == [f"event: {event.event}" for event in CLIENT_EVENTS]

    def test_no_error_schema_of_the_framework_is_left(self, http: Node) -> None:
        assert "HTTPValidationError" not in str(http)

    def test_every_refusal_is_a_problem(self, http: Node) -> None:
        for operation in operations(http).values():
            for status, answer in operation["responses"].items():
                if status >= "400":
                    assert list(answer["content"]) == ["application/problem+json"]

    def test_no_schema_is_split_into_input_and_output(self, http: Node) -> None:
        assert [name for name in http["components"]["schemas"] if name.endswith(("-Input", "-Output"))] == []


class TestAsyncAPI:
    def test_the_document_has_every_command_and_every_event(self, live: Node) -> None:
        by_action: dict[str, set[str]] = {"send": set(), "receive": set()}
        for name, operation in live["operations"].items():
            by_action[operation["action"]].add(name)
        assert by_action["send"] == {"connect", *COMMANDS}
        assert by_action["receive"] == {"connect_error", *(event.event for event in CLIENT_EVENTS)}

    def test_every_event_class_is_in_the_catalog(self) -> None:
        classes = {made for _, made in inspect.getmembers(events, inspect.isclass)} - {events.ClientEvent}
        assert {made for made in classes if issubclass(made, events.ClientEvent)} == set(CLIENT_EVENTS)

    def test_every_command_and_event_has_a_description(self, live: Node) -> None:
        assert [name for name, operation in live["operations"].items() if not operation["description"]] == []

    def test_every_message_has_valid_examples(self, live: Node) -> None:
        for name, message in live["components"]["messages"].items():
            assert message["examples"], f"{name} has no example"
            for example in message["examples"]:
                check(example["payload"], message["payload"], live)

    def test_every_command_has_its_answer(self, live: Node) -> None:
        for name, command in COMMANDS.items():
            (reply,) = live["operations"][name]["reply"]["messages"]
            done, refused = resolve(resolve(reply, live), live)["payload"]["oneOf"]
            assert done["required"] == ["ok", "status", "data", "request_id"]
            assert refused["required"] == ["ok", "error"]
            assert done["properties"]["status"]["enum"] == list(command.statuses)

    def test_every_operation_is_under_one_tag_that_of_its_route(self, http: Node, live: Node) -> None:
        tags = {name: [tag["name"] for tag in operation["tags"]] for name, operation in live["operations"].items()}
        routes = {route["operationId"]: route["tags"] for route in operations(http).values()}
        assert {
            name: found for name, found in tags.items() if found != routes.get(name, found) or len(found) != 1
        } == {}

    def test_every_command_has_its_errors(self, live: Node) -> None:
        for name, command in COMMANDS.items():
            codes = {error.code for error in command.errors}
            (reply,) = live["operations"][name]["reply"]["messages"]
            _, refused = resolve(resolve(reply, live), live)["payload"]["oneOf"]
            assert set(refused["properties"]["error"]["properties"]["code"]["enum"]) == codes
            assert set(re.findall("`([a-z_]+)`", last_paragraph(live, name, "Errors"))) == codes, name

    def test_commands_with_a_rate_have_it(self, live: Node) -> None:
        assert "300 in 60 s by one user" in last_paragraph(live, "send_message", "At most")
        assert "600 in 60 s from one address" in last_paragraph(live, "connect", "At most")
        assert "At most" not in live["operations"]["list_chats"]["description"]

    def test_the_errors_of_a_connect_have_examples(self, live: Node) -> None:
        names = {example["name"] for example in live["components"]["messages"]["connect_error"]["examples"]}
        assert names == set(re.findall("`([a-z_]+)`", last_paragraph(live, "connect", "Errors")))
        assert {"not_authenticated", "token_expired", "session_revoked", "too_many_connections"} <= names

    def test_every_event_has_a_rule_at_the_top(self, live: Node) -> None:
        first, *_ = re.findall(r"\n### (.*?)(?=\n### )", live["info"]["description"], re.DOTALL)
        subjects = {name for rule in re.findall(r"\n- (.*?)[,:]? ", first) for name in re.findall("`([a-z_]+)`", rule)}
        assert subjects == {event.event for event in CLIENT_EVENTS} - {"resync_required"} | {"connect_error"}
        assert "**`resync_required`**" in first


def last_paragraph(live: Node, name: str, beginning: str) -> str:
    """The paragraph of an operation's description with this beginning."""
    paragraphs = live["operations"][name]["description"].split("\n\n")
    return next(paragraph for paragraph in paragraphs if paragraph.startswith(beginning))


class TestBoth:
    def test_a_client_id_is_required_over_socket_io_only(self, http: Node, live: Node) -> None:
        for kind in ("Text", "Attachment", "Location", "Contact", "Custom"):
            optional = http["components"]["schemas"][f"{kind}Create"]
            assert "client_id" not in optional["required"]
            assert "can't be repeated" in optional["properties"]["client_id"]["description"]
            assert "client_id" in live["components"]["schemas"][f"Send{kind}"]["required"]

    def test_all_rates_are_in_a_table(self, either: Node) -> None:
        rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", either["info"]["description"], re.MULTILINE))
        for rates in limits.RATES.values():
            for action, rate in rates.items():
                assert f"{rate.times:,} in {rate.seconds:,} s " in rows[action], action

    def test_every_pattern_of_an_input_has_a_text(self, either: Node) -> None:
        patterns = {node["pattern"] for node in nodes(either) if isinstance(node.get("pattern"), str)}
        assert len(patterns) >= 4
        assert patterns <= errors.DETAILS.keys()

    def test_descriptions_are_not_indented(self, either: Node) -> None:
        texts = [node["description"] for node in nodes(either) if isinstance(node.get("description"), str)]
        assert [text for text in texts if re.search(r"\n {4}", text.partition("```")[0])] == []

    def test_a_command_has_the_errors_of_its_route(self, http: Node, live: Node) -> None:
        of_http = {
            "not_authenticated",
            "token_expired",
            "session_revoked",
            "too_slow",
            "too_large",
            "headers_too_large",
        }
        of_routes = {route["operationId"]: refusals(route) - of_http for route in operations(http).values()}
        shared = {"invalid_input", "rate_limited", "internal", "unavailable"}
        answers = {name: live["components"]["messages"][f"{name}_answer"]["examples"] for name in COMMANDS}
        of_commands = {name: {example["name"] for example in answers[name][1:]} for name in COMMANDS}
        may_name_no_chat = {"list_messages", "send_message", "set_typing"}
        for name, codes in of_commands.items():
            expected = of_routes.get(name, {"chat_not_found"}) | (
                {"no_active_chat"} if name in may_name_no_chat else set()
            )
            assert codes == expected | shared, name

    def test_every_reference_can_be_resolved(self, either: Node) -> None:
        references = [node for node in nodes(either) if isinstance(node.get("$ref"), str)]
        assert references
        for node in references:
            resolve(node, either)

    def test_no_table_is_a_schema(self, either: Node) -> None:
        tables = {mapper.class_.__name__ for mapper in SQLModel._sa_registry.mappers}
        assert tables >= {"User", "Message"}
        assert tables & set(either["components"]["schemas"]) == set()

    def test_an_id_comes_first(self, either: Node) -> None:
        objects = {name: list(schema.get("properties", [])) for name, schema in either["components"]["schemas"].items()}
        assert {name: fields[0] for name, fields in objects.items() if "id" in fields and fields[0] != "id"} == {}
        assert sum("id" in fields for fields in objects.values()) >= 4

    def test_every_enum_that_clients_receive_has_a_fallback(self, either: Node) -> None:
        enums = {name: made for name, made in either["components"]["schemas"].items() if "enum" in made}
        # Of an input.
        enums.pop("Purpose", None)
        assert {"MessageType", "SystemEvent", "ChatType", "RemovedReason"} <= enums.keys()
        assert [name for name, made in enums.items() if "you don't know" not in made.get("description", "")] == []
        assert "or on `status` if you don't know" in either["info"]["description"]

    def test_the_union_of_new_messages_is_one_schema_with_a_name(self, either: Node) -> None:
        union = either["components"]["schemas"]["MessageCreate"]
        assert len(union["oneOf"]) == len(CREATES)
        assert [node for node in nodes(either) if "discriminator" in node] == [union]
        assert {"$ref": "#/components/schemas/MessageCreate"} in nodes(either)

    def test_every_field_of_an_answer_is_required(self, either: Node) -> None:
        for name, schema in either["components"]["schemas"].items():
            is_input = schema.get("additionalProperties") is False or name.startswith(FORM)
            if "properties" in schema and not is_input and name != Problem.__name__:
                assert schema["required"] == list(schema["properties"]), name

    def test_same_names_are_same_schemas(self, http: Node, live: Node) -> None:
        shared = set(http["components"]["schemas"]) & set(live["components"]["schemas"])
        assert "ChatRead" in shared
        for name in shared:
            in_http, in_live = (made["components"]["schemas"][name] for made in (http, live))
            assert list(in_http.get("properties", [])) == list(in_live.get("properties", [])), name


@pytest.mark.parametrize("error", errors.all_errors(), ids=lambda error: error.code)
class TestErrors:
    def test_every_error_is_in_both_documents(self, error: type[errors.ChatError], http: Node, live: Node) -> None:
        assert f"`{error.code}`" in live["info"]["description"]
        assert f"`{error.code}`" in http["info"]["description"] or error is errors.UnknownCommand

    def test_the_example_of_every_error_is_valid(self, error: type[errors.ChatError], http: Node) -> None:
        check(http["components"]["examples"][error.code]["value"], http["components"]["schemas"]["Problem"], http)


def test_a_message_has_a_field_for_the_payload_of_each_type() -> None:
    for kind, payload in PAYLOADS.items():
        assert set(get_args(MessageShared.model_fields[kind].annotation)) == {payload, NoneType}


def updates(kind: type[Update] = Update) -> Iterator[type[Update]]:
    """The classes of all changes, those of the commands too."""
    for made in kind.__subclasses__():
        yield made
        yield from updates(made)


def test_all_that_can_be_null_can_be_unset() -> None:
    found = {made.__name__: made for made in updates()}
    assert {"UserUpdate", "ChatUpdate", "MessageUpdate", "RenameChat", "EditMessage"} <= found.keys()
    for name, made in found.items():
        names = get_args(get_args(made.model_fields["unset"].annotation)[0])
        nullable = [field for field, about in made.model_fields.items() if NoneType in get_args(about.annotation)]
        assert list(names) == nullable, name


def test_examples_are_of_the_demo_data() -> None:
    ids = [examples.VALUES[name] for name in ("UserMe.id", "user_id", "Preview.sender_id", "chat_id")]
    assert ids == [str(seed.demo_id(name)) for name in ("anna", "boris", "clara", "Project Aurora")]
    assert (seed.DEMO_USERS[0]["phone"], seed.DEMO_PASSWORD) == (examples.VALUES["phone"], examples.VALUES["password"])


def test_the_first_hour_names_the_demo_users(http: Node) -> None:
    for fact in (seed.DEMO_USERS[0]["phone"], seed.DEMO_USERS[-1]["phone"], seed.DEMO_PASSWORD, "/docs/events/"):
        assert fact in http["info"]["description"]


class TestPages:
    @pytest.fixture
    async def client(self, api: FastAPI) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://chat")

    @pytest.mark.parametrize("page", ["/docs/", "/docs/events/"])
    async def test_pages_load_nothing_from_other_hosts(self, client: httpx.AsyncClient, page: str) -> None:
        answer = await client.get(page)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        loaded = re.findall(r"""(?:src|href|url)\s*[=:(]\s*["']([^"']+)["']""", answer.text)
        assert len(loaded) >= 4
        for address in loaded:
            assert "//" not in address
            assert (await client.get(str(httpx.URL(f"http://chat{page}").join(address)))).status_code == 200, address

    @pytest.mark.parametrize("page", ["/docs/", "/docs/events/"])
    async def test_scripts_and_styles_of_pages_are_files_of_the_service(
        self, client: httpx.AsyncClient, page: str
    ) -> None:
        answer = await client.get(page)
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect")} == {"'self'"}
        scripts = re.findall(r"<script([^>]*)>(.*?)</script>", answer.text, re.DOTALL)
        assert scripts
        assert [text for attributes, text in scripts if text or " src=" not in attributes] == []
        assert not re.search(r"\s(on\w+|style)=|javascript:|<style", answer.text)

    async def test_the_page_knows_the_client_id_of_the_examples(self, client: httpx.AsyncClient) -> None:
        assert f'"{examples.VALUES["client_id"]}"' in (await client.get("/docs/static/docs.js")).text

    async def test_pages_link_to_each_other(self, client: httpx.AsyncClient, http: Node) -> None:
        assert 'href="../"' in (await client.get("/docs/events/")).text
        assert 'href="events/"' in (await client.get("/docs/")).text
        assert "(/docs/events/)" in http["info"]["description"]

    @pytest.mark.parametrize(
        ("address", "page"), [("/", "/docs/"), ("/docs", "/docs/"), ("/docs/events", "/docs/events/")]
    )
    async def test_short_urls_redirect_to_the_pages(self, client: httpx.AsyncClient, address: str, page: str) -> None:
        answer = await client.get(address, follow_redirects=True)
        assert (answer.status_code, answer.url.path) == (200, page)

    async def test_the_documents_are_served(self, client: httpx.AsyncClient, http: Node, live: Node) -> None:
        local = {"Host": "localhost:8000"}
        assert (await client.get("/openapi.json", headers=local)).json() == http
        assert (await client.get("/asyncapi.json", headers=local)).json() == live

    @pytest.mark.parametrize("name", ["openapi", "asyncapi"])
    async def test_documents_have_the_address_under_which_they_are_opened(
        self, client: httpx.AsyncClient, name: str
    ) -> None:
        answer = await client.get(f"https://chat.example:8443/{name}.json")
        assert "localhost:8000" not in answer.text
        document = answer.json()
        snippet = re.findall(r"```js\n(.*?)```", document["info"]["description"], re.DOTALL)[0]
        assert 'const base = "https://chat.example:8443";' in snippet
        assert 'transports: ["websocket"]' in snippet
        server = document["servers"]["chat"]["host"] if name == "asyncapi" else document["servers"][0]["url"]
        assert server == {"asyncapi": "chat.example:8443", "openapi": "https://chat.example:8443"}[name]

    async def test_a_malformed_host_is_not_part_of_a_document(self, client: httpx.AsyncClient) -> None:
        for host in ('a"b', "a\\b", "a<b>", "a b", ""):
            answer = await client.get("http://chat:8000/openapi.json", headers={"Host": host})
            assert answer.json()["servers"][0]["url"] == "http://chat:8000", host
