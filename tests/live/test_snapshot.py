"""Promise P14: snapshot + events equals a fresh snapshot, for every kind of change and every member.

So does snapshot + catching up, for a client that was disconnected.
"""

import asyncio
import base64
from typing import Any, Literal, NamedTuple
from uuid import UUID, uuid4

import pytest

from chat_app.crud.messages import send_messages
from chat_app.database import Database
from chat_app.live.commands import COMMANDS
from chat_app.models.answers import Created
from tests.cast import (
    ANNAS_LATER,
    ANNAS_OLDEST,
    BORIS_OLDER,
    NEWEST,
    WITH_CAPTION,
    Call,
    Cast,
    draft,
    message,
    sent_message,
)
from tests.client_model import PAGE, Json
from tests.clients import Answer, HttpTransport, SocketTransport, Transport
from tests.media import pictures
from tests.observers import Observer, ask_for_unknown, check_equal, read_anew
from tests.service import MakePerson, Service

# Commands that change nothing in a snapshot. Every other command needs a case.
READING = {
    "get_chat",
    "get_group",
    "get_message",
    "list_changes",
    "list_chats",
    "list_likes",
    "list_members",
    "list_messages",
    "search_messages",
    "list_pinned_messages",
    "list_reactions",
    "set_typing",
}
# It opens a window and changes nothing in one, so it has no case but tests of its own below.
OPENING = {"activate_chat"}

# It needs an upload before, over HTTP, so it has a test of its own.
PICTURED = {"delete_group_avatar"}

# shared: the chat takes a version. mine: only the actor's own counter does. new, gone: a chat is added or removed.
Change = Literal["shared", "mine", "new", "gone"]


class Case(NamedTuple):
    """One change: an actor calls an operation, in a chat of the cast unless `chat` is None.

    In arguments a name of the cast stands for that person's id, and a content type for an uploaded file.
    `before`: calls (actor, operation, arguments) in the same chat before the snapshots.
    """

    operation: str
    arguments: dict[str, Any]
    actor: str = "Anna"
    chat: str | None = "group"
    changes: Change = "shared"
    before: tuple[Call, ...] = ()


def sent(**fields: Any) -> Case:
    return Case("send_message", message(**fields))


BORIS_OLDER_LIKED: tuple[Call, ...] = (
    ("Vera", "like_message", {"seq": BORIS_OLDER}),
    ("Boris", "like_message", {"seq": BORIS_OLDER}),
)
BORIS_OLDER_REACTED: tuple[Call, ...] = (
    ("Vera", "react", {"seq": BORIS_OLDER, "emoji": "👍"}),
    ("Boris", "react", {"seq": BORIS_OLDER, "emoji": "👍"}),
    ("Boris", "react", {"seq": BORIS_OLDER, "emoji": "❤️"}),
)
BORIS_OLDER_PINNED: tuple[Call, ...] = (
    ("Vera", "pin_message", {"seq": NEWEST}),
    ("Vera", "pin_message", {"seq": BORIS_OLDER}),
)
REPLY: Call = ("Anna", "send_message", message(type="text", text="quite so", reply_to=BORIS_OLDER))
FORWARD: Call = ("Anna", "send_message", message(type="forward", from_chat_id="private", from_seq=1))
FILE_FORWARDED: Call = ("Anna", "send_message", message(type="forward", from_chat_id="group", from_seq=WITH_CAPTION))
GLEB_REMOVED: tuple[Call, ...] = (
    ("Gleb", "pin_chat", {}),
    ("Gleb", "rename_chat", {"title": "Gleb's"}),
    ("Anna", "remove_member", {"user_id": "Gleb"}),
)

LATER = "2100-01-01T00:00:00Z"
READ: Call = ("Anna", "mark_read", {"seq": NEWEST})
MARKED: Call = ("Anna", "update_mine", {"marked_unread": True, "draft": {"text": "and", "reply_to": NEWEST}})
QUIET: Call = ("Anna", "update_mine", {"title": "Mine", "muted_until": LATER, "archived": True})
# Vera has the chat only in her list, Boris has it open too.
CLEARED: tuple[Call, ...] = (("Vera", "clear_chat", {}), ("Boris", "clear_chat", {}))

