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
    mine |= {"visible_from_seq": 1, "pinned_at": None}
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
    client.receive("read_changed", {"chat_id": CHAT, "user_id": BORIS, "last_read_seq": 4})
    client.read_members({"version": 5, "items": [member(ANNA, 1), member(BORIS, 1, last_read_seq=3)], "users": []})
    window = client.window_state()
    assert window and window["members"][BORIS]["last_read_seq"] == 4


def event(**fields: Any) -> Json:
    """A `chats_changed`."""
    return {"chats": [], "mine": [], "removed": [], "users": []} | fields


def entry(version: int, /, **mine: Any) -> Json:
    """A ChatRead."""
    chat: Json = screen(version)["chat"]
    return chat | {"type": "group", "updated_at": NOW, "mine": chat["mine"] | mine}


def shared(version: int, /, **fields: Any) -> Json:
    """The shared part of a chat, as events have it."""
    return {name: value for name, value in entry(version).items() if name != "mine"} | fields


def own(version: int, /, **fields: Any) -> Json:
    """The own part of a chat, as events have it."""
    return entry(5)["mine"] | {"chat_id": CHAT, "version": version} | fields


def listed(chat: Json) -> list[Json]:
    return [{"sync": "1", "items": [chat], "removed": [], "users": []}]


def shown(client: ClientModel) -> Json:
    """The own part of the chat as it is shown."""
    mine: Json = client.list_state()[CHAT]["mine"]
    return mine


def test_an_own_part_of_an_unknown_chat_is_kept_by_its_version() -> None:
    client = ClientModel(BORIS)
    client.receive("chats_changed", event(mine=[own(7, title="newer than the list")]))
    client.read_list(listed(entry(5, version=6, title="older")))
    assert shown(client)["title"] == "newer than the list"
    client.read_list(listed(entry(5, version=8, title="newest")))
    assert shown(client)["title"] == "newest"


def test_an_own_part_of_a_chat_that_was_lost_is_kept_too() -> None:
    client = ClientModel(BORIS)
    client.read_list(listed(entry(5, version=3)))
    client.receive("chats_changed", event(removed=[{"chat_id": CHAT, "version": 6}]))
    client.receive("chats_changed", event(mine=[own(9, title="after coming back")]))
    assert client.list_state() == {}
    client.receive("chats_changed", event(chats=[shared(7)], mine=[own(8, title="of coming back")]))
    assert shown(client)["title"] == "after coming back"


def test_nothing_from_before_a_removal_brings_the_chat_back() -> None:
    client = ClientModel(BORIS)
    client.read_list(listed(entry(5)))
    client.receive("chats_changed", event(removed=[{"chat_id": CHAT, "version": 6}]))
    client.receive("chats_changed", event(chats=[shared(6)], mine=[own(9)]))
    client.read_list(listed(entry(5)))
    assert client.list_state() == {}
    client.receive("chats_changed", event(chats=[shared(7)], mine=[own(10)]))
    assert client.list_state().keys() == {CHAT}


def test_a_removal_that_is_older_than_the_entry_is_ignored() -> None:
    client = ClientModel(BORIS)
    client.read_list(listed(entry(5)))
    client.receive("chats_changed", event(removed=[{"chat_id": CHAT, "version": 4}]))
    assert client.list_state().keys() == {CHAT}


def test_an_unknown_chat_without_an_own_part_is_shown_once_it_was_asked_for() -> None:
    client = ClientModel(BORIS)
    client.read_list([{"sync": "1", "items": [], "removed": [], "users": []}])
    # The own part is that of an earlier membership.
    client.receive("chats_changed", event(mine=[own(2)]))
    client.receive("chats_changed", event(chats=[shared(7)]))
    assert client.list_state() == {} and client.ids_to_ask() == [CHAT]
    client.receive("chats_changed", event(chats=[shared(8)]))
    (page,) = listed(entry(7, version=4, title="mine"))
    client.read_asked([CHAT], page | {"sync": "2"})
    assert shown(client)["title"] == "mine" and client.ids_to_ask() == []
    assert client.list_state()[CHAT]["message_count"] == 8
    assert client.sync == "1", "the sync of this answer covers only these chats"


