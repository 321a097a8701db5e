"""An example for every schema of the documents: realistic, always the same, and valid."""

from typing import Any

from chat_app.models.base import LIMITS
from chat_app.models.users import Avatar

Schema = dict[str, Any]

# The demo data that `make run` writes: as Anna, most examples can be sent as they are.
ANNA = "8d4f6300-9ba0-529c-9a64-f04ad0cf7be4"
BORIS = "e1275bfc-3ccd-5e38-be76-c35300281922"
CLARA = "9d7dea98-db7f-5f44-84ca-daa5cfdb1277"
CHAT = "acf522a5-adf0-5a90-a899-aa3d5e3d7fea"
PHONE, PASSWORD = "+79000000001", "demo-password"
EARLIER, NOW = "2026-11-20T17:03:11.204518Z", "2026-11-21T09:15:42.731902Z"
TOKEN = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI5YjFkIn0.2fQ1bqCqkYkq0xN4b0m8v3h5Wc7c4mXo1r9e6t2y8uA"
MEDIA = "http://localhost:8000/media"
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="

# For the fields of these names; a model stands before a field that says something else there.
VALUES: dict[str, Any] = {
    name: value
    for names, value in (
        ("access_token token", TOKEN),
        ("active_chat_id chat_id id", CHAT),
        ("attachment next_cursor payload peer ChatMine.title Mine.title PresenceChanged.last_seen_at", None),
        ("attachment_id AttachmentRead.id", "01930a5e-5b00-7000-8000-000000000201"),
        ("bio", "Product, coffee, mountains."),
        ("client_id", "5b0d3f4e-2c1a-4c8e-9f57-6f1f3a0d9b11"),
        ("code", "482915"),
        ("content_type", "image/jpeg"),
        ("created_at joined_at", EARLIER),
        ("creator_id sender_id Ready.user_id UserBrief.id UserMe.id UserRead.id", ANNA),
        ("current_password password", PASSWORD),
        ("expires_at", "2026-12-21T09:15:42.731902Z"),
        ("expires_in", 900),
        ("file AttachmentRead.name", "hike.jpg"),
        ("has_before has_password is_current is_verified online typing", True),
        ("height", 1200),
        ("image", DOT),
        ("last_read_seq", 5),
        ("last_seen_at last_used_at pinned_at sent_at server_time updated_at", NOW),
        ("latitude", 43.3499),
        ("like_count", 3),
        ("limits", LIMITS),
        ("longitude", 42.4453),
        ("member_count", 4),
        ("member_ids user_ids", [BORIS, CLARA]),
        ("message_count others_read_seq Preview.seq", 6),
        ("name", "Anna Ivanova"),
        ("new_password", "a-longer-password"),
        ("phone Body_login.username", PHONE),
        ("preview_url", f"{MEDIA}/attachments/01930a5e/preview?expires=1732183200&signature=8f2c61d0"),
        ("refresh_token", "k3Jq0xN4b0m8v3h5Wc7c4mXo1r9e6t2y8uA"),
        ("removed replied", []),
        ("resend_in", 60),
        ("seq", 2),
        ("session_id SessionRead.id", "01930a5e-5b00-7000-8000-000000000301"),
        ("since", 8),
        ("size", 482113),
        ("sync", "1795301218008999.46"),
        ("text", "Shall we meet at nine?"),
        ("title", "Project Aurora"),
        ("token_type", "bearer"),
        ("unread_count visible_from_seq", 1),
        ("url", f"{MEDIA}/attachments/01930a5e/hike.jpg?expires=1732183200&signature=3b9e7a12"),
        ("user_agent", "Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0"),
        ("user_id", BORIS),
        ("username", "anna"),
        ("version", 9),
        ("width", 1600),
        ("Body_create_attachment.duration", 0),
        ("Body_login.client_id", ""),
        # A password here would end the reader's other sessions.
        ("CodeLogin.password", None),
        ("ChatRead.type ChatShared.type", "group"),
        ("Contact.name ContactCreate.name", "Clara Smirnova"),
        ("MessageRead.text MessageShared.text", "Welcome! This is where we plan the release."),
        ("Preview.sender_id", CLARA),
        ("Preview.text", "I'll fix the layout."),
        ("ResyncRequired.reason", "undelivered"),
        ("SessionEnded.code", "session_revoked"),
        ("UserCreate.phone", "+79161234567"),
        ("UserLookup.phone", "+79000000002"),
    )
    for name in names.split()
} | {size: f"{MEDIA}/avatars/01930a5e/{size}" for size in Avatar.model_fields}


def examples(schema: Schema, schemas: dict[str, Schema]) -> dict[str, Any]:
    """By name: one for each kind of a union that tells its kinds apart, otherwise a single one."""
    schema = _resolved(schema, schemas)
    if "discriminator" not in schema:
        return {"example": _value(schema, schemas)}
    field, mapping = schema["discriminator"]["propertyName"], schema["discriminator"]["mapping"]
    return {kind: {**_value({"$ref": ref}, schemas), field: kind} for kind, ref in mapping.items()}


def prefill(form: Schema) -> None:
    """Swagger fills in a form field by field, from the schema."""
    for field, value in _fields(form, {}).items():
        form["properties"][field]["examples"] = [value]


def _resolved(schema: Schema, schemas: dict[str, Schema]) -> Schema:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _value(schema: Schema, schemas: dict[str, Schema]) -> Any:
    """Something valid, or None where the table above lacks it: then the test of the documents says so."""
    schema = _resolved(schema, schemas)
    if "const" in schema:
        return schema["const"]
    for several in ("examples", "enum"):
        if several in schema:
            return schema[several][0]
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return _value(schema[choice][0], schemas)
    if schema.get("type") == "array":
        return [_value(schema["items"], schemas)]
    if "properties" in schema:
        return _fields(schema, schemas)
    return {"object": {}, "boolean": False}.get(schema.get("type", ""))


def _fields(schema: Schema, schemas: dict[str, Schema]) -> dict[str, Any]:
    """Optional fields are left out unless the table knows them: bounds of a page exclude each other."""
    value = {}
    for name, field in schema["properties"].items():
        known = [VALUES[key] for key in (f"{schema.get('title')}.{name}", name) if key in VALUES]
        if "const" not in field and known:
            value[name] = known[0]
        elif name in schema.get("required", []):
            value[name] = _value(field, schemas)
    return value
