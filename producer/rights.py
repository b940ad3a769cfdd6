"""What a broker lets whom do. Asked without an effect: on a broker where others work, nothing may change."""

from collections.abc import Iterable
from typing import Any

import redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from shared import keys
from shared.errors import Unreachable

RUN, SHARD = keys.run("doctor"), keys.shard("doctor", "0")
# What every side sends, on keys as it uses them; a user's rights may differ by key.
COMMANDS = (
    "TIME",
    "SCAN 0",
    f"UNLINK {RUN}",
    f"GET {keys.failed('doctor')}",
    f"SET {keys.done('doctor')} 0",
    f"SETBIT {keys.failed('doctor')} 0 0",
    f"HSET {RUN} tries 0",
    f"HGET {SHARD} state",
    f"HGETALL {RUN}",
    f"HINCRBY {RUN} tries 1",
    f"RPUSH {keys.pending('doctor', 'none')} 0",
    f"LPOP {keys.pending('doctor', 'none')}",
    f"ZADD {keys.DUE} XX 0 doctor/0",
    f"ZREM {keys.DUE} doctor/0",
    f"ZRANGEBYSCORE {keys.DUE} 0 0",
    f"ZRANGE {keys.lane('bulk')} 0 0",
    f"SADD {keys.FINISHING} doctor",
    f"SREM {keys.FINISHING} doctor",
    f"SMEMBERS {keys.FINISHING}",
    f"HDEL {keys.WORKERS} doctor",
    f"GET {keys.fetching('doctor')}",
    f"GET {keys.fit('doctor')}",
    "SET lock:dispatch doctor NX PX 1",
    f"EVALSHA {'0' * 40} 1 {RUN}",
    "SCRIPT LOAD return",
    # What the scripts and locks of both sides call.
    f"ZSCORE {keys.DUE} doctor/0",
    f"GETBIT {keys.done('doctor')} 0",
    f"HDEL {SHARD} exit",
    f"DEL {SHARD}",
    f"LPUSH {keys.pending('doctor', 'none')} 0",
    "GET lock:dispatch",
    "DEL lock:dispatch",
    "PEXPIRE lock:dispatch 1",
    "LLEN bulk",
    "LRANGE bulk 0 0",
    "LPUSH bulk doctor",
    "SMEMBERS _kombu.binding.bulk",
)
WORKER_COMMANDS = (
    "BRPOP interactive bulk 1",
    f"EXPIRE {keys.problems('doctor')} 60",
    f"SET {keys.fetching('doctor')} none EX 60",
    f"DEL {keys.fetching('doctor')}",
    f"SET {keys.fit('doctor')} none PX 1",
    "PUBLISH /0.celeryev/worker.heartbeat doctor",
)


def lets_strangers_in(client: Any) -> bool | None:
    """Whether the ledger can be read without user and password; None if the connection broke."""
    pool = client.connection_pool
    address = {name: value for name, value in pool.connection_kwargs.items() if name not in ("username", "password")}
    with redis.Redis(connection_pool=redis.ConnectionPool(pool.connection_class, **address)) as stranger:
        try:
            stranger.exists(keys.WORKERS)
        except (AuthenticationError, ResponseError):
            return False
        except RedisError:
            return None
        finally:
            stranger.connection_pool.disconnect()
    return True


def refused(client: Any, commands: Iterable[str]) -> dict[str, str]:
    """Command -> why not. They are queued in a transaction that is thrown away: the broker checks the rights, and runs
    nothing."""
    link = client.connection_pool.get_connection()
    found: dict[str, str] = {}
    try:
        _say(link, "MULTI", expected="OK")
        for command in commands:
            try:
                _say(link, *command.split(), expected="QUEUED")
            except ResponseError as error:
                found.setdefault(command.split()[0], str(error))
        _say(link, "DISCARD", expected="OK")
    finally:
        link.disconnect()  # what is queued goes with it
        client.connection_pool.release(link)
    return found


def _say(link: Any, *command: str, expected: str) -> None:
    link.send_command(*command)
    answer = link.read_response()
    if answer != expected:  # whatever stands between here and the broker, it knows no transactions: say no more
        raise Unreachable(
            f"the broker answered {command[0]} with {answer!r}; expected {expected}: it does not run MULTI"
        )
