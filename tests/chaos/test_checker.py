"""The checker calls a correct service's history valid, names each planted fault, and is never green by accident."""

import random
import time
from collections.abc import Callable
from functools import cache

import orjson
import pytest

from tests.chaos.checker import RULES, judge
from tests.chaos.generate import history
from tests.chaos.history import Json, Recorder, read
from tests.chaos.index import History
from tests.chaos.spoil import MESSAGES, Records
from tests.chaos.spoil_service import SERVICE

PLANTED = MESSAGES | SERVICE
# Enough for a place for each fault.
OPERATIONS = 1800


@cache
def _valid(seed: int) -> bytes:
    return orjson.dumps(history(seed, OPERATIONS))


def valid(seed: int = 7) -> list[Json]:
    found: list[Json] = orjson.loads(_valid(seed))
    return found


@pytest.mark.parametrize("number", range(25))
def test_a_history_of_a_correct_service_is_valid(number: int) -> None:
    seed = random.getrandbits(32) if number else 1
    verdict = judge(history(seed, operations=600))
    assert (verdict.name, verdict.violations, verdict.unknown) == ("valid", [], []), f"seed {seed}"


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_named_with_its_evidence(plant: Callable[[Records], None]) -> None:
    records = Records(valid(), seed=1)
    plant(records)
    verdict = judge(records.all)
    assert verdict.name == "invalid"
    named = [found for found in verdict.violations if found.kind == PLANTED[plant]]
    assert named, verdict.by_kind
    assert all(any(sign.isdigit() for sign in found.evidence) for found in named), "no id, seq or connection"


def test_enough_faults_are_planted_and_each_rule_has_one() -> None:
    assert len(PLANTED) >= 25
    broken = set()
    for plant in PLANTED:
        records = Records(valid(), seed=1)
        plant(records)
        spoilt = History(records.all)
        broken |= {rule for rule in RULES if next(iter(rule(spoilt)), None)}
    assert {rule.__name__ for rule in set(RULES) - broken} == set()


def without_end(records: list[Json]) -> list[Json]:
    return records[:-1]


def without_an_operation(records: list[Json]) -> list[Json]:
    for record in records:
        if record["k"] == "run":
            record["operations"].append("set_avatar")
    return records


def without_a_final_read(records: list[Json]) -> list[Json]:
    records.remove(next(record for record in records if record["k"] == "final"))
    return records


def without_a_list(records: list[Json]) -> list[Json]:
    records.remove(next(record for record in records if record["k"] == "list"))
    return records


def without_a_fault(records: list[Json]) -> list[Json]:
    records[0]["faults"].append("kill-node")
    return records


def without_events(records: list[Json]) -> list[Json]:
    return [record for record in records if record["k"] != "event" or record["name"] != "messages_changed"]


def without_comparison(records: list[Json]) -> list[Json]:
    return [record for record in records if record["k"] not in ("kept", "fresh")]


@pytest.mark.parametrize(
    "take",
    [
        *(without_end, without_an_operation, without_a_final_read, without_a_list, without_a_fault, without_events),
        without_comparison,
    ],
)
def test_what_proves_nothing_is_not_called_valid(take: Callable[[list[Json]], list[Json]]) -> None:
    assert judge(take(valid())).unknown


def test_an_empty_history_is_unknown() -> None:
    assert judge([]).name == "unknown"


def test_a_violation_outweighs_what_is_unknown() -> None:
    records = Records(valid(), seed=1)
    next(iter(PLANTED))(records)
    assert judge(records.all[:-1]).name == "invalid"


def test_the_time_of_a_fault_does_not_count_as_deafness() -> None:
    records = Records(valid(), seed=1)
    for name, plant in {plant.__name__: plant for plant in PLANTED}.items():
        if name == "events_stop_in_silence":
            plant(records)
    last = records.all[-1]["t"]
    records.insert({"k": "fault", "t": 0.5, "until": last - 1, "name": "bus-kill"})
    assert "missed" not in {found.kind for found in judge(records.all).violations if "reached" in found.evidence}


def test_a_history_is_read_as_it_was_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    recorder = Recorder(tmp_path / "history.jsonl")
    op = recorder.invoke("send_message", {"chat_id": "c"}, user="u", session="s", conn=None, node="a", via="http")
    recorder.write("return", op=op, outcome="unknown", code="closed")
    recorder.close()
    with recorder.path.open("ab") as file:
        file.write(b'{"k":"eve')
    assert [record["k"] for record in read(recorder.path)] == ["invoke", "return"], "the torn line is left out"


def test_a_hundred_thousand_operations_take_seconds() -> None:
    """Against a baseline of the same machine and moment: the time that it takes to read the records once."""
    records = history(1, operations=20_000)
    text = b"\n".join(orjson.dumps(record) for record in records)
    began = time.process_time()
    for line in text.split(b"\n"):
        orjson.loads(line)
    reading, began = time.process_time() - began, time.process_time()
    assert judge(records).name == "valid"
    assert time.process_time() - began < 60 * reading
