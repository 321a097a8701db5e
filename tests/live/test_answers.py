"""What all answers and events have in common."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from tests.clients import Person, Transport
from tests.live.test_messages import upload


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a JSON value."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(part)


async def test_an_id_comes_first_in_its_object(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.create_group(anna, boris)
    await boris.open(chat["id"])
    await boris.forget()
    file = await upload(anna)
    fields = {"type": "file", "attachment_id": file["id"], "client_id": str(uuid4())}
    answers: list[Any] = [chat, file, await transport.do(anna, "send_message", chat_id=chat["id"], **fields)]
    reads = ("get_chat", "list_messages", "list_members", "activate_chat")
    answers += [await transport.do(boris, operation, chat_id=chat["id"]) for operation in reads]
    await transport.do(boris, "like_message", chat_id=chat["id"], seq=2)
    answers.append(await transport.do(boris, "list_likes", chat_id=chat["id"], seq=2))
    answers.append(await transport.do(boris, "list_chats"))
    paths = ("users/me", "users?query=Boris", f"users/{boris.id}", "auth/sessions", f"attachments/{file['id']}")
    answers += [(await boris.http.get(f"/api/v1/{path}")).json() for path in paths]
    await boris.settle()
    answers += [event for _, event in boris.socket.events]

    found = [list(each) for each in objects(answers) if "id" in each]
    assert {tuple(names) for names in found if names[0] != "id"} == set()
    kinds = {"last_message", "content_type", "user_agent", "phone", "username", "avatar", "url"}
    assert kinds <= {name for names in found for name in names}
