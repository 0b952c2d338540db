"""The errors a person can meet. Each says what was wrong, where, what was expected and what to do.

The command line prints the message without a traceback and exits with `exit_code`.
"""


class ScratchlabError(Exception):
    """Something the user can put right. The message is complete: no traceback is needed to act on it."""

    exit_code = 1
    told = False
    """Whether another process of the same run tells it."""


class UsageError(ScratchlabError):
    """A command, argument or Python call that cannot mean anything here."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or an override that does not validate; the message lists every problem at once."""


class CorpusError(ScratchlabError):
    """Text that cannot become a corpus, or a corpus that is incomplete or damaged."""


class RunError(ScratchlabError):
    """A run folder that is locked, missing, damaged or does not fit what was asked of it."""


class RunBusyError(RunError):
    """A run that another process is writing."""


class LostError(RunError):
    """A run of several processes of which one is gone."""


class DivergedError(RunError):
    """A run that gave up, for it came to no finite gradient any more: a result of its recipe, of which no figure is."""


class UnfinishedError(ScratchlabError):
    """Work that something outside put a stop to, such as a full disk: it goes on when the command is run again."""


class UnreachableError(CorpusError, UnfinishedError):
    """A service or the way to it failed for now: what was done is kept, and goes on when the command is run again."""


class DeviceError(ScratchlabError):
    """Something this machine or device cannot do, named."""


class TooLargeError(DeviceError):
    """A recipe of which a device does not hold a single sequence."""


class MissingExtraError(ScratchlabError):
    """An optional part that is not installed; the message is the command that installs it."""


class Terminated(ScratchlabError):  # noqa: N818  it is an order that was obeyed, not a fault
    """The run was told to stop (SIGTERM or Ctrl-C), saved a checkpoint and stopped."""

    exit_code = 143
