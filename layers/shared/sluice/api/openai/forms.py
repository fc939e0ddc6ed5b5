"""Bodies of the type multipart/form-data, as clients send files."""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2

from sluice.api.openai.errors import invalid
from sluice.domain.errors import SluiceError

_MOST_FIELDS: Final = 16
_FIELD_BYTES: Final = 4096
# A Lambda event has at most 6 MB, of which base64 leaves three quarters.
_MOST_BYTES: Final = 8_000_000


@dataclass(frozen=True)
class SentFile:
    """A file in a form."""

    filename: str | None
    content: bytes


@dataclass(frozen=True)
class Form:
    """A form with one file."""

    fields: Mapping[str, str]
    file: SentFile


def read_form(event: APIGatewayProxyEventV2, file_field: str) -> Form:
    """The form in a body, whose field of this name is a file.

    Raises:
        SluiceError: invalid_input, with the field at fault in `param`.
    """
    # Imported here: only uploads need it.
    import multipart  # type: ignore[import-untyped]  # noqa: PLC0415

    kind, options = multipart.parse_options_header(event.headers.get("content-type") or "")
    boundary = options.get("boundary")
    if kind != "multipart/form-data" or not boundary:
        raise invalid("Send the file as multipart/form-data, with the boundary in Content-Type.", None, "invalid_form")
    fields: dict[str, str] = {}
    file: SentFile | None = None
    content = _content(event)
    try:
        parser = multipart.MultipartParser(
            BytesIO(content),
            boundary,
            len(content),
            strict=True,
            part_limit=_MOST_FIELDS,
            spool_limit=_MOST_BYTES,
            memory_limit=_MOST_BYTES,
        )
        for part in parser:
            if part.name in fields or (part.name == file_field and file is not None):
                raise invalid(f"The field {part.name[:64]!r} is given twice.", part.name[:64], "duplicate_parameter")
            if part.name == file_field:
                file = SentFile(part.filename, part.raw)
            elif part.size > _FIELD_BYTES:
                raise invalid(f"The field {part.name[:64]!r} is too long.", part.name[:64], "string_above_max_length")
            else:
                fields[part.name] = part.raw.decode()
    except UnicodeDecodeError:
        raise invalid("A field of the form is not UTF-8.", None, "invalid_form") from None
    except multipart.MultipartError:
        raise invalid(
            "The form cannot be read: it is not whole, or has too many fields.", None, "invalid_form"
        ) from None
    if file is None:
        raise invalid(f"The form has no field {file_field!r}.", file_field, "missing_required_parameter")
    return Form(fields, file)


def _content(event: APIGatewayProxyEventV2) -> bytes:
    body = event.body or ""
    if not event.is_base64_encoded:
        return body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise SluiceError("invalid_input", "The body cannot be read.") from None
