"""The operations on files and uploads."""

from typing import Final

from openapi import file_answers as answers
from openapi.operation import Operation, Result
from sluice.api.openai import uploads

FILES: Final = "Files"
UPLOADS: Final = "Uploads"

_UPLOAD: Final = ("upload_not_found", "upload_finished")
_ASSEMBLED: Final = ("upload_part_unknown", "upload_part_repeated", "upload_incomplete", "upload_altered")

FILE_OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/files",
        "createFile",
        uploads.create_file,
        FILES,
        "submit",
        (Result(200, "The file.", answers.File),),
        errors=("invalid_input", "file_refused", "file_too_large", "file_quota_exceeded", "storage_unavailable"),
        body=answers.FileCreation,
        is_form=True,
        description="What does not fit one call is sent in parts: `POST /v1/uploads`.",
    ),
    Operation(
        "GET",
        "/v1/files",
        "listFiles",
        uploads.list_files,
        FILES,
        "read",
        (Result(200, "The page.", answers.FileList),),
        errors=("invalid_input",),
        query=uploads.FilesQuery,
    ),
    Operation(
        "GET",
        "/v1/files/{file_id}",
        "retrieveFile",
        uploads.file_view,
        FILES,
        "read",
        (Result(200, "The file.", answers.File),),
        errors=("file_not_found",),
        summary="One file of the caller",
    ),
    Operation(
        "GET",
        "/v1/files/{file_id}/content",
        "downloadFile",
        uploads.file_content,
        FILES,
        "read",
        (Result(302, "Where it can be fetched for some minutes.", None, ("Location", "Repr-Digest"), is_empty=True),),
        errors=("file_not_found", "storage_unavailable"),
    ),
    Operation(
        "DELETE",
        "/v1/files/{file_id}",
        "deleteFile",
        uploads.add_file_routes,
        FILES,
        "submit",
        (Result(200, "It is deleted.", answers.DeletedFile),),
        errors=("file_not_found",),
        summary="Delete a file",
        description="A batch that reads it goes on to its end.",
    ),
    Operation(
        "POST",
        "/v1/uploads",
        "createUpload",
        uploads.create_upload,
        UPLOADS,
        "submit",
        (Result(200, "The upload, which waits for its parts.", answers.Upload),),
        errors=("body_not_json", "invalid_input", "file_refused", "file_too_large", "file_quota_exceeded"),
        body=uploads.UploadRequest,
    ),
    Operation(
        "POST",
        "/v1/uploads/{upload_id}/parts",
        "addUploadPart",
        uploads.add_part,
        UPLOADS,
        "submit",
        (Result(200, "The part.", answers.UploadPart),),
        errors=(
            "invalid_input",
            *_UPLOAD,
            "upload_part_too_large",
            "upload_parts_exceeded",
            "storage_unavailable",
        ),
        body=answers.PartAddition,
        is_form=True,
    ),
    Operation(
        "POST",
        "/v1/uploads/{upload_id}/complete",
        "completeUpload",
        uploads.complete_upload,
        UPLOADS,
        "submit",
        (Result(200, "The upload, with its file.", answers.Upload),),
        errors=("body_not_json", "invalid_input", *_UPLOAD, *_ASSEMBLED, "file_refused", "storage_unavailable"),
        body=uploads.Completion,
        description="May be repeated: it answers with the same file.",
    ),
    Operation(
        "POST",
        "/v1/uploads/{upload_id}/cancel",
        "cancelUpload",
        uploads.add_file_routes,
        UPLOADS,
        "submit",
        (Result(200, "The upload, cancelled.", answers.Upload),),
        errors=_UPLOAD,
        summary="Give an upload up",
    ),
)
