"""Runs the steps of the plan, shows each one's output in one piece, and gives failed tests their second try."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from suites.plan import Step, next_step
from suites.report import summary
from suites.running import Result, Running
from suites.second_try import second_try

NEWS_EVERY_S = 60.0


class Runner:
    """Makes targets in `root`; logs go to `folder` below it. What has not run at the end stays in `waiting`."""

    def __init__(self, steps: Sequence[Step], root: Path, folder: Path) -> None:
        self._root, self._folder = root, folder
        self.waiting, self.results = list(steps), list[Result]()
        self._running = list[Running]()
        self._began_s = self._news_s = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, *, keep_going: bool) -> None:
        """All steps; without `keep_going` none starts once one has failed."""
        with self._nothing_left():
            while True:
                if keep_going or all(result.passed for result in self.results):
                    self._start()
                if not self._running:
                    return
                self.results += self._ended()

    def try_again(self) -> None:
        """Failed tests that may be run once more: one suite after the other, with nothing beside them."""
        with self._nothing_left():
            for place, first in enumerate(self.results):
                only = tuple(second_try(first.outcomes)) if not first.passed else ()
                if only:
                    self._say(f"{first.step.target} once more, alone: {' '.join(only)}")
                    self._running.append(Running(first.step, self._root, self._folder, only))
                    while not (ended := self._ended()):
                        pass
                    self.results[place] = _judged(first, ended[0])

    @contextmanager
    def _nothing_left(self) -> Iterator[None]:
        """Interrupted, it ends what runs."""
        try:
            yield
        finally:
            for one in self._running:
                one.interrupt()
            for one in self._running:
                one.wait_or_kill()

    def _start(self) -> None:
        """Whatever may start now."""
        passed = [result.step.target for result in self.results if result.passed]
        while step := next_step(self.waiting, [one.step for one in self._running], passed):
            self.waiting.remove(step)
            self._running.append(Running(step, self._root, self._folder))
            self._say(f"{step.target} begins")

    def _ended(self) -> list[Result]:
        """After a moment: the steps that have ended in it, each shown."""
        time.sleep(0.1)
        results = []
        for one in list(self._running):
            if (result := one.result()) is not None:
                self._running.remove(one)
                self._show(one, result)
                results.append(result)
        if self._running and time.monotonic() > self._news_s + NEWS_EVERY_S:
            self._say("... " + ", ".join(_progress(one) for one in self._running))
        return results

    def _show(self, one: Running, result: Result) -> None:
        print(f"\n==> {one.step.target}", flush=True)
        with one.log.open("rb") as log:
            shutil.copyfileobj(log, sys.stdout.buffer)
        sys.stdout.flush()
        self._say(f"{one.step.target} {summary(result)}\n")

    def _say(self, text: str) -> None:
        self._news_s = time.monotonic()
        seconds = int(self._news_s - self._began_s)
        print(f"--> {seconds // 60:2}:{seconds % 60:02}  {text}", flush=True)


def _progress(one: Running) -> str:
    ended = one.outcomes().ended
    return f"{one.step.target} ({ended} tests so far)" if ended else one.step.target


def _judged(first: Result, second: Result) -> Result:
    """The first result, with its failures as FLAKY where nothing failed the second time."""
    seconds = first.seconds + second.seconds
    if not second.passed:
        return dataclasses.replace(first, seconds=seconds)
    flaky = tuple(dict.fromkeys(failure.test for failure in first.outcomes.failures))
    return dataclasses.replace(first, code=0, seconds=seconds, flaky=flaky)
