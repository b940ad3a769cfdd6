"""Objects in S3-compatible storage: the truth about every run. The only place that knows boto3."""

import copy
import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from uuid import uuid4

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, SSLError

from shared import keys
from shared.errors import Refused, Unreachable, UsageError
from shared.settings import Settings

log = logging.getLogger(__name__)
JSON_LINES = "application/x-ndjson"
PROBE_WRITERS = 8
PRECONDITION_FAILED = 412
WRONG_CERTIFICATE = (
    "expected a certificate of this host, signed by an authority in the file that PIXELMILL_S3_CA names, or by one "
    "that boto3 knows if it names none"
)
NOT_IMPLEMENTED = 501  # how some storages answer If-None-Match


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it."""

    key: str
    size_bytes: int
    etag: str  # without quotes


@dataclass(frozen=True)
class Stat:
    """An object's version and size."""

    etag: str  # without quotes
    size_bytes: int


class Store:
    """One bucket, one client, shared by all threads of a process.

    Raises Unreachable when the storage does not answer.
    """

    def __init__(self, settings: Settings, max_connections: int = 16):
        self.bucket = settings.s3_bucket
        self.endpoint = settings.s3_endpoint
        self._conditional: bool | None = None
        self._probe_lock = threading.Lock()
        try:
            self._client: Any = boto3.session.Session().client("s3", **_client_arguments(settings, max_connections))
        except ValueError as error:
            raise UsageError(
                f"PIXELMILL_S3_ENDPOINT: found {self.endpoint!r}; expected an address such as http://localhost:9000"
            ) from error

    def put_new(self, key: str, body: bytes, content_type: str, metadata: Mapping[str, str] | None = None) -> bool:
        """Store an object unless its key is taken: True = stored, False = one stood there already."""
        extra = {"IfNoneMatch": "*"} if self.enforces_conditions() else {}
        if not extra and self.head(key) is not None:
            return False
        arguments = {"Key": key, "Body": body, "ContentType": content_type, "Metadata": dict(metadata or {}), **extra}
        try:
            self._call("put_object", **arguments)
        except ClientError as error:
            if _status(error) == PRECONDITION_FAILED:
                return False
            if _status(error) == 409:  # another writer is at it, and may yet fail
                raise Unreachable(f"storage: {key} is being written by somebody else; try again") from error
            raise
        return True

    def replace(self, key: str, body: bytes | IO[bytes], content_type: str) -> None:
        """Store an object whether or not one stands there: only for a run's end files and parts of a run not begun."""
        self._call("put_object", Key=key, Body=body, ContentType=content_type)

    def get(self, key: str) -> bytes | None:
        """The whole object, or None."""
        try:
            with self._answering():
                body: bytes = self._call("get_object", Key=key)["Body"].read()
        except ClientError as error:
            _raise_unless_absent(error)
            return None
        return body

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`."""
        span = f"bytes={offset}-{offset + length - 1}"
        with self._answering():
            body: bytes = self._call("get_object", Key=key, Range=span)["Body"].read()
        return body

    def lines(self, key: str) -> Iterator[bytes]:
        """The object's lines, streamed; nothing if it does not exist."""
        try:
            body = self._call("get_object", Key=key)["Body"]
        except ClientError as error:
            _raise_unless_absent(error)
            return
        with self._answering():
            yield from body.iter_lines(chunk_size=1 << 16)

    def head(self, key: str) -> dict[str, str] | None:
        """The object's own metadata (what `put_new` was given), or None if there is no object."""
        try:
            metadata: dict[str, str] = self._call("head_object", Key=key)["Metadata"]
        except ClientError as error:
            _raise_unless_absent(error)
            return None
        return metadata

    def stat(self, key: str) -> Stat | None:
        """Which version of an object there is, or None if there is no object."""
        try:
            head = self._call("head_object", Key=key)
        except Refused:
            return None
        except ClientError as error:
            _raise_unless_absent(error)
            return None
        return Stat(head["ETag"].strip('"'), head["ContentLength"])

    def get_version(self, key: str, etag: str, offset: int = 0, length: int | None = None) -> bytes | None:
        """The object, or its bytes from `offset` on, as long as it is the version that this ETag names, else None."""
        span = {} if length is None else {"Range": f"bytes={offset}-{offset + length - 1}"}
        try:
            with self._answering():
                body: bytes = self._call("get_object", Key=key, IfMatch=f'"{etag}"', **span)["Body"].read()
        except Refused:  # of an object of its own, this says that it is gone as well
            return None
        except ClientError as error:
            if _status(error) != PRECONDITION_FAILED:
                _raise_unless_absent(error)
            return None
        return body

    def get_input(self, name: str) -> bytes | None:
        """An input picture by its name in a job; None if it is gone or another one stands in its place."""
        if not name.startswith(keys.S3):
            return self.get(name)
        bucket, key, etag = keys.split_s3_input(name)
        return self.at(bucket).get_version(key, etag)

    def at(self, bucket: str) -> "Store":
        """Another bucket of the same storage, over the same connections."""
        other = copy.copy(self)
        other.bucket = bucket
        return other

    def copy_new(self, source: str, key: str) -> bool:
        """Copy inside the storage unless `key` is taken, metadata included."""
        if self.head(key) is not None:
            return False
        self._call("copy_object", Key=key, CopySource={"Bucket": self.bucket, "Key": source})
        return True

    def list(self, prefix: str) -> Iterator[Entry]:
        """Every object under a prefix, in key order; nothing if there is no such bucket."""
        token: dict[str, str] = {}
        while True:
            try:
                page = self._call("list_objects_v2", Prefix=prefix, **token)
            except ClientError as error:
                _raise_unless_absent(error)
                return
            yield from (Entry(item["Key"], item["Size"], item["ETag"].strip('"')) for item in page.get("Contents", []))
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def folders(self, prefix: str) -> Iterator[str]:
        """The names directly under a prefix, as a folder listing would show them."""
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=prefix, Delimiter="/", **token)
            for item in page.get("CommonPrefixes", []):
                yield item["Prefix"][len(prefix) :].rstrip("/")
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: str) -> None:
        """Delete one object; deleting what is not there is no error."""
        self._call("delete_object", Key=key)

    def delete_all(self, prefix: str) -> int:
        """Delete everything under a prefix; returns how many objects there were."""
        count = 0
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(self.delete, [entry.key for entry in self.list(prefix)]):
                count += 1
        return count

    def address(self, key: str, expires_s: int = 7 * 86400) -> str:
        """A presigned address under which anyone can read the object for a while."""
        url: str = self._client.generate_presigned_url(
            "get_object", Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=expires_s
        )
        return url

    def has_bucket(self) -> bool:
        try:
            self._call("head_bucket")
        except ClientError as error:
            _raise_unless_absent(error)
            return False
        return True

    def ensure_bucket(self) -> None:
        """Make the bucket if it is not there."""
        if not self.has_bucket():
            self._call("create_bucket")

    def enforces_conditions(self) -> bool:
        """Whether the storage honours `If-None-Match: *`, tried once per process by racing writers of one key."""
        with self._probe_lock:
            if self._conditional is None:
                self._conditional = self.race(f"probe/{uuid4().hex}") == 1
                if not self._conditional:
                    log.warning("%s ignores If-None-Match; looking before every put instead", self.endpoint)
            return self._conditional

    def race(self, key: str) -> int:
        """How many of PROBE_WRITERS that put one key with `If-None-Match: *` are told that they made it. The key must
        be free, and is free again afterwards."""

        def write(_: int) -> bool:
            try:
                self._call("put_object", Key=key, Body=b"", IfNoneMatch="*")
            except ClientError as error:
                return _status(error) not in (409, 412)
            return True

        try:
            with ThreadPoolExecutor(PROBE_WRITERS) as pool:
                return sum(pool.map(write, range(PROBE_WRITERS)))
        finally:
            self.delete(key)

    def _call(self, method: str, **arguments: Any) -> Any:
        with self._answering():
            return getattr(self._client, method)(Bucket=self.bucket, **arguments)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Whatever breaks between here and the storage is Unreachable; what the storage says is left to the caller."""
        where = f"storage {self.endpoint or 'AWS S3'}"
        try:
            yield
        except SSLError as error:
            raise Unreachable(f"{where}: {error}; {WRONG_CERTIFICATE}") from error
        except BotoCoreError as error:
            raise Unreachable(f"{where}: {error}") from error
        except ClientError as error:
            status = _status(error)
            if status in (401, 403):
                raise Refused(
                    f"{where} refused bucket {self.bucket!r} ({_code(error)}); "
                    "check PIXELMILL_S3_ACCESS_KEY, PIXELMILL_S3_SECRET_KEY and PIXELMILL_S3_BUCKET"
                ) from error
            if (status >= 500 and status != NOT_IMPLEMENTED) or _code(error) in ("SlowDown", "RequestTimeout"):
                raise Unreachable(f"{where}: {error}") from error
            raise


def _client_arguments(settings: Settings, max_connections: int) -> dict[str, Any]:
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"total_max_attempts": 5, "mode": "standard"},
        max_pool_connections=max_connections,
        parameter_validation=False,  # a tenth of the time of a small put
        request_checksum_calculation="when_required",  # older S3-compatible servers refuse the newer checksums
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if settings.s3_endpoint else {},
    )
    arguments: dict[str, Any] = {"config": config, "region_name": settings.s3_region}
    if settings.s3_endpoint:
        arguments["endpoint_url"] = settings.s3_endpoint
    if settings.s3_ca:
        arguments["verify"] = str(settings.s3_ca)
    if settings.s3_access_key.get_secret_value():
        arguments["aws_access_key_id"] = settings.s3_access_key.get_secret_value()
        arguments["aws_secret_access_key"] = settings.s3_secret_key.get_secret_value()
    return arguments


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _raise_unless_absent(error: ClientError) -> None:
    if _status(error) != 404:
        raise error
