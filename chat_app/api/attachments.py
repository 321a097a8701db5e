"""Files of messages: upload first, then send."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, UploadFile
from pydantic import Field, Json
from typing_extensions import TypeAliasType

from chat_app.api.deps import CurrentActor, NodeDep, SessionDep
from chat_app.api.operations import Protected
from chat_app.api.problems import responses
from chat_app.crud import attachments
from chat_app.crud.attachments import Upload
from chat_app.errors import AttachmentNotFound, BadImage, UnsupportedMediaType
from chat_app.models.attachments import AttachmentRead

router = APIRouter(tags=["attachments"], route_class=Protected)

Duration = Form(ge=0, le=86_400, allow_inf_nan=False, description="Seconds, of audio and video.")
Side = Annotated[int | None, Form(ge=1, le=100_000, description="Pixels, of a video.")]
Level = Annotated[int, Field(ge=0, le=255, strict=True)]
# An alias, since FastAPI takes a list for a field that is sent several times.
Levels = TypeAliasType("Levels", Json[Annotated[list[Level], Field(max_length=200)]])
Waveform = Annotated[Levels | None, Form(description="A JSON array of at most 200 whole numbers from 0 to 255.")]


@router.post("/attachments", status_code=201, responses=responses(UnsupportedMediaType, BadImage))
async def create_attachment(
    node: NodeDep,
    actor: CurrentActor,
    file: UploadFile,
    duration: Annotated[float | None, Duration] = None,
    width: Side = None,
    height: Side = None,
    waveform: Waveform = None,
    preview: UploadFile | None = None,
) -> AttachmentRead:
    """Upload a file of at most 25 MB for one message; send the message with its id as `attachment_id`.

    For what is no picture the other fields are hints that members see: a `preview` is a JPEG of at most 200 KB, and
    loses its metadata. Of pictures the service finds them itself. Pictures of other formats than JPEG, PNG, WebP and
    GIF, such as HEIC and SVG, are kept as they are, as a download: only a message of the type `file` carries them.
    Pictures of at most 40 megapixels (JPEG: 64) are turned upright and lose their metadata; formats in which that
    can't be done are refused. A JPEG of more than 12 megapixels keeps its pixels as they are: its orientation is the
    only EXIF that stays in it, and `width` and `height` are those of the upright picture.
    A picture that takes more than two seconds to read is refused. Above 12 megapixels it needs a byte for 200 pixels.
    """
    shown = preview.file if preview else None
    upload = Upload(file.file, file.filename, file.content_type, duration, width, height, waveform, shown)
    stored = attachments.stored_attachment(actor, node.storage, upload)
    async with stored as attachment, node.database.transaction() as db:
        return await attachments.create_attachment(db, attachment)


@router.get("/attachments/{attachment_id}", responses=responses(AttachmentNotFound))
async def get_attachment(db: SessionDep, actor: CurrentActor, attachment_id: UUID) -> AttachmentRead:
    """Get an attachment with fresh addresses. Until it is sent only you see it, then everybody who sees the message."""
    return await attachments.get_attachment(db, actor, attachment_id)
