"""What Hypothesis chooses from for the ledger's state machine."""

from hypothesis import strategies as st

from sluice.domain.documents import Output
from tests.support.machine import KEYS, OVERHEAD
from tests.support.records import PERIODS, WINDOWS, Lifetime

users = st.sampled_from(sorted(KEYS))
limits = st.dictionaries(
    st.sampled_from(PERIODS),
    st.tuples(
        st.sampled_from([None, 2, 4, 9, 9, 30, 30, 0]), st.sampled_from([None, 200, 400, 900, 900, 3000, 3000, 0])
    ),
    min_size=1,
)
scopes = st.tuples(st.booleans(), st.sampled_from([None, *sorted(OVERHEAD)]), st.sampled_from(["daily", "monthly"]))
sizes = st.tuples(st.sampled_from(sorted(OVERHEAD)), st.integers(1, 150), st.integers(1, 90))
windows = st.sampled_from([None, None, None, *sorted(WINDOWS)])
lifetimes = st.one_of(
    *[st.sampled_from([Lifetime(100_000), Lifetime(3600), Lifetime(90)])] * 3,
    st.sampled_from([Lifetime(3600, begins=30), Lifetime(90, begins=400), Lifetime(begins=30, ends=100)]),
    st.sampled_from([Lifetime(), Lifetime(ends=50), Lifetime(ends=-1), Lifetime(begins=50, ends=40)])
    | st.sampled_from([Lifetime(300_000), Lifetime(begins=300_000)]),
)

ANSWER = Output.of_text("an answer").to_json()
