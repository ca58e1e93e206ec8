"""Wakes models for events, between two threads: kopf's handlers ring, the operator's loop decides whom it concerns.

What the operator wrote itself wakes nobody. Whether it did is known once the API server has answered, so an event
about a model that is being worked on waits until that pass is over: then every answer is in.
"""

import asyncio
from collections.abc import Callable

from topmast_operator.watch.mirror import Indices, Key
from topmast_operator.watch.own_writes import OwnWrites

Version = tuple[str, str]  # uid, resourceVersion


class Bell:
    """`attach`, `changed`, `gone`, `freed`, `listed` are called in kopf's thread, all else in the operator's loop."""

    def __init__(
        self,
        own: OwnWrites,
        wake: Callable[[Key], None],
        *,
        heard: Callable[[], None],
        attached: Callable[[Indices], None],
        listed: Callable[[], None],
    ) -> None:
        self._own = own
        self._wake = wake
        self._heard = heard
        self._attached = attached
        self._listed = listed
        self._loop = asyncio.get_running_loop()
        self._held: dict[Key, set[Version]] = {}  # by the models that are being worked on
        self._waiting: set[Key] = set()

    def attach(self, indices: Indices) -> None:
        """kopf has started with these indices, which it is about to fill."""
        self._loop.call_soon_threadsafe(self._attached, indices)

    def changed(self, namespace: str, model: str, uid: str, version: str) -> None:
        """This version of an object that belongs to a model was seen."""
        self._loop.call_soon_threadsafe(self._on_changed, (namespace, model), (uid, version))

    def gone(self, uid: str) -> None:
        """An object was deleted, one that the operator wrote a moment ago perhaps."""
        self._loop.call_soon_threadsafe(self._own.forget, uid)

    def freed(self, namespace: str | None = None) -> None:
        """Room may have come for models that wait for some, in a namespace or anywhere."""
        self._loop.call_soon_threadsafe(self._on_freed, namespace)

    def listed(self) -> None:
        """An object was seen in a list and not in a watch: changes before it may have been missed."""
        self._loop.call_soon_threadsafe(self._listed)

    def begin(self, key: Key) -> None:
        """A pass over this model begins."""
        self._held[key] = set()

    def end(self, key: Key) -> None:
        """The pass is over: what others changed meanwhile wakes the model again."""
        held = self._held.pop(key, set())
        if not all(self._own.made(uid, version) for uid, version in held):
            self._wake(key)

    def waits(self, key: Key, waiting: bool) -> None:
        """Whether a model waits for room."""
        (self._waiting.add if waiting else self._waiting.discard)(key)

    def _on_changed(self, key: Key, version: Version) -> None:
        self._heard()
        if key in self._held:
            self._held[key].add(version)
        elif not self._own.made(*version):
            self._wake(key)

    def _on_freed(self, namespace: str | None) -> None:
        self._heard()
        for key in self._waiting:
            if namespace in (None, key[0]):
                self._wake(key)