def test_what_the_answer_lacks_is_not_ones_own() -> None:
    client = ClientModel(BORIS)
    client.receive("chats_changed", event(chats=[shared(7)]))
    client.receive("chats_changed", event(chats=[shared(3, id="other")]))
    assert client.ids_to_ask() == [CHAT, "other"]
    client.receive("chats_changed", event(chats=[shared(9)], mine=[own(4)]))
    client.read_asked([CHAT, "other"], {"items": [], "removed": [], "users": []})
    assert client.list_state().keys() == {CHAT}, "it came back after the answer was read"
    assert client.ids_to_ask() == []


def test_rows_of_replied_and_older_changed_rows_are_kept_beside_the_window() -> None:
    client = opened(60)
    assert client.window
    client.window.first = 31
    client.window.messages = {seq: row for seq, row in client.window.messages.items() if seq > 30}
    before = client.window_state()
    client.receive("messages_changed", change(60, 61, messages=[message(2, 61)], message_count=60))
    assert before and client.window.messages[2]["version"] == 61
    assert client.window_state() == before | {"version": 61}, "it is not part of the window"
    answer = message(61, 62) | {"reply_to": 2}
    quoted = message(2, 2) | {"text": "older"}
    client.receive("messages_changed", change(61, 62, messages=[answer], message_count=61, replied=[quoted]))
    state = client.window_state()
    assert state and [row["version"] for row in state["quoted"]] == [61], "the greater version wins"


def test_a_row_without_liked_that_is_not_new_leaves_it_unknown() -> None:
    client = opened(60)
    assert client.window
    client.window.messages = {seq: row for seq, row in client.window.messages.items() if seq > 10}
    without_liked = [{k: v for k, v in message(seq, 61).items() if k != "liked"} for seq in (2, 60, 61)]
    client.receive("messages_changed", change(60, 61, messages=without_liked, message_count=61))
    assert [client.window.messages[seq]["liked"] for seq in (2, 60, 61)] == [None, False, False]
    client.read_message(message(2, 61) | {"chat_id": CHAT, "liked": True})
    client.receive("messages_changed", change(61, 62, messages=[without_liked[0] | {"version": 62}]))
    assert client.window.messages[2]["liked"], "now it is known, and an event keeps it"


def test_a_deleted_message_is_liked_by_nobody() -> None:
    client = opened(5)
    client.read_message(message(2, 5) | {"chat_id": CHAT, "liked": True})
    deleted = {name: value for name, value in message(2, 6).items() if name != "liked"} | {"deleted_at": NOW}
    client.receive("messages_changed", change(5, 6, messages=[deleted], message_count=5))
    assert client.window and client.window.messages[2]["liked"] is False


def test_a_row_without_reacted_that_is_not_new_leaves_it_unknown() -> None:
    client = opened(60)
    assert client.window
    client.window.messages = {seq: row for seq, row in client.window.messages.items() if seq > 10}
    rows = [{k: v for k, v in message(seq, 61).items() if k != "liked"} for seq in (2, 61)]
    client.receive("messages_changed", change(60, 61, messages=rows, message_count=61))
    assert [client.window.messages[seq]["reacted"] for seq in (2, 61)] == [None, []]
    client.read_message(message(2, 61) | {"chat_id": CHAT, "reacted": ["👍"]})
    client.receive("messages_changed", change(61, 62, messages=[rows[0] | {"version": 62}]))
    assert client.window.messages[2]["reacted"] == ["👍"], "now it is known, and an event keeps it"
    client.receive("messages_changed", change(62, 63, messages=[rows[0] | {"version": 63, "deleted_at": NOW}]))
    assert client.window.messages[2]["reacted"] == []


def test_a_row_up_to_the_version_of_the_pinned_messages_that_is_missing_there_is_not_pinned() -> None:
    client = opened(5)
    pinned = [message(seq, version) | {"pinned_at": NOW} for seq, version in ((1, 6), (2, 7), (3, 8))]
    for row in pinned:
        client.receive("messages_changed", change(row["version"] - 1, row["version"], messages=[row], message_count=5))
    assert client.window and [row["seq"] for row in client.window.pinned()] == [3, 2, 1]
    client.read_pinned({"items": [pinned[0]], "users": [], "version": 7})
    assert [row["seq"] for row in client.window.pinned()] == [3, 1], "the third is newer than the list"


