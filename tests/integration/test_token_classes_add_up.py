"""Whatever the classes of tokens and their prices: requests, invoices, parts of usage and budgets say the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from itertools import count
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from sluice.api.native.bodies import GenerateRequest
from sluice.db.reports import Reports
from sluice.domain.errors import SluiceError
from sluice.domain.keys import digest
from sluice.domain.parameters import Parameters
from sluice.services.billing import usage
from sluice.services.invoices import invoice
from tests.support.ledger import set_clock, stop_the_clock, violations
from tests.support.service import Service, completed

WHOLE = {"cached_prompt": "prompt", "reasoning": "completion"}
MICRO = Decimal("0.000001")
# What "hello" reserves of the prompt and of the completion: no model reports more here.
PROMPT, COMPLETION = 5 + 64, 36


@dataclass(frozen=True)
class PriceSet:
    token_class: str
    price: Decimal
    days_ahead: int


@dataclass(frozen=True)
class Asked:
    """A request; its counts of parts may be more than the whole. Without tokens it is not answered."""

    tokens: tuple[int, int, int, int] | None
    is_rolled_up: bool


STEPS = st.one_of(
    st.builds(
        PriceSet,
        st.sampled_from(["prompt", "cached_prompt", "completion", "reasoning", "cached_prompt", "reasoning"]),
        st.decimals(min_value=0, max_value=50, places=3),
        st.sampled_from([0, 0, 1]),
    ),
    *[
        st.builds(
            Asked,
            st.one_of(
                st.none(),
                *[st.tuples(st.integers(0, PROMPT), st.integers(0, COMPLETION), st.integers(0, 80), st.integers(0, 40))]
                * 4,
            ),
            st.booleans(),
        )
    ]
    * 3,
    st.just("next day"),
)


@dataclass
class Prices:
    """What the prices of the days are."""

    days: dict[str, dict[int, Decimal]] = field(default_factory=dict)

    def put(self, token_class: str, day: int, price: Decimal) -> None:
        if self.own(token_class, day) != price:
            self.days.setdefault(token_class, {})[day] = price

    def own(self, token_class: str, day: int) -> Decimal | None:
        begun = [first for first in self.days.get(token_class, {}) if first <= day]
        return self.days[token_class][max(begun)] if begun else None

    def on(self, token_class: str, day: int) -> Decimal:
        price = self.own(token_class, day)
        if price is None:
            price = self.own(WHOLE[token_class], day)
        assert price is not None
        return price

    def cost(self, day: int, tokens: tuple[int, int, int, int]) -> Decimal:
        prompt, completion, cached, reasoning = tokens
        cached, reasoning = min(cached, prompt), min(reasoning, completion)
        counts = {
            "prompt": prompt - cached,
            "cached_prompt": cached,
            "completion": completion - reasoning,
            "reasoning": reasoning,
        }
        return sum((count * self.on(kind, day) for kind, count in counts.items()), Decimal(0)) * MICRO


class Books:
    """A service whose clock is set, and a user, a model and a budget for each example."""

    def __init__(self, service: Service) -> None:
        self.service = service
        # One connection for each role, however many examples there are.
        self.admin, self.worker = service.database("admin"), service.database("worker")
        self.rollups, self.submitter = service.database("rollup"), service.submitter()
        self.reports, self.reader = Reports(self.admin), service.ledger("status")
        self.numbers = count()

    def act(self, operation: str, **arguments: Any) -> None:
        self.admin.value("admin_run", operation=operation, arguments=Jsonb(arguments), invocation=None)

    def begin(self, limit: Decimal) -> None:
        number = next(self.numbers)
        self.user, self.model = f"user-{number}", f"model-{number}"
        self.key = digest(f"sluice_{number:043}")
        self.day, self.prices = 1, Prices()
        self.answered: dict[UUID, tuple[int, tuple[int, int, int, int]]] = {}
        self.move()
        self.act("model.set", model_id=self.model, backend="bedrock", backend_model="m", prices={})
        self.act("user.create", user_id=self.user, tier="premium")
        self.act("key.create", user_id=self.user, key_hash=self.key.hex(), key_prefix="key", scopes=["submit", "read"])
        self.set_price(PriceSet("prompt", Decimal(1), 0))
        self.set_price(PriceSet("completion", Decimal(2), 0))
        self.act("budget.set", user_id=self.user, limits={"monthly": str(limit)})
        self.level = limit

    def move(self) -> None:
        set_clock(self.service.owner, datetime(2031, 1, self.day, 12, tzinfo=UTC))

    def spent(self) -> tuple[Decimal, Decimal]:
        (row,) = self.service.rows("SELECT amount_used, amount_reserved FROM budgets WHERE user_id = %s", self.user)
        return row["amount_used"], row["amount_reserved"]

    def set_price(self, step: PriceSet) -> None:
        day = self.day + step.days_ahead
        given = {step.token_class: str(step.price), "valid_from": f"2031-01-{day:02}"}
        self.act("price.set", price_list="standard", model_id=self.model, **given)
        self.prices.put(step.token_class, day, step.price)

    def ask(self, step: Asked) -> None:
        before = sum(self.spent(), Decimal(0))
        wanted = GenerateRequest(prompt="hello", model=self.model, parameters=Parameters(max_tokens=COMPLETION))
        try:
            request_id = self.submitter.submit(self.key, wanted.submission()).request_id
        except SluiceError as refusal:
            if not refusal.code.startswith("budget_"):
                raise
            return
        if step.tokens is None:
            return
        held = sum(self.spent(), Decimal(0)) - before
        (claim,) = self.worker.call("request_claim", ids=[request_id], lease_seconds=60)
        names = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
        reported: dict[str, Any] = dict(zip(names, step.tokens, strict=True))
        outcome = completed(request_id, claim["attempt"], **reported)
        self.worker.call("request_settle", outcomes=Jsonb([outcome]), actor="worker")
        self.answered[request_id] = self.day, step.tokens
        assert sum(self.spent(), Decimal(0)) - before <= held, "a reservation is the most that it can cost"
        if step.is_rolled_up:
            self.rollups.call("rollup_usage")

    def do(self, step: PriceSet | Asked | str) -> None:
        if isinstance(step, PriceSet):
            self.set_price(step)
            # Only a price that changes may make what was accepted before dearer than the limit.
            self.level = max(self.level, sum(self.spent(), Decimal(0)))
        elif isinstance(step, Asked):
            self.ask(step)
        else:
            self.day += 1
            self.move()
            # A price that was set for today holds from here on, but changes nothing of the days before.
        assert sum(self.spent(), Decimal(0)) <= self.level, "the budget holds"

    def costs(self) -> dict[UUID, Decimal]:
        return {request_id: self.prices.cost(*each) for request_id, each in self.answered.items()}


def test_requests_invoices_usage_and_budgets_agree(service: Service) -> None:
    stop_the_clock(service.owner, datetime(2031, 1, 1, tzinfo=UTC))
    books = Books(service)

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(
        st.lists(STEPS, min_size=2, max_size=14),
        st.decimals(min_value=Decimal("0.0002"), max_value=Decimal("0.02"), places=6),
    )
    def check(steps: Sequence[PriceSet | Asked | str], limit: Decimal) -> None:
        books.begin(limit)
        for step in steps:
            books.do(step)

        costs = books.costs()
        total = sum(costs.values(), Decimal(0))
        for request_id, cost in costs.items():
            shown = books.reader.show(books.key, request_id).cost
            assert shown is not None
            assert Decimal(shown["amount"]) == cost
        assert books.spent()[0] == total
        for attribute in (None, "key", "tag:none"):
            document = invoice(books.reports, books.user, "2031-01", attribute=attribute)
            assert document["total"] == str(total.quantize(Decimal("0.01"), ROUND_HALF_UP))
            assert sum((Decimal(line["exact_amount"]) for line in document["lines"]), Decimal(0)) == total
            assert sum((Decimal(line["amount"]) for line in document["lines"]), Decimal(0)) == Decimal(
                document["total"]
            )
            assert document["unpriced_tokens"] == 0
        found = usage(books.reports, books.user, date(2031, 1, 1), date(2031, 1, 31))
        summed = [sum(month["total_tokens"] for month in found["months"])]
        assert summed == [sum(sum(tokens[:2]) for _, tokens in books.answered.values())]
        assert violations(service) == []

    check()
