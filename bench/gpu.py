"""`make bench-gpu`: measure this host's CUDA device with models of real sizes, and print a table. Nothing is fetched.

Random weights cost what trained ones cost. `--quick --device cpu` tries all of it in small, on any machine.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
import transformers

from bench import embeddings, machine, pictures, table, through
from bench.rig import Rig
from bench.table import Part
from shared.errors import PixelmillError

LIMIT_S = 510.0  # of nine minutes; the rest is for what begins just before
PARTS: dict[str, Callable[[Rig, float], Part]] = {
    "pictures": pictures.measure,
    "embeddings": embeddings.measure,
    "through": through.measure,
}
ORDER = ("embeddings", "through", "pictures")  # the longest last: what does not fit is left out


def main() -> int:
    """The exit code: 0 when everything was measured that there was time for."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="Measure this host's CUDA device.")
    parser.add_argument("parts", nargs="*", metavar="NAME", help=f"of {', '.join(PARTS)}; none: all of them")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to try the bench")
    parser.add_argument("--quick", action="store_true", help="narrow models and few pictures")
    parser.add_argument("--seconds", type=float, default=LIMIT_S, help="what does not fit into them is left out")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; expected {', '.join(PARTS)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("bench: found no CUDA device; `python -m bench` measures without one", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="pixelmill-bench-") as folder:
        rig = Rig(torch.device(arguments.device), arguments.quick, Path(folder), arguments.seconds)
        return _report(rig, [name for name in ORDER if name in (arguments.parts or ORDER)])


def _report(rig: Rig, names: list[str]) -> int:
    tflops = rig.tflops()
    print("\n".join([*machine.describe(_card(rig)), f"products  {tflops:.0f} TFLOP/s in bf16"]), flush=True)
    parts, code = _measure(rig, names, tflops)
    print("\n" + table.show([line for part in parts for line in part.lines]) + "\n")
    if rig.quick:
        print("These are the small sizes of --quick: not for the record.")
    for part in parts:
        print("\n".join(part.notes))
    for part in parts:
        if part.missed:
            print("\nwhy a goal was missed:\n" + "\n".join(f"  {line}" for line in part.profile))
    print("\n".join(f"left out  {what}" for what in rig.left_out))
    return code


def _measure(rig: Rig, names: list[str], tflops: float) -> tuple[list[Part], int]:
    """What was measured before a part fails is kept."""
    parts: list[Part] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            parts.append(PARTS[name](rig, tflops))
        except (PixelmillError, RuntimeError) as error:
            print(f"bench: {name}: {error}", file=sys.stderr)
            return parts, 1
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return parts, 0


def _card(rig: Rig) -> str:
    if rig.device.type != "cuda":
        return "no GPU is used"
    facts = torch.cuda.get_device_properties(rig.device)
    return f"{facts.name}, {facts.total_memory >> 30} GiB, CUDA {torch.version.cuda}"


if __name__ == "__main__":
    sys.exit(main())
