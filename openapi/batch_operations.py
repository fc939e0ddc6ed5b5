"""The operations on batches."""

from typing import Final

from openapi import batch_answers as answers
from openapi.operation import Operation, Result
from sluice.api.openai import batches

BATCHES: Final = "Batches"

BATCH_OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/batches",
        "createBatch",
        batches.create_batch,
        BATCHES,
        "submit",
        (Result(200, "The batch, which is looked through next.", answers.Batch),),
        errors=(
            "body_not_json",
            "invalid_input",
            "file_not_found",
            "batch_file_unfit",
            "batch_file_too_large",
            "batches_exceeded",
        ),
        body=batches.BatchRequest,
    ),
    Operation(
        "GET",
        "/v1/batches",
        "listBatches",
        batches.list_batches,
        BATCHES,
        "read",
        (Result(200, "The page.", answers.BatchList),),
        errors=("invalid_input",),
        query=batches.BatchesQuery,
    ),
    Operation(
        "GET",
        "/v1/batches/{batch_id}",
        "retrieveBatch",
        batches.batch_view,
        BATCHES,
        "read",
        (Result(200, "The batch.", answers.Batch),),
        errors=("batch_not_found",),
        summary="One batch of the caller",
    ),
    Operation(
        "POST",
        "/v1/batches/{batch_id}/cancel",
        "cancelBatch",
        batches.add_batch_routes,
        BATCHES,
        "submit",
        (Result(200, "The batch: cancelling, or cancelled if it was.", answers.Batch),),
        errors=("batch_not_found", "batch_finished"),
        summary="Cancel a batch",
    ),
)
