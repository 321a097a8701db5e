"""Groups: creating, deleting, and turning a private chat into one."""

from typing import Any
from uuid import uuid4

from tests.clients import Person, Transport
from tests.service import MakePerson


def shared(chat: dict[str, Any]) -> dict[str, Any]:
    """The shared part of a chat."""
    return {key: value for key, value in chat.items() if key != "mine"}


async def test_a_group_begins_with_a_system_message(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    answer = await transport.call(anna, "create_group", title="Trip", member_ids=[boris.id, clara.id])
    assert answer.status == 201
    chat = answer.data
    assert (chat["type"], chat["title"], chat["creator_id"]) == ("group", "Trip", anna.id)
    assert (chat["member_count"], chat["message_count"]) == (3, 1)
    assert chat["mine"]["peer"] is None and chat["mine"]["title"] is None
    (message,) = await transport.history(boris, chat["id"])
    assert (message["seq"], message["type"], message["sender_id"]) == (1, "system", anna.id)
    assert message["client_id"] is None and message["text"] is None
    assert message["system"] == {
        "event": "group_created",
        "user_ids": [boris.id, clara.id],
        "title": "Trip",
        "fields": None,
    }
    assert chat["last_message"] == {key: message[key] for key in chat["last_message"]}
    assert chat["updated_at"] == message["sent_at"]


async def test_only_the_creator_has_read_the_first_message_and_it_is_unread_for_nobody(
    transport: Transport, anna: Person, boris: Person
) -> None:
    chat = await transport.create_group(anna, boris)
    assert (chat["mine"]["last_read_seq"], chat["mine"]["unread_count"]) == (1, 0)
    theirs = (await transport.do(boris, "get_chat", chat_id=chat["id"]))["mine"]
    assert (theirs["last_read_seq"], theirs["unread_count"], theirs["others_read_seq"]) == (0, 0, 1)
    assert chat["last_user_seq"] == 0
    assert theirs["visible_from_seq"] == 1


async def test_every_member_gets_both_parts_and_the_users(
    transport: Transport, anna: Person, boris: Person, clara: Person, outsider: Person
) -> None:
    for person in (anna, boris, clara, outsider):
        await person.forget()
    chat = await transport.create_group(anna, boris, clara)
    for person in (anna, boris, clara):
        (event,) = await person.received("chats_changed")
        entry = await transport.do(person, "get_chat", chat_id=chat["id"])
        assert event["chats"] == [shared(entry)]
        assert event["mine"] == [{"chat_id": chat["id"], **entry["mine"]}]
        assert {user["id"] for user in event["users"]} == {anna.id, boris.id, clara.id}
    assert await outsider.received("chats_changed") == []


async def test_own_and_repeated_ids_add_no_members(transport: Transport, anna: Person, boris: Person) -> None:
    chat = await transport.do(anna, "create_group", title="Trip", member_ids=[boris.id, anna.id, boris.id])
    assert chat["member_count"] == 2
    assert chat["last_message"]["system"]["user_ids"] == [boris.id]
    members = (await transport.do(anna, "list_members", chat_id=chat["id"]))["items"]
    assert [(member["user_id"], member["is_creator"]) for member in members] == [(anna.id, True), (boris.id, False)]


async def test_a_group_needs_a_title_of_one_line_and_1_to_100_others(
    transport: Transport, anna: Person, boris: Person
) -> None:
    titles = [(title, 1) for title in (None, "", " ", "two\nlines", "x" * 101, "nul\x00")]
    for title, number in (*titles, ("Trip", 0), ("Trip", 101)):
        answer = await transport.call(anna, "create_group", title=title, member_ids=[boris.id] * number)
        assert (answer.status, answer.code) == (422, "invalid_input"), (title, number)


async def test_a_group_needs_another_member(transport: Transport, anna: Person) -> None:
    answer = await transport.call(anna, "create_group", title="Trip", member_ids=[anna.id])
    assert (answer.status, answer.code) == (422, "invalid_input")


async def test_a_group_with_unknown_members_is_not_created(transport: Transport, anna: Person, boris: Person) -> None:
    await boris.forget()
    answer = await transport.call(anna, "create_group", title="Trip", member_ids=[boris.id, str(uuid4())])
    assert (answer.status, answer.code) == (404, "user_not_found")
    assert (await transport.do(boris, "list_chats"))["items"] == []
    assert await boris.received("chats_changed") == []


async def test_the_same_client_id_again_returns_the_same_group(
    transport: Transport, other_transport: Transport, anna: Person, boris: Person
) -> None:
    client_id = str(uuid4())
    chat = await transport.create_group(anna, boris, client_id=client_id)
    await boris.forget()
    for either in (transport, other_transport):
        answer = await either.call(anna, "create_group", title="Trip", member_ids=[boris.id], client_id=client_id)
        assert (answer.status, answer.data["id"], answer.data["message_count"]) == (200, chat["id"], 1)
    assert await boris.received("chats_changed") == []


async def test_the_same_client_id_with_other_content_is_refused(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    client_id = str(uuid4())
    await transport.create_group(anna, boris, client_id=client_id)
    for title, member in (("Other", boris), ("Trip", clara)):
        answer = await transport.call(anna, "create_group", title=title, member_ids=[member.id], client_id=client_id)
        assert (answer.status, answer.code) == (409, "client_id_reused")
    assert len((await transport.do(anna, "list_chats"))["items"]) == 1


async def test_the_client_id_of_another_creator_makes_another_group(
    transport: Transport, anna: Person, boris: Person
) -> None:
    client_id = str(uuid4())
    first = await transport.create_group(anna, boris, client_id=client_id)
    second = await transport.create_group(boris, anna, client_id=client_id)
    assert first["id"] != second["id"]


async def test_simultaneous_creations_with_one_client_id_make_one_group(
    transport: Transport, anna: Person, boris: Person
) -> None:
    argument = {"title": "Trip", "member_ids": [boris.id], "client_id": str(uuid4())}
    answers = await transport.call_at_once(anna, 10, "create_group", **argument)
    assert sorted(answer.status for answer in answers) == [200] * 9 + [201]
    assert len((await transport.do(anna, "list_chats"))["items"]) == 1


async def test_the_creator_deletes_a_group_for_all_members(
    transport: Transport, anna: Person, boris: Person, clara: Person
) -> None:
    chat = await transport.create_group(anna, boris, clara)
    await transport.send(boris, chat["id"])
    sync = (await transport.do(clara, "list_chats"))["sync"]
    for person in (anna, boris, clara):
        await person.forget()
    answer = await transport.call(anna, "delete_chat", chat_id=chat["id"])
    assert (answer.status, answer.data) == (204, None)
    for person in (anna, boris, clara):
        (event,) = await person.received("chats_changed")
        (removed,) = event["removed"]
        assert (removed["chat_id"], removed["reason"]) == (chat["id"], "deleted")
        assert removed["version"] == chat["version"] + 2
        assert event["chats"] == event["mine"] == []
        assert (await transport.call(person, "get_chat", chat_id=chat["id"])).code == "chat_not_found"
        assert (await transport.call(person, "list_messages", chat_id=chat["id"])).code == "chat_not_found"
        assert (await transport.do(person, "list_chats"))["items"] == []
    assert (await transport.do(clara, "list_chats", changed_since=sync))["removed"] == [removed]
    assert (await transport.call(anna, "delete_chat", chat_id=chat["id"])).code == "chat_not_found"


async def test_only_the_creator_deletes_a_group(
    transport: Transport, anna: Person, boris: Person, outsider: Person
) -> None:
    chat = await transport.create_group(anna, boris)
    refused = await transport.call(boris, "delete_chat", chat_id=chat["id"])
    assert (refused.status, refused.code) == (403, "not_creator")
    assert (await transport.call(outsider, "delete_chat", chat_id=chat["id"])).code == "chat_not_found"
    assert (await transport.do(boris, "get_chat", chat_id=chat["id"]))["version"] == chat["version"]


class TestPrivateChatBecomesGroup:
    async def test_the_chat_stays_the_same_and_the_adder_becomes_its_creator(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        private = await transport.open_private_chat(anna, boris)
        for number in range(3):
            await transport.send(anna, private["id"], f"{number}")
        group = await transport.do(boris, "add_members", chat_id=private["id"], user_ids=[clara.id], title="Three")
        assert (group["id"], group["type"], group["title"]) == (private["id"], "group", "Three")
        assert (group["creator_id"], group["member_count"], group["message_count"]) == (boris.id, 3, 4)
        assert group["version"] == private["version"] + 4
        system = group["last_message"]
        assert (system["seq"], system["sender_id"]) == (4, boris.id)
        assert system["system"] == {"event": "became_group", "user_ids": [clara.id], "title": "Three", "fields": None}
        members = (await transport.do(anna, "list_members", chat_id=group["id"]))["items"]
        assert {member["user_id"]: member["is_creator"] for member in members} == {
            anna.id: False,
            boris.id: True,
            clara.id: False,
        }

    async def test_a_group_without_a_title_is_named_after_its_members(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        private = await transport.open_private_chat(boris, anna)
        group = await transport.do(boris, "add_members", chat_id=private["id"], user_ids=[clara.id])
        assert group["title"] == "Anna, Boris, Clara"
        assert group["last_message"]["system"]["title"] == "Anna, Boris, Clara"

    async def test_a_title_made_of_long_names_is_cut(self, transport: Transport, make_person: MakePerson) -> None:
        one, two, three = [await make_person(letter * 60) for letter in "ABC"]
        private = await transport.open_private_chat(one, two)
        group = await transport.do(one, "add_members", chat_id=private["id"], user_ids=[three.id])
        assert group["title"] == f"{'A' * 60}, {'B' * 38}"

    async def test_own_titles_and_peers_are_cleared_but_pins_and_muting_stay(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        private = await transport.open_private_chat(anna, boris)
        await transport.do(anna, "rename_chat", chat_id=private["id"], title="My friend")
        before = await transport.do(anna, "pin_chat", chat_id=private["id"])
        assert before["mine"]["title"] == "My friend" and before["mine"]["peer"]["id"] == boris.id
        muted = {"muted_until": "2100-01-01T00:00:00Z"}
        before = await transport.do(anna, "update_mine", chat_id=private["id"], **muted)
        await transport.do(boris, "add_members", chat_id=private["id"], user_ids=[clara.id])
        after = (await transport.do(anna, "get_chat", chat_id=private["id"]))["mine"]
        assert (after["title"], after["peer"]) == (None, None)
        assert after["pinned_at"] == before["mine"]["pinned_at"] and after["muted_until"] == muted["muted_until"]
        assert after["version"] > before["mine"]["version"]

    async def test_all_members_get_both_parts(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        private = await transport.open_private_chat(anna, boris)
        await transport.do(boris, "rename_chat", chat_id=private["id"], title="Mine")
        for person in (anna, boris, clara):
            await person.forget()
        await transport.do(anna, "add_members", chat_id=private["id"], user_ids=[clara.id])
        for person in (anna, boris, clara):
            (event,) = await person.received("chats_changed")
            entry = await transport.do(person, "get_chat", chat_id=private["id"])
            assert event["chats"] == [shared(entry)]
            assert event["mine"] == [{"chat_id": private["id"], **entry["mine"]}]
            assert clara.id in {user["id"] for user in event["users"]}

    async def test_an_open_window_gets_the_new_creator(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        private = await transport.open_private_chat(anna, boris)
        await boris.open(private["id"])
        await transport.do(anna, "add_members", chat_id=private["id"], user_ids=[clara.id])
        (change,) = await boris.received("messages_changed")
        assert [message["system"]["event"] for message in change["messages"]] == ["became_group"]
        assert {member["user_id"]: member["is_creator"] for member in change["members"]} == {
            anna.id: True,
            clara.id: False,
        }
        assert [user["id"] for user in change["users"]] == [clara.id]

    async def test_former_peers_keep_the_history_and_the_newcomer_does_not_get_it(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        private = await transport.open_private_chat(anna, boris)
        await transport.send(anna, private["id"], "between us")
        await transport.do(anna, "add_members", chat_id=private["id"], user_ids=[clara.id])
        assert [item["seq"] for item in await transport.history(boris, private["id"])] == [
            1,
            2,
        ]
        assert [item["seq"] for item in await transport.history(clara, private["id"])] == [2]

    async def test_the_pair_is_free_for_a_new_private_chat(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        former = await transport.open_private_chat(anna, boris)
        await transport.do(anna, "add_members", chat_id=former["id"], user_ids=[clara.id])
        answer = await transport.call(boris, "open_private_chat", user_id=anna.id)
        assert answer.status == 201 and answer.data["id"] != former["id"]
        assert answer.data["message_count"] == 0
        assert len((await transport.do(anna, "list_chats"))["items"]) == 2

    async def test_group_operations_work_on_the_new_group(
        self, transport: Transport, anna: Person, boris: Person, clara: Person
    ) -> None:
        private = await transport.open_private_chat(anna, boris)
        await transport.do(anna, "add_members", chat_id=private["id"], user_ids=[clara.id])
        assert (await transport.call(anna, "leave_chat", chat_id=private["id"])).code == "creator_cannot_leave"
        assert (await transport.call(boris, "leave_chat", chat_id=private["id"])).status == 204
        assert (await transport.call(anna, "delete_chat", chat_id=private["id"])).status == 204

    async def test_adding_the_peer_leaves_the_chat_private(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        private = await transport.open_private_chat(anna, boris)
        same = await transport.do(anna, "add_members", chat_id=private["id"], user_ids=[boris.id, anna.id], title="Two")
        assert same == private

    async def test_adding_unknown_users_leaves_the_chat_private(
        self, transport: Transport, anna: Person, boris: Person
    ) -> None:
        private = await transport.open_private_chat(anna, boris)
        answer = await transport.call(anna, "add_members", chat_id=private["id"], user_ids=[str(uuid4())])
        assert (answer.status, answer.code) == (404, "user_not_found")
        assert await transport.do(anna, "get_chat", chat_id=private["id"]) == private
