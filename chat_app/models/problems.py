"""The schema of the error object of both transports, for the documents; `errors.py` makes the object."""

from sqlmodel import Field, SQLModel

from chat_app.errors import all_errors


class FieldProblem(SQLModel):
    """One error in the input."""

    pointer: str = Field(description="A JSON pointer into the input.")
    code: str
    detail: str


class Problem(SQLModel):
    """An RFC 9457 problem. Branch on `code`; `detail` is text for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(schema_extra={"json_schema_extra": {"enum": sorted({error.code for error in all_errors()})}})
    request_id: str | None = Field(description="Finds this request in the service's logs.")
    errors: list[FieldProblem] = Field(default=[], description="With 422 `invalid_input`: each error and its place.")
    retry_after: int | None = Field(default=None, description="With 429 and 503: seconds to wait.")
