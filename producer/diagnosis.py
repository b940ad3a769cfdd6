"""What to think of what the doctor finds: pure, a finding per check."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.catalog import Model

Level = Literal["ok", "warning", "FAILED"]
OLDEST = (6, 2)
REACHED = ("local stack", "broker", "storage")  # what fails here is out of reach
RIGHTS = "the key must be allowed to get, head, put, copy, list and delete in this bucket"
UNKNOWN = "could not be checked: the broker refuses this user INFO and CONFIG GET"


@dataclass(frozen=True)
class Finding:
    check: str
    level: Level
    found: str
    advice: str = ""  # empty where all is well

    def __str__(self) -> str:
        """One line, whatever the texts of others hold."""
        text = "; ".join(part for part in (self.found, self.advice) if part)
        return f"{self.level:<8} {self.check}: {' '.join(text.split())}"


def exit_code(findings: Iterable[Finding]) -> int:
    failed = [finding.check for finding in findings if finding.level == "FAILED"]
    return 3 if any(check in REACHED for check in failed) else int(bool(failed))


def summary(findings: Iterable[Finding]) -> str:
    """`2 failed, 1 warning`."""
    levels = [finding.level for finding in findings]
    failed, warnings = levels.count("FAILED"), levels.count("warning")
    return f"{failed or 'nothing'} failed, {warnings or 'no'} warning{'' if warnings == 1 else 's'}"


# --- local stack ---


def judge_stack(root: Path, missing: Sequence[str]) -> Finding:
    """`missing`: which of its two services do not run, one at least."""
    check, names = "local stack", {"valkey": "broker", "seaweedfs": "storage"}
    if len(missing) == len(names):
        advice = "start them with `produce up`, or set PIXELMILL_REDIS_URL to use services elsewhere"
        return Finding(check, "FAILED", f"neither broker nor storage of {root} runs", advice)
    (dead,) = missing
    (alive,) = names.keys() - missing
    advice = f"`produce up` starts it again; {root / 'logs' / dead}.log may say why it ended"
    return Finding(check, "FAILED", f"the {names[dead]} of {root} does not run, its {names[alive]} does", advice)


# --- broker ---


def judge_version(version: str | None, name: str = "Redis") -> Finding:
    """`version` is that of Redis whose commands the broker speaks."""
    check, expected = "broker version", ".".join(map(str, OLDEST))
    if version is None:
        return Finding(check, "warning", UNKNOWN, f"make sure that it is Redis {expected} or later, or Valkey")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < OLDEST:
        return Finding(check, "FAILED", f"found {name}", f"expected Redis {expected} or later, or Valkey: upgrade it")
    return Finding(check, "ok", name)


def judge_persistence(facts: Mapping[str, str]) -> Finding:
    """Takes `appendonly`, `appendfsync`, and whether the last write to the file was good."""
    check, on, sync = "broker persistence", facts.get("appendonly"), facts.get("appendfsync", "")
    if on is None:
        return Finding(check, "warning", UNKNOWN, "make sure that its append-only file is on")
    if on != "yes":
        advice = "a restart of the broker loses the ledger of every run: set `appendonly yes`"
        return Finding(check, "FAILED", "the append-only file is off", advice)
    if facts.get("aof_last_write_status", "ok") != "ok":
        advice = "look at the broker's log, and for a full disk"
        return Finding(check, "FAILED", "the last write to the append-only file failed", advice)
    if sync == "no":
        advice = "a power cut loses what the system had not written yet: set `appendfsync everysec`"
        return Finding(check, "warning", "the append-only file is on, appendfsync no", advice)
    return Finding(check, "ok", "the append-only file is on" + (f", appendfsync {sync}" if sync else ""))


def judge_policy(policy: str | None) -> Finding:
    check = "broker eviction"
    if policy is None:
        return Finding(check, "warning", UNKNOWN, "make sure that maxmemory-policy is noeviction")
    if policy != "noeviction":
        advice = "when memory is short, it throws away parts of the ledger: set `maxmemory-policy noeviction`"
        return Finding(check, "FAILED", f"maxmemory-policy is {policy}", advice)
    return Finding(check, "ok", "maxmemory-policy is noeviction")


def judge_strangers(let_in: bool | None) -> Finding:
    """`let_in`: whether a connection without user and password was served; None: it broke."""
    check = "broker authentication"
    if let_in is None:
        return Finding(check, "warning", "could not be checked: a connection without password broke", "try again")
    if let_in:
        advice = "set `requirepass`, or switch the user `default` off (ACL), and put the password into the address"
        return Finding(check, "FAILED", "it serves whoever connects, without a password", advice)
    return Finding(check, "ok", "a connection without password is refused")


def judge_commands(user: str, refused: Mapping[str, str], worker_refused: Mapping[str, str], flush: bool) -> Finding:
    """What was refused, and why, of the commands that every side sends and of those that only workers send."""
    check = "broker commands"
    if refused:
        what = f"user {user} may not {', '.join(refused)} ({next(iter(refused.values()))})"
        return Finding(check, "FAILED", what, "let this user run them, on all keys and channels of pixelmill")
    found = f"user {user} may run what pixelmill needs"
    if worker_refused:
        found = f"user {user} may run what `produce` needs, and not {', '.join(worker_refused)}, which workers need"
    return Finding(check, "ok", found + (", and FLUSHALL too" if flush else ""))


def judge_clock(ahead_s: float) -> Finding:
    """Leases know the broker's clock only, so a difference is good to know and no fault."""
    word = "ahead of" if ahead_s >= 0 else "behind"
    return Finding("broker clock", "ok", f"{abs(ahead_s):.1f} s {word} this host")


