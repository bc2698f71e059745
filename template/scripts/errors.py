"""The one error that is shown to the developer as a sentence, not as a traceback."""


class DevelopmentError(Exception):
    """A command cannot do its work; the message says why, and what to do about it."""
