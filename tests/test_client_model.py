"""The reference client follows the rules of catching up: each test fails without one of them."""

from typing import Any

from tests.client_model import ClientModel, Json

ANNA, BORIS, CHAT = "anna", "boris", "chat"
NOW = "2026-01-01T00:00:00Z"


def member(user_id: str, version: int, **fields: Any) -> Json:
    return {"user_id": user_id, "version": version, "joined_at": NOW, "removed_at": None, "last_read_seq": 0} | fields


def message(seq: int, version: int) -> Json:
    return {"seq": seq, "version": version, "sender_id": ANNA, "type": "text", "attachment": None, "liked": False}


def change(since: int, version: int, **fields: Any) -> Json:
    base = {"chat_id": CHAT, "since": since, "version": version, "message_count": version, "users": []}
    return base | {"messages": [message(version, version)], "members": []} | fields


def screen(version: int) -> Json:
    mine = {"version": 1, "last_read_seq": 0, "unread_count": version, "peer": None, "others_read_seq": 0}
    chat = {"id": CHAT, "version": version, "message_count": version, "last_message": None, "mine": mine}
    items = [message(seq, seq) for seq in range(1, version + 1)]
    page = {"items": items, "replied": [], "users": [], "version": version}
    return {"chat": chat, "page": page, "members": [member(ANNA, 1), member(BORIS, 1)], "users": []}


def opened(version: int) -> ClientModel:
    client = ClientModel(BORIS)
    client.open(screen(version))
    return client


def test_a_change_skipped_during_the_reading_of_others_is_still_a_gap() -> None:
    client = opened(5)
    client.receive("messages_changed", change(6, 7))
    assert client.window and client.window.has_gap
    client.receive("messages_changed", change(7, 8))
    client.read_changes(change(5, 7, reset=False, has_more=False))
    assert client.window.has_gap, "version 8 was skipped, and the changes read end at 7"
    client.read_changes(change(7, 8, reset=False, has_more=False))
    assert not client.window.has_gap and client.window.version == 8


def test_a_removal_closes_the_window_only_if_it_is_newer_than_its_opening() -> None:
    client = opened(5)
    client.receive(
        "chats_changed", {"chats": [], "mine": [], "users": [], "removed": [{"chat_id": CHAT, "version": 4}]}
    )
    assert client.open_chat_id == CHAT
    # Later changes of the window make no difference: the service closes the chat by the version of its opening.
    client.receive("messages_changed", change(5, 9))
    client.receive(
        "chats_changed", {"chats": [], "mine": [], "users": [], "removed": [{"chat_id": CHAT, "version": 6}]}
    )
    assert client.open_chat_id is None


def test_a_list_of_members_keeps_newer_rows_and_removes_missing_older_ones() -> None:
    client = opened(5)
    client.receive("messages_changed", change(5, 6, members=[member("dina", 6)]))
    client.receive("messages_changed", change(6, 7, members=[member(ANNA, 7, removed_at=NOW)]))
    client.read_members({"version": 5, "items": [member(ANNA, 1), member("gleb", 4)], "users": []})
    window = client.window_state()
    assert window and window["members"].keys() == {"gleb", "dina"}


def test_a_list_of_members_never_moves_a_read_position_back() -> None:
    client = opened(5)
    client.receive("read_changed", {"chat_id": CHAT, "user_id": ANNA, "last_read_seq": 4})
    client.read_members({"version": 5, "items": [member(ANNA, 1, last_read_seq=3), member(BORIS, 1)], "users": []})
    window = client.window_state()
    assert window and window["members"][ANNA]["last_read_seq"] == 4


def pages(sync: str) -> list[Json]:
    return [{"sync": sync, "items": [], "removed": [], "users": []}]


def test_the_sync_of_the_first_list_is_kept_until_all_later_changes_are_read() -> None:
    client = ClientModel(BORIS)
    client.read_list(pages("1"))
    client.read_list(pages("2"))
    assert client.sync == "1", "the second list may be its first page only"
    client.read_list(pages("3"), changed_since="1")
    client.read_list(pages("2"), changed_since="1")
    assert client.sync == "3"


def test_messages_of_the_version_before_are_kept_as_this_version_writes_them() -> None:
    client, place = opened(5), {"latitude": 1.0, "longitude": 2.0}
    former = message(6, 6) | {"chat_id": CHAT, "type": "location", "payload": place}
    client.receive("messages_changed", change(5, 6, messages=[former]))
    state = client.window_state()
    assert state and "payload" not in state["messages"][-1]
    assert [state["messages"][-1][name] for name in ("location", "contact", "system")] == [place, None, None]
    newest = {"seq": 6, "type": "location", "sender_id": ANNA, "payload": None}
    shared = {"id": CHAT, "version": 6, "message_count": 6, "last_message": newest, "updated_at": NOW}
    client.receive("chats_changed", {"chats": [shared], "mine": [], "users": [], "removed": []})
    assert client.entries[CHAT].shared["last_message"].keys() == {"seq", "type", "sender_id", "system"}
