"""docs/history/seed-map.md is true: names exist, and objects called unchanged are unchanged."""

import re
from pathlib import Path
from typing import Any

import pytest

from sluice.services.admin import administer
from tests.support.seed import DRAWINGS, PAGE, ROOT, STATEMENTS
from tests.support.service import Service

# Objects that the seed does not create with CREATE TABLE.
OTHERS = (
    *("requests_y2023m01", "requests_y2023m02", "requests_archive", "request_stats"),
    *("request_stats.day", "request_stats.user_id", "request_stats.model_id", "request_stats.request_count"),
    *("request_stats.avg_processing_time", "request_stats.failure_count"),
)


def page_rows() -> list[tuple[str, list[str]]]:
    """Section and cells of every row of the map's tables."""
    found, section, is_map = [], "", False
    for line in PAGE.splitlines():
        if line.startswith("## "):
            section, is_map = line[3:], False
        elif not line.startswith("|"):
            is_map = False
        else:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if is_map and not set(line) <= set("|-"):
                found.append((section, cells))
            is_map = is_map or cells == ["in the seed", "here", "why different"]
    return found


def rows_of(section: str) -> list[tuple[str, str, str]]:
    """The cells of a section's rows, the seed's without backticks."""
    return [(seeds.replace("`", ""), here, why) for of, (seeds, here, why) in page_rows() if of == section]


def row_of(section: str, name: str) -> tuple[str, str]:
    matching = [(here, why) for seeds, here, why in rows_of(section) if re.match(rf"{re.escape(name)}(?![\w.])", seeds)]
    assert len(matching) == 1, f"{section}: {len(matching)} rows for {name}"
    return matching[0]


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


COLUMNS = """
    SELECT c.relname || '.' || a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull,
           pg_get_expr(d.adbin, d.adrelid) AS value
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v') AND a.attnum > 0 AND NOT c.relispartition
"""
CONSTRAINTS = """
    SELECT conname AS name, conrelid::regclass || ' ' || pg_get_constraintdef(oid) AS definition FROM pg_constraint
    WHERE connamespace = current_schema()::regnamespace AND contype IN ('p', 'u', 'f') AND conparentid = 0
"""
INDEXES = "SELECT indexname AS name FROM pg_indexes WHERE schemaname = current_schema() AND indexname LIKE 'idx%%'"


def draw(service: Service, ddl: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """Columns, constraints and indexes of a drawing of the seed, as PostgreSQL understands it."""
    with service.owner.transaction(force_rollback=True):
        service.owner.execute("CREATE SCHEMA drawing; SET LOCAL search_path = drawing")
        service.owner.execute(ddl)
        return (
            columns(service),
            [row["definition"] for row in service.rows(CONSTRAINTS)],
            [row["name"] for row in service.rows(INDEXES)],
        )


def columns(service: Service) -> dict[str, tuple[str, bool, str | None]]:
    """Type, NOT NULL and default of every column of the current schema."""
    return {row["name"]: (row["type"], row["attnotnull"], row["value"]) for row in service.rows(COLUMNS)}


@pytest.mark.parametrize("section", DRAWINGS)
def test_every_object_of_the_seed_has_a_row_on_the_page(service: Service, section: str) -> None:
    drawn, constraints, indexes = draw(service, DRAWINGS[section])
    wanted = [*drawn, *constraints, *indexes, *(OTHERS if section.startswith("High") else ())]

    for name in wanted:
        row_of(section, name)
    assert len(rows_of(section)) == len(wanted), "exactly one row for each object of the seed"


@pytest.mark.parametrize("section", DRAWINGS)
def test_objects_called_unchanged_are_unchanged(service: Service, section: str) -> None:
    drawn, constraints, _ = draw(service, DRAWINGS[section])
    ours, our_constraints = columns(service), {row["name"]: row["definition"] for row in service.rows(CONSTRAINTS)}
    compared = 0

    for name, definition in drawn.items():
        here, why = row_of(section, name)
        if why.startswith("unchanged"):
            counterpart = names_in(here)[0]
            assert counterpart.partition(".")[2] == name.partition(".")[2]
            assert ours[counterpart] == definition, name
            compared += 1
    for constraint in constraints:
        here, why = row_of(section, constraint)
        if why.startswith("unchanged"):
            # The table may have another name, but the constraint must be the same.
            assert our_constraints[names_in(here)[0]].partition(" ")[2] == constraint.partition(" ")[2]
            compared += 1
    assert section.startswith("High") or compared >= 12, "there are some"


def test_every_name_in_the_column_here_exists(service: Service) -> None:
    known = (
        set(columns(service))
        | set(administer.OPERATIONS)
        | set(STATEMENTS)
        | {"queued", "request_not_found", "output.sql_raw"}
    )
    for catalogue in (
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'sluice'::regnamespace",
        "SELECT proname AS name FROM pg_proc WHERE pronamespace = 'sluice'::regnamespace",
        "SELECT conname AS name FROM pg_constraint WHERE connamespace = 'sluice'::regnamespace",
    ):
        known |= {row["name"] for row in service.rows(catalogue)}

    named = {name for _, (_, here, _) in page_rows() for name in names_in(here)}
    unknown = {name for name in named if name not in known and not (ROOT / name).exists()}

    assert {name for name in unknown if not re.match(r"(GET|POST) /", name)} == set()
    assert len(named) > 100
    # Names outside that column that look like columns of ours.
    tables = {name.partition(".")[0] for name in columns(service)}
    for name in re.findall(r"`(\w+\.\w+)`", PAGE):
        if name.partition(".")[0] in tables and name not in known:
            assert any(name in draw(service, ddl)[0] for ddl in DRAWINGS.values()), name


def test_every_route_on_the_page_exists() -> None:
    native = ROOT / "layers/shared/sluice/api/native"
    handlers = "".join((native / f"{name}.py").read_text(encoding="utf-8") for name in ("submission", "reading"))
    routes = set(re.findall(r'@router\.(get|post)\("(/\w+)', handlers))
    named = re.findall(r"`(GET|POST) (/\w+)", PAGE)
    assert len(named) > 5
    assert {(method.lower(), path) for method, path in named} <= routes


def test_every_statement_on_the_page_is_tested() -> None:
    here = Path(__file__).parent
    files = [*here.glob("test_seed_*.py"), here.parent / "support/seed.py"]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert len(STATEMENTS) == len(re.findall(r"^-- \w+ \(", PAGE, re.MULTILINE)) > 15
    assert [name for name in STATEMENTS if f'"{name}"' not in source] == []