CASES = {
    "a text": sent(type="text", text="hello"),
    "a text that is longer than its preview": sent(type="text", text="long " * 100),
    "a reply": sent(type="text", text="quite so", reply_to=ANNAS_OLDEST),
    "a reply to a message that newcomers can't see": sent(type="text", text="quite so", reply_to=BORIS_OLDER),
    "an image": sent(type="image", attachment_id="image/png"),
    "a video": sent(type="video", attachment_id="video/mp4", text="with a caption"),
    "an audio": sent(type="audio", attachment_id="audio/mpeg"),
    "a voice message": sent(type="voice", attachment_id="audio/ogg"),
    "a file": sent(type="file", attachment_id="application/pdf"),
    "a location": sent(type="location", latitude=55.75, longitude=37.62),
    "a contact": sent(type="contact", name="Zoya", phone="8 916 000 00 00"),
    "a custom message": sent(type="custom", extra={"poll": {"options": ["yes", "no"]}}, text="A poll"),
    "a text with extra": sent(type="text", text="hello", extra={"color": "teal"}),
    "a text in a private chat": sent(type="text", text="hello")._replace(chat="private"),
    "a reply edited": Case("edit_message", {"seq": NEWEST + 1, "text": "better"}, before=(REPLY,)),
    "a reply liked": Case("like_message", {"seq": NEWEST + 1}, actor="Boris", before=(REPLY,)),
    "a reply deleted": Case("delete_message", {"seq": NEWEST + 1}, before=(REPLY,)),
    "the newest message edited": Case("edit_message", {"seq": NEWEST, "text": "better"}, actor="Boris"),
    "an older message edited": Case("edit_message", {"seq": ANNAS_LATER, "text": "better"}),
    "a message that newcomers can't see edited": Case("edit_message", {"seq": ANNAS_OLDEST, "text": "better"}),
    "a caption edited": Case("edit_message", {"seq": WITH_CAPTION, "text": "better"}),
    "a caption taken away": Case("edit_message", {"seq": WITH_CAPTION, "text": None}),
    "extra of the newest message edited": Case("edit_message", {"seq": NEWEST, "extra": {"a": 1}}, actor="Boris"),
    "extra and the text edited": Case("edit_message", {"seq": ANNAS_LATER, "extra": {"a": 1}, "text": "better"}),
    "a message liked": Case("like_message", {"seq": NEWEST}),
    "a message liked that others like": Case("like_message", {"seq": BORIS_OLDER}, before=BORIS_OLDER_LIKED),
    "a message unliked": Case("unlike_message", {"seq": NEWEST}, before=(("Anna", "like_message", {"seq": NEWEST}),)),
    "a message unliked that others like": Case(
        "unlike_message", {"seq": BORIS_OLDER}, actor="Boris", before=BORIS_OLDER_LIKED
    ),
    "a liked message edited": Case(
        "edit_message", {"seq": BORIS_OLDER, "text": "better"}, actor="Boris", before=BORIS_OLDER_LIKED
    ),
    "the newest message deleted": Case("delete_message", {"seq": NEWEST}, actor="Boris"),
    "somebody else's newest message deleted": Case("delete_message", {"seq": NEWEST}),
    "an older message deleted": Case("delete_message", {"seq": ANNAS_LATER}),
    "a message with a file deleted": Case("delete_message", {"seq": WITH_CAPTION}),
    "a liked message deleted": Case("delete_message", {"seq": BORIS_OLDER}, before=BORIS_OLDER_LIKED),
    "a reaction": Case("react", {"seq": NEWEST, "emoji": "👍"}),
    "a reaction that others have": Case("react", {"seq": BORIS_OLDER, "emoji": "👍"}, before=BORIS_OLDER_REACTED),
    "one more reaction of the same user": Case(
        "react", {"seq": BORIS_OLDER, "emoji": "🎉"}, actor="Boris", before=BORIS_OLDER_REACTED
    ),
    "a reaction to a reply": Case(
        "react", {"seq": NEWEST + 1, "emoji": "👍"}, actor="Boris", before=(REPLY, BORIS_OLDER_REACTED[1])
    ),
    "a reaction taken back": Case(
        "unreact", {"seq": BORIS_OLDER, "emoji": "👍"}, actor="Boris", before=BORIS_OLDER_REACTED
    ),
    "a message with reactions liked": Case("like_message", {"seq": BORIS_OLDER}, before=BORIS_OLDER_REACTED),
    "a message with reactions deleted": Case("delete_message", {"seq": BORIS_OLDER}, before=BORIS_OLDER_REACTED),
    "the newest message pinned for all": Case("pin_message", {"seq": NEWEST}),
    "an older message pinned for all": Case("pin_message", {"seq": ANNAS_OLDEST}, before=BORIS_OLDER_PINNED),
    "a reply pinned for all": Case("pin_message", {"seq": NEWEST + 1}, actor="Boris", before=(REPLY,)),
    "a message unpinned for all": Case("unpin_message", {"seq": NEWEST}, before=BORIS_OLDER_PINNED),
    "a message that newcomers can't see unpinned": Case(
        "unpin_message", {"seq": BORIS_OLDER}, actor="Boris", before=BORIS_OLDER_PINNED
    ),
    "a pinned message deleted": Case("delete_message", {"seq": BORIS_OLDER}, before=BORIS_OLDER_PINNED),
    "a pinned message edited": Case(
        "edit_message", {"seq": NEWEST, "text": "better"}, actor="Boris", before=BORIS_OLDER_PINNED
    ),
    "a forward from another chat": sent(type="forward", from_chat_id="private", from_seq=1),
    "a forward within the chat that quotes": sent(
        type="forward", from_chat_id="group", from_seq=BORIS_OLDER, reply_to=ANNAS_OLDEST
    ),
    "a file forwarded": sent(type="forward", from_chat_id="group", from_seq=WITH_CAPTION),
    "a forward by somebody who was no author into a private chat": sent(
        type="forward", from_chat_id="lately", from_seq=2
    )._replace(actor="Boris", chat="private"),
    "a forwarded message liked": Case("like_message", {"seq": NEWEST + 1}, actor="Boris", before=(FORWARD,)),
    "a forwarded message deleted": Case("delete_message", {"seq": NEWEST + 1}, before=(FORWARD,)),
    "a forwarded file deleted": Case("delete_message", {"seq": NEWEST + 1}, before=(FILE_FORWARDED,)),
    "a forwarded message quoted in a private chat": Case(
        "send_message",
        message(type="text", text="who?", reply_to=2),
        chat="private",
        before=(("Boris", "send_message", message(type="forward", from_chat_id="lately", from_seq=2)),),
    ),
    "a forwarded message pinned in a private chat": Case(
        "pin_message",
        {"seq": 2},
        chat="private",
        before=(("Boris", "send_message", message(type="forward", from_chat_id="lately", from_seq=2)),),
    ),
    "a chat pinned": Case("pin_chat", {}, changes="mine"),
    "a chat unpinned": Case("unpin_chat", {}, changes="mine", before=(("Anna", "pin_chat", {}),)),
    "a chat renamed": Case("rename_chat", {"title": "Mine"}, changes="mine"),
    "a private chat renamed": Case("rename_chat", {"title": "Mine"}, chat="private", changes="mine"),
    "an own title taken back": Case(
        "rename_chat", {"title": None}, changes="mine", before=(("Anna", "rename_chat", {"title": "Mine"}),)
    ),
    "a chat muted": Case("update_mine", {"muted_until": LATER}, changes="mine"),
    "a chat archived": Case("update_mine", {"archived": True}, changes="mine"),
    "a chat marked as unread": Case("update_mine", {"marked_unread": True}, changes="mine", before=(READ,)),
    "a draft begun": Case("update_mine", {"draft": {"text": "and", "reply_to": NEWEST}}, changes="mine"),
    "the own part taken back": Case(
        "update_mine",
        {"unset": ["title", "muted_until", "archived", "marked_unread", "draft"]},
        changes="mine",
        before=(QUIET, MARKED),
    ),
    "a marked chat read, where the position stays": Case(
        "mark_read", {"seq": 1}, changes="mine", before=(READ, MARKED)
    ),
    "a message of a user with a mark and a draft": sent(type="text", text="hello")._replace(before=(READ, MARKED)),
    "a member added by a user with a mark and a draft": Case(
        "add_members", {"user_ids": ["Dina"]}, before=(READ, MARKED)
    ),
    "a message in a quiet chat": sent(type="text", text="hello")._replace(actor="Boris", before=(QUIET,)),
    "a chat cleared": Case("clear_chat", {}, changes="mine"),
    "a chat with a reply cleared": Case("clear_chat", {}, changes="mine", before=(REPLY, READ, MARKED)),
    "a private chat cleared": Case("clear_chat", {}, chat="private", changes="mine"),
    "a chat cleared and hidden": Case("clear_chat", {"hide": True}, changes="gone", before=(("Anna", "pin_chat", {}),)),
    "a reply to a cleared message": Case(
        "send_message", message(type="text", text="quite so", reply_to=NEWEST), before=CLEARED
    ),
    "the newest message edited, which was cleared": Case(
        "edit_message", {"seq": NEWEST, "text": "better"}, actor="Boris", before=CLEARED[:1]
    ),
    "the newest message liked, which was cleared": Case("like_message", {"seq": NEWEST}, before=CLEARED),
    "the newest message deleted, which was cleared": Case("delete_message", {"seq": NEWEST}, before=CLEARED),
    "history shared by a member who cleared it": Case(
        "add_members", {"user_ids": ["Dina"], "share_history": True}, actor="Vera", before=CLEARED
    ),
    "read up to the newest": Case("mark_read", {"seq": NEWEST}, changes="mine"),
    "read past the newest": Case("mark_read", {"seq": 1000}, changes="mine"),
    "read in a private chat": Case("mark_read", {"seq": 1}, chat="private", changes="mine"),
    "a private chat opened": Case("open_private_chat", {"user_id": "Vera"}, chat=None, changes="new"),
    "a group created": Case(
        "create_group",
        {"title": "New", "member_ids": ["Boris", "Dina"], "client_id": str(uuid4())},
        chat=None,
        changes="new",
    ),
    "somebody added": Case("add_members", {"user_ids": ["Dina"]}),
    "somebody added by a member who is no creator": Case("add_members", {"user_ids": ["Dina"]}, actor="Boris"),
    "somebody added who sees the history": Case("add_members", {"user_ids": ["Dina"], "share_history": True}),
    "somebody added by a newcomer who shares what they see": Case(
        "add_members", {"user_ids": ["Dina"], "share_history": True}, actor="Gleb"
    ),
    "somebody back": Case("add_members", {"user_ids": ["Gleb"]}, before=GLEB_REMOVED),
    "somebody back who sees the history": Case(
        "add_members", {"user_ids": ["Gleb", "Dina"], "share_history": True}, before=GLEB_REMOVED
    ),
    "a private chat turned into a group": Case(
        "add_members",
        {"user_ids": ["Dina", "Vera"]},
        chat="private",
        before=(("Anna", "rename_chat", {"title": "Mine"}), ("Boris", "rename_chat", {"title": "Mine too"})),
    ),
    "a private chat turned into a group that shares its history": Case(
        "add_members", {"user_ids": ["Dina"], "share_history": True, "title": "All"}, actor="Boris", chat="private"
    ),
    "a member removed": Case("remove_member", {"user_id": "Boris"}),
    "a newcomer removed": Case("remove_member", {"user_id": "Gleb"}),
    "a member gone": Case("leave_chat", {}, actor="Boris"),
    "a newcomer gone": Case("leave_chat", {}, actor="Gleb"),
    "a group with another title and a description": Case("update_group", {"title": "Ours", "description": "We meet"}),
    "a group without its description": Case(
        "update_group", {"unset": ["description"]}, before=(("Anna", "update_group", {"description": "We meet"}),)
    ),
    "a group with another title": Case("update_group", {"title": "Ours"}),
    "a group handed over": Case("set_creator", {"user_id": "Boris"}),
    "a group handed over by a creator who leaves": Case(
        "leave_chat", {}, changes="gone", before=(("Anna", "set_creator", {"user_id": "Vera"}),)
    ),
    "a group deleted": Case("delete_chat", {}, changes="gone"),
}


