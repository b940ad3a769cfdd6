"""The connection to Redis: calls, scripts, locks and the clock, with Unreachable for whatever goes wrong on the way."""

import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import LockError, RedisError
from redis.retry import Retry

from shared import scripts
from shared.errors import Unreachable, UsageError
from shared.settings import Settings

WRONG_CERTIFICATE = (
    "expected a certificate of this host, signed by an authority in the file that PIXELMILL_REDIS_CA names, or by one "
    "that the system knows if it names none"
)


class Broker:
    """One client of the broker, shared by all threads of a process."""

    def __init__(self, settings: Settings):
        self.settings = settings
        try:
            self.redis: Any = redis.Redis.from_url(
                settings.redis_url.get_secret_value(),
                decode_responses=True,
                socket_connect_timeout=5,
                socket_timeout=30,
                health_check_interval=25,
                retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 3),
                **tls(settings),
            )
        except ValueError:  # its text may hold a part of the password
            expected = "expected redis://[user:password@]host:port/number; a special character of a password as %XX"
            raise UsageError(f"PIXELMILL_REDIS_URL: found no such address; {expected}") from None
        self._scripts: dict[str, Any] = {}

    @contextmanager
    def lock(self, name: str, lease_s: float, wait_s: float = 0.0) -> Iterator[Any]:
        """A short lease on a name; yields None if somebody else has it."""
        # Whichever thread of its holder may extend it.
        lock = self.redis.lock(f"lock:{name}", timeout=lease_s, blocking_timeout=wait_s, thread_local=False)
        try:
            taken = lock.acquire(blocking=wait_s > 0)
        except RedisError as error:
            raise unreachable(error) from error
        try:
            yield lock if taken else None
        except LockError as error:
            raise Unreachable(f"the lock on {name} ran out before the work was done; start again") from error
        except RedisError as error:
            raise unreachable(error) from error
        finally:
            if taken:
                _let_go(lock)

    def note(self, key: str, text: str, lasts_s: float) -> None:
        """Keep a text for a while."""
        self._call("set", key, text, px=ms(lasts_s))

    def noted(self, key: str) -> str | None:
        """What `note` keeps, as long as it does."""
        text: str | None = self._call("get", key)
        return text

    def now_ms(self) -> int:
        """The broker's clock: the only one that leases know."""
        seconds, microseconds = self._call("time")
        return int(seconds) * 1000 + int(microseconds) // 1000

    def _scan(self, pattern: str) -> list[str]:
        try:
            return list(self.redis.scan_iter(match=pattern, count=5000))
        except RedisError as error:
            raise unreachable(error) from error

    def _call(self, command: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self.redis, command)(*arguments, **options)
        except RedisError as error:
            raise unreachable(error) from error

    def _pipe(self, commands: Iterable[tuple[Any, ...]], transaction: bool = False) -> None:
        pipe = self.redis.pipeline(transaction)
        for command, key, *arguments in commands:
            if command == "hset":
                pipe.hset(key, mapping=arguments[0])
            else:
                getattr(pipe, command)(key, *arguments)
        try:
            pipe.execute()
        except RedisError as error:
            raise unreachable(error) from error

    def _script(self, name: str, names: list[str], arguments: list[Any]) -> Any:
        if name not in self._scripts:
            self._scripts[name] = self.redis.register_script(getattr(scripts, name))
        try:
            return self._scripts[name](keys=names, args=arguments)
        except RedisError as error:
            raise unreachable(error) from error


def tls(settings: Settings) -> dict[str, Any]:
    """How to check who answers at a rediss:// address, in the words of redis-py; Celery passes them on to it."""
    if not settings.redis_tls:
        return {}
    ca = {"ssl_ca_certs": str(settings.redis_ca)} if settings.redis_ca else {}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, **ca}


def ms(seconds: float) -> int:
    return int(seconds * 1000)


def unreachable(error: Exception) -> Unreachable:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Unreachable(f"broker: {error}; {WRONG_CERTIFICATE}")
    return Unreachable(f"broker: {error}; check PIXELMILL_REDIS_URL, or start the local stack with `produce up`")


def _let_go(lock: Any) -> None:
    with suppress(RedisError):  # it ran out meanwhile: whoever has it now keeps it
        lock.release()
