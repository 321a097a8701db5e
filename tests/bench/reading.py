"""Reading over HTTP: pages of a long and a short history, chat lists of several sizes, catching up."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tests.bench import http_load, seed
from tests.bench.report import Experiment, Outcome
from tests.bench.seed import Chat, Person
from tests.bench.servers import Rig

LONG, SHORT = 1_000_000, 1_000
MISSED, PAGE = 1000, 100
LISTS = (10, 1_000, 10_000)
# The words of W11, by how many of a million messages have them.
WORDS = {"every message": "some", "1 of 1,000": "thousandth", "10 messages": "rare"}
# A number without common factors with the lengths, so that pages come from everywhere around the middle.
STRIDE = 7_919

Requests = Callable[[Chat, int], Callable[[int], bytes]]


class History(NamedTuple):
    url: str
    chats: dict[int, Chat]


class Lists(NamedTuple):
    url: str
    readers: dict[int, Person]


def experiments() -> list[Experiment]:
    return [
        Experiment("W5-latest", "the newest page of history", _both(_latest)),
        Experiment("W5-middle", "pages from the middle of the history", _both(_middle)),
        Experiment(
            "W5-orm",
            "the newest page, beside ORM rows and response_model without authentication",
            {"chat_app": partial(_read, _latest, SHORT), "ORM": partial(_read_by_orm, _latest, SHORT)},
        ),
        Experiment(
            "W6", "the first page of a chat list, by its length", {f"{n:,} chats": partial(_list, n) for n in LISTS}
        ),
        Experiment("W7", f"a page of {PAGE} changes, after {MISSED:,} that were missed", _both(_changes)),
        Experiment(
            "W11",
            "the search in 1,000 chats with a million messages, by how many have the word, beside the newest page",
            {name: partial(_search, f"messages?query={word}") for name, word in WORDS.items()}
            | {"newest page": partial(_search, "chats/{chat_id}/messages")},
        ),
    ]


def _both(requests: Requests) -> dict[str, Callable[[Rig, float], Outcome]]:
    return {f"of {length:,}": partial(_read, requests, length) for length in (LONG, SHORT)}


def _latest(chat: Chat, length: int) -> Callable[[int], bytes]:
    request = http_load.get(f"/api/v1/chats/{chat.id}/messages", chat.members[0].token)
    return lambda number: request


def _middle(chat: Chat, length: int) -> Callable[[int], bytes]:
    def request(number: int) -> bytes:
        before = length // 4 + number * STRIDE % (length // 2)
        return http_load.get(f"/api/v1/chats/{chat.id}/messages?before={before}", chat.members[0].token)

    return request


def _changes(chat: Chat, length: int) -> Callable[[int], bytes]:
    def request(number: int) -> bytes:
        since = length + 1 - MISSED + number * PAGE % MISSED
        return http_load.get(f"/api/v1/chats/{chat.id}/changes?since={since}&limit={PAGE}", chat.members[0].token)

    return request


def _read(requests: Requests, length: int, rig: Rig, seconds: float) -> Outcome:
    history = rig.once("history", _make_history)
    with rig.ours(history.url) as server:
        return http_load.measure(server, requests(_fresh(history.chats[length]), length), seconds)


def _read_by_orm(requests: Requests, length: int, rig: Rig, seconds: float) -> Outcome:
    history = rig.once("history", _make_history)
    with rig.orm(history.url) as server:
        return http_load.measure(server, requests(history.chats[length], length), seconds)


def _list(number: int, rig: Rig, seconds: float) -> Outcome:
    lists = rig.once("lists", _make_lists)
    request = http_load.get("/api/v1/chats", seed.fresh(lists.readers[number]).token)
    with rig.ours(lists.url) as server:
        return http_load.measure(server, lambda number: request, seconds)


def _search(path: str, rig: Rig, seconds: float) -> Outcome:
    searched = rig.once("search", _make_search)
    chat = _fresh(searched.chats[SHORT])
    request = http_load.get(f"/api/v1/{path.format(chat_id=chat.id)}", chat.members[0].token)
    with rig.ours(searched.url) as server:
        return http_load.measure(server, lambda number: request, seconds)


def _fresh(chat: Chat) -> Chat:
    return Chat(chat.id, [seed.fresh(chat.members[0])])


def _make_history(rig: Rig) -> History:
    chats = dict(zip((LONG, SHORT), seed.make_chats(2, 20), strict=True))
    url = rig.make_database()
    seed.write(url, seed.members_of(chats.values()), list(chats.values()))
    for length, chat in chats.items():
        seed.fill(url, [chat], length)
    return History(url, chats)


def _make_search(rig: Rig) -> History:
    reader, *others = seed.make_people(3)
    chats = [Chat(seed.new_id(), [reader, *others]) for _ in range(LONG // SHORT)]
    url = rig.make_database()
    seed.write(url, [reader, *others], chats)
    seed.fill(url, chats, SHORT)
    seed.add_words(url, [chat.id for chat in chats], WORDS["1 of 1,000"])
    seed.add_words(url, [chat.id for chat in chats[:10]], WORDS["10 messages"])
    return History(url, {SHORT: chats[0]})


def _make_lists(rig: Rig) -> Lists:
    """Half of each list are private chats, half are groups of three."""
    url = rig.make_database()
    readers = seed.make_people(len(LISTS))
    peers = seed.make_people(max(LISTS) // 2 + 1)
    chats = [
        Chat(seed.new_id(), [reader, peers[at], peers[at + 1]] if is_group else [reader, peers[at]])
        for reader, number in zip(readers, LISTS, strict=True)
        for at in range(number // 2)
        for is_group in (False, True)
    ]
    seed.write(url, [*readers, *peers], chats)
    seed.fill(url, chats, 3)
    return Lists(url, dict(zip(LISTS, readers, strict=True)))