# Over HTTP one case of each operation is enough: both transports call the same use cases.
FIRST_OF_EACH = {case.operation: name for name, case in reversed(CASES.items())}


@pytest.fixture
async def cast(make_person: MakePerson, database: Database) -> Cast:
    """All users with one connection each, and their chats."""
    names = ("Anna", "Boris", "Vera", "Gleb", "Dina")
    cast = Cast({name: await make_person(name) for name in names})
    await cast.prepare(database)
    await asyncio.gather(*(person.connect(active_chat_id=None) for person in cast.people.values()))
    return cast


@pytest.mark.parametrize(
    ("transport", "name"),
    [*(("socket", name) for name in CASES), *(("http", name) for name in FIRST_OF_EACH.values())],
    indirect=["transport"],
)
async def test_snapshot_and_events_equal_a_fresh_snapshot(
    transport: Transport, name: str, cast: Cast, database: Database
) -> None:
    case = CASES[name]
    chat_id = cast.chats[case.chat] if case.chat else None
    where = {"chat_id": chat_id} if chat_id else {}
    for actor, operation, arguments in case.before:
        await cast.call(actor, operation, **arguments, **where)
    await cast.look(database, chat_id)
    twins, before = cast.twins(), await cast.call("Anna", "list_chats")
    arguments = await cast.arguments(case.actor, case.arguments) | where

    await transport.do(cast.people[case.actor], case.operation, **arguments)

    received = await cast.settle()
    after = await cast.call("Anna", "list_chats")
    check_changed(case.changes, chat_id, before, after)
    await cast.check()
    if transport.name == "socket":  # catching up does not depend on the transport
        await cast.come_back({name: twin for name, twin in twins.items() if name in received}, limit=1)
    again = await transport.call(cast.people[case.actor], case.operation, **arguments)
    assert again.status in (200, 204, 403, 404), "a repetition is accepted, or its target or the right to it is gone"
    assert not await cast.settle(), "a repetition that changed nothing caused an event"
    assert (await cast.call("Anna", "list_chats"))["sync"] == after["sync"]


