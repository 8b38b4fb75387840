"""The one exception for what a person can put right."""


class UserError(ValueError):
    """Bad usage or bad input, told in one sentence: the value, the limit and the remedy.

    The command line prints the sentence and exits with code 2; no traceback is shown.
    """


class StoppedRun(RuntimeError):
    """A run that stopped itself (a loss that is not a number, a full disk, unreadable data): exit code 3."""