# --- storage ---


def judge_bucket(bucket: str, there: bool) -> Finding:
    if there:
        return Finding("storage bucket", "ok", bucket)
    advice = "make it, or set PIXELMILL_S3_BUCKET; `produce runs` makes it if the key may do that"
    return Finding("storage bucket", "FAILED", f"there is no bucket {bucket}", advice)


def judge_object(check: str, wrote: bytes, read: bytes | None) -> Finding:
    if read == wrote:
        return Finding(check, "ok", f"{len(wrote)} bytes came back as they were written")
    what = "nothing" if read is None else f"{len(read)} bytes, and others"
    return Finding(
        check, "FAILED", f"wrote {len(wrote)} bytes, read {what}", "the storage, or a proxy before it, is broken"
    )


def judge_list(found: list[tuple[str, int]], expected: tuple[str, int]) -> Finding:
    """Keys and sizes in bytes."""
    if found == [expected]:
        return Finding("storage list", "ok", "the object is listed at once")
    advice = "expected the object that was just written: runs would miss their own results on this storage"
    return Finding("storage list", "FAILED", f"{len(found)} objects under a new prefix", advice)


def judge_delete(key: str, gone: bool) -> Finding:
    if gone:
        return Finding("storage delete", "ok", "nothing is left of this check")
    return Finding("storage delete", "FAILED", f"{key} is still there after it was deleted", RIGHTS)


def judge_races(winners: Iterable[int], writers: int) -> Finding:
    """For every race, how many of its writers were told that they had made the object."""
    check, found = "storage conditional put", list(winners)
    if all(count == 1 for count in found):
        return Finding(check, "ok", f"of {writers} writers with If-None-Match: * exactly one wins")
    advice = "pixelmill looks before every put instead, but two workers may both write a picture: upgrade the storage"
    worst = max(found, key=lambda count: abs(count - 1))
    return Finding(check, "warning", f"of {writers} writers with If-None-Match: * {worst} win", advice)


# --- models, workers, lanes ---


def judge_model(model: Model, found: str | None, workers: Mapping[str, Any] | None) -> Finding:
    """`found`: the identity of the files on this host, None if there are none. `workers`: None if nobody was asked."""
    check, name, path = f"model {model.name}", model.name, model.location
    if found is not None and found != model.identity:
        what = f"the files in {path} have identity {found}, the catalog says {model.identity}"
        return Finding(check, "FAILED", what, "put the right files there, or this identity into models.toml")
    here = "on this host, and as the catalog says" if found else "not on this host"
    serving = sum(name in set(facts["models"]) - set(facts["problems"]) for facts in (workers or {}).values())
    if serving:
        return Finding(check, "ok", f"{here}; live workers that have it: {serving}")
    if reasons := [facts["problems"][name] for facts in (workers or {}).values() if name in facts["problems"]]:
        return Finding(check, "FAILED", f"{here}; no live worker can serve it", reasons[0])
    if workers:
        advice = f"its files belong into {path} on the worker hosts: check `path` in models.toml there"
        return Finding(check, "FAILED", f"{here}; no live worker can serve it", advice)
    if found:
        return Finding(check, "ok", here)
    advice = "this host needs them only if it runs workers; start a worker that has them and look again"
    return Finding(check, "warning", f"{here}, and no worker could be asked", advice)


def judge_workers(workers: Mapping[str, Any], local: bool) -> list[Finding]:
    """A finding per live worker, or one that there is none."""
    if not workers:
        start = "`produce up`" if local else "`python -m workers` on every GPU host"
        advice = f"start some with {start}; those that were just started are seen within half a minute"
        return [Finding("workers", "warning", "none is alive", advice)]
    return [_judge_worker(name, facts) for name, facts in sorted(workers.items())]


def _judge_worker(name: str, facts: Mapping[str, Any]) -> Finding:
    if "quarantined" in facts:
        advice = f"look at the device, then restart `python -m workers` on {name.partition('@')[2]} to try it again"
        found = f"{facts['device']} is quarantined: {facts['quarantined']}"
        return Finding(f"worker {name}", "warning", found, advice)
    problems, fit = facts["problems"], [model for model in facts["models"] if model not in facts["problems"]]
    found = f"on {facts['device']}, has {', '.join(fit) or 'no model'}"
    if problems:
        why = "; ".join(f"cannot serve {model}: {reason}" for model, reason in problems.items())
        return Finding(f"worker {name}", "warning", f"{found}; {why}", "it tries again every minute")
    if not fit:
        return Finding(f"worker {name}", "warning", found, "check `path` in models.toml on its host")
    return Finding(f"worker {name}", "ok", found)


def judge_lane(lane: str, messages: int, runs: int) -> Finding:
    return Finding(f"lane {lane}", "ok", f"open runs {runs}, shards waiting in the queue {messages}")
