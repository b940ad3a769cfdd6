"""`make bench-gpu`: measure this host's CUDA device with models of real sizes, and print a table. Nothing is fetched.

Random weights cost what trained ones cost. `--quick --device cpu` tries all of it in small, on any machine.
"""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
import transformers

from bench import embeddings, machine, pictures, table, through
from bench.rig import Rig
from bench.table import Part

LIMIT_S = 510.0  # of nine minutes; the rest is for what begins just before
Measure = Callable[[Rig, float, Part], None]  # with what products of matrices reach, in TFLOP/s; adds to the part


class Piece(NamedTuple):
    """One thing to measure, and about how long it takes."""

    needed_s: float
    measure: Measure


PIECES = {
    "embeddings": Piece(embeddings.NEEDED_S, embeddings.measure),
    "through": Piece(through.NEEDED_S, through.measure),
    **{name: Piece(case.needed_s, partial(pictures.measure, case)) for name, case in pictures.CASES.items()},
}


def main() -> int:
    """The exit code: 0 when everything was measured that there was time for."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Measure this host's CUDA device.")
    parser.add_argument("parts", nargs="*", metavar="NAME", help=f"of {', '.join(PIECES)}; none: all of them")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the bench")
    parser.add_argument("--quick", action="store_true", help="narrow models and few pictures")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="what does not fit into them is left out")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PIECES]:
        parser.error(f"unknown part {unknown[0]!r}; expected {', '.join(PIECES)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("bench: found no CUDA device; `python -m bench` measures without one", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="pixelmill-bench-") as folder:
        rig = Rig(torch.device(arguments.device), arguments.quick, Path(folder), arguments.seconds)
        return _report(rig, [name for name in PIECES if name in (arguments.parts or PIECES)])


def _report(rig: Rig, names: list[str]) -> int:
    tflops = rig.tflops()
    print("\n".join([*machine.describe(_card(rig)), f"products  {tflops:.0f} TFLOP/s in bf16"]), flush=True)
    part, code = Part([]), 0
    for name in names:
        code |= _measure(rig, name, tflops, part)
    print("\n" + table.show(part.lines) + "\n")
    if rig.quick:
        print("These are the small sizes of --quick: not for the record.")
    print("\n".join(part.notes))
    if part.missed:
        print("\nwhere the time goes:\n" + "\n".join(f"  {line}" for line in part.profile))
    return code


def _measure(rig: Rig, name: str, tflops: float, part: Part) -> int:
    """The exit code. What fails costs no other its figures, and what was found is shown at once."""
    piece, known, start = PIECES[name], len(part.lines), time.monotonic()
    if piece.needed_s > rig.left_s and not rig.quick:
        part.notes.append(f"{name} was left out: it takes {piece.needed_s:.0f} s, and {rig.left_s:.0f} s were left")
        return 0
    try:
        piece.measure(rig, tflops, part)
    except Exception:
        traceback.print_exc()
        part.notes.append(f"{name} failed")
        return 1
    finally:
        rig.tidy()
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
        print("\n".join(" | ".join(line.cells()) for line in part.lines[known:]), file=sys.stderr, flush=True)
    return 0


def _card(rig: Rig) -> str:
    if rig.device.type != "cuda":
        return "no GPU is used"
    facts = torch.cuda.get_device_properties(rig.device)
    return f"{facts.name}, {facts.total_memory >> 30} GiB, CUDA {torch.version.cuda}"


if __name__ == "__main__":
    sys.exit(main())
