"""The exceptions that a person can act on; what they say never holds the passwords of a URL."""

from markovae.locations import without_secrets


class _WithoutSecrets(Exception):
    def __init__(self, *told: object) -> None:
        super().__init__(*(without_secrets(one) if isinstance(one, str) else one for one in told))


class UserError(_WithoutSecrets, ValueError):
    """Bad usage or bad input, told in one sentence: the value, the limit and the remedy.

    The command line prints the sentence and exits with code 2; no traceback is shown.
    """


class StoppedRun(_WithoutSecrets, RuntimeError):
    """A run that stopped itself (a loss that is not a number, a full disk, unreadable data): exit code 3."""


def reason_of(error: BaseException) -> str:
    """Why a file could not be read, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
