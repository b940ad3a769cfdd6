"""All options and commands of `produce`."""

import argparse
from pathlib import Path

from shared import keys
from shared.errors import UsageError


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
    _command(commands, "up", "start the local stack, or what is missing of it")
    _command(commands, "down", "stop the local stack")
    listing = _command(commands, "runs", "list all runs")
    _json_option(listing)
    for name, text in (("status", "how far a run is"), ("watch", "follow a run to its end")):
        command = _command(commands, name, text)
        command.add_argument("name", metavar="RUN", type=_run_name)
        _json_option(command)
    fetch = _command(commands, "download", "fetch a run's pictures and end files")
    fetch.add_argument("name", metavar="RUN", type=_run_name)
    fetch.add_argument("folder", metavar="DIR", type=Path)
    for name, text in (
        ("pause", "finish the batches that run, begin no other"),
        ("resume", "let a paused run go on"),
        ("cancel", "stop a run; what is finished stays"),
        ("retry", "send failed, dead and canceled rows out again"),
    ):
        command = _command(commands, name, text)
        command.set_defaults(command="control", control=name)
        command.add_argument("name", metavar="RUN", type=_run_name)
    _dead_commands(_command(commands, "dead", "rows that killed their workers"))
    _json_option(_command(commands, "doctor", "check broker, storage, models and workers"))
    _model_commands(_command(commands, "models", "list the models of the catalog, or add one"))
    check = _command(commands, "verify", "hash a run's pictures anew and find what is missing or differs")
    check.add_argument("name", metavar="RUN", type=_run_name)
    check.add_argument(
        "--rerender", metavar="N", type=_positive, default=0, help="make N pictures again, and compare their pixels"
    )
    _json_option(check)
    again = _command(commands, "rebuild", "restore a run in the broker from the storage")
    again.add_argument("name", metavar="RUN", nargs="?", type=_run_name)
    again.add_argument("--all", action="store_true", help="every run that is not over and that the broker lost")
    remove = _command(commands, "rm", "delete a run and all its pictures")
    remove.add_argument("name", metavar="RUN", type=_run_name)
    remove.add_argument("--yes", action="store_true", help="do not ask")
    return top


def _csv_options(top: argparse.ArgumentParser) -> None:
    top.set_defaults(command="produce", json=False)
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
        command = _command(commands, name, text, "dead")
        command.add_argument("name", metavar="RUN", type=_run_name)
        if name == "list":
            _json_option(command)
        elif name == "show":
            command.add_argument("row", metavar="ROW", type=_positive)
        else:
            which = command.add_mutually_exclusive_group(required=True)
            which.add_argument("--all", action="store_true", help="all of them")
            which.add_argument("--row", metavar="N", action="append", default=[], type=_positive, help="this one")


def _model_commands(models: argparse.ArgumentParser) -> None:
    _json_option(models)
    models.set_defaults(path=None)
    commands = models.add_subparsers(title="commands", metavar="COMMAND")
    add = _command(commands, "add", "look at a model's files, and write its entry into the catalog", "models")
    add.add_argument(
        "path",
        metavar="PATH",
        help="a folder of diffusers, or one .safetensors or .ckpt file; or s3://bucket/key of one",
    )
    add.add_argument("--name", help="what rows call it (default: the file's name)")
    add.add_argument("--tokenizer", metavar="DIR", help="of a single file: where its vocab.json and merges.txt lie")
    add.add_argument(
        "--config", metavar="DIR", help="of a single file: diffusers' descriptions of an unusual architecture"
    )
    add.add_argument(
        "--base", choices=("sd15", "sd2", "sdxl"), help="of an autoencoder or a LoRA: the models that it goes with"
    )
    add.add_argument("--default", action="store_true", help="rows that name no model use it")


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, of: str = ""
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(command=of or name)
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
