"""One-time codes: making and using them. A number without an account is treated like any other."""

import hmac
import secrets
from datetime import timedelta

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


async def request_code(db: Transaction, data: CodeRequest) -> str | None:
    """Make a code, which replaces the former one. Raises RateLimited soon after that one was requested.

    None if the number has no account and the code would be of no use: it need not be sent.
    """
    now = await read_clock(db)
    digits = f"{secrets.randbelow(10**6):06}"
    hashed = _hash(data.phone, data.purpose, digits)
    values = {"hash": hashed, "attempts": 0, "expires_at": now + LIFETIME, "sent_at": now}
    # A time later than now was written before the clock went back, or at the same moment.
    is_recent = and_(col(Code.sent_at) > now - RESEND_AFTER, col(Code.sent_at) < now + RESEND_AFTER)
    written = await db.exec(
        insert(Code)
        .values(phone=data.phone, purpose=data.purpose, **values)
        .on_conflict_do_update(index_elements=["phone", "purpose"], set_=values, where=not_(is_recent))
        .returning(col(Code.sent_at))
    )
    if written.first() is None:
        former = select(Code.sent_at).where(Code.phone == data.phone, Code.purpose == data.purpose)
        sent_at = (await db.exec(former)).one()
        raise RateLimited(retry_after=max(1, (sent_at + RESEND_AFTER - now).seconds))
    is_known = (await db.exec(select(User.id).where(User.phone == data.phone))).first() is not None
    return digits if is_known or data.purpose in FOR_NEW_NUMBERS else None


async def use_code(db: Transaction, phone: str, purpose: Purpose, digits: str) -> None:
    """Use a code up. Raises BadCode for a wrong one; after five wrong ones the code is void."""
    code = await db.get(Code, (phone, purpose), with_for_update=True, populate_existing=True)
    now = await read_clock(db)
    given = _hash(phone, purpose, digits)
    if code is None or code.expires_at <= now or code.attempts >= MOST_ATTEMPTS:
        raise BadCode
    if not hmac.compare_digest(code.hash, given):
        code.attempts += 1
        await db.flush()
        raise BadCode
    # Void, but not deleted: its time decides when another may be requested.
    code.attempts = MOST_ATTEMPTS
    await db.flush()


def _hash(phone: str, purpose: Purpose, digits: str) -> bytes:
    """With the secret: without it the table alone would be enough to try a million codes."""
    return sign("code|", f"{phone}|{purpose.value}|{digits}")
