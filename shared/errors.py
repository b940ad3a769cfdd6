"""Every error that a user can meet; the exit code of `produce` is data on the exception."""


class PixelmillError(Exception):
    """Something went wrong in pixelmill."""

    exit_code = 1


class UsageError(PixelmillError):
    """The command, the file or a setting is not usable as given."""

    exit_code = 2


class ModelError(UsageError):
    """A model is unknown, absent, damaged, or not of the family that the catalog names. `model`: which, if known."""

    model = ""


class RunConflict(UsageError):
    """A run of this name exists already and was made from something else."""


class Unreachable(PixelmillError):
    """The broker or the storage does not answer."""

    exit_code = 3


class Refused(Unreachable):
    """The storage answers, but these keys may not do this there."""


class BadImage(PixelmillError):
    """The model returned a picture that must not count as done (NaN, black or flat)."""


class UnsafeImage(BadImage):
    """A safety checker holds the picture back."""


class LeaseLost(PixelmillError):
    """Another worker holds this shard now, or its run is gone; nothing may be committed."""


class Paused(LeaseLost):
    """The run is paused: its shards go back between two batches."""


class Canceled(LeaseLost):
    """The run is canceled: what is finished stays, the rest is not made."""


class BadInput(PixelmillError):
    """An input picture or its mask cannot be used as the row asks; the text says what was found and expected."""


class EmptySelection(BadInput):
    """Nothing was found of what a row selects."""
