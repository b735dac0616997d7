"""The one family of errors that a user's input can cause."""

from __future__ import annotations


class SegmendError(ValueError):
    """Input that segmend cannot use.

    The message says where (file or index), what was found, what was expected and what to do.
    The command line prints it without a traceback and exits with status 2.
    """
