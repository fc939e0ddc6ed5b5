"""What work costs the server: statements, time in them, CPU of the backends, write-ahead log."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from sluice.db.connection import Connection

_STATEMENTS = """
    SELECT coalesce(sum(calls), 0)::bigint AS statements,
           coalesce(sum(total_exec_time + total_plan_time), 0)::float AS milliseconds
    FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
    WHERE d.datname = %s AND s.toplevel"""
# What is left out is about the server, or the meter's own message, and not about what a client sent.
_WAL = """
    SELECT coalesce(sum(combined_size), 0)::bigint AS bytes, coalesce(sum(fpi_size), 0)::bigint AS image_bytes,
           coalesce(sum(count), 0)::bigint AS records,
           coalesce(sum(count) FILTER (WHERE "resource_manager/record_type" = 'Transaction/COMMIT'), 0)::bigint
               AS commits
    FROM pg_get_wal_stats(%(start)s, %(end)s, true)
    WHERE "resource_manager/record_type" !~ '^(Standby|LogicalMessage)/|^XLOG/(?!FPI)'
      AND %(start)s::pg_lsn < %(end)s::pg_lsn"""

_BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'"
_SCHEDSTAT = "/proc/{}/schedstat"
HAS_CPU_TIMES = Path(_SCHEDSTAT.format("self")).exists()
"""CPU times of other processes are read from /proc, which macOS does not have."""


@dataclass
class Cost:
    """What something cost the server, as a sum.

    Attributes:
        statements: that clients sent; neither those inside functions, nor BEGIN and COMMIT.
        milliseconds: of planning and execution of these statements.
        cpu_ms: user and system time of the server's processes, for connections that stay open; 0 without /proc.
        wal_bytes: of write-ahead log, full-page images included.
        image_bytes: of them, full-page images: those depend on when the last checkpoint was.
        wal_records: number of its records.
        commits: transactions that wrote a commit record, for which the client waits until it is on disk.
    """

    statements: float = 0
    milliseconds: float = 0
    cpu_ms: float = 0
    wal_bytes: float = 0
    image_bytes: float = 0
    wal_records: float = 0
    commits: float = 0

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __truediv__(self, number: float) -> Self:
        return type(self)(*(getattr(self, each.name) / number for each in fields(self)))


class Meter:
    """Measures what is done in one database, while nothing is done in any other.

    Args:
        admin: a superuser's connection to another database of the server.
        dbname: the database that is measured.
    """

    def __init__(self, admin: Connection, dbname: str) -> None:
        self._admin = admin
        self._dbname = dbname

    @contextmanager
    def measure(self) -> Iterator[Cost]:
        """Measure what is done meanwhile; the cost that is returned is filled in at the end."""
        cost = Cost()
        before = self._statements()
        cpu = self._cpu_ms()
        start = self._position()
        yield cost
        end = self._position()
        # A process that has ended meanwhile, as that of a VACUUM before, is not counted.
        cost.cpu_ms = sum(ms - cpu.get(pid, 0) for pid, ms in self._cpu_ms().items())
        statements, milliseconds = self._statements()
        cost.statements, cost.milliseconds = statements - before[0], milliseconds - before[1]
        wal = self._admin.execute(_WAL, {"start": start, "end": end}).fetchone()
        assert wal is not None
        cost.wal_bytes, cost.image_bytes = wal["bytes"], wal["image_bytes"]
        cost.wal_records, cost.commits = wal["records"], wal["commits"]

    def _statements(self) -> tuple[int, float]:
        row = self._admin.execute(_STATEMENTS, (self._dbname,)).fetchone()
        assert row is not None
        return row["statements"], row["milliseconds"]

    def _position(self) -> str:
        row = self._admin.execute("SELECT pg_current_wal_insert_lsn()::text AS lsn").fetchone()
        assert row is not None
        # Only what is on disk can be read: this writes and flushes a message behind the position.
        self._admin.execute("SELECT pg_logical_emit_message(false, 'benchmarks', '', true)")
        return str(row["lsn"])

    def _cpu_ms(self) -> dict[int, float]:
        """User and system time of each of the server's processes, in milliseconds.

        /proc/PID/stat has the same time in steps of 10 ms, which is more than a hundred statements take.
        """
        times = {}
        for row in self._admin.execute(_BACKENDS, (self._dbname,)) if HAS_CPU_TIMES else []:
            with suppress(OSError):
                text = Path(_SCHEDSTAT.format(row["pid"])).read_text(encoding="ascii")
                times[row["pid"]] = int(text.split()[0]) / 1e6
        return times
