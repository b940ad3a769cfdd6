"""What lies in the queue may be anything: a message that cannot be read is dropped, and the worker goes on."""

from collections.abc import Callable
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker import strategy

from shared import keys


def drops_unreadable(task: Any, app: Any, consumer: Any, **options: Any) -> Callable[..., Any]:
    """Celery's own strategy. It unpacks what a message says before anyone looks; an error there would end the worker,
    which puts the message back into the queue, for the next worker to end by."""
    receive = strategy.default(task, app, consumer, **options)

    def guarded(message: Any, body: Any, *more: Any, **named: Any) -> Any:
        try:
            arguments, kwargs, _ = message.payload
            if not isinstance(arguments, list) or not isinstance(kwargs, dict):
                raise TypeError("expected a list of arguments and an object of names")
            if not names_a_shard(kwargs):
                raise ValueError("expected the names of a run and of a shard")
        except (TypeError, ValueError) as error:
            raise InvalidTaskError(f"not the body of a task: {error}") from error
        return receive(message, body, *more, **named)

    return guarded


def names_a_shard(kwargs: dict[str, Any]) -> bool:
    """Other names could be keys of the ledger that hold something else: the broker would refuse, and the worker wait
    for it to answer, for ever."""
    names = (kwargs.get("run"), kwargs.get("shard"))
    return all(isinstance(name, str) and keys.RUN_NAME.fullmatch(name) for name in names)
