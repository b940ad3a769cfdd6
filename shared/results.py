"""A line of results/: what became of one image, or of one row that failed."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from shared.jobs import Row

CANCELED = "Canceled"  # error_type of what was not made because its run was canceled
ERROR_COLUMNS = ("error_type", "error", "attempts")  # of failed.csv, after the user's own


def done_line(row: Row, n: int, key: str, facts: dict[str, Any], attempts: int) -> dict[str, Any]:
    """`facts`: sha256, size_bytes, width, height, and how it was made. `key` is relative to the run."""
    return {**_head(row, n, "done"), "key": key, **_job(row), **facts, "attempts": attempts}


def failed_line(row: Row, state: str, error_type: str, error: str, attempts: int = 1, n: int = 0) -> dict[str, Any]:
    """`state` is `failed` (the row's own fault), `dead` (it killed its workers) or `canceled`."""
    ending = {"attempts": attempts, "error_type": error_type, "error": error}
    return {**_head(row, n, state), **_job(row), **ending}


def begun(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the rows of which nothing was made: in a canceled run they need no line of their own."""
    rows = {line["row"] for line in lines if line["state"] != "canceled"}
    return [line for line in lines if line["row"] in rows]


def _head(row: Row, n: int, state: str) -> dict[str, Any]:
    own = {name: value for name in ("custom_id", "filename") if (value := getattr(row, name))}
    return {"row": row.row, "n": n, "state": state, "job_id": row.job_id, **own}


def _job(row: Row) -> dict[str, Any]:
    metadata = {"metadata": row.metadata} if row.metadata else {}
    return {"job": row.job.model_dump(), **metadata}


def beside(line: dict[str, Any]) -> list[str]:
    """What lies in masks/ beside a picture, relative to the run. Result lines hold no hashes of it."""
    found: list[str] = line.get("masks", [])
    listed = [f"masks/{PurePosixPath(line['key']).stem}.json"] if found else []
    return [*([line["mask"]] if "mask" in line else []), *found, *listed]


def generation(shard: str) -> int:
    """Which try of a shard this is: `000012.2-r345` is the second time that failed rows went out again."""
    _, _, tail = shard.partition(".")
    number = tail.partition("-")[0]
    return int(number) if number else 0


def base(shard: str) -> str:
    """The shard that was submitted: `000012` of `000012.2-r345`."""
    return shard.partition(".")[0].partition("-")[0]