def check_changed(changes: Change, chat_id: str | None, before: Json, after: Json) -> None:
    """Compare two of Anna's chat lists: the change happened once and in no other chat."""
    old, new = (
        {chat["id"]: (chat["version"], chat["mine"]["version"]) for chat in chats["items"]} for chats in (before, after)
    )
    assert before["sync"] != after["sync"]
    assert changes != "new" or len(new) == len(old) + 1
    version, mine_version = old.pop(str(chat_id), (0, 0))
    if changes == "gone":
        assert chat_id not in new
    elif changes == "mine":
        assert new[str(chat_id)] == (version, mine_version + 1)
    elif changes == "shared":
        assert new[str(chat_id)][0] == version + 1
    assert old.items() <= new.items(), "another chat changed"


async def test_the_events_of_a_batch_of_several_senders_equal_a_fresh_snapshot(
    cast: Cast, service: Service, database: Database
) -> None:
    chat_id = cast.chats["group"]
    await cast.look(database, chat_id)
    twins = cast.twins()

    async with service.database.transaction() as db:
        senders = ("Anna", "Boris", "Gleb", "Boris", "Vera", "Anna")
        sent = await send_messages(db, [draft(cast.actor(name), UUID(chat_id)) for name in senders])

    assert [sent_message(each).seq for each in sent if isinstance(each, Created)] == list(range(NEWEST + 1, NEWEST + 7))
    await cast.settle()
    await cast.check()
    await cast.come_back(twins, limit=1)


