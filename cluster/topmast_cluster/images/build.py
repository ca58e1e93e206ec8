"""Builds every image whose key changed, and only the layers that changed; an unchanged tree costs a look at keys."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from topmast_cluster.errors import ClusterError
from topmast_cluster.images.application import ensure_application
from topmast_cluster.images.base import base_key, chosen_base_image, ensure_base_tar
from topmast_cluster.images.buildah import PROGRAMS, Buildah
from topmast_cluster.images.layout import StoredImage, expand, keep_only, stored_image
from topmast_cluster.images.model import ensure_model, model_key
from topmast_cluster.images.pins import pins
from topmast_cluster.images.recipe import CHECKOUT, RECIPES, Recipe, application_key, digest, kernels_key, version
from topmast_cluster.images.wheelhouse import ensure_wheelhouse, wheelhouse_key
from topmast_cluster.machine import ensure_programs
from topmast_cluster.paths import cache_dir
from topmast_cluster.progress import Progress


@dataclass(frozen=True)
class Image:
    """A built image. The tag says what is in it, so a changed image is never mistaken for the old one."""

    recipe: Recipe
    tag: str
    stored: StoredImage

    @property
    def reference(self) -> str:
        return f"{self.recipe.repository}:{self.tag}"


def ensure_images(progress: Progress) -> dict[str, Image]:
    """Recipe name -> image, built where the cache lacks it. Returns within 0.5 s when nothing changed."""
    wanted = {recipe.name: _Wanted.of(recipe) for recipe in RECIPES}
    found = {name: one.look_up() for name, one in wanted.items()}
    if None in found.values():
        ensure_programs(progress, PROGRAMS)
        with _build_lock(progress):
            found = {name: one.look_up() or _build(one, progress) for name, one in wanted.items()}
            _forget_old([one.ref for one in wanted.values()])
    return {name: Image(wanted[name].recipe, wanted[name].tag, stored) for name, stored in found.items() if stored}


def push_images(images: dict[str, Image], registry: str, progress: Progress) -> None:
    for image in images.values():
        with progress.phase(f"push {image.recipe.name} image") as detail:
            buildah = _buildah(detail, f"push-{image.recipe.name}")
            if not buildah.exists(_local(image)):
                raise ClusterError(f"the layers of {image.reference} are gone: remove {_layout()} and try again")
            buildah.push_to_registry(_local(image), f"{registry}/{image.reference}")


@dataclass(frozen=True)
class _Wanted:
    recipe: Recipe
    versions: dict[str, str]
    application: str
    key: str

    @classmethod
    def of(cls, recipe: Recipe) -> "_Wanted":
        versions, application = pins(recipe.extras), application_key()
        parts = [recipe.containerfile.read_text(), base_key(), wheelhouse_key(recipe, versions), application]
        parts += [model_key()] if recipe.demo_model else []
        return cls(recipe, versions, application, digest(parts))

    @property
    def tag(self) -> str:
        return f"{version()}-{self.key[:12]}"

    @property
    def ref(self) -> str:
        return f"{self.recipe.name}-{self.tag}"

    def look_up(self) -> StoredImage | None:
        return stored_image(_layout(), self.ref)


def _build(wanted: _Wanted, progress: Progress) -> StoredImage:
    recipe = wanted.recipe
    contexts = {
        "wheels": ensure_wheelhouse(recipe, wanted.versions, progress),
        "app": ensure_application(wanted.application, progress),
    }
    args = {
        "BASE": _base_image(progress),
        "PACKAGES_SHA256": wheelhouse_key(recipe, wanted.versions),
        "APP_SHA256": wanted.application,
    }
    if recipe.demo_model:
        contexts |= {"model": ensure_model(), "kernels": CHECKOUT / "kernels"}
        args["KERNELS_SHA256"] = kernels_key()
    with progress.phase(f"build {recipe.name} image") as detail:
        buildah = _buildah(detail, f"build-{recipe.name}")
        buildah.build(recipe.containerfile, f"localhost/{wanted.ref}", args=args, contexts=contexts)
    with progress.phase(f"store {recipe.name} image") as detail:
        _buildah(detail, f"store-{recipe.name}").push_to_layout(f"localhost/{wanted.ref}", _layout(), wanted.ref)
        expand(_layout(), wanted.ref)
    stored = wanted.look_up()
    if stored is None:
        raise ClusterError(
            f"the image {wanted.ref} is not in {_layout()} after its build: remove that directory and try again"
        )
    return stored


def _base_image(progress: Progress) -> str:
    named = chosen_base_image()
    if named:
        return named
    tag = f"localhost/topmast-base:{base_key()}"
    if not _buildah(lambda _: None, "base-image").exists(tag):
        tar = ensure_base_tar(progress)
        with progress.phase("base image into buildah") as detail:
            _buildah(detail, "base-image").image_from_tar(tar, tag)
    return tag


def _forget_old(refs: list[str]) -> None:
    keep_only(_layout(), refs)
    keep = {f"localhost/{ref}" for ref in refs} | {f"localhost/topmast-base:{base_key()}"}
    _buildah(lambda _: None, "forget").forget_others(keep)


def _buildah(detail: Callable[[str], None], name: str) -> Buildah:
    return Buildah(detail, cache_dir() / "images" / "logs" / f"{name}.log")


def _local(image: Image) -> str:
    return f"localhost/{image.stored.ref}"


def _layout() -> Path:
    return cache_dir() / "images" / "layout"


@contextmanager
def _build_lock(progress: Progress) -> Iterator[None]:
    path = cache_dir() / "images" / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.phase("wait for another build") as detail:
                while True:
                    detail("another run is building images")
                    try:
                        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        time.sleep(0.5)
        yield