def test_pinned_messages_beside_a_new_window_are_known_from_their_list_only() -> None:
    client = opened(5)
    client.receive("messages_changed", change(5, 6, messages=[message(1, 6) | {"pinned_at": NOW}], message_count=5))
    newest = {"items": [message(seq, seq) for seq in (4, 5)], "replied": [], "users": [], "version": 60}
    client.read_newest_page(newest)
    assert client.window and client.window.pinned() == []
    client.read_pinned({"items": [message(2, 30) | {"pinned_at": NOW}], "users": [], "version": 60})
    assert [row["seq"] for row in client.window.pinned()] == [2]
    assert [row["seq"] for row in client.window.newest()] == [4, 5]


def test_a_position_that_comes_before_its_member_is_kept() -> None:
    client = opened(5)
    client.receive("read_changed", {"chat_id": CHAT, "user_id": "dina", "last_read_seq": 5})
    client.receive("messages_changed", change(5, 6, members=[member("dina", 6, last_read_seq=3)]))
    window = client.window_state()
    assert window and window["members"]["dina"]["last_read_seq"] == 5


def test_a_position_does_not_go_back_when_somebody_is_added_again() -> None:
    client = opened(5)
    client.receive("read_changed", {"chat_id": CHAT, "user_id": ANNA, "last_read_seq": 5})
    client.receive("messages_changed", change(5, 6, messages=[], members=[member(ANNA, 6, removed_at=NOW)]))
    back = member(ANNA, 7, joined_at="2026-02-02T00:00:00Z", last_read_seq=2)
    client.receive("messages_changed", change(6, 7, messages=[], members=[back]))
    window = client.window_state()
    assert window and window["members"][ANNA]["last_read_seq"] == 5


def test_an_own_message_is_read_and_an_own_part_from_before_it_shows_that() -> None:
    client = ClientModel(BORIS)
    client.read_list(listed(entry(5, version=3, last_read_seq=2, unread_count=3)))
    newest = {"seq": 6, "sender_id": BORIS, "type": "text"}
    client.receive("chats_changed", event(chats=[shared(6, last_message=newest)]))
    assert (shown(client)["last_read_seq"], shown(client)["unread_count"]) == (6, 0)
    client.receive("chats_changed", event(mine=[own(4, last_read_seq=2, title="late")]))
    assert shown(client)["title"] == "late", "no own version was counted on"
    assert (shown(client)["last_read_seq"], shown(client)["unread_count"]) == (6, 0)
    later = newest | {"seq": 9, "sender_id": ANNA}
    client.receive("chats_changed", event(chats=[shared(9, last_message=later)]))
    assert (shown(client)["last_read_seq"], shown(client)["unread_count"]) == (6, 3)


def test_own_messages_are_known_from_answers_and_before_the_chat_is() -> None:
    client = ClientModel(BORIS)
    client.read_message(message(4, 4) | {"chat_id": CHAT, "sender_id": BORIS})
    client.read_list(listed(entry(5, version=1, last_read_seq=2, unread_count=3)))
    assert (shown(client)["last_read_seq"], shown(client)["unread_count"]) == (4, 1)


def test_system_messages_do_not_make_a_read_chat_unread() -> None:
    client = ClientModel(BORIS)
    client.read_list(listed(entry(5, last_read_seq=3, unread_count=0) | {"last_user_seq": 3}))
    assert shown(client)["unread_count"] == 0
    client.receive("chats_changed", event(chats=[shared(6, last_user_seq=6)]))
    assert shown(client)["unread_count"] == 3


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


DRAFT = {"text": "and then", "reply_to": None, "updated_at": NOW}


def with_own(seq: int, /, kind: str = "text", **mine: Any) -> ClientModel:
    """A client whose newest own message has this seq, with an own part from before or after it."""
    client = ClientModel(ANNA)
    client.read_list(listed(entry(5, marked_unread=True, draft=DRAFT, unread_count=0, **mine)))
    sent = message(seq, seq) | {"type": kind, "chat_id": CHAT, "system": {"user_ids": []}}
    client.read_message(sent)
    return client


