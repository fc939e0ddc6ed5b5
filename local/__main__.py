"""The commands `python -m local run`, `python -m local demo` and `python -m local sam`."""

import argparse
import contextlib
import ipaddress
import re
import sys
import time
from pathlib import Path

try:
    from local import demo, sam
    from local.containers import bridge_address
    from local.environment import ROOT, forget_postgres_settings
    from local.errors import LocalError
    from local.place import problem_with
    from local.processes import stopping_on_signals
    from local.report import Report, say, timed_report
    from local.stack import Stack
    from sluice_cli.output import abandon_output, prepare_streams, reason
    from sluice_cli.output import say as complain
except ModuleNotFoundError as missing:
    raise SystemExit(
        f"sluice: The package {missing.name} is not installed for {sys.executable}: `make run` sets everything up."
    ) from None

_WATCH_SECONDS = 0.5
_RESTART_SECONDS = 2.0
_MAX_RESTARTS = 10
_OF_THE_ENGINE = "engine"


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 after a failure (printed as one sentence), 130 if interrupted."""
    options = _parser().parse_args(arguments)
    for folder in (ROOT, options.state.absolute()):
        if problem := problem_with(folder):
            complain(f"sluice: {problem}")
            return 1
    forget_postgres_settings()
    try:
        if options.command == "sam":
            return sam.run(options.state, options.runtime, options.arguments)
        return _stack(options)
    except LocalError as failure:
        complain(f"sluice: {failure}")
        return 1
    except OSError as failure:
        complain(f"sluice: {failure.filename or options.state}: {failure.strerror or failure}.")
        return 1
    except KeyboardInterrupt:
        # Interrupted while starting; Ctrl-C while serving is handled in _serve.
        complain("Interrupted: everything is stopped.")
        return 130


def _stack(options: argparse.Namespace) -> int:
    report = timed_report()
    stack = Stack(
        options.state,
        api_port=options.api_port,
        database_port=options.database_port,
        llm_port=options.llm_port,
        container_address=bridge_address() if options.containers == _OF_THE_ENGINE else options.containers,
        report=report,
    )
    with stopping_on_signals():
        return _run(options, stack, report)


def _run(options: argparse.Namespace, stack: Stack, report: Report) -> int:
    report(f"Starting Sluice in {stack.state_dir}.")
    try:
        info = stack.start()
        report(f"Sluice is up at {info.api_url}")
        if options.command == "demo":
            _, before = demo.monthly_usage(info)
            answer = demo.send_prompt(info, report)
            demo.check_usage(stack, before, answer, report)
            return 0
        if options.prompt:
            demo.send_prompt(info, report)
        demo.show_next_steps(info)
        say("Serving until Ctrl-C.")
        _serve(stack, report)
        return 0
    finally:
        if stack.running:
            # Whether or not anything reads it.
            with contextlib.suppress(LocalError):
                report("Stopping.")
            stack.stop()
            with contextlib.suppress(LocalError):
                report("Everything is stopped.")


def _serve(stack: Stack, report: Report) -> None:
    """Serve until Ctrl-C. Servers that end by themselves are restarted, a limited number of times."""
    restarts = 0
    try:
        while True:
            time.sleep(_WATCH_SECONDS)
            if (failure := stack.failure()) is None:
                continue
            report(failure)
            time.sleep(_RESTART_SECONDS)
            if restarts == _MAX_RESTARTS or not stack.revive():
                raise LocalError(failure)
            restarts += 1
            report("It runs again.")
    except KeyboardInterrupt:
        return


def _port(text: str) -> int:
    # int() would also take other scripts' digits, underscores and spaces.
    if not re.fullmatch("[0-9]{1,5}", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a port: give a number from 1 to 65535")
    return int(text)


def _address(text: str) -> str:
    if text == _OF_THE_ENGINE:
        return text
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not an IPv4 address") from None
    if address.is_unspecified or address.is_loopback:
        raise argparse.ArgumentTypeError(f"{text} cannot be reached by containers only: give one of their network")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local", description="Sluice on this machine: no Docker, no AWS account."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="run|demo|sam")
    run = commands.add_parser("run", help="start everything, answer one prompt, serve until Ctrl-C")
    run.add_argument("--no-prompt", dest="prompt", action="store_false", help="do not send the demo prompt")
    demo_run = commands.add_parser("demo", help="start everything, answer one prompt, show its usage, stop")
    sam_local = commands.add_parser(
        "sam", help="`sam local` with the stack that runs; it was started with --containers"
    )
    sam_local.add_argument(
        "--runtime",
        choices=sam.RUNTIMES,
        default=sam.DEFAULT_RUNTIME,
        help="Python of the functions (default: %(default)s)",
    )
    for command in (run, demo_run, sam_local):
        command.add_argument(
            "--state",
            type=Path,
            default=Path(".local"),
            metavar="DIR",
            help="folder of data, logs and stack.json (default: .local)",
        )
    sam_local.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="start-api, invoke SubmitFunction --event FILE, ..."
    )
    for command in (run, demo_run):
        command.add_argument("--api-port", type=_port, metavar="PORT", help="port of the API (default: a free one)")
        command.add_argument(
            "--database-port", type=_port, metavar="PORT", help="port of PostgreSQL (default: a free one)"
        )
        command.add_argument(
            "--llm-port", type=_port, metavar="PORT", help="port of the language model (default: a free one)"
        )
        command.add_argument(
            "--containers",
            type=_address,
            nargs="?",
            const=_OF_THE_ENGINE,
            metavar="ADDRESS",
            help="let containers reach all of it, at this address of this machine (default: the engine says which)",
        )
    return parser


def _flushed() -> int:
    """Run `main`; fail if its last lines, such as the help, cannot be written."""
    prepare_streams()
    try:
        code = main()
    except SystemExit as wanted:
        code = wanted.code if isinstance(wanted.code, int) else 1
    try:
        sys.stdout.flush()
    except OSError as error:
        abandon_output()
        complain(f"sluice: The output cannot be written: {reason(error)}.")
        return code or 1
    return code


if __name__ == "__main__":
    sys.exit(_flushed())
