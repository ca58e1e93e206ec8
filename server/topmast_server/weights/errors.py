"""Why a model cannot be loaded, in the codes of docs/contracts.md."""

from __future__ import annotations


class ModelError(Exception):
    """`code` is ModelNotFound, ModelCorrupt, ModelUnsupported or OutOfMemory; the message names a remedy."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def not_found(message: str) -> ModelError:
    """Nothing is there."""
    return ModelError("ModelNotFound", message)


def corrupt(message: str) -> ModelError:
    """Something is there, and it is broken or cut off."""
    return ModelError("ModelCorrupt", message)


def unsupported(message: str) -> ModelError:
    """It is whole, and this server has no code for it."""
    return ModelError("ModelUnsupported", message)
