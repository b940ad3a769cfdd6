"""The command `produce`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shared import keys
from shared.errors import PixelmillError, UsageError

if TYPE_CHECKING:  # the rest is imported by the command that needs it: --help answers at once
    from producer.session import Session


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Entry point of `produce`."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.run_command is not _produce:
            for option in ("csv", "images"):
                if getattr(arguments, option) is not None:
                    raise UsageError(f"--{option} and a command: give one of the two")
        return int(arguments.run_command(arguments))
    except PixelmillError as error:
        print(f"produce: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"produce: {error}", file=sys.stderr)
        return UsageError.exit_code


def parser() -> argparse.ArgumentParser:
    """All options and commands."""
    top = argparse.ArgumentParser(
        prog="produce",
        description="Make and edit pictures from a file of prompts, on every device you have.",
        epilog="exit codes: 0 all rows done; 1 some rows failed, dead, canceled or skipped; 2 bad input or usage; "
        "3 broker or storage not reachable",
    )
    _csv_options(top)
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    _command(commands, "up", _up, "start the local stack, or what is missing of it")
    _command(commands, "down", _down, "stop the local stack")
    listing = _command(commands, "runs", _runs, "list all runs")
    _json_option(listing)
    for name, function, text in (
        ("status", _status, "how far a run is"),
        ("watch", _watch, "follow a run to its end"),
    ):
        command = _command(commands, name, function, text)
        command.add_argument("name", metavar="RUN", type=_run_name)
        _json_option(command)
    fetch = _command(commands, "download", _download, "fetch a run's pictures and end files")
    fetch.add_argument("name", metavar="RUN", type=_run_name)
    fetch.add_argument("folder", metavar="DIR", type=Path)
    for name, text in (
        ("pause", "finish the batches that run, begin no other"),
        ("resume", "let a paused run go on"),
        ("cancel", "stop a run; what is finished stays"),
        ("retry", "send failed, dead and canceled rows out again"),
    ):
        command = _command(commands, name, _control, text)
        command.set_defaults(control=name)
        command.add_argument("name", metavar="RUN", type=_run_name)
    _dead_commands(_command(commands, "dead", _dead, "rows that killed their workers"))
    _json_option(_command(commands, "doctor", _doctor, "check broker, storage, models and workers"))
    check = _command(commands, "verify", _verify, "hash a run's pictures anew and find what is missing or differs")
    check.add_argument("name", metavar="RUN", type=_run_name)
    check.add_argument(
        "--rerender", metavar="N", type=_positive, default=0, help="make N pictures again, and compare their pixels"
    )
    _json_option(check)
    again = _command(commands, "rebuild", _rebuild, "restore a run in the broker from the storage")
    again.add_argument("name", metavar="RUN", nargs="?", type=_run_name)
    again.add_argument("--all", action="store_true", help="every run that is not over and that the broker lost")
    remove = _command(commands, "rm", _rm, "delete a run and all its pictures")
    remove.add_argument("name", metavar="RUN", type=_run_name)
    remove.add_argument("--yes", action="store_true", help="do not ask")
    return top


def _csv_options(top: argparse.ArgumentParser) -> None:
    top.set_defaults(run_command=_produce, json=False)
    top.add_argument("--csv", metavar="FILE", type=Path, help="make or edit a picture for every row of FILE")
    top.add_argument("--images", metavar="DIR", type=Path, help="edit every picture in DIR, instead of --csv")
    top.add_argument(
        "--masks", metavar="DIR|FILE", type=Path, help="with --images: masks of equal names, or one for all"
    )
    top.add_argument("--prompt", metavar="TEXT", help="with --images: the prompt of every picture")
    top.add_argument(
        "--run", metavar="NAME", type=_run_name, help="name of the run (default: from file name and content)"
    )
    top.add_argument("--dry-run", action="store_true", help="check the file, show what it would make, and stop")
    top.add_argument("--no-wait", action="store_true", help="submit and return")
    top.add_argument("--skip-bad", action="store_true", help="leave bad rows out instead of refusing the file")
    top.add_argument("--download", metavar="DIR", type=Path, help="fetch all files of the run into DIR at its end")
    top.add_argument("--limit", metavar="N", type=_positive, help="read the first N rows only")
    top.add_argument(
        "--set",
        metavar="COLUMN=VALUE",
        action="append",
        default=[],
        type=_pair,
        help="what an empty cell of COLUMN means; may be given several times",
    )
    top.add_argument("--reuse", metavar="RUN", type=_run_name, help="copy pictures of equal rows from an earlier run")
    top.add_argument(
        "--priority",
        choices=("interactive", "bulk"),
        help="interactive runs go before bulk runs (default: bulk)",
    )
    top.add_argument(
        "--seed-salt", metavar="TEXT", default="", help="another salt, other pictures for rows without seed"
    )
    _json_option(top)


def _dead_commands(dead: argparse.ArgumentParser) -> None:
    commands = dead.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="dead_command")
    texts = {
        "list": "a line per dead row",
        "show": "all that is known of one",
        "retry": "send dead rows out again, with nothing charged to them",
        "drop": "delete records; the rows stay dead",
    }
    for name, text in texts.items():
        command = _command(commands, name, _dead, text)
        command.add_argument("name", metavar="RUN", type=_run_name)
        if name == "list":
            _json_option(command)
        elif name == "show":
            command.add_argument("row", metavar="ROW", type=_positive)
        else:
            which = command.add_mutually_exclusive_group(required=True)
            which.add_argument("--all", action="store_true", help="all of them")
            which.add_argument("--row", metavar="N", action="append", default=[], type=_positive, help="this one")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, run: Callable[..., int], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run_command=run)
    return command


def _json_option(command: argparse.ArgumentParser) -> None:
    # Suppressed: a command's own default would take the place of what stands before the command.
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print the outcome as JSON")


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a whole number from 1")
    return int(text)


def _run_name(text: str) -> str:
    try:
        return keys.checked_run(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise argparse.ArgumentTypeError(f"found {text!r}; expected COLUMN=VALUE")
    return name.strip(), value


# --- produce --csv ---


def _produce(arguments: argparse.Namespace) -> int:
    from producer import produce  # noqa: PLC0415

    if arguments.csv is not None and arguments.images is not None:
        raise UsageError("--csv and --images: give one of the two")
    if arguments.images is None:
        for option in ("masks", "prompt"):
            if getattr(arguments, option) is not None:
                raise UsageError(f"--{option} goes with --images; in a CSV file it is a column, see also --set")
    if arguments.csv is None and arguments.images is None:
        raise UsageError("nothing to do: give --csv FILE, --images DIR or a command; `produce --help` shows all")
    return produce.produce(arguments)


# --- commands ---


def _session(start: bool = False) -> "Session":
    from producer.session import open_session  # noqa: PLC0415

    return open_session(start)


def _up(_arguments: argparse.Namespace) -> int:
    from producer import produce, session  # noqa: PLC0415

    if not session.is_local():
        raise UsageError("PIXELMILL_REDIS_URL is set, so there is no local stack to start; unset it to use one")
    produce.show_addresses(_session(start=True))
    return 0


def _down(_arguments: argparse.Namespace) -> int:
    from producer import session, stack  # noqa: PLC0415

    stopped = stack.down(session.ROOT)
    print("stopped " + ", ".join(stopped) if stopped else "nothing was running")
    return 0


def _runs(arguments: argparse.Namespace) -> int:
    from producer import listing  # noqa: PLC0415

    return listing.runs(_session(), arguments.json)


def _status(arguments: argparse.Namespace) -> int:
    from producer import listing  # noqa: PLC0415

    return listing.status(_session(), arguments.name, arguments.json)


def _watch(arguments: argparse.Namespace) -> int:
    from producer import produce  # noqa: PLC0415

    return produce.watch(_session(), arguments.name, arguments.json)


def _download(arguments: argparse.Namespace) -> int:
    from producer import download  # noqa: PLC0415

    got = download.download(_session().store, arguments.name, arguments.folder)
    print(f"{got.fetched} pictures fetched, {got.kept} were there already, in {arguments.folder}")
    return 0


def _control(arguments: argparse.Namespace) -> int:
    from producer import control  # noqa: PLC0415

    act: Callable[[Session, str], int] = getattr(control, arguments.control)
    return act(_session(), arguments.name)


def _dead(arguments: argparse.Namespace) -> int:
    from producer import dead  # noqa: PLC0415

    session = _session()
    if arguments.dead_command == "list":
        return dead.show_all(session, arguments.name, arguments.json)
    if arguments.dead_command == "show":
        return dead.show(session, arguments.name, arguments.row)
    act = dead.retry if arguments.dead_command == "retry" else dead.drop
    return act(session, arguments.name, arguments.row)


def _doctor(arguments: argparse.Namespace) -> int:
    from producer import doctor  # noqa: PLC0415

    return doctor.doctor(arguments.json)


def _verify(arguments: argparse.Namespace) -> int:
    from producer import verify  # noqa: PLC0415

    return verify.verify(_session(), arguments.name, arguments.json, arguments.rerender)


def _rebuild(arguments: argparse.Namespace) -> int:
    from producer import rebuild  # noqa: PLC0415

    if (arguments.name is None) != arguments.all:
        raise UsageError("give the name of one run, or --all; `produce runs` lists the runs")
    return rebuild.rebuild_all(_session()) if arguments.all else rebuild.rebuild(_session(), arguments.name)


def _rm(arguments: argparse.Namespace) -> int:
    from producer import listing  # noqa: PLC0415

    return listing.remove(_session(), arguments.name, arguments.yes)


if __name__ == "__main__":
    sys.exit(main())
