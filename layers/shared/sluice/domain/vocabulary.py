"""The closed sets of the system, each written once; tests hold the schema, the template and the command line to them.

The states of a request are in states.py, the codes of errors in errors.py and failures.py, the backends in
sluice.backends.registry, the scheduled tasks in sluice.services.tasks.run, the functions in template.yaml.
"""

from typing import Final, Literal, get_args

Period = Literal["minute", "daily", "monthly"]
"""Of quotas, shortest first."""
PERIODS: Final[tuple[Period, ...]] = get_args(Period)

Frequency = Literal["daily", "monthly"]
"""Of a plan's reset, and of usage figures."""
FREQUENCIES: Final[tuple[Frequency, ...]] = get_args(Frequency)

Scope = Literal["submit", "read"]
"""Of API keys."""
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

TokenClass = Literal["prompt", "cached_prompt", "completion", "reasoning", "cached_answer"]
"""Of prices, in the order of invoices. Each token is of one class: prompt is what was not cached, completion what was
no reasoning. cached_answer counts no tokens but requests that were answered without a call of a model."""
TOKEN_CLASSES: Final[tuple[TokenClass, ...]] = get_args(TokenClass)
