"""In which precision a model computes and stores, by name: torch's own names for it take a second to load."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch


class Precision(StrEnum):
    """The names are torch's and the command line's."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 4 if self is Precision.FLOAT32 else 2

    @property
    def as_torch(self) -> torch.dtype:
        """Loads torch."""
        import torch

        dtype: torch.dtype = getattr(torch, self.value)
        return dtype


# --dtype -> what is computed in, and what keys and values are stored as.
PRECISIONS: Final = {
    "auto": (Precision.FLOAT32, Precision.FLOAT16),
    "float32": (Precision.FLOAT32, Precision.FLOAT32),
    "bfloat16": (Precision.BFLOAT16, Precision.BFLOAT16),
}
