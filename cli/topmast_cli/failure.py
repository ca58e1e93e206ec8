"""The one way to give up."""


class Failure(Exception):
    """What could not be done and what to do about it, in one sentence: shown as it is, with exit code 1."""
