"""Malformed packets are logged as single lines of JSON without their content, and not each of them."""

import asyncio
import json
from collections import Counter
from typing import Any
from uuid import uuid4

import httpx
import pytest

from chat_app.live.engine.sockets import MALFORMED_LINES
from tests.clients import DEADLINE
from tests.process import Process
from tests.raw import PATH, RawStream, frame
from tests.service import MakePerson

POLLING = "/socket.io/?EIO=4&transport=polling"
SECRET = "5ecre7"
TIMES = 60
NESTED = "[" * 20_000

# By whether they are sent after a login.
PACKETS = {
    False: [
        *("4", "4x", "47[]", "49", '4{"a":1}', "4[1]", "4null", "4 ", "40{", "41/", "42", "42[", "43", "44", "44{}"),
        *("45", "45-", "451-", '451-["x"]', "4599999999999-", "430[1]", '437{"a":1}', "461-7[]", "0", "5", "6", "2"),
        *(f"4{NESTED}", f"40{NESTED}", f"42{NESTED}", f"427{NESTED}", "4" + "9" * 5000, "42" + "9" * 5000 + "[]"),
    ],
    True: [
        *("4", "4x", '4{"a":1}', "4[1]", "4null", "44{}", '4599-7["x"]', '451-7["x",{"_placeholder":true,"num":9}]'),
        *('43["x"]', '437["x"]', "430[]", "461-7[]", "40{", f"42{NESTED}", f"427{NESTED}", f"4{NESTED}"),
    ],
}
ENDING = [frame(b"42\xff\xfe"), frame(b"\xff"), frame(b"9"), frame(b""), frame(b"x", 0xC1), frame(b"x", 0x8B)]
POSTED = [b"x", b"", b"9", b"4", b"4x", b"b!!!", b"\xff\xfe", b"d=", b"d", b"42[", b"\x1e", b"\x1e".join([b"4"] * 100)]
POSTED += [f"4{NESTED}".encode(), b"1\x1e5", b"4" * 300_000]


@pytest.fixture
async def logged(process: Process) -> Any:
    """`await logged()`: the lines that the process has written since the beginning of the test."""
    first = len(process.written)

    async def lines() -> list[str]:
        marker = uuid4().hex
        async with httpx.AsyncClient(base_url=process.base) as http:
            await http.get("/api/v1/users/me", headers={"X-Request-ID": marker})
        await process.wait_for(request_id=marker)
        return process.written[first:]

    return lines


def check(lines: list[str]) -> Counter[str]:
    """Check that every line is JSON without a traceback or content. Returns the logged packets by connection."""
    for line in lines:
        assert line.startswith("{"), line
        assert "Traceback" not in line and SECRET not in line, line
    parsed = [json.loads(line) for line in lines]
    assert [line for line in parsed if line["event"] == "crashed"] == []
    return Counter(line["connection"] for line in parsed if line["event"] == "malformed packet")


@pytest.mark.parametrize("is_logged_in", [False, True], ids=["before the login", "after the login"])
async def test_malformed_packets_over_a_websocket_are_logged(
    is_logged_in: bool, process: Process, logged: Any, make_person: MakePerson
) -> None:
    anna = await make_person("Anna")
    for packet in PACKETS[is_logged_in]:
        async with await (
            RawStream.connected(process.base, anna.token) if is_logged_in else RawStream.open(process.base)
        ) as stream:
            sent = frame(packet.encode() + (f'["{SECRET}"]'.encode() if packet[-1:] == "9" else b""))
            # The last packet is answered, or the connection closed, after all packets before it.
            stream.writer.write(sent * min(TIMES, 1_000_000 // len(sent)) + frame(b"40/last,") + frame(b"9"))
            async with asyncio.timeout(4 * DEADLINE):
                await stream.close_code()
    by_connection = check(await logged())
    assert len(by_connection) > len(PACKETS[is_logged_in]) // 4, (
        "packets have to be logged for this test to mean anything"
    )
    assert max(by_connection.values()) <= MALFORMED_LINES


async def test_frames_that_end_a_connection_are_logged(process: Process, logged: Any, make_person: MakePerson) -> None:
    anna = await make_person("Anna")
    for sent in ENDING:
        for stream in (await RawStream.open(process.base), await RawStream.connected(process.base, anna.token)):
            async with stream, asyncio.timeout(4 * DEADLINE):
                stream.writer.write(sent)
                await stream.close_code()
    # The libraries read everything before the end of the upgrade.
    async with httpx.AsyncClient(base_url=process.base) as http:
        sid = json.loads((await http.get(POLLING)).text[1:])["sid"]
    async with await RawStream.open(process.base, path=f"{PATH}&sid={sid}") as stream:
        stream.writer.write(frame(b"2probe") + frame(b"\xff\xfe"))
        assert await stream.close_code() == 1007
    check(await logged())


async def test_malformed_bodies_of_polling_are_logged(process: Process, logged: Any) -> None:
    async with httpx.AsyncClient(base_url=process.base) as http:
        for content in POSTED:
            sid = json.loads((await http.get(POLLING)).text[1:])["sid"]
            for _ in range(20):
                answer = await http.post(f"{POLLING}&sid={sid}", content=content)
                assert answer.status_code < 500, content[:20]
    by_connection = check(await logged())
    assert by_connection and max(by_connection.values()) <= MALFORMED_LINES


async def test_one_of_simultaneous_upgrades_succeeds(process: Process, logged: Any) -> None:
    async with httpx.AsyncClient(base_url=process.base) as http:
        sid = json.loads((await http.get(POLLING)).text[1:])["sid"]
    streams = [await RawStream.open(process.base, path=f"{PATH}&sid={sid}") for _ in range(2)]
    for stream in streams:
        stream.writer.write(frame(b"2probe"))
    for stream in streams:
        assert (await stream.read())[1] == b"3probe"
    for stream in streams:
        stream.writer.write(frame(b"5"))
    ending = [asyncio.create_task(stream.close_code()) for stream in streams]
    done, pending = await asyncio.wait(ending, timeout=DEADLINE, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1, "one connection stays, and the other is closed"
    for stream in streams:
        await stream.reset()
    await asyncio.wait(pending)
    check(await logged())


@pytest.mark.parametrize("header", ["X-Long: " + "x" * 10_000, "\r\n".join(f"X-{n}: x" for n in range(140))])
async def test_an_upgrade_that_only_one_library_can_read_is_answered(
    header: str, process: Process, logged: Any, make_person: MakePerson
) -> None:
    async with asyncio.timeout(DEADLINE):
        stream = await RawStream.open(process.base, header=header, answer=b"HTTP/1.1 4")
        await stream.reset()
    check(await logged())
