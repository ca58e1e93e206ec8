"""Wakes models for events, between two threads: kopf's handlers ring, the operator's loop decides whom it concerns.

What the operator wrote itself wakes nobody. Whether it did is known once the API server has answered, so an event
about a model that is being worked on waits until that pass is over: then every answer is in.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from topmast_operator.api.resource import Key
from topmast_operator.watch.mirror import Indices
from topmast_operator.watch.own_writes import OwnWrites
from topmast_operator.watch.records import ModelRef

log = logging.getLogger(__name__)

Version = tuple[str, str]  # uid, resourceVersion


class Bell:
    """`attach`, `changed`, `renamed`, `gone`, `freed` and `listed` are called in kopf's thread, all else in the
    operator's loop."""

    def __init__(
        self,
        own: OwnWrites,
        wake: Callable[[Key], None],
        *,
        heard: Callable[[], None],
        attached: Callable[[Indices], None],
        listed: Callable[[], None],
        concerned: Callable[..., Iterable[Key]] = lambda *_: (),
    ) -> None:
        """concerned: the models to wake when one was `renamed`, by the same arguments."""
        self._own = own
        self._wake = wake
        self._heard = heard
        self._attached = attached
        self._listed = listed
        self._concerned = concerned
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[Any, ...]] = deque()  # calls from kopf's thread
        self._held: dict[Key, set[Version]] = {}  # by the models that are being worked on
        self._waiting: set[Key] = set()

    def attach(self, indices: Indices) -> None:
        """kopf has started with these indices, which it is about to fill."""
        self._hand_over(self._attached, indices)

    def changed(self, namespace: str, model: str, uid: str, version: str) -> None:
        """This version of an object that belongs to a model was seen."""
        self._hand_over(self._on_changed, (namespace, model), (uid, version))

    def renamed(self, model: ModelRef, before: frozenset[str] | None, after: frozenset[str] | None) -> None:
        """A model has other aliases than before; None where it was not there, or is there no more."""
        self._hand_over(self._on_renamed, model, before, after)

    def gone(self, uid: str) -> None:
        """An object was deleted, one that the operator wrote a moment ago perhaps."""
        self._hand_over(self._own.forget, uid)

    def freed(self, namespace: str | None = None) -> None:
        """Room may have come for models that wait for some, in a namespace or anywhere."""
        self._hand_over(self._on_freed, namespace)

    def listed(self) -> None:
        """An object was seen in a list and not in a watch: changes before it may have been missed."""
        self._hand_over(self._listed)

    def _hand_over(self, *call: Any) -> None:
        """Have the loop make this call. Many events come at once, and waking a loop is a system call."""
        self._inbox.append(call)
        if len(self._inbox) == 1:
            self._loop.call_soon_threadsafe(self._empty_inbox)

    def _empty_inbox(self) -> None:
        # The last one is removed before it is handled: whoever adds another one from then on finds an empty inbox.
        while self._inbox:
            call, *arguments = self._inbox.popleft()
            try:
                call(*arguments)
            except Exception:  # those behind it are to be heard as well
                log.exception("an event was lost")

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

    def _on_renamed(self, *change: Any) -> None:
        """Never by the operator's own hand. One that is being worked on now gets another pass after this one."""
        for key in self._concerned(*change):
            self._wake(key)

    def _on_freed(self, namespace: str | None) -> None:
        self._heard()
        for key in self._waiting:
            if namespace in (None, key[0]):
                self._wake(key)
