"""Files and uploads, as OpenAI's clients manage them."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

from aws_lambda_powertools.event_handler import Response
from aws_lambda_powertools.event_handler.router import APIGatewayHttpRouter
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from sluice.api.exchange import Nothing, answer, body_text, caller_key
from sluice.api.native.results import redirect
from sluice.api.openai.errors import invalid
from sluice.api.openai.forms import read_form
from sluice.api.openai.reading import read_body, read_object
from sluice.domain.fields import Strict
from sluice.domain.uploads import (
    MAX_EXPIRY_SECONDS,
    MIN_EXPIRY_SECONDS,
    FileFacts,
    FilePurpose,
    StoredPurpose,
    check_filename,
    file_name,
    file_of,
    part_name,
    part_of,
    upload_name,
    upload_of,
)
from sluice.telemetry import logger

if TYPE_CHECKING:
    from sluice.services.files import FileManager

M = TypeVar("M", bound=BaseModel)

# So many descriptions of files fit an answer of Lambda's.
_PAGE: Final = 1000
# OpenAI's limit, which clients may ask for: they get several pages.
_MOST: Final = 10_000

Filename = Annotated[str, AfterValidator(check_filename)]
MimeType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9!#$&^_.+-]{1,49}/[A-Za-z0-9!#$&^_.+-]{1,49}$")]


class Expiry(Strict):
    """After how long a file expires."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_EXPIRY_SECONDS, le=MAX_EXPIRY_SECONDS)]


class FileForm(Strict):
    """The fields of POST /v1/files beside the file."""

    purpose: FilePurpose
    expires_after: Expiry | None = None


class FilesQuery(Strict):
    """The query of GET /v1/files."""

    after: str | None = None
    limit: int = Field(default=_PAGE, ge=1, le=_MOST)
    """A page has 1000 at most."""
    order: Literal["asc", "desc"] = "desc"
    purpose: StoredPurpose | None = None


class UploadRequest(Strict):
    """The body of POST /v1/uploads."""

    filename: Filename
    purpose: FilePurpose
    bytes: Annotated[int, Field(ge=1)]
    mime_type: MimeType
    expires_after: Expiry | None = None


class Completion(Strict):
    """The body of POST /v1/uploads/{id}/complete."""

    part_ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=10_000)]
    md5: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{32}$")] | None = None


def add_file_routes(router: APIGatewayHttpRouter, manager: Callable[[], "FileManager"]) -> None:
    """Add the routes under /v1/files and /v1/uploads. Of two that fit, the first counts."""

    @router.post("/v1/files")
    def _create() -> Response[str]:
        return create_file(manager(), router.current_event)

    @router.get("/v1/files")
    def _list() -> Response[str]:
        return list_files(manager(), router.current_event)

    @router.get("/v1/files/<file_id>/content")
    def _content(file_id: str) -> Response[Any]:
        return file_content(manager(), caller_key(router.current_event), file_id)

    @router.get("/v1/files/<file_id>")
    def _show(file_id: str) -> Response[str]:
        return answer(200, file_view(manager().show(caller_key(router.current_event), file_of(file_id))))

    @router.delete("/v1/files/<file_id>")
    def _delete(file_id: str) -> Response[str]:
        manager().delete(caller_key(router.current_event), file_of(file_id))
        return answer(200, {"id": file_id, "object": "file", "deleted": True})

    @router.post("/v1/uploads")
    def _begin() -> Response[str]:
        return create_upload(manager(), router.current_event)

    @router.post("/v1/uploads/<upload_id>/parts")
    def _add(upload_id: str) -> Response[str]:
        return add_part(manager(), router.current_event, upload_id)

    @router.post("/v1/uploads/<upload_id>/complete")
    def _complete(upload_id: str) -> Response[str]:
        return complete_upload(manager(), router.current_event, upload_id)

    @router.post("/v1/uploads/<upload_id>/cancel")
    def _cancel(upload_id: str) -> Response[str]:
        key_hash = caller_key(router.current_event)
        return answer(200, upload_view(manager().cancel(key_hash, upload_of(upload_id))))