async def test_a_quoted_message_beside_the_window_is_kept_up_to_date(
    cast: Cast, service: Service, database: Database
) -> None:
    group_id = cast.chats["group"]
    async with service.database.transaction() as db:
        await send_messages(db, [draft(cast.actor("Vera"), UUID(group_id)) for _ in range(PAGE)])
    await cast.look(database, group_id)
    twins = cast.twins()
    answer = message(type="text", text="As I said", reply_to=ANNAS_OLDEST)
    for actor, operation, arguments in (
        ("Boris", "send_message", answer),
        ("Anna", "edit_message", {"seq": ANNAS_OLDEST, "text": "better"}),
        ("Boris", "like_message", {"seq": ANNAS_OLDEST}),
        ("Anna", "delete_message", {"seq": ANNAS_OLDEST}),
    ):
        later = cast.twins()
        await cast.call(actor, operation, chat_id=group_id, **arguments)
        await cast.settle()
        await cast.check()
        await cast.come_back(later, limit=1)
    await cast.come_back(twins, limit=1)
    windows = {name: cast.observers_of(cast.people[name])[0].model.window for name in ("Boris", "Gleb")}
    quoted = {name: [row["seq"] for row in window.quoted()] for name, window in windows.items() if window}
    assert quoted == {"Boris": [ANNAS_OLDEST], "Gleb": []}, "Gleb does not see it"


