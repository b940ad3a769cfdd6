"""What `produce --csv FILE` does: check, submit, follow, download, and say how it went."""

import argparse
import json
import sys
from collections import Counter
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from producer import columns, folder, follow, rows
from producer.cells import plain
from producer.download import check_folder, download
from producer.rows import ReadOptions, Report
from producer.session import Session, open_session
from producer.submit import Request, Submission, Submitted
from shared import catalog, dispatch, keys, settings
from shared.errors import Unreachable, UsageError


def produce(arguments: argparse.Namespace) -> int:
    """The whole way of a file; the exit code."""
    if arguments.no_wait and arguments.download:
        raise UsageError("--download waits for the run's end, --no-wait does not: leave one of them out")
    if twice := [name for name, count in Counter(name for name, _ in arguments.set).items() if count > 1]:
        raise UsageError(f"--set {twice[0]}: given twice")
    with ExitStack() as files:
        path = arguments.csv
        if arguments.images is not None:
            place = Path(files.enter_context(TemporaryDirectory(prefix="pixelmill-")))
            said = {"prompt": arguments.prompt} if arguments.prompt is not None else {}
            said |= {name: value for name, value in arguments.set if plain(name) in columns.NAMES}
            path = folder.write_csv(place, arguments.images, arguments.masks, said)
            arguments.set = [(name, value) for name, value in arguments.set if name not in said]
            _show_left_out(arguments.images)
        return _produce(path, arguments)


def _show_left_out(images: Path) -> None:
    if names := folder.left_out(images):
        some = ", ".join(names[:5]) + (", ..." if names[5:] else "")
        print(f"warning: {len(names)} of {images} left out, no PNG, JPEG, WebP or TIFF: {some}", file=sys.stderr)


def _produce(path: Path, arguments: argparse.Namespace) -> int:
    known = settings.load()
    options = ReadOptions(salt=arguments.seed_salt, limit=arguments.limit, fills=dict(arguments.set))
    request = Request(path, options, arguments.run, arguments.skip_bad, arguments.reuse, arguments.priority)
    models = catalog.load(known.models)
    opened = cache(lambda: open_session(start=True))  # a dry run needs it only for inputs that lie in the storage
    report = rows.check(request.path, options, models, known, lambda: opened().store)
    _show_report(report)
    _refuse_faults(report, request.skip_bad)
    if arguments.dry_run:
        _show_plan(report, arguments.json)
        return 1 if report.rejected else 0
    session = opened()
    submission = Submission(request, report, models, session.ledger, session.store)
    if arguments.download is not None:
        check_folder(arguments.download, submission.run, submission.hash)
    submitted = submission.submit()
    _send(session)
    _say(_submitted_text(submitted, report), arguments.json)
    if arguments.no_wait:
        if arguments.json:
            print(json.dumps({"run": submitted.run, "joined": submitted.joined}))
        return 0
    code = watch(session, submitted.run, arguments.json)
    if arguments.download is not None:
        got = download(session.store, submitted.run, arguments.download)
        _say(f"{got.fetched} pictures fetched, {got.kept} were there already, in {arguments.download}", arguments.json)
    return code


def watch(session: Session, run: str, as_json: bool) -> int:
    """Follow a run to its end and print how it went; the exit code."""
    if not session.ledger.facts(run):
        summary = follow.summary(session.store, run)  # over, and the broker has forgotten it
    else:
        try:
            summary = follow.follow(session.ledger, session.store, run, quiet=as_json)
        except KeyboardInterrupt:
            print(f"\nthe run goes on; follow it with `produce watch {run}`", file=sys.stderr)
            raise
    if as_json:
        print(json.dumps(summary))
    else:
        _show_summary(session, summary)
    return follow.exit_code(summary["counts"])


def _show_report(report: Report) -> None:
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for fault in report.faults:
        print(fault, file=sys.stderr)
    if report.fault_count > len(report.faults):
        print(f"... and {report.fault_count - len(report.faults):,} more faults", file=sys.stderr)


def _refuse_faults(report: Report, skip_bad: bool) -> None:
    if report.file_faults:
        raise UsageError("nothing was submitted: the file as a whole cannot be used")
    if report.fault_count and not skip_bad:
        advice = "mend them, or leave these rows out with --skip-bad"
        raise UsageError(f"nothing was submitted: {_plural(report.fault_count, 'fault')} in the file; {advice}")
    if report.rows == 0:
        raise UsageError("nothing was submitted: the file has no good row")


def _send(session: Session) -> None:
    """Begin at once; if it fails, a supervisor does it a moment later."""
    try:
        dispatch.tick(session.ledger, session.store, session.app)
    except Unreachable as error:
        print(f"warning: the first shards wait for a supervisor: {error}", file=sys.stderr)


def _show_plan(report: Report, as_json: bool) -> None:
    plan = {"rows": report.read, "good": report.rows, "skipped": report.rejected, "images": report.images}
    if as_json:
        print(json.dumps({**plan, "kinds": dict(report.kinds)}))
    else:
        models = ", ".join(sorted(report.models))
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items())
        left_out = f", {plan['skipped']:,} would be left out" if plan["skipped"] else ""
        made = f"{plan['good']:,} of {plan['rows']:,} rows ({kinds}) would make {plan['images']:,} images"
        print(f"{made} with {models}{left_out}")


def _submitted_text(submitted: Submitted, report: Report) -> str:
    if submitted.again:
        return f"joined run {submitted.run}; {_plural(submitted.again, 'row')} that failed go out again"
    if submitted.joined:
        return f"joined run {submitted.run}"
    reused = f", {_plural(submitted.copied, 'picture')} reused" if submitted.copied else ""
    return f"run {submitted.run}: {_plural(report.rows, 'row')}, {_plural(report.images, 'image')}{reused}"


def _show_summary(session: Session, summary: dict[str, Any]) -> None:
    counts, run = summary["counts"], summary["run"]
    print(f"run {run}: {counts['done']} of {counts['rows']} rows done, {_plural(counts['images'], 'image')}")
    if text := follow.troubles(counts):
        print(f"  {text}; reasons in {session.store.bucket}/{keys.inside(run, 'failed.csv')}")
    print(f"  contact sheet  {session.store.address(keys.inside(run, 'index.html'))}")
    show_addresses(session, run)


def show_addresses(session: Session, run: str = "") -> None:
    """Where the bucket and the monitor are."""
    print(
        f"  bucket         s3://{session.store.bucket}/{keys.prefix(run) if run else ''}  at {session.store.endpoint}"
    )
    if session.stack is not None and session.stack.flower_url:
        stack = session.stack
        print(f"  Flower         {stack.flower_url}  user {stack.flower_user}, password {stack.flower_password}")


def _say(text: str, as_json: bool) -> None:
    print(text, file=sys.stderr if as_json else sys.stdout)


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
