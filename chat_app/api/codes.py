"""One-time codes: logging in, verifying and resetting with a code that goes to the phone."""

from fastapi import APIRouter, Request

from chat_app import auth
from chat_app.api.deps import CodeSenderDep, DatabaseDep, SessionDep, UserAgent, UserManagerDep, count_stranger
from chat_app.api.problems import responses
from chat_app.crud import codes, users
from chat_app.errors import BadCode, RateLimited
from chat_app.models.codes import CodeRequest, CodeSent, CodeUse, PasswordReset
from chat_app.models.sessions import Actor, Tokens
from chat_app.models.users import UserMe

router = APIRouter(prefix="/auth/codes", tags=["auth"])


@router.post("", status_code=202, responses=responses(RateLimited))
async def request_code(request: Request, database: DatabaseDep, sender: CodeSenderDep, data: CodeRequest) -> CodeSent:
    """Have six digits sent to a phone: to log in, to verify the number, or to reset the password.

    The answer is the same for every number. In development the code stands in the log.
    """
    sender.check()
    await count_stranger(request, phone=data.phone)
    async with database.transaction() as session:
        code = await codes.request_code(session, data)
    if code.is_wanted:
        sender.send(data.phone, code.digits)
    return CodeSent(expires_in=int(codes.LIFETIME.total_seconds()), resend_in=int(codes.RESEND_AFTER.total_seconds()))


@router.post("/login", responses=responses(BadCode))
async def login_with_code(
    request: Request, manager: UserManagerDep, data: CodeUse, user_agent: UserAgent = None
) -> Tokens:
    """Log in with a code. A number that is new becomes a user."""
    await count_stranger(request, phone=data.phone)
    return await auth.log_in_with_code(manager, data, user_agent)


@router.post("/verify", responses=responses(BadCode))
async def verify_phone(request: Request, session: SessionDep, manager: UserManagerDep, data: CodeUse) -> UserMe:
    """Verify a registered number with a code."""
    await count_stranger(request, phone=data.phone)
    user = await auth.verify_phone(manager, data)
    return await users.get_me(session, Actor(user.id, user.id))


@router.post("/reset", status_code=204, responses=responses(BadCode))
async def reset_password(request: Request, manager: UserManagerDep, data: PasswordReset) -> None:
    """Set a new password with a code. All sessions of the user end."""
    await count_stranger(request, phone=data.phone)
    await auth.reset_password(manager, data)