async def test_the_next_message_shows_a_hidden_chat(cast: Cast, database: Database) -> None:
    group_id = cast.chats["group"]
    await cast.look(database, group_id)
    await cast.call("Boris", "clear_chat", chat_id=group_id, hide=True)
    await cast.settle()
    await cast.check()
    (boris,) = cast.observers_of(cast.people["Boris"])
    assert group_id in boris.model.entries and group_id not in boris.model.list_state()
    twins = cast.twins()

    await cast.call("Anna", "send_message", chat_id=group_id, **message(type="text", text="hello", reply_to=NEWEST))

    await cast.settle()
    await cast.check()
    assert group_id in boris.model.list_state()
    await cast.come_back(twins, limit=1)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [("pin_chat", {}), ("update_mine", {"marked_unread": True}), ("update_mine", {"draft": {"text": "and"}})],
    ids=str,
)
async def test_a_hidden_chat_that_another_device_shows_again_is_asked_for(
    operation: str, arguments: Json, cast: Cast, database: Database
) -> None:
    anna, group_id = cast.people["Anna"], cast.chats["group"]
    await cast.call("Anna", "clear_chat", chat_id=group_id, hide=True)
    await cast.look(database, None)

    await cast.call("Anna", operation, chat_id=group_id, **arguments)

    await cast.settle()
    for observer in cast.observers_of(anna):
        assert observer.model.ids_to_ask() == [group_id], "the list of a device lacked it"
        await ask_for_unknown(observer.model, observer.socket)
    await cast.check()


async def test_pinned_messages_are_read_after_a_newest_page_that_replaces_the_window(
    cast: Cast, service: Service, database: Database
) -> None:
    group_id = cast.chats["group"]
    await cast.call("Vera", "pin_message", chat_id=group_id, seq=BORIS_OLDER)
    async with service.database.transaction() as db:
        await send_messages(db, [draft(cast.actor("Vera"), UUID(group_id)) for _ in range(PAGE)])
    await cast.look(database, group_id)
    twin = cast.twins()["Boris"]
    for actor, operation, arguments in (
        ("Anna", "remove_member", {"user_id": "Boris"}),
        ("Vera", "pin_message", {"seq": ANNAS_OLDEST}),
        ("Anna", "add_members", {"user_ids": ["Boris"], "share_history": True}),
    ):
        await cast.call(actor, operation, chat_id=group_id, **arguments)
    ((page,),) = await cast.come_back({"Boris": twin}, limit=100)
    assert page["reset"], "the window has to be replaced for this test to mean anything"
    assert twin.window and [row["seq"] for row in twin.window.pinned()] == [ANNAS_OLDEST, BORIS_OLDER]
    assert twin.window.first > BORIS_OLDER


