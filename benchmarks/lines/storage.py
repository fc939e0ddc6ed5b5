"""What is kept of a request, and how many updates are HOT: they touch no index, and leave no work for a vacuum.

Against the seed's SQL. Sizes are those of tables with their indexes, after usage, statistics and the chain were brought
up to date and the tables vacuumed. They do not change from round to round, so there is one.
"""

from collections.abc import Sequence

from benchmarks.bench import Bench
from benchmarks.report import Table
from benchmarks.sides import Compared, SluiceSide

_USERS = 50
_BATCH = 10
_ROUNDS = 10
_SIZE = """
    SELECT sum(pg_total_relation_size(oid))::bigint AS bytes, sum(pg_indexes_size(oid))::bigint AS index_bytes
    FROM pg_class WHERE relkind IN ('r', 'm') AND relnamespace IN ('public'::regnamespace, to_regnamespace('sluice'))"""
_UPDATES = """
    SELECT sum(n_tup_hot_upd)::float / nullif(sum(n_tup_upd), 0) AS hot, sum(n_tup_upd)::float AS updates
    FROM pg_stat_user_tables"""


def run(bench: Bench) -> Sequence[Table]:
    """Answer requests and look at the tables."""
    with bench.both(_USERS) as sides:
        table = Table("Kept of each request", [side.name for side in sides])
        for side in sides:
            table.add(side.name, _look(side, _ROUNDS * bench.effort.requests))
        return [table]


def _look(side: Compared, number: int) -> dict[str, float]:
    with side.address.connect() as connection:

        def sizes() -> tuple[int, int]:
            connection.execute("VACUUM (ANALYZE)")
            row = connection.execute(_SIZE).fetchone()
            assert row is not None
            return row["bytes"], row["index_bytes"]

        before = sizes()
        connection.execute("SELECT pg_stat_reset()")
        for first in range(0, number, _BATCH):
            side.answer([user % _USERS for user in range(first, first + _BATCH)])
        if isinstance(side, SluiceSide):
            while side.maintenance.seal_audit(10_000).is_more:
                pass
        side.roll_up()
        side.refresh_statistics()
        side.close()  # only then are all of its updates counted
        updates = connection.execute(_UPDATES).fetchone()
        assert updates is not None
        after = sizes()
    return {
        "tables and indexes, bytes": (after[0] - before[0]) / number,
        "of it indexes, bytes": (after[1] - before[1]) / number,
        "updates of rows": updates["updates"] / number,
        "HOT share of them": updates["hot"],
    }
