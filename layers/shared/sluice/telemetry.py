"""Structured logs and metrics of a function: ids and figures only, never a prompt, a result or a key."""

import logging
import warnings

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

logger = Logger()
metrics = Metrics()

# An invocation without metrics is normal: health checks, refusals, tasks that found nothing to do.
warnings.filterwarnings("ignore", "No application metrics to publish")

# The layer's own modules log to the same place, in the same form.
_package = logging.getLogger("sluice")
_package.handlers = list(logger.handlers)
_package.setLevel(logger.log_level)
_package.propagate = False

__all__ = ["MetricUnit", "logger", "metrics"]
