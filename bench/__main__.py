"""`python -m bench [NAME ...] [--quick]`: measure, and print a table. A goal that is missed is no error."""

import argparse
import signal
import sys
import time
from collections.abc import Callable

from bench import batching, effort, lone, loop, machine, sam, scaling, storage, submit, table, texts
from bench import help as help_
from bench.site import Site
from bench.table import Part
from shared.errors import PixelmillError

BUSY_CORES = 0.3  # that other programs use: more, and they show in the figures

PARTS: dict[str, Callable[[Site], Part]] = {
    "help": help_.measure,
    "submit": submit.measure,
    "storage": storage.measure,
    "loop": loop.measure,
    "scaling": scaling.measure,
    "batching": batching.measure,
    "texts": texts.measure,
    "lone": lone.measure,
    "sam": sam.measure,
}


def main() -> int:
    """The exit code: 0 when everything was measured."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure this machine, and print a table.")
    parser.add_argument("parts", nargs="*", metavar="NAME", help=f"of {', '.join(PARTS)}; none: all of them")
    parser.add_argument("--quick", action="store_true", help="small and short, to see that the bench works")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; expected {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the stack and the workers end as well
    print("\n".join(machine.describe()), flush=True)
    parts: dict[str, Part] = {}
    code = measure(arguments.parts or list(PARTS), arguments.quick, parts)
    if parts:
        report(parts, arguments.quick)
    return code


def measure(names: list[str], quick: bool, parts: dict[str, Part]) -> int:
    """One part after another, in one stack; what was measured before one fails is kept. The exit code."""
    try:
        with Site(quick) as site:
            for name in names:
                print(f"{name} ...", file=sys.stderr, flush=True)
                start, others = time.monotonic(), effort.Others()
                parts[name] = PARTS[name](site)
                took, busy = time.monotonic() - start, others.cores()
                print(f"{name}: {took:.0f} s, load {machine.load()}", file=sys.stderr, flush=True)
                if busy > BUSY_CORES:
                    parts[name].notes.append(f"other programs used {busy:.1f} cores meanwhile: measure again")
    except PixelmillError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def report(parts: dict[str, Part], quick: bool) -> None:
    """The table, then what a reader should know of it, then why a goal was missed."""
    print("\n" + table.show([line for part in parts.values() for line in part.lines]) + "\n")
    if quick:
        print("These are the small sizes of --quick: not for the record.")
    for name, part in parts.items():
        print("\n".join(f"{name}: {note}" for note in part.notes), end="\n" if part.notes else "")
    for name, part in parts.items():
        if part.missed:
            print(f"\nwhy {name} missed:\n" + "\n".join(f"  {line}" for line in part.profile))


if __name__ == "__main__":
    sys.exit(main())
