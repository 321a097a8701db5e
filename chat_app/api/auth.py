"""Registration, login with a password or a code, refresh, logout."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Request

from chat_app import auth, metrics
from chat_app.api.deps import (
    CurrentActor,
    NodeDep,
    SessionDep,
    attempt,
    count_code,
    count_unauthenticated,
)
from chat_app.api.operations import Protected
from chat_app.api.problems import responses
from chat_app.crud import codes, sessions, users
from chat_app.errors import (
    BadCode,
    BadCredentials,
    NotAuthenticated,
    PhoneNotVerified,
    PhoneTaken,
    RefreshReused,
    SessionNotFound,
    SessionRevoked,
)
from chat_app.models.codes import CodeLogin, CodeRequest, CodeSent, CodeUse, PasswordChange, PasswordReset
from chat_app.models.sessions import Actor, RefreshRequest, SessionRead, Tokens
from chat_app.models.users import UserCreate, UserMe

router = APIRouter(prefix="/auth", tags=["auth"])
protected = APIRouter(route_class=Protected)


@router.post("/register", status_code=201, responses=responses(PhoneTaken))
async def register(request: Request, db: SessionDep, data: UserCreate) -> UserMe:
    """Register by phone number. It may be written in any form. Then log in with the same phone and password.

    If numbers have to be verified (`CHAT_PHONE_VERIFICATION=required`), log in with a code first. Until the first login
    the number can be registered again, with another name and password.
    """
    await count_unauthenticated(request)
    user = await auth.UserManager(db).create(data)
    return await users.get_me(db, Actor(user.id, user.id))


@router.post("/login", responses=responses(BadCredentials, PhoneNotVerified))
async def login(
    request: Request,
    db: SessionDep,
    username: Annotated[str, Form(description="The phone number.")],
    password: Annotated[str, Form(json_schema_extra={"format": "password"})],
) -> Tokens:
    """Log in with phone and password. Each login is a session of its own, with its own connections.

    Send a form, as OAuth 2 has it: `username` is the phone.

    After five wrong passwords an address has to wait. Logins with a code are counted separately.
    """
    async with metrics.count_login("password"), attempt(request, auth.plain_phone(username)) as device:
        return await auth.log_in(db, username, password, device)


@router.post("/refresh", responses=responses(NotAuthenticated, SessionRevoked, RefreshReused))
async def refresh(request: Request, db: SessionDep, data: RefreshRequest) -> Tokens:
    """Get new tokens for the same session; the refresh token changes with each use.

    Repeating the last one within 30 seconds gives the same answer; using an older one ends the session.
    """
    await count_unauthenticated(request)
    async with metrics.count_login("refresh"):
        return auth.SessionStrategy().tokens(await sessions.refresh_session(db, data.refresh_token))


@protected.post("/logout", status_code=204)
async def logout(db: SessionDep, actor: CurrentActor) -> None:
    """Log out: this session ends. Its connections get `session_revoked` and are closed."""
    await sessions.revoke_session(db, actor, actor.session_id)


@protected.get("/sessions")
async def list_sessions(db: SessionDep, actor: CurrentActor) -> list[SessionRead]:
    """List your sessions: the latest used first."""
    return await sessions.list_sessions(db, actor)


@protected.delete("/sessions/{session_id}", status_code=204, responses=responses(SessionNotFound))
async def revoke_session(db: SessionDep, actor: CurrentActor, session_id: UUID) -> None:
    """End one of your sessions. Its connections get `session_revoked` and are closed."""
    await sessions.revoke_session(db, actor, session_id)


@protected.post("/password", status_code=204, responses=responses(BadCredentials))
async def change_password(db: SessionDep, actor: CurrentActor, data: PasswordChange) -> None:
    """Change your password. Your other sessions end. `current_password` may be missing only if you have none."""
    await auth.change_password(db, actor, data)


@router.post("/codes", status_code=202)
async def request_code(request: Request, node: NodeDep, data: CodeRequest) -> CodeSent:
    """Send a code to a phone. Its six digits are valid for its purpose only: to log in, to verify the number of
    your account, to reset the password, to change your number to this one, or to delete your account.

    The answer is the same for every number. In development the code is in the log.
    """
    node.codes.check()
    await count_code(request, data.phone)
    async with node.database.transaction() as db:
        digits = await codes.request_code(db, data)
    if digits:
        node.codes.send(data.phone, digits)
    return CodeSent(expires_in=int(codes.LIFETIME.total_seconds()), resend_in=int(codes.RESEND_AFTER.total_seconds()))


@router.post("/codes/login", responses=responses(BadCode))
async def login_with_code(request: Request, db: SessionDep, data: CodeLogin) -> Tokens:
    """Log in with a code. A number that is new becomes a user, without a password unless you send one.

    If the number was registered but never verified, this makes you its only owner: the password that it was registered
    with is cleared and all other sessions end. `has_password` of `GET /users/me` shows whether one is set.
    """
    async with metrics.count_login("code"), attempt(request, data.phone) as device:
        return await auth.log_in_with_code(db, data, device)


@protected.post("/codes/verify", responses=responses(BadCode))
async def verify_phone(request: Request, db: SessionDep, actor: CurrentActor, data: CodeUse) -> UserMe:
    """Verify the number of your own account with a code. Password and sessions stay.

    The phone has to be that of the account whose access token is sent, otherwise 401.
    """
    async with attempt(request, data.phone):
        await auth.verify_phone(db, actor, data)
    return await users.get_me(db, actor)


@router.post("/codes/reset", status_code=204, responses=responses(BadCode))
async def reset_password(request: Request, db: SessionDep, data: PasswordReset) -> None:
    """Set a new password with a code. All sessions of the user end, and the number counts as verified."""
    async with attempt(request, data.phone):
        await auth.reset_password(db, data)


router.include_router(protected)
