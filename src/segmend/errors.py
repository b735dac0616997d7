"""The one family of errors that a user's input can cause, and the one of warnings."""

from __future__ import annotations


class SegmendError(ValueError):
    """Input that segmend cannot use.

    The message says where (file or index), what was found, what was expected and what to do.
    The command line prints it without a traceback and exits with status 2.
    """


class SegmendWarning(UserWarning):
    """Input that segmend can use, but that is likely to end badly.

    The message says what was found and what is done or suits better. The command line prints it as
    one line on stderr.
    """


def reason_of(error: BaseException, most: int = 300) -> str:
    """What another library's error says, in one line of at most so many characters."""
    return " ".join(str(error).split())[:most]