async def test_an_open_window_gets_others_read_seq(transport: Transport, cast: Cast, database: Database) -> None:
    group_id = cast.chats["group"]
    await cast.look(database, group_id)

    await transport.do(cast.people["Anna"], "mark_read", chat_id=group_id, seq=NEWEST)

    await cast.settle()
    (boris,) = cast.observers_of(cast.people["Boris"])
    chat = await cast.call("Boris", "get_chat", chat_id=group_id)
    assert chat["mine"]["others_read_seq"] == NEWEST
    assert boris.model.entries[group_id].mine == chat["mine"]


async def test_a_new_name_and_picture_are_part_of_the_entries_of_private_peers(cast: Cast, database: Database) -> None:
    await cast.look(database, cast.chats["private"])
    anna, twins = cast.people["Anna"], cast.twins()
    image = base64.b64encode(pictures.encoded(pictures.corners(), "PNG")).decode()
    assert (await anna.http.patch("/api/v1/users/me", json={"name": "Anna Maria"})).status_code == 200
    assert (await anna.http.put("/api/v1/users/me/avatar", json={"image": image})).status_code == 200
    assert await cast.settle() == {"Boris"}
    await cast.check()
    await cast.come_back({"Boris": twins["Boris"]}, limit=1)
    (boris,) = cast.observers_of(cast.people["Boris"])
    assert boris.model.list_state()[cast.chats["private"]]["mine"]["peer"]["name"] == "Anna Maria"


async def test_a_new_picture_of_a_group_is_part_of_the_entries_of_its_members(
    transport: Transport, cast: Cast, database: Database
) -> None:
    anna, where = cast.people["Anna"], {"chat_id": cast.chats["group"]}
    await cast.look(database, where["chat_id"])
    image = base64.b64encode(pictures.encoded(pictures.corners(), "PNG")).decode()
    for operation in ("set_group_avatar", "delete_group_avatar"):
        twins, before = cast.twins(), await cast.call("Anna", "list_chats")
        if operation == "set_group_avatar":
            answer = await anna.http.put(f"/api/v1/chats/{where['chat_id']}/avatar", json={"image": image})
            assert answer.status_code == 200, answer.text
        else:
            await transport.do(anna, operation, **where)
        received = await cast.settle()
        check_changed("shared", where["chat_id"], before, await cast.call("Anna", "list_chats"))
        await cast.check()
        await cast.come_back({name: twins[name] for name in received}, limit=1)
        (boris,) = cast.observers_of(cast.people["Boris"])
        shown = boris.model.list_state()[where["chat_id"]]["avatar"]
        assert bool(shown) == (operation == "set_group_avatar")


async def test_a_chat_activated_over_http_opens_on_connections_that_follow(cast: Cast, openapi: dict[str, Any]) -> None:
    anna, group_id = cast.people["Anna"], cast.chats["group"]
    chooser = await Observer(anna, anna.socket).start()
    follower = await Observer(anna, await anna.connect()).start()

    follower.model.open(await HttpTransport(openapi).do(anna, "activate_chat", chat_id=group_id))
    await cast.call("Boris", "send_message", chat_id=group_id, **message(type="text", text="hello"))
    await cast.call("Vera", "like_message", chat_id=group_id, seq=NEWEST)

    assert (await follower.settle()).count("messages_changed") == 2
    assert "messages_changed" not in await chooser.settle()
    check_equal("the follower", follower.model, await read_anew(follower.socket, anna.id, group_id))