def create_file(manager: "FileManager", event: APIGatewayProxyEventV2) -> Response[str]:
    """Upload a file."""
    key_hash, form = caller_key(event), read_form(event, "file")
    given: dict[str, Any] = dict(form.fields)
    # Clients write members of an object as fields of their own.
    expiry = {name: given.pop(field) for name in ("anchor", "seconds") if (field := f"expires_after[{name}]") in given}
    if expiry:
        given["expires_after"] = expiry | {name: _number(text) for name, text in expiry.items() if name == "seconds"}
    asked = read_object(FileForm, given)
    try:
        filename = check_filename(form.file.filename or "")
    except ValueError as error:
        raise invalid(f"The name of the file {error}.", "file") from None
    made = manager.create(key_hash, _facts(asked.purpose, filename, asked.expires_after), form.file.content)
    logger.info("file created", extra={"file_id": made["file_id"], "bytes": made["byte_length"]})
    return answer(200, file_view(made))


def list_files(manager: "FileManager", event: APIGatewayProxyEventV2) -> Response[str]:
    """A page of files."""
    key_hash = caller_key(event)
    given: dict[str, Any] = dict(event.query_string_parameters)
    if "limit" in given:
        given["limit"] = _number(given["limit"])
    query = read_object(FilesQuery, given)
    after = None if query.after is None else file_of(query.after)
    if query.after is not None and after is None:
        raise invalid(f"There is no file {query.after[:64]!r}.", "after")
    limit = min(query.limit, _PAGE)
    found = manager.page(
        key_hash, limit, after=None if after is None else str(after), order=query.order, purpose=query.purpose
    )
    page = [file_view(each) for each in found[:limit]]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return answer(200, {"object": "list", "data": page, **ends, "has_more": len(found) > limit})


def file_content(manager: "FileManager", key_hash: bytes, file_id: str) -> Response[Any]:
    """Where the content of a file is, for some minutes."""
    address, stored = manager.address(key_hash, file_of(file_id))
    return redirect(302, address, stored)


def create_upload(manager: "FileManager", event: APIGatewayProxyEventV2) -> Response[str]:
    """Announce a file that comes in parts."""
    key_hash, body = caller_key(event), read_body(UploadRequest, body_text(event), {})
    facts = _facts(body.purpose, body.filename, body.expires_after)
    return answer(200, upload_view(manager.begin(key_hash, facts, body.mime_type, body.bytes)))


def add_part(manager: "FileManager", event: APIGatewayProxyEventV2, upload_id: str) -> Response[str]:
    """Add a part to an upload."""
    key_hash, form = caller_key(event), read_form(event, "data")
    read_object(Nothing, form.fields)
    if not form.file.content:
        raise invalid("The part is empty.", "data", "empty_string")
    part = manager.add_part(key_hash, upload_of(upload_id), form.file.content)
    return answer(
        200,
        {
            "id": part_name(UUID(part["part_id"])),
            "object": "upload.part",
            "created_at": _seconds(part["created_at"]),
            "upload_id": upload_name(UUID(part["upload_id"])),
        },
    )


def complete_upload(manager: "FileManager", event: APIGatewayProxyEventV2, upload_id: str) -> Response[str]:
    """Put the parts of an upload together."""
    key_hash, body = caller_key(event), read_body(Completion, body_text(event), {})
    parts = []
    for number, name in enumerate(body.part_ids):
        part = part_of(name)
        if part is None:
            raise invalid(f"There is no part {name[:64]!r}.", f"part_ids[{number}]")
        parts.append(part)
    return answer(200, upload_view(manager.complete(key_hash, upload_of(upload_id), parts, body.md5)))


def file_view(file: Mapping[str, Any]) -> dict[str, Any]:
    """A file."""
    return {
        "id": file_name(UUID(file["file_id"])),
        "object": "file",
        "bytes": file["byte_length"],
        "created_at": _seconds(file["created_at"]),
        "expires_at": _seconds(file["expires_at"]),
        "filename": file["filename"],
        "purpose": file["purpose"],
        "status": "processed",
        "status_details": None,
    }


def upload_view(upload: Mapping[str, Any]) -> dict[str, Any]:
    """An upload, with its file once it is completed."""
    return {
        "id": upload_name(UUID(upload["upload_id"])),
        "object": "upload",
        "bytes": upload["byte_length"],
        "created_at": _seconds(upload["created_at"]),
        "expires_at": _seconds(upload["expires_at"]),
        "filename": upload["filename"],
        "purpose": upload["purpose"],
        "status": upload["status"],
        "file": None if upload["file"] is None else file_view(upload["file"]),
    }


def _facts(purpose: FilePurpose, filename: str, expiry: Expiry | None) -> FileFacts:
    return FileFacts(purpose, filename, expiry.seconds if expiry else None)


def _number(text: str) -> Any:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text


def _seconds(time: str | None) -> int | None:
    return None if time is None else int(datetime.fromisoformat(time).timestamp())
