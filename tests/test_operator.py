"""The operator's commands find faults made on purpose in a database of their own, and nothing else."""

import asyncio
import base64
import os
import shutil
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy import make_url, text
from sqlmodel import col

from chat_app import migrations
from chat_app.cli import inspection, operate
from chat_app.cli.seed import demo_id, seed
from chat_app.crud import attachments, avatars, groups, sessions
from chat_app.crud.attachments import Upload
from chat_app.crud.users import lock_user
from chat_app.database import Database
from chat_app.errors import UserNotFound
from chat_app.media.storage import Storage
from chat_app.models import User
from chat_app.models.sessions import Actor
from tests.clients import http_answer
from tests.conftest import new_database
from tests.media.pictures import loaded
from tests.process import ROOT
from tests.service import MakePerson
from tests.stores import keys_in

RUN_SECONDS = 40
# Longer than on an idle machine: no test here is about timeouts.
PATIENCE_SECONDS = 60


class Stored(NamedTuple):
    """A database with some rows of each kind, and its files."""

    url: str
    database: Database
    folder: Path
    storage: Storage

    async def change(self, statement: str, **values: object) -> None:
        """Break something by SQL, past the service."""
        async with self.database.engine.begin() as connection:
            done = await connection.execute(text(statement), values)
            assert done.rowcount, "something has to be changed for this test to mean anything"

    async def violations(self) -> list[str]:
        return [violation async for violation in inspection.verify(self.database, self.storage)]

    async def swept(self, *, is_deleting: bool) -> list[str]:
        return [line async for line in inspection.sweep(self.database, self.storage, is_deleting=is_deleting)]

    async def age(self, key: str) -> None:
        """Make a file two days old."""
        time = (datetime.now(UTC) - timedelta(days=2)).timestamp()
        os.utime(self.folder / key, (time, time))


