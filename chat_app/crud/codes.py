"""One-time codes: asking for one, and using it. A number that nobody has is treated as any other."""

import hmac
import secrets
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import and_, not_
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select

from chat_app.database import Transaction, read_clock
from chat_app.errors import BadCode, RateLimited
from chat_app.models import Code, User
from chat_app.models.codes import CodeRequest, Purpose
from chat_app.signing import sign

LIFETIME = timedelta(minutes=5)
RESEND_AFTER = timedelta(minutes=1)
MOST_ATTEMPTS = 5
FOR_NEW_NUMBERS = {Purpose.LOGIN, Purpose.CHANGE}


class NewCode(NamedTuple):
    """A code that was just made; `is_wanted` is false when nobody has the number and a code is of no use to it."""

    digits: str
    is_wanted: bool


async def request_code(db: Transaction, data: CodeRequest) -> NewCode:
    """Make a code, in the place of any before. Raises RateLimited when the last one was asked for just now."""
    now = await read_clock(db)
    digits = f"{secrets.randbelow(10**6):06}"
    values = {
        "hash": _hash(data.phone, data.purpose, digits),
        "attempts": 0,
        "expires_at": now + LIFETIME,
        "sent_at": now,
    }
    # Later than now is what was written before the clock went back, or at the same moment.
    is_recent = and_(col(Code.sent_at) > now - RESEND_AFTER, col(Code.sent_at) < now + RESEND_AFTER)
    written = await db.exec(
        insert(Code)
        .values(phone=data.phone, purpose=data.purpose, **values)
        .on_conflict_do_update(index_elements=["phone", "purpose"], set_=values, where=not_(is_recent))
        .returning(col(Code.sent_at))
    )
    if written.first() is None:
        sent_at = (
            await db.exec(select(Code.sent_at).where(Code.phone == data.phone, Code.purpose == data.purpose))
        ).one()
        raise RateLimited(retry_after=max(1, (sent_at + RESEND_AFTER - now).seconds))
    is_known = (await db.exec(select(User.id).where(User.phone == data.phone))).first() is not None
    return NewCode(digits, is_known or data.purpose in FOR_NEW_NUMBERS)


async def use_code(db: Transaction, phone: str, purpose: Purpose, digits: str) -> None:
    """Use a code up. Raises BadCode for a wrong one, and each is a try: after five the code is void."""
    code = await db.get(Code, (phone, purpose), with_for_update=True, populate_existing=True)
    now = await read_clock(db)
    given = _hash(phone, purpose, digits)
    if code is None or code.expires_at <= now or code.attempts >= MOST_ATTEMPTS:
        raise BadCode
    if not hmac.compare_digest(code.hash, given):
        code.attempts += 1
        await db.flush()
        raise BadCode
    # Void, but not gone: it still says when another may be asked for.
    code.attempts = MOST_ATTEMPTS
    await db.flush()


def _hash(phone: str, purpose: Purpose, digits: str) -> bytes:
    """With the secret: a million codes are tried in no time by whoever has only the table."""
    return sign("code|", f"{phone}|{purpose.value}|{digits}")
