"""Every error that a client can get, in one tree: code, HTTP status and text, the same over both transports."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any, ClassVar

MOST_ERRORS = 20
LONGEST_DETAIL = 200
Wrong = list[dict[str, str]]


class ChatError(Exception):
    """An error that a client caused or has to know about."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    # Some errors come with a change that has to be committed, such as the end of a session whose token was stolen.
    commits: ClassVar[bool] = False
    retry_after: int | None = None

    def __init__(
        self, detail: str | None = None, *, errors: Wrong | None = None, retry_after: int | None = None
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.errors = errors
        self.retry_after = retry_after or self.retry_after
        super().__init__(self.detail)

    def problem(self, request_id: str | None) -> dict[str, Any]:
        """The RFC 9457 object, for HTTP bodies and for acks."""
        problem = {
            "type": f"urn:chat:error:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
        }
        more = {"errors": self.errors, "retry_after": self.retry_after}
        return problem | {name: value for name, value in more.items() if value is not None}


def _error(status: int, code: str, meaning: str, **more: Any) -> type[ChatError]:
    """A class of the tree. Its name follows from its code; its docstring is the text for clients."""
    name = code.title().replace("_", "")
    return type(name, (ChatError,), {"__doc__": meaning, "status": status, "code": code, **more})


BadCode = _error(400, "bad_code", "The code is wrong, used, or too old; ask for another.", commits=True)
WebsocketOnly = _error(
    400,
    "websocket_only",
    'This service has several nodes, so long polling does not work: connect with transports: ["websocket"].',
)
NotAuthenticated = _error(401, "not_authenticated", "This needs a valid access token.")
TokenExpired = _error(401, "token_expired", "The token has expired; get a new one from /auth/refresh or log in again.")
SessionRevoked = _error(401, "session_revoked", "This session was ended; log in again.")
BadCredentials = _error(401, "bad_credentials", "Wrong phone or password.")
RefreshReused = _error(
    401, "refresh_reused", "This refresh token was used before, so its session was ended; log in again.", commits=True
)
NotCreator = _error(403, "not_creator", "Only the creator of the group may do this.")
NotAuthor = _error(403, "not_author", "Only the author of the message may do this.")
PhoneNotVerified = _error(
    403,
    "phone_not_verified",
    "This phone number has to be verified first: ask for a code with the purpose `login`, and log in with that.",
)
NotFound = _error(404, "not_found", "Nothing exists at this address.")
ChatNotFound = _error(404, "chat_not_found", "There is no such chat, or you are not in it.")
MessageNotFound = _error(404, "message_not_found", "There is no such message, or you can't see it.")
UserNotFound = _error(404, "user_not_found", "There is no such user.")
MemberNotFound = _error(404, "member_not_found", "This user is not a member of the chat.")
AttachmentNotFound = _error(404, "attachment_not_found", "There is no such attachment, or you can't see it.")
SessionNotFound = _error(404, "session_not_found", "You have no such session.")
MethodNotAllowed = _error(405, "method_not_allowed", "This address does not support this method.")
TooSlow = _error(408, "too_slow", "The request arrived too slowly, or not at all.")
PhoneTaken = _error(409, "phone_taken", "This phone number is registered already.")
UsernameTaken = _error(409, "username_taken", "Somebody else has this username.")
ClientIdReused = _error(409, "client_id_reused", "This client_id was used before with other content.")
NoActiveChat = _error(409, "no_active_chat", "No chat is active; activate one or name a chat_id.")
NotAGroup = _error(409, "not_a_group", "This works in groups only.")
CreatorCannotLeave = _error(409, "creator_cannot_leave", "The creator can't leave the group, only delete it.")
MessageDeleted = _error(409, "message_deleted", "This message was deleted.")
GroupFull = _error(409, "group_full", "The group has as many members as it may have.")
AttachmentUsed = _error(
    409, "attachment_used", "Another message carries this attachment already; upload the file again."
)
TooLarge = _error(413, "too_large", "This is larger than allowed.")
UnsupportedMediaType = _error(415, "unsupported_media_type", "Files of this type are not accepted.")


class InvalidInput(ChatError):
    """The input is not valid; `errors` lists where and why."""

    status, code = 422, "invalid_input"

    @classmethod
    def at(cls, pointer: str, code: str, detail: str) -> "InvalidInput":
        """One error, at a JSON pointer into the input."""
        return cls(errors=[{"pointer": pointer, "code": code, "detail": detail}])

    @classmethod
    def found(cls, errors: Iterable[Mapping[str, Any]], *, skip: int = 0) -> "InvalidInput":
        """The errors of a validation. `skip`: how many leading parts of each location to leave out."""
        return cls(errors=[_wrong(error, skip) for error in islice(errors, MOST_ERRORS)])


BadImage = _error(
    422, "bad_image", "This is not a picture that can be read: JPEG, PNG, WebP or GIF, as base64 or a data URI."
)
RateLimited = _error(429, "rate_limited", "Too many requests. Wait `retry_after` seconds.", retry_after=1)
TooManyConnections = _error(
    429,
    "too_many_connections",
    "This session, user or address has too many connections. Close one, or wait `retry_after` seconds.",
    # A silent connection has ended by then.
    retry_after=45,
)
HeadersTooLarge = _error(431, "headers_too_large", "The headers of the request are larger than 32 KB.")
Internal = _error(500, "internal", "An unexpected error; the log has it under this request_id.")


class Unavailable(ChatError):
    """The service can't answer now; try again."""

    status, code, retry_after = 503, "unavailable", 1


UnknownCommand = _error(404, "unknown_command", "There is no such command.")


def _wrong(error: Mapping[str, Any], skip: int) -> dict[str, str]:
    pointer = "".join(f"/{_pointer_part(part)}" for part in error["loc"][skip:])
    return {"pointer": pointer, "code": str(error["type"]), "detail": _harmless(error["msg"])}


def _pointer_part(part: str | int) -> str:
    return _harmless(str(part)).replace("~", "~0").replace("/", "~1")


def _harmless(text: str) -> str:
    """Field names and messages may repeat what was sent."""
    return text.encode(errors="replace").decode()[:LONGEST_DETAIL]


def all_errors() -> list[type[ChatError]]:
    """Every error of the tree, in the order of the documents."""
    return ChatError.__subclasses__()