@pytest.mark.parametrize("attempt", range(3))
async def test_a_change_during_an_activation_over_http_is_in_the_answer_or_in_an_event(
    attempt: int, cast: Cast, openapi: dict[str, Any]
) -> None:
    anna, transport, group_id = cast.people["Anna"], HttpTransport(openapi), cast.chats["group"]
    follower = await Observer(anna, await anna.connect()).start()

    screen, _ = await asyncio.gather(
        transport.do(anna, "activate_chat", chat_id=group_id),
        cast.call("Vera", "like_message", chat_id=group_id, seq=NEWEST),
    )

    follower.model.open(screen)
    await follower.settle()
    check_equal("the follower", follower.model, await read_anew(follower.socket, anna.id, group_id))


async def test_an_activated_chat_replaces_the_one_before(cast: Cast) -> None:
    anna = cast.people["Anna"]
    observer = await Observer(anna, anna.socket).start(cast.chats["group"])

    await observer.open(cast.chats["private"])
    for chat_id in (cast.chats["group"], cast.chats["private"]):
        await cast.call("Boris", "send_message", chat_id=chat_id, **message(type="text", text="hello"))

    assert (await observer.settle()).count("messages_changed") == 1
    check_equal("Anna", observer.model, await read_anew(anna.socket, anna.id, cast.chats["private"]))


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_a_client_that_missed_every_kind_of_change_catches_up(limit: int, cast: Cast, database: Database) -> None:
    group_id = cast.chats["group"]
    await cast.look(database, group_id)
    twins = cast.twins()
    answers = [await call_case(cast, case) for case in CASES.values() if not is_end(case)]
    assert sum(answer.ok for answer in answers) > len(answers) * 0.8
    await cast.call("Anna", "add_members", chat_id=group_id, user_ids=["Boris"])

    pages = dict(zip(twins, await cast.come_back(twins, limit=limit), strict=True))

    assert [page["reset"] for page in pages["Boris"]] == [True], "Boris has to rejoin for this test to mean anything"
    assert all(page["has_more"] for page in pages["Anna"][:-1])
    assert len(pages["Anna"]) > 15 // limit
    for page in pages["Anna"]:
        versions = [row["version"] for row in (*page["messages"], *page["members"])]
        assert all(page["since"] < version <= page["version"] for version in versions)
        assert [row["version"] for row in page["messages"]] == sorted(row["version"] for row in page["messages"])


async def test_a_chat_that_changes_between_two_pages_of_catching_up_is_not_lost(cast: Cast, database: Database) -> None:
    await cast.look(database, None)
    sync = cast.observers_of(cast.people["Anna"])[0].model.sync
    (lately,) = (await cast.call("Anna", "list_chats", changed_since=sync))["items"]
    chat_ids = {*cast.chats.values(), lately["id"]}
    for chat_id in chat_ids:
        await cast.call("Boris", "send_message", chat_id=chat_id, **message(type="text", text="hello"))

    first = await cast.call("Anna", "list_chats", changed_since=sync, limit=2)
    (last_id,) = chat_ids - {chat["id"] for chat in first["items"]}
    await cast.call("Boris", "send_message", chat_id=last_id, **message(type="text", text="again"))
    second = await cast.call("Anna", "list_chats", changed_since=sync, limit=2, cursor=first["next_cursor"])

    assert [chat["id"] for chat in second["items"]] == [last_id]


def is_end(case: Case) -> bool:
    """After it Anna would not see the others."""
    return case.changes == "gone" or (case.operation, case.chat) == ("clear_chat", "group")


async def call_case(cast: Cast, case: Case) -> Answer:
    where = {"chat_id": cast.chats[case.chat]} if case.chat else {}
    arguments = await cast.arguments(case.actor, case.arguments)
    return await SocketTransport().call(cast.people[case.actor], case.operation, **arguments, **where)


def test_every_command_that_changes_a_snapshot_has_a_case() -> None:
    assert set(COMMANDS) - READING - OPENING - PICTURED == {case.operation for case in CASES.values()}
