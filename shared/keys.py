"""Where things lie: the keys of a run's objects in the bucket, and of its ledger in Redis."""

import re

from shared.errors import UsageError

RUN_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,64}")


def checked_run(name: str) -> str:
    """The name, if a run can have it. Raises UsageError."""
    if not RUN_NAME.fullmatch(name):
        raise UsageError(f"found {name!r}; expected 1 to 64 of A-Z a-z 0-9 . _ -, not beginning with a dot")
    return name


# --- storage: everything of a run under one prefix ---


def prefix(run: str) -> str:
    return f"runs/{run}/"


def description(run: str) -> str:
    """Put last when a run is submitted: without it there is no run."""
    return f"runs/{run}/run.json"


def shards(run: str) -> str:
    return f"runs/{run}/shards.jsonl"


def part(run: str, number: int) -> str:
    return f"runs/{run}/jobs/{number:04d}.jsonl"


def image(run: str, name: str) -> str:
    return f"runs/{run}/images/{name}"


def mask(run: str, name: str) -> str:
    return f"runs/{run}/masks/{name}"


def results(run: str, shard: str = "") -> str:
    """A shard's commit point; without a shard, the prefix of all of them."""
    return f"runs/{run}/results/{shard}.jsonl" if shard else f"runs/{run}/results/"


def dead(run: str, row: int) -> str:
    return f"runs/{run}/dead/{row:07d}.json"


def rejected(run: str) -> str:
    return f"runs/{run}/rejected.jsonl"


def summary(run: str) -> str:
    """Written last of a run's end files: the run is over as long as it stands."""
    return f"runs/{run}/summary.json"


def inside(run: str, path: str) -> str:
    """An end file, or what a result line names: its paths begin at the run."""
    return f"runs/{run}/{path}"


# --- storage: inputs, shared by all runs and named by their content ---

S3 = "s3://"
INPUTS = "inputs/"


def local_input(sha256: str, suffix: str) -> str:
    """Where a picture from a producer's disk is stored; also its name in a job. `suffix` begins with a dot."""
    return f"{INPUTS}{sha256}{suffix}"


def s3_input(bucket: str, key: str, etag: str) -> str:
    """The name in a job of an object that the user has in the storage already, as it is now."""
    return f"{S3}{bucket}/{key}#{etag}"


def split_s3_input(name: str) -> tuple[str, str, str]:
    """Bucket, key and ETag: the opposite of `s3_input`."""
    bucket, _, rest = name.removeprefix(S3).partition("/")
    key, _, etag = rest.rpartition("#")
    return bucket, key, etag


# --- storage: models, wherever their owner has put them ---

MODEL = re.compile(r"s3://[^/\s]+/[^/].*")


def split_s3(location: str) -> tuple[str, str]:
    """Bucket and key of `s3://bucket/key`, without a slash at the end."""
    bucket, _, key = location.removeprefix(S3).partition("/")
    return bucket, key.rstrip("/")


# --- Redis: the ledger, a cache that can be rebuilt from the storage ---

WORKERS = "workers"  # hash: worker name -> what it announced last
FINISHING = "finishing"  # set: runs without an open row that have no end files yet
DUE = "due"  # zset: "<run>/<shard>" -> when a sent or running shard is looked at again, ms
LOOKED = "lane:looked"  # when dispatch looked last, ms


def lane(name: str) -> str:
    """A zset of the lane's runs, scored by when each was last served."""
    return f"lane:{name}"


def problems(worker: str) -> str:
    """A hash that expires: model -> why this worker cannot load it."""
    return f"worker:{worker}:problems"


def fetching(worker: str) -> str:
    """A text that expires: which model this worker fetches from the storage, and how far it is."""
    return f"worker:{worker}:fetching"


def fit(*parts: object) -> str:
    """A string that expires: what was found to fit into the memory of one kind of device, of one kind of model call."""
    return "fit:" + ":".join(map(str, parts))


def last_model(name: str) -> str:
    return f"lane:{name}:model"


def run(name: str) -> str:
    return f"run:{name}"


def done(name: str) -> str:
    """Bitmap over row numbers."""
    return f"run:{name}:done"


def failed(name: str) -> str:
    """Bitmap over row numbers: failed or dead."""
    return f"run:{name}:failed"


def pending(name: str, model: str) -> str:
    """A list of shard names that wait to be sent."""
    return f"run:{name}:pending:{model}"


def shard(run_name: str, name: str) -> str:
    return f"shard:{run_name}:{name}"


def member(run_name: str, shard_name: str) -> str:
    """A shard's name in DUE; neither half can hold a slash."""
    return f"{run_name}/{shard_name}"
