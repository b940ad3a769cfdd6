"""The command `produce`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from producer.parser import parser
from shared.errors import PixelmillError, UsageError

if TYPE_CHECKING:  # the rest is imported by the command that needs it: --help answers at once
    from producer.session import Session


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Entry point of `produce`."""
    arguments = parser().parse_args(argv)
    try:
        if arguments.command != "produce":
            for option in ("csv", "images"):
                if getattr(arguments, option) is not None:
                    raise UsageError(f"--{option} and a command: give one of the two")
        return COMMANDS[arguments.command](arguments)
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


def _models(arguments: argparse.Namespace) -> int:
    from producer import models  # noqa: PLC0415

    if arguments.path is None:
        return models.show_all(arguments.json)
    return models.add(
        arguments.path, arguments.name, arguments.tokenizer, arguments.config, arguments.base, arguments.default
    )


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


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "produce": _produce,
    "up": _up,
    "down": _down,
    "runs": _runs,
    "status": _status,
    "watch": _watch,
    "download": _download,
    "control": _control,
    "dead": _dead,
    "doctor": _doctor,
    "models": _models,
    "verify": _verify,
    "rebuild": _rebuild,
    "rm": _rm,
}


if __name__ == "__main__":
    sys.exit(main())