def test_an_own_message_takes_the_mark_and_the_draft_of_an_older_own_part() -> None:
    mine = shown(with_own(6, last_read_seq=5))
    assert (mine["last_read_seq"], mine["marked_unread"], mine["draft"]) == (6, False, None)
    mine = shown(with_own(6, last_read_seq=6))
    assert (mine["last_read_seq"], mine["marked_unread"], mine["draft"]) == (6, True, DRAFT)


def test_an_own_system_message_takes_the_mark_and_leaves_the_draft() -> None:
    mine = shown(with_own(6, kind="system", last_read_seq=5))
    assert (mine["last_read_seq"], mine["marked_unread"], mine["draft"]) == (6, False, DRAFT)


def cleared(seq: int, **mine: Any) -> ClientModel:
    """A client with an open window of five messages, who has cleared the chat up to this seq."""
    client = opened(5)
    client.receive("chats_changed", event(mine=[own(9, visible_from_seq=seq + 1, last_read_seq=seq, **mine)]))
    return client


def rows(client: ClientModel) -> list[int]:
    assert client.window
    return sorted(client.window.messages)


def test_nothing_before_the_visible_start_is_kept_whatever_brings_it() -> None:
    client = cleared(3)
    assert rows(client) == [4, 5]
    late = [message(2, 6), message(3, 6)]
    client.receive("messages_changed", change(5, 6, messages=[late[0]], replied=[late[1]]))
    client.read_message(late[0] | {"version": 7, "chat_id": CHAT})
    client.read_page({"items": late, "replied": [message(1, 1)], "users": []})
    client.read_changes(change(6, 7, messages=late, reset=False, has_more=False))
    client.read_newest_page(screen(5)["page"])
    assert rows(client) == [4, 5]
    assert client.window and client.window.read[ANNA] == 5, "who wrote them has read them"


def test_an_answer_from_before_a_clearing_opens_no_message_before_the_visible_start() -> None:
    client = ClientModel(BORIS)
    client.receive("chats_changed", event(mine=[own(9, visible_from_seq=6, last_read_seq=5)]))
    client.open(screen(5))
    assert rows(client) == [] and client.window and client.window.message_count == 5


def test_the_last_message_before_the_visible_start_is_not_shown() -> None:
    client = ClientModel(BORIS)
    client.read_list(listed(entry(5) | {"last_message": message(5, 5)}))
    assert client.list_state()[CHAT]["last_message"]
    client.receive("chats_changed", event(mine=[own(9, visible_from_seq=6, last_read_seq=5)]))
    assert client.list_state()[CHAT]["last_message"] is None
    client.receive("chats_changed", event(chats=[shared(6, message_count=5, last_message=message(5, 6))]))
    assert client.list_state()[CHAT]["last_message"] is None
    client.receive("chats_changed", event(chats=[shared(7, message_count=6, last_message=message(6, 7))]))
    assert client.list_state()[CHAT]["last_message"]["seq"] == 6


def test_a_hidden_chat_is_kept_and_shown_with_its_next_message() -> None:
    client = ClientModel(BORIS)
    client.read_list(listed(entry(5)))
    client.receive("chats_changed", event(mine=[own(9, visible_from_seq=6, last_read_seq=5, hidden=True)]))
    assert client.list_state() == {} and client.count_unread() == {"chats": 0, "messages": 0}
    client.receive("chats_changed", event(chats=[shared(6, message_count=6, last_user_seq=6)]))
    assert shown(client)["hidden"] and shown(client)["unread_count"] == 1
    assert client.ids_to_ask() == [] and client.count_unread() == {"chats": 1, "messages": 1}


def test_muted_and_archived_chats_are_not_counted_as_unread() -> None:
    for quiet, count in (
        ({"muted_until": "2999-01-01T00:00:00Z"}, 0),
        ({"muted_until": NOW}, 1),
        ({"archived_at": NOW}, 0),
        ({"marked_unread": True}, 1),
        ({"marked_unread": True, "last_read_seq": 5, "unread_count": 0}, 1),
    ):
        client = ClientModel(BORIS)
        client.read_list(listed(entry(5, **quiet)))
        assert client.count_unread()["chats"] == count, quiet
