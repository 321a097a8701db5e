"""Every error that a client can get, in one tree: code, HTTP status and text, the same over both transports."""

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import orjson

MOST_ERRORS = 20
LONGEST_NAME = 200
# The texts for the errors of a validation: by the pattern or the kind of the error, or by the text of a library.
DETAILS: dict[str, str] = orjson.loads((Path(__file__).parent / "details.json").read_bytes())


class ChatError(Exception):
    """An error for clients. Its code follows from the name of its class, its text is the docstring."""

    status: ClassVar[int]
    code: ClassVar[str]
    meaning: ClassVar[str]
    # Some errors come with a change that has to be committed, such as the end of a session whose token was stolen.
    commits: ClassVar[bool]
    retry_after: int | None

    def __init_subclass__(cls, *, status: int = 0, commits: bool = False, retry_after: int | None = None) -> None:
        if status:  # otherwise it is a kind of another error, for internal use
            cls.meaning = (cls.__doc__ or "").strip()
            cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
            cls.status, cls.commits, cls.retry_after = status, commits, retry_after

    def __init__(
        self, detail: str | None = None, *, errors: list[dict[str, str]] | None = None, retry_after: int | None = None
    ) -> None:
        self.detail = detail or self.meaning
        self.errors = errors
        self.retry_after = retry_after or self.retry_after
        super().__init__(self.detail)

    def problem(self, request_id: str | None) -> dict[str, Any]:
        """The RFC 9457 object, for HTTP bodies and for acks."""
        problem: dict[str, Any] = {
            "type": f"urn:chat:error:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            "errors": self.errors,
            "retry_after": self.retry_after,
        }
        return {name: value for name, value in problem.items() if value is not None or name == "request_id"}

    def reasons(self) -> dict[str, Any]:
        """What the log has of it: of invalid input no value, and no name of a field that the client made up."""
        first = (self.errors or [{"pointer": "", "code": self.detail}])[0]
        parent, slash, field = first["pointer"].rpartition("/")
        shown = "…" if first["code"] == "extra_forbidden" else field
        return {"code": self.code, "pointer": parent + slash + shown, "reason": first["code"]}


class BadCode(ChatError, status=400, commits=True):
    """The code is wrong, used, or too old; ask for another."""


class WebsocketOnly(ChatError, status=400):
    """This service has several nodes, so long polling does not work: connect with transports: ["websocket"]."""


class NotAuthenticated(ChatError, status=401):
    """Send a valid access token: over HTTP as `Authorization: Bearer <token>`, over Socket.IO as `auth: { token }`."""


class TokenExpired(ChatError, status=401):
    """The token has expired; get a new one from /auth/refresh or log in again."""


class SessionRevoked(ChatError, status=401):
    """This session was ended; log in again."""


class BadCredentials(ChatError, status=401):
    """Wrong phone or password."""


class RefreshReused(ChatError, status=401, commits=True):
    """This refresh token was used before, so its session was ended; log in again."""


class NotCreator(ChatError, status=403):
    """Only the creator of the group may do this."""


class NotAuthor(ChatError, status=403):
    """Only the author of the message may do this."""


class PhoneNotVerified(ChatError, status=403):
    """This phone number has to be verified first: ask for a code with the purpose `login`, and log in with that."""


class NotFound(ChatError, status=404):
    """Nothing exists at this address."""


class ChatNotFound(ChatError, status=404):
    """There is no such chat, or you are not in it."""


class MessageNotFound(ChatError, status=404):
    """There is no such message, or you can't see it."""


class UserNotFound(ChatError, status=404):
    """There is no such user."""


class MemberNotFound(ChatError, status=404):
    """This user is not a member of the chat."""


class AttachmentNotFound(ChatError, status=404):
    """There is no such attachment, or you can't see it."""


class SessionNotFound(ChatError, status=404):
    """You have no such session."""


class MethodNotAllowed(ChatError, status=405):
    """This address does not support this method."""


class TooSlow(ChatError, status=408):
    """The request arrived too slowly, or not at all."""


class PhoneTaken(ChatError, status=409):
    """This phone number is registered already."""


class UsernameTaken(ChatError, status=409):
    """Another user has this username."""


class ClientIdReused(ChatError, status=409):
    """This client_id was used before with other content."""


class NoActiveChat(ChatError, status=409):
    """No chat is active; activate one or name a chat_id."""


class NotAGroup(ChatError, status=409):
    """This works in groups only."""


class CreatorCannotLeave(ChatError, status=409):
    """The creator can't leave the group, only delete it."""


class MessageDeleted(ChatError, status=409):
    """This message was deleted."""


class GroupFull(ChatError, status=409):
    """The group has as many members as it may have."""


class AttachmentUsed(ChatError, status=409):
    """Another message carries this attachment already; upload the file again."""


class TooManyReactions(ChatError, status=409):
    """A message has at most 20 kinds of reactions, and 3 of one person."""


class TooManyPinned(ChatError, status=409):
    """As many messages of this chat are pinned as may be; unpin one first."""


class TooLarge(ChatError, status=413):
    """This is larger than allowed."""


class UnsupportedMediaType(ChatError, status=415):
    """Files of this type are not accepted."""


class InvalidInput(ChatError, status=422):
    """The input is not valid; `errors` lists where and why."""

    @classmethod
    def at(cls, pointer: str, code: str, detail: str) -> "InvalidInput":
        """One error, at a JSON pointer into the input."""
        return cls(errors=[{"pointer": pointer, "code": code, "detail": detail}])

    @classmethod
    def found(cls, errors: Iterable[Mapping[str, Any]], *, skip: int = 0) -> "InvalidInput":
        """The errors of a validation. `skip`: how many leading parts of each location to leave out."""
        return cls(errors=[_wrong(error, skip) for error in islice(errors, MOST_ERRORS)])


class BadImage(ChatError, status=422):
    """This is not a picture that can be read: JPEG, PNG, WebP or GIF, as base64 or a data URI."""


class RateLimited(ChatError, status=429, retry_after=1):
    """Too many requests. Wait `retry_after` seconds."""


# 45: a silent connection has ended by then.
class TooManyConnections(ChatError, status=429, retry_after=45):
    """This session, user or address has too many connections. Close one, or wait `retry_after` seconds."""


class HeadersTooLarge(ChatError, status=431):
    """The headers of the request are larger than 32 KB."""


class Internal(ChatError, status=500):
    """An unexpected error; the log has it under this request_id."""


class Unavailable(ChatError, status=503, retry_after=1):
    """The service can't answer now; try again."""


class UnknownCommand(ChatError, status=404):
    """There is no such command."""


def _wrong(error: Mapping[str, Any], skip: int) -> dict[str, str]:
    parts = (_harmless(str(part)).replace("~", "~0").replace("/", "~1") for part in error["loc"][skip:])
    pointer = "".join(f"/{part}" for part in parts)
    return {"pointer": pointer, "code": str(error["type"]), "detail": _detail(error)}


def _detail(error: Mapping[str, Any]) -> str:
    """Our own words: those of the library are for programmers, and may repeat what was sent."""
    facts = error.get("ctx", {})
    known = (DETAILS[key] for key in (facts.get("pattern"), error.get("msg"), error["type"]) if key in DETAILS)
    return next(known, DETAILS["value_error"]).format_map(facts)


def _harmless(name: str) -> str:
    """The names of unknown fields repeat what was sent."""
    return name.encode(errors="replace").decode()[:LONGEST_NAME]


def all_errors() -> list[type[ChatError]]:
    """Every error of the tree, in the order of the documents."""
    return ChatError.__subclasses__()
