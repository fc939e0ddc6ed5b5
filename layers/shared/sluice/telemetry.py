"""Structured logs and metrics of a function: ids and figures only, never a prompt, a result or a key."""

import logging
import warnings

from aws_lambda_powertools import Logger, Metrics, single_metric
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


def count_with_dimensions(name: str, count: int, **dimensions: str) -> None:
    """Count with more dimensions than the function's name: each combination of their values is a metric of its own."""
    with single_metric(name=name, unit=MetricUnit.Count, value=count) as metric:
        for dimension, value in dimensions.items():
            metric.add_dimension(name=dimension, value=value)


__all__ = ["MetricUnit", "count_with_dimensions", "logger", "metrics"]
