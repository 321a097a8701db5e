"""Every error that a client can meet, in one tree: code, HTTP status and text, the same at both doors."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, ClassVar

MOST_TOLD = 20
LONGEST_DETAIL = 200


class ChatError(Exception):
    """Something a client did, or must know about."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    # Some refusals are themselves a change that has to stay, such as the end of a session whose token was stolen.
    commits: ClassVar[bool] = False

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: list[dict[str, str]] | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.errors = errors
        self.retry_after = retry_after
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
        }
        if self.errors is not None:
            problem["errors"] = self.errors
        if self.retry_after is not None:
            problem["retry_after"] = self.retry_after
        return problem


class BadCode(ChatError):
    """The code is wrong, used, or too old; ask for another."""

    status, code, commits = 400, "bad_code", True


class WebsocketOnly(ChatError):
    """Several nodes serve here, and long polling would reach any of them: connect with transports: ["websocket"]."""

    status, code = 400, "websocket_only"


class NotAuthenticated(ChatError):
    """This needs a valid access token."""

    status, code = 401, "not_authenticated"


class TokenExpired(ChatError):
    """The token has expired; get a new one from /auth/refresh or log in again."""

    status, code = 401, "token_expired"


class SessionRevoked(ChatError):
    """This session was ended; log in again."""

    status, code = 401, "session_revoked"


class BadCredentials(ChatError):
    """Wrong phone or password."""

    status, code = 401, "bad_credentials"


class RefreshReused(ChatError):
    """This refresh token was used before, so its session was ended; log in again."""

    status, code, commits = 401, "refresh_reused", True


class NotCreator(ChatError):
    """Only the creator of the group may do this."""

    status, code = 403, "not_creator"


class NotAuthor(ChatError):
    """Only the author of the message may do this."""

    status, code = 403, "not_author"


class PhoneNotVerified(ChatError):
    """This phone number has to be verified first: ask for a code with the purpose `verify`."""

    status, code = 403, "phone_not_verified"


class NotFound(ChatError):
    """There is nothing here."""

    status, code = 404, "not_found"


class ChatNotFound(ChatError):
    """There is no such chat, or you are not in it."""

    status, code = 404, "chat_not_found"


class MessageNotFound(ChatError):
    """There is no such message, or you can't see it."""

    status, code = 404, "message_not_found"


class UserNotFound(ChatError):
    """There is no such user."""

    status, code = 404, "user_not_found"


class MemberNotFound(ChatError):
    """This user is not a member of the chat."""

    status, code = 404, "member_not_found"


class AttachmentNotFound(ChatError):
    """There is no such attachment, or you can't see it."""

    status, code = 404, "attachment_not_found"


class SessionNotFound(ChatError):
    """You have no such session."""

    status, code = 404, "session_not_found"


class MethodNotAllowed(ChatError):
    """This address does not answer this method."""

    status, code = 405, "method_not_allowed"


class PhoneTaken(ChatError):
    """This phone number is registered already."""

    status, code = 409, "phone_taken"


class UsernameTaken(ChatError):
    """Somebody else has this username."""

    status, code = 409, "username_taken"


class ClientIdReused(ChatError):
    """This client_id was used before with other content."""

    status, code = 409, "client_id_reused"


class NoActiveChat(ChatError):
    """No chat is active; activate one or name a chat_id."""

    status, code = 409, "no_active_chat"


class NotAGroup(ChatError):
    """This works in groups only."""

    status, code = 409, "not_a_group"


class CreatorCannotLeave(ChatError):
    """The creator can't leave the group, only delete it."""

    status, code = 409, "creator_cannot_leave"


class MessageDeleted(ChatError):
    """This message was deleted."""

    status, code = 409, "message_deleted"


class GroupFull(ChatError):
    """The group has as many members as it may have."""

    status, code = 409, "group_full"


class AttachmentUsed(ChatError):
    """Another message carries this attachment already; upload the file again."""

    status, code = 409, "attachment_used"


class TooLarge(ChatError):
    """This is larger than allowed."""

    status, code = 413, "too_large"


class UnsupportedMediaType(ChatError):
    """Files of this type are not accepted."""

    status, code = 415, "unsupported_media_type"


class InvalidInput(ChatError):
    """The input is not valid; `errors` says where and why."""

    status, code = 422, "invalid_input"

    @classmethod
    def at(cls, pointer: str, code: str, detail: str) -> "InvalidInput":
        """One thing is wrong, at a JSON pointer into the input."""
        return cls(errors=[{"pointer": pointer, "code": code, "detail": detail}])

    @classmethod
    def found(cls, errors: Iterable[Mapping[str, Any]], *, skip: int = 0) -> "InvalidInput":
        """What a validation found; `skip` leaves out where FastAPI says body, query or path."""
        return cls(
            errors=[
                {
                    "pointer": "".join(f"/{_pointer_part(part)}" for part in error["loc"][skip:]),
                    "code": str(error["type"]),
                    "detail": _harmless(error["msg"]),
                }
                for error in errors
            ][:MOST_TOLD]
        )


class BadImage(ChatError):
    """This is not a picture that can be read: JPEG, PNG, WebP or GIF, as base64 or a data URI."""

    status, code = 422, "bad_image"


class RateLimited(ChatError):
    """That was too often; wait for `retry_after` seconds."""

    status, code = 429, "rate_limited"

    def __init__(self, detail: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class Internal(ChatError):
    """Something went wrong here; the request_id finds it in the log."""

    status, code = 500, "internal"


class Unavailable(ChatError):
    """The service can't answer now; try again."""

    status, code = 503, "unavailable"

    def __init__(self, detail: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(detail, retry_after=retry_after)


class UnknownCommand(ChatError):
    """There is no such command."""

    status, code = 404, "unknown_command"


def _pointer_part(part: str | int) -> str:
    return _harmless(str(part)).replace("~", "~0").replace("/", "~1")


def _harmless(text: str) -> str:
    """What was sent may be repeated here: as a field's name, or as a value in a message."""
    return text.encode(errors="replace").decode()[:LONGEST_DETAIL]


def all_errors() -> list[type[ChatError]]:
    """Every error of the tree, in the order of the documents."""
    return ChatError.__subclasses__()
