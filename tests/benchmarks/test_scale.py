"""The arithmetic of docs/scale.md on made-up inputs, and what is said of inputs that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.scale import page
from benchmarks.scale.__main__ import main
from benchmarks.scale.assumptions import Assumptions, Load
from benchmarks.scale.capacity import (
    SECONDS,
    Inputs,
    by_iops,
    by_throughput,
    capacities,
    environments,
    fits,
    one_user,
    processor_ms,
)
from benchmarks.scale.cost import bill, chosen, storage_gb, worker_usd_per_million
from benchmarks.scale.inputs import PRICES, Figures, Prices, ScaleError, Template, read_figures, read_prices

FIGURES = Figures(
    lifecycle_cpu=1.0,
    status=0.25,
    upkeep=0.5,
    wal_bytes=10_000,
    commits=1.0,
    kept_bytes=8192,
    locked=0.5,
    one_user=100,
    fifty_users=1000,
    machine="a machine",
    date="2026-01-01",
)
TEMPLATE = Template(
    {
        "Parameters": {"ApiMemory": {"Default": 512}, "WorkerMemory": {"Default": 1024}},
        "Mappings": {"DatabaseClasses": {"small": {"MaxConnections": "80"}, "large": {"MaxConnections": "1000"}}},
        "Resources": {
            "Fn::ForEach::Functions": ["Function", ["One", "Two"], {}],
            "Alarm": {"Type": "AWS::CloudWatch::Alarm"},
            "Database": {"Type": "AWS::RDS::DBInstance", "Properties": {"AllocatedStorage": "20"}},
            "RequestQueue": {"Type": "AWS::SQS::Queue", "Properties": {"ReceiveMessageWaitTimeSeconds": 20}},
            "WorkerFunction": {"Type": "F", "Properties": {"Events": {"Requests": {"Properties": {"BatchSize": 10}}}}},
            "RollupFunction": {
                "Type": "F",
                "Properties": {
                    "Events": {
                        "A": {"Properties": {"ScheduleExpression": "rate(1 hour)"}},
                        "B": {"Properties": {"ScheduleExpression": "cron(5 0 * * ? *)"}},
                    }
                },
            },
        },
    }
)
ASSUMED = Assumptions(
    utilisation=0.5, peak=4, polls=3, page_writes=2, wal_growth=2, model_seconds=2, worker_seconds=0, traced=0
)


def _prices(**changes: Any) -> dict[str, Any]:
    names = json.loads(PRICES.read_text())["prices"]
    graviton = {"processor": "Graviton3", "memory_gib": 1, "source": "nowhere"}
    prices: dict[str, Any] = {
        "date": "2026-01-01",
        "region": "nowhere-1",
        "currency": "USD",
        "prices": {name: {"price": 1, "source": "nowhere"} for name in names},
        "storage": {"iops": 3000, "mb_per_second": 125, "source": "nowhere"},
        "classes": {
            "small": {"vcpus": 2, "baseline": 0.1, "usd_hour": 0.5, **graviton},
            "large": {"vcpus": 4, "baseline": 1, "usd_hour": 2, **graviton},
        },
    }
    return prices | changes


INPUTS = Inputs(Prices.model_validate_json(json.dumps(_prices())), FIGURES, TEMPLATE, ASSUMED)


def test_a_request_costs_its_lifecycle_its_other_reads_and_its_upkeep() -> None:
    assert processor_ms(INPUTS) == 1.0 + 2 * 0.25 + 0.5


def test_a_class_carries_what_its_processors_do_in_the_share_that_is_used() -> None:
    small, large = capacities(INPUTS)
    # vCPUs x speed x share / 2 ms
    assert small.by_processor == pytest.approx(2 * 0.8 * 0.5 / 0.002)
    assert large.by_processor == pytest.approx(4 * 0.8 * 0.5 / 0.002)


def test_a_burstable_class_lasts_for_its_baseline_and_pays_for_more() -> None:
    small, large = capacities(INPUTS)
    assert small.lasting == pytest.approx(2 * 0.8 * 0.1 / 0.002)
    assert small.surplus_usd_month == pytest.approx(2 * (0.5 - 0.1) * 730)
    assert (large.lasting, large.surplus_usd_month) == (large.by_processor, 0)
    assert small.average(4) == small.lasting, "bursts are for the peaks"
    assert small.average(10) == pytest.approx(small.by_processor / 10)


def test_storage_is_bound_by_writes_and_by_bytes() -> None:
    assert by_iops(INPUTS) == pytest.approx(3000 * 0.5 / (1 + 2 * 1))  # a commit, and one page written twice
    assert by_throughput(INPUTS) == pytest.approx(125_000_000 * 0.5 / (2 * 10_000 + 2 * 8192))


def test_one_user_waits_for_a_commit_of_each_submission_and_a_tenth_of_a_settlement() -> None:
    assert one_user(INPUTS, commit_ms=2, speed=0.5) == pytest.approx(1000 / (0.5 / 0.5 + 2 + 2 / 10))


def test_a_class_needs_connections_for_the_environments_of_a_busy_minute() -> None:
    small, large = capacities(INPUTS)
    a_second = 20 * SECONDS
    assert environments(INPUTS, 80, batch=4) == {"submit": 4, "status": 5, "worker": 40}
    # 4 + 5 + 2 x 40 for a deployment, and 10 that are fixed, beside the reserve: more than 80
    assert not fits(small, INPUTS, a_second, batch=4)
    assert fits(large, INPUTS, a_second, batch=4)
    assert fits(small, INPUTS, a_second, batch=10)


def test_the_cheapest_class_that_carries_the_load_is_chosen() -> None:
    assert chosen(INPUTS, Load(1_000_000, 1)).name == "small"
    assert chosen(INPUTS, Load(400_000_000, 10)).name == "large"
    with pytest.raises(ScaleError, match=r"^No class of the template carries 900,000,000 requests a month"):
        chosen(INPUTS, Load(900_000_000, 10))


def test_every_line_of_the_bill_is_quantity_times_price() -> None:
    lines = {line.name: line.usd for line in bill(INPUTS, Load(10_000_000, 2))}
    runs = 730 + 730 / 24
    assert lines.pop("CloudWatch Logs") > 0
    assert lines == pytest.approx(
        {
            "API Gateway": 40,
            "Lambda requests": 40 + 5 + runs / 1e6,
            "Lambda, submit and status": 10e6 * (0.04 + 3 * 0.02) * 0.5,
            "Lambda, worker": 5e6 * 2 * 1,
            "Lambda, scheduled tasks": runs,
            "SQS": 10 + 2 * 5 + 5 * SECONDS / 20 / 1e6,
            "EventBridge Scheduler": runs / 1e6,
            "CloudWatch metrics and alarms": 60 + 3,
            "X-Ray": SECONDS / 1e6,
            "RDS instance": 0.5 * 730,
            "RDS storage": 81.92,
            "RDS backups": 10e6 * 10_000 * 2 * 7 / 30 / 1e9,
            "Data transfer out": 10e6 * (4 * 700 + 2 * 1000) / 1e9,
            "Data transfer between zones": 10e6 * 4 * 1000 / 1e9,
            "Secrets Manager": 1,
        }
    )


def test_a_small_load_pays_for_the_storage_that_is_allocated_and_not_for_backups() -> None:
    lines = {line.name: line.usd for line in bill(INPUTS, Load(100_000, 1))}
    assert (lines["RDS storage"], lines["RDS backups"]) == (20, 0)
    assert storage_gb(INPUTS, 1_000_000) == pytest.approx(8.192)


def test_a_full_batch_shares_the_time_of_the_model() -> None:
    assert worker_usd_per_million(INPUTS, 30, batch=10) == pytest.approx(worker_usd_per_million(INPUTS, 3, batch=1))


def test_figures_are_read_from_the_page_that_the_benchmarks_write(tmp_path: Path) -> None:
    text = report.PAGE.read_text()
    assert 0 < read_figures().status < read_figures().lifecycle_cpu
    other = tmp_path / "benchmarks.md"
    row = next(line for line in text.splitlines() if line.startswith("| commits |"))
    other.write_text(text.replace(row, "| commits | 1,234.5 (1 to 2) | 9 (8 to 9) |"))
    assert read_figures(other).commits == 1234.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"date": None}, "prices.json: date: "),
        ({"date": "soon"}, "prices.json: date: "),
        ({"storage": {"iops": -1, "mb_per_second": 1, "source": "x"}}, "prices.json: storage.iops"),
        ({"prices": {"secret_month": {"price": -0.1, "source": "x"}}}, "prices.json: prices.secret_month.price"),
        ({"prices": {"secret_month": {"price": 0.1}}}, "prices.json: prices.secret_month.source"),
        ({"prices": {}}, "has no price 'cpu_credit_vcpu_hour'"),
        ({"classes": {}}, "does not know the class 'db.t4g.micro'"),
        ({"currency": "EUR"}, "prices.json: currency"),
    ],
)
def test_a_price_file_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "prices.json"
    path.write_text(json.dumps(json.loads(PRICES.read_text()) | changes))
    assert main(["--prices", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert printed.err.startswith("scale: ")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"date": "2026-01-01"}'])
def test_what_is_no_price_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(ScaleError, match=r"^prices\.json: .+ Correct the price file\.$"):
        read_prices(path)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ScaleError, match=r"^gone\.json cannot be read \(FileNotFoundError\)"):
        read_prices(Path("gone.json"))


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("| commits |", "no figure 'commits' under 'Lifecycle: ten users'"),
        ("### Kept of each request", "under 'Kept of each request'"),
        ("### Usage and statistics", "does not say how many requests were rolled up: run make bench"),
        ("- date: ", "does not say the date: run make bench"),
    ],
)
def test_a_figure_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str, said: str
) -> None:
    path = tmp_path / "benchmarks.md"
    lines = report.PAGE.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(missing)))
    assert main(["--figures", str(path)]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("cell", ["0 (0 to 0)", "-", "many"])
def test_a_figure_that_is_no_figure_is_missing(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "benchmarks.md"
    lines = report.PAGE.read_text().splitlines()
    path.write_text("\n".join(f"| commits | {cell} |" if line.startswith("| commits |") else line for line in lines))
    with pytest.raises(ScaleError, match="no figure 'commits'"):
        read_figures(path)


def test_all_of_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == "\n\n".join(page.sections(page.read())) + "\n"
