"""The endpoints of the machine's users, and that each end of a request has exactly its events, in its own commit."""

from collections import Counter
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from psycopg.types.json import Jsonb

from sluice.domain.keys import digest
from tests.support.machine import KEYS, ExampleSource, Machine
from tests.support.records import TOLD_AS, Endpoint

_EVENTS = """
    SELECT v.request_id, v.event_type::text, coalesce(v.url, v.endpoint_id::text), v.state::text, v.data_id::text
    FROM webhook_events v
"""
# What is pending has not been changed since it was written.
_NOT_OF_THE_END = """
    SELECT v.event_id FROM webhook_events v
    WHERE v.state = 'pending' AND NOT EXISTS (
        SELECT FROM audit_log a WHERE a.request_id = v.request_id AND a.xact_id = v.xmin::text::bigint
        AND a.action IN ('request.completed', 'request.failed', 'request.cancelled', 'request.expired'))
"""
_TYPES = {*TOLD_AS.values(), "response.incomplete"}


class WebhookMachine(Machine):
    """A machine whose users have endpoints of webhooks. Nobody sends anything."""

    def __init__(self, source: ExampleSource) -> None:
        super().__init__(source)
        self.add_endpoint("ann", sorted(_TYPES))
        self.add_endpoint("bob", ["response.failed"])

    @rule(
        user=st.sampled_from(sorted(KEYS)),
        event_types=st.lists(st.sampled_from(sorted(_TYPES)), max_size=3, unique=True),
    )
    def adds_an_endpoint(self, user: str, event_types: list[str]) -> None:
        self.add_endpoint(user, event_types)

    def add_endpoint(self, user: str, event_types: list[str]) -> None:
        asked = {"url": "https://example.com/hooks", "name": "x", "event_types": event_types}
        (row,) = self.rows("webhook_manage", key_hash=digest(KEYS[user]), act="create", arguments=Jsonb(asked))
        who = self.ledger.users[user]
        assert row["outcome"] == ("ok" if who.is_active else "user_inactive")
        if who.is_active:
            who.endpoints[UUID(row["value"]["endpoint_id"])] = Endpoint(set(event_types))

    @precondition(lambda self: any(user.endpoints for user in self.ledger.users.values()))
    @rule(data=st.data(), act=st.sampled_from(["enable", "disable", "delete"]))
    def changes_an_endpoint(self, data: st.DataObject, act: str) -> None:
        """As an operator, who can also do it for a user that is not active."""
        every = [(user, endpoint_id) for user in self.ledger.users.values() for endpoint_id in user.endpoints]
        user, endpoint_id = data.draw(st.sampled_from(every))
        self.act(f"webhook.{act}", endpoint_id=str(endpoint_id))
        user.endpoints[endpoint_id].is_enabled = act == "enable"
        if act != "enable":
            self.ledger.drop_events(endpoint_id)
        if act == "delete":
            del user.endpoints[endpoint_id]

    @invariant()
    def events_equal_the_model(self) -> None:
        self.ledger.tell()
        expected = Counter(
            (event.request_id, event.event_type, str(event.to), "dead" if event.is_dead else "pending")
            for event in self.ledger.events
        )
        found = self.values(_EVENTS)
        assert Counter(row[:4] for row in found) == expected
        assert all(str(row[0]) == row[4] for row in found), "each names its request"
        assert self.values(_NOT_OF_THE_END) == [], "written in the commit of the end"