@pytest.fixture(scope="module")
async def template(database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("media")
    async with new_database(database) as url:
        await asyncio.to_thread(migrations.upgrade, url)
        filled = Database(url, patience=PATIENCE_SECONDS)
        await fill(filled, Storage(folder.as_uri()))
        await filled.close()
        yield str(make_url(url).database), folder


@pytest.fixture
async def stored(template: tuple[str, Path], database: Database, tmp_path: Path) -> AsyncIterator[Stored]:
    name, files = template
    folder = tmp_path / "media"
    shutil.copytree(files, folder)
    async with new_database(database, name) as url:
        opened = Database(url, patience=PATIENCE_SECONDS)
        yield Stored(url, opened, folder, Storage(folder.as_uri()))
        await opened.close()


async def fill(database: Database, storage: Storage) -> None:
    """Write the demo data, a sent picture, an unsent video with a preview, an avatar and the picture of a group."""
    await seed(database)
    anna = Actor(demo_id("anna"), uuid4())
    sent = await put_file(database, storage, anna)
    await put_file(database, storage, anna, name="a.mp4", preview=BytesIO(loaded("JPEG")))
    async with database.engine.begin() as connection:
        carrier = "UPDATE message SET type = 'image' WHERE (chat_id, seq) = (:chat_id, 2)"
        carried = "UPDATE attachment SET (chat_id, seq) = (:chat_id, 2) WHERE id = :id"
        for statement in (carrier, carried):
            await connection.execute(text(statement), {"chat_id": demo_id("Project Aurora"), "id": sent})
    image = base64.b64encode(loaded("PNG")).decode()
    async with avatars.stored_avatar(anna, storage, image) as key, database.transaction() as db:
        await avatars.set_avatar(db, anna, key)
    group_id = demo_id("Project Aurora")
    stored = avatars.stored_avatar(anna, storage, image, group_id)
    async with stored as key, database.transaction() as db:
        await groups.update_group(db, anna, group_id, {"picture_key": key})


async def test_a_sweep_keeps_the_files_of_forwarded_messages(stored: Stored) -> None:
    copied = "id, owner_id, chat_id, seq, name, content_type, size, key, preview_key"
    await stored.change(
        f"""INSERT INTO attachment ({copied}) SELECT gen_random_uuid(), owner_id, chat_id, seq + 1, name, content_type,
            size, key, preview_key FROM attachment WHERE chat_id IS NOT NULL"""
    )
    await stored.change("DELETE FROM attachment WHERE seq = 2")
    before = keys_in(stored.storage)
    for key in before:
        await stored.age(key)
    assert await stored.swept(is_deleting=True) == []
    assert keys_in(stored.storage) == before


async def put_file(
    database: Database, storage: Storage, actor: Actor, name: str = "a.jpg", preview: BytesIO | None = None
) -> UUID:
    content, kind = (b"Moving", "video/mp4") if preview else (loaded("JPEG"), "image/jpeg")
    upload = Upload(BytesIO(content), name, kind, waveform=[1, 255], preview=preview)
    async with attachments.stored_attachment(actor, storage, upload) as row, database.transaction() as db:
        return (await attachments.create_attachment(db, row)).id


async def test_verify_finds_no_violation_in_data_of_the_service(stored: Stored) -> None:
    assert await stored.violations() == []


LAST = "(chat_id, seq) IN (SELECT id, message_count FROM chat WHERE type = 'group' LIMIT 1)"
BROKEN = {
    "seqs are not 1, 2, 3 …": [
        "UPDATE chat SET message_count = message_count + 1 WHERE type = 'group'",
        f"DELETE FROM message WHERE {LAST}",
        "UPDATE message SET seq = 0 WHERE seq = 1",
    ],
    "a message has no chat": ["UPDATE message SET chat_id = gen_random_uuid() WHERE seq = 3"],
    "the version is below that of a row": [
        f"UPDATE message SET version = 10000 WHERE {LAST}",
        "UPDATE membership SET version = 10000",
        "UPDATE membership SET joined_version = 10000",
        "UPDATE chat SET version = 1",
    ],
    "a message has `extra` that should not, or lacks it": [
        "UPDATE message SET extra = '{}' WHERE type = 'system'",
        "UPDATE message SET extra = '{}', deleted_at = now() WHERE type = 'text'",
        "UPDATE message SET extra = NULL WHERE type = 'custom'",
    ],
    "like_count is not the number of likes": [
        f"UPDATE message SET like_count = like_count + 1 WHERE {LAST}",
        'DELETE FROM "like"',
        'UPDATE "like" SET seq = seq + 10000',
    ],
    "the counts of reactions are not those of their rows": [
        "UPDATE message SET reactions = jsonb_set(reactions, '{0,count}', '5') WHERE reactions IS NOT NULL",
        "UPDATE message SET reactions = NULL",
        "DELETE FROM reaction",
        "UPDATE reaction SET seq = seq + 10000",
    ],
    "a message or a person has too many reactions": [
        "INSERT INTO reaction SELECT chat_id, seq, user_id, n::text, n FROM reaction, generate_series(1, 3) AS n",
        """INSERT INTO reaction SELECT chat_id, seq, gen_random_uuid(), n::text, n
            FROM reaction, generate_series(1, 20) AS n""",
    ],
    "a chat has too many pinned messages, or a system message is pinned": [
        "UPDATE message SET pinned_at = now() WHERE type = 'system'",
        """INSERT INTO message (chat_id, seq, version, type, sender_id, like_count, sent_at, pinned_at)
            SELECT chat_id, 1000 + n, 1, 'text', sender_id, 0, now(), now() FROM message, generate_series(1, 50) AS n
            WHERE pinned_at IS NOT NULL""",
    ],
    "member_count is not the number of members": [
        "UPDATE chat SET member_count = member_count - 1",
        "UPDATE membership SET removed_at = now()",
    ],
    "the creator of a group is no member": [
        "UPDATE membership SET removed_at = now() FROM chat WHERE id = chat_id AND user_id = creator_id",
        "UPDATE chat SET creator_id = gen_random_uuid() WHERE type = 'group'",
        "UPDATE chat SET creator_id = NULL WHERE type = 'group'",
    ],
    "last_user_seq is before the message of a user": [
        f"WITH ended AS (UPDATE message SET type = 'system' WHERE {LAST}) UPDATE chat SET last_user_seq = 0",
    ],
    "a read position is outside of what is visible": [
        "UPDATE membership SET last_read_seq = 10000",
        "UPDATE membership SET last_read_seq = -1",
        "UPDATE membership SET visible_from_seq = 0",
        "UPDATE membership SET visible_from_seq = last_read_seq + 2",
    ],
    "a draft answers a message that is not visible, or a hidden chat is marked as unread": [
        """UPDATE membership SET draft = '{"text": "", "reply_to": 10000}'""",
        """UPDATE membership SET draft = '{"text": "", "reply_to": 1}',
            visible_from_seq = 2, last_read_seq = greatest(last_read_seq, 1)""",
        "UPDATE membership SET hidden = true, marked_unread = true",
    ],
    "an attachment has no message": [
        "UPDATE attachment SET seq = 10000 WHERE chat_id IS NOT NULL",
        "UPDATE message SET deleted_at = now() WHERE type = 'image'",
    ],
    "a message has no attachment": [
        "DELETE FROM attachment WHERE chat_id IS NOT NULL",
        f"UPDATE message SET type = 'voice' WHERE {LAST}",
    ],
    "a file is missing or has another size": [
        "UPDATE attachment SET size = size + 1",
        "UPDATE attachment SET key = 'attachments/nowhere'",
        "UPDATE attachment SET preview_key = 'attachments/nowhere'",
        """UPDATE "user" SET avatar_key = 'nowhere' WHERE avatar_key IS NOT NULL""",
        "UPDATE chat SET picture_key = 'nowhere' WHERE picture_key IS NOT NULL",
    ],
}


@pytest.mark.parametrize(
    ("rule", "statement"), [(rule, statement) for rule, statements in BROKEN.items() for statement in statements]
)
async def test_verify_finds_every_violation(stored: Stored, rule: str, statement: str) -> None:
    await stored.change(statement)
    assert any(violation.startswith(f"{rule}: ") for violation in await stored.violations())


def test_every_rule_has_a_violation() -> None:
    assert BROKEN.keys() >= inspection.RULES.keys()


async def test_rows_deleted_during_verify_are_no_violations(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    size = stored.storage.size

    async def late(key: str) -> int | None:
        await stored.storage.delete([key])
        async with stored.database.engine.begin() as connection:
            await connection.execute(text("DELETE FROM attachment"))
            await connection.execute(text('UPDATE "user" SET avatar_key = NULL'))
            await connection.execute(text("UPDATE chat SET picture_key = NULL"))
        return await size(key)

    monkeypatch.setattr(stored.storage, "size", late)
    assert await stored.violations() == []


async def test_a_sweep_deletes_old_unused_files(stored: Stored) -> None:
    used = keys_in(stored.storage)
    strays = [
        f"attachments/{uuid4().hex}/{'a' * 32}",
        next(f"{key.rpartition('/')[0]}/{'b' * 32}" for key in used if key.startswith("attachments/")),
        f"avatars/{'a' * 40}.jpg/small",
    ]
    others = ["attachments/readme", "avatars/readme", "elsewhere/readme"]
    new = [f"attachments/{uuid4().hex}/{'c' * 32}"]
    for key in [*strays, *others, *new]:
        await stored.storage.put(key, b"x")
    for key in [*strays, *others, *used]:
        await stored.age(key)
    assert sorted(await stored.swept(is_deleting=False)) == sorted(f"file {key}" for key in strays)
    assert keys_in(stored.storage) == {*used, *strays, *others, *new}

    await stored.swept(is_deleting=True)
    assert keys_in(stored.storage) == {*used, *others, *new}
    assert await stored.swept(is_deleting=True) == []
    assert await stored.violations() == []


async def test_a_sweep_deletes_unsent_attachments(stored: Stored) -> None:
    before = keys_in(stored.storage)
    assert await stored.swept(is_deleting=True) == []
    await stored.change("UPDATE attachment SET created_at = created_at - interval '2 days'")
    (found,) = await stored.swept(is_deleting=False)
    assert await stored.swept(is_deleting=True) == [found]
    unsent = found.removeprefix("attachment ").replace("-", "")
    assert keys_in(stored.storage) == {key for key in before if unsent not in key} != before
    async with stored.database.engine.connect() as connection:
        sent_meanwhile = (await connection.scalars(text("SELECT id FROM attachment"))).all()
    assert len(sent_meanwhile) == 1
    assert await inspection._delete_unsent(stored.database, stored.storage, sent_meanwhile) == []
    assert await stored.violations() == []


async def run(stored: Stored, *arguments: str, typed: str = "", **environment: str) -> tuple[int | None, str, str]:
    """Run a command. Returns its status, stdout and stderr."""
    settings = {"CHAT_DATABASE_URL": stored.url, "CHAT_MEDIA_URL": stored.folder.as_uri()}
    settings |= {"CHAT_LOG_LEVEL": "ERROR", "CHAT_LOG_FORMAT": "console"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chat_app", *arguments),
        cwd=ROOT,
        env=os.environ | settings | environment,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    printed, errors = await asyncio.wait_for(process.communicate(typed.encode()), RUN_SECONDS)
    return process.returncode, printed.decode(), errors.decode()


class TestCommandLine:
    async def test_check_prints_each_part(self, stored: Stored) -> None:
        status, printed, _ = await run(stored, "check")
        assert (status, printed.split()) == (0, ["settings", "ok", "database", "ok", "migrations", "ok", "media", "ok"])

    async def test_check_prints_what_is_wrong(self, stored: Stored) -> None:
        await stored.change("UPDATE alembic_version SET version_num = '0001'")
        wrong = {"CHAT_ENV": "production", "CHAT_SECRET": "short", "CHAT_MEDIA_URL": "file:///proc/nowhere"}
        status, printed, errors = await run(stored, "check", **wrong)
        assert status == 1, errors
        lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
        assert lines["settings"].startswith("CHAT_SECRET must be set to 32 bytes")
        assert lines["database"] == "ok"
        assert lines["migrations"].startswith("some are missing")
        assert lines["media"].startswith("No such file")

        away = "chat:secret@127.0.0.1:9/0"
        urls = {"CHAT_DATABASE_URL": f"postgresql://{away}", "CHAT_BUS_URL": f"redis://{away}"}
        status, printed, _ = await run(stored, "check", **urls)
        assert status == 1
        lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
        assert "Connect call failed" in lines["database"] and "Connect call failed" in lines["bus"]
        assert "secret" not in printed

    async def test_create_user_reads_the_password_from_stdin(self, stored: Stored) -> None:
        arguments = ("create-user", "8 916 123-45-67", "--name", "Otto")
        status, printed, _ = await run(stored, *arguments, typed="secret-password\n")
        assert status == 0
        async with stored.database.engine.connect() as connection:
            query = text('SELECT phone, name, hashed_password FROM "user" WHERE id = :id')
            phone, name, hashed = (await connection.execute(query, {"id": UUID(printed.strip())})).one()
        assert (phone, name) == ("+79161234567", "Otto")
        assert hashed.startswith("$argon2id$")

        again = await run(stored, *arguments, typed="secret-password\n")
        assert again == (1, "", "This phone number is registered already.\n")
        status, _, errors = await run(stored, "create-user", "nobody", typed="short\n")
        assert status == 1
        assert {line.partition(":")[0] for line in errors.splitlines()} == {"phone", "password"}
        assert "short" not in errors.replace("shorter", "")

    async def test_verify_and_sweep_print_their_findings(self, stored: Stored) -> None:
        assert await run(stored, "verify") == (0, "Violations: 0\n", "")
        await stored.change("UPDATE chat SET member_count = 99 WHERE id = :id", id=demo_id("Project Aurora"))
        status, printed, _ = await run(stored, "verify")
        assert status == 1
        rule = "member_count is not the number of members"
        assert printed.splitlines()[0].startswith(f"{rule}: chat_id={demo_id('Project Aurora')} member_count=99 ")
        await stored.change("UPDATE attachment SET created_at = created_at - interval '2 days'")
        status, printed, _ = await run(stored, "sweep", "--delete")
        assert (status, printed.splitlines()[-1]) == (0, "Deleted: 1")
        assert await run(stored, "sweep") == (0, "Found: 0\n", "")


@pytest.mark.parametrize("named_by", ["id", "phone"])
async def test_revoke_sessions_ends_http_at_once_and_connections_soon(
    named_by: str, make_person: MakePerson, database: Database
) -> None:
    anna, boris = await make_person("Anna", connected=True), await make_person("Boris", connected=True)
    async with database.engine.connect() as connection:
        phone = await connection.scalar(text('SELECT phone FROM "user" WHERE id = :id'), {"id": anna.id})
    ended = await operate.revoke_sessions(database, anna.id if named_by == "id" else str(phone))
    assert ended == 1
    assert http_answer(await anna.http.get("/api/v1/users/me")).code == "session_revoked"
    # The Database object above is not the node's, so the node's own sweep has to notice.
    await anna.socket.wait_for("session_revoked")
    assert (await boris.socket.call("list_chats")).ok
    with pytest.raises(UserNotFound):
        await operate.revoke_sessions(database, "nobody")


async def test_revoke_sessions_ends_a_session_that_is_being_opened(database: Database, make_person: MakePerson) -> None:
    anna = await make_person("Anna")
    async with database.transaction() as db:
        await lock_user(db, col(User.id) == UUID(anna.id))
        await sessions.open_session(db, UUID(anna.id), None)
        revoking = asyncio.create_task(operate.revoke_sessions(database, anna.id))
        waiters = text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        async with database.engine.connect() as connection:
            while not revoking.done() and not await connection.scalar(waiters):
                pass
    assert await revoking == 2
