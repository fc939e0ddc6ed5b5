"""PostgreSQL: starting, stopping, restarting and killing it, and repair of what a crash leaves behind."""

import os
from pathlib import Path

import psycopg
import pytest

from local.errors import LocalError
from local.postgres import Postgres, StopMode
from local.processes import ProcessIdentity, wait_until


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def children(pid: int) -> list[int]:
    """Ids of the processes that a server has started; empty on systems other than Linux."""
    listing = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listing.read_text().split()] if listing.exists() else []


def test_stop_leaves_no_process(postgres: Postgres) -> None:
    postgres.start()
    assert ask(postgres.url(), "SELECT current_setting('server_version_num')::int / 10000") == 18
    process = postgres.process
    assert process is not None
    backends = children(process.pid)
    postgres.stop()
    assert not postgres.alive
    assert not process.alive
    assert not any(ProcessIdentity.of(pid, "") for pid in backends)
    postgres.stop()


def test_listens_only_on_the_loopback_interface(postgres: Postgres) -> None:
    postgres.start()
    query = "SELECT current_setting('listen_addresses') || ';' || current_setting('unix_socket_directories')"
    assert ask(postgres.url(), query) == "127.0.0.1;"


def test_wrong_password_is_refused(postgres: Postgres) -> None:
    postgres.start()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.url(password="wrong"))


def test_settings_can_be_overridden(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "postgres", durable=False, settings={"max_connections": "17"})
    try:
        server.start()
        assert ask(server.url(), "SHOW max_connections") == "17"
        assert ask(server.url(), "SHOW timezone") == "UTC"
        assert ask(server.url(), "SHOW fsync") == "off"
        assert ask(server.url(), "SHOW shared_preload_libraries") == "pg_stat_statements"
    finally:
        server.destroy()


def test_database_owner_has_the_rights_of_an_owner_on_rds(postgres: Postgres) -> None:
    postgres.start()
    for password in ("a secret", "another'\\ secret"):
        postgres.ensure_database("sluice", "sluice_owner", password)
    url = postgres.url("sluice", user="sluice_owner", password="another'\\ secret")
    assert ask(url, "SELECT rolcreaterole AND rolcreatedb AND NOT rolsuper FROM pg_roles WHERE rolname = user")
    assert ask(url, "SELECT count(*) > 0 FROM pg_stat_statements")
    assert ask(url, "SELECT pg_stat_statements_reset() IS NOT NULL"), "an owner may reset the statistics"
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE t ()")
        connection.execute("CREATE ROLE sluice_reader")


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_restart_keeps_port_and_data(postgres: Postgres, mode: StopMode) -> None:
    postgres.start()
    port = postgres.port
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
    postgres.restart(mode)
    assert postgres.port == port
    assert ask(postgres.url(), "SELECT answer FROM t") == 42


def test_starts_again_after_a_kill(postgres: Postgres) -> None:
    postgres.start()
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
    postgres.kill()
    assert not postgres.alive
    postgres.start()
    assert ask(postgres.url(), "SELECT answer FROM t") == 42


def test_second_server_on_the_same_data_is_refused(postgres: Postgres, tmp_path: Path) -> None:
    postgres.start()
    with pytest.raises(LocalError, match=f"in use by process {os.getpid()}"):
        Postgres(tmp_path / "postgres").start()
    assert ask(postgres.url(), "SELECT 1") == 1


def test_server_of_a_killed_run_is_stopped(postgres: Postgres, tmp_path: Path) -> None:
    postgres.start()
    orphan = postgres.process
    assert orphan is not None
    postgres._lock.release()  # as the system does when the run is killed
    second = Postgres(tmp_path / "postgres", durable=False)
    second.start()
    try:
        assert wait_until(lambda: not orphan.alive, 30)
        assert any("left behind" in note for note in second.notes)
        assert ask(second.url(), "SELECT 1") == 1
    finally:
        second.stop()


def test_stale_pid_file_of_another_process_is_removed(postgres: Postgres) -> None:
    postgres.start()
    postgres.stop()
    (postgres.data_dir / "postmaster.pid").write_text(f"{os.getpid()}\n{postgres.data_dir}\n")
    postgres.start()
    assert ask(postgres.url(), "SELECT 1") == 1


@pytest.mark.parametrize("content", ["", "no number\n", "-1\n"])
def test_damaged_pid_file_is_removed(postgres: Postgres, content: str) -> None:
    postgres.start()
    postgres.stop()
    (postgres.data_dir / "postmaster.pid").write_text(content)
    postgres.start()
    assert ask(postgres.url(), "SELECT 1") == 1


def test_incomplete_data_directory_is_moved_aside(postgres: Postgres) -> None:
    (postgres.data_dir / "base").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(postgres.data_dir, 65534, 65534)
    postgres.start()
    assert ask(postgres.url(), "SELECT 1") == 1
    assert any("incomplete" in note for note in postgres.notes)
    assert postgres.data_dir.with_name(postgres.data_dir.name + ".incomplete-1").is_dir()


def test_interrupted_first_start_is_repeated(postgres: Postgres) -> None:
    (postgres.data_dir.with_name(postgres.data_dir.name + ".new") / "base").mkdir(parents=True)
    postgres.start()
    assert ask(postgres.url(), "SELECT 1") == 1
    assert any("interrupted" in note for note in postgres.notes)


def test_lost_password_is_replaced(postgres: Postgres, tmp_path: Path) -> None:
    postgres.start()
    postgres.stop()
    (tmp_path / "postgres.password").unlink()
    second = Postgres(tmp_path / "postgres", durable=False)
    with second:
        assert ask(second.url(), "SELECT 1") == 1
    assert second.password != postgres.password


def test_data_of_another_version_is_refused(postgres: Postgres) -> None:
    postgres.start()
    postgres.stop()
    (postgres.data_dir / "PG_VERSION").write_text("17\n")
    with pytest.raises(LocalError, match="holds data of PostgreSQL 17"):
        postgres.start()
    assert not postgres.alive


def test_port_in_use_is_an_error(tmp_path: Path, busy_port: int) -> None:
    server = Postgres(tmp_path / "postgres", busy_port, durable=False)
    try:
        with pytest.raises(LocalError, match=f"^Port {busy_port}.* is in use"):
            server.start()
    finally:
        server.destroy()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
def test_under_root_it_runs_as_nobody_in_a_private_folder(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    server = Postgres(private / "postgres", durable=False)
    try:
        server.start()
        assert server.process is not None
        assert Path(f"/proc/{server.process.pid}").stat().st_uid != 0
        assert (private / "postgres").is_symlink()
        assert server.data_dir == (private / "postgres").resolve()
        assert any(str(server.data_dir) in note for note in server.notes)
        with psycopg.connect(server.url()) as connection:
            connection.execute("CREATE TABLE t AS SELECT 42 AS answer")
        server.stop()
        again = Postgres(private / "postgres", durable=False)
        with again:
            assert again.data_dir == server.data_dir
            assert ask(again.url(), "SELECT answer FROM t") == 42
    finally:
        server.destroy()
    assert not server.data_dir.parent.exists()
    assert not (private / "postgres").is_symlink()
