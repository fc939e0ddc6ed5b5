"""The closed sets of words that the service defines and the command line offers.

The command line ships without the service, so it needs copies of them. tests/cli/test_vocabulary.py holds each of them
equal to the service's.
"""

from typing import Final

STATUSES: Final = ("queued", "processing", "completed", "failed", "cancelled", "expired")
"""Statuses of a request."""
FINISH_REASONS: Final = ("stop", "length", "content_filter", "tool_calls", "refusal", "other")
"""Why the model of a completed request stopped."""
SCOPES: Final = ("submit", "read")
"""Permissions of an API key."""
PERIODS: Final = {"minute": "per minute", "daily": "per day", "monthly": "per month"}
"""Periods of limits, and how the help texts name them."""
RESET_FREQUENCIES: Final = ("daily", "monthly")
"""Intervals at which used quota is reset."""
BACKENDS: Final = ("openai", "bedrock", "sagemaker")
"""Kinds of servers that run models."""
MODEL_KINDS: Final = ("chat", "embedding", "image", "speech")
"""What a model does."""
BATCH_STATUSES: Final = (
    "validating",
    "in_progress",
    "finalizing",
    "cancelling",
    "completed",
    "failed",
    "expired",
    "cancelled",
)
"""Of a batch."""
COMPLETION_WINDOWS: Final = ("2h", "8h", "24h")
"""Within which times requests that can wait are answered."""
WEBHOOK_STATES: Final = ("pending", "delivered", "dead")
"""Of an event of webhooks."""
ROLLUP_TASKS: Final = (
    "recover",
    "usage",
    "stats",
    "partitions",
    "archive",
    "audit",
    "expire",
    "verify",
    "close",
    "objects",
)
"""Scheduled tasks that can be run on demand."""
