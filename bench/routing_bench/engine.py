"""One simulated engine: continuous batching with measured-looking rates over the real engine's own KV book-keeping.

It decides nothing about routing. Time is simulated: `submit` and `finish_step` are told what time it is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from topmast_server.engine.kv import BlockPool


@dataclass(frozen=True, slots=True)
class Speed:
    """What an engine can do; the defaults are of the size of an 8B model in bfloat16 on an H200."""

    prefill_tokens_per_s: float = 20_000.0
    step_s: float = 0.008  # reading the weights once
    decode_row_s: float = 0.0001
    chunk_tokens: int = 4096  # prefill in one step
    slots: int = 64
    kv_tokens: int = 4_000_000
    block_tokens: int = 512


H200: Final = Speed()


@dataclass(slots=True)
class Job:
    """A request on its way. `digests` name its full blocks."""

    arrived_s: float
    prompt: int
    output: int
    digests: tuple[bytes, ...]
    on_first: Callable[[], None]
    on_end: Callable[[], None]
    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    cached: int = 0
    made: int = 0
    offered: int = 0
    first_s: float = math.nan


class Engine:
    """Decodes run in every step; prefills share what is left, first come, first served."""

    def __init__(self, speed: Speed, wake: Callable[[float, Engine, int], None]) -> None:
        self.speed = speed
        self.pool = BlockPool(speed.kv_tokens // speed.block_tokens, speed.block_tokens)
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.prefilled_tokens = self.output_tokens = self.cached_tokens = 0
        self.busy_s = 0.0
        self._wake = wake  # (when, self, version): call finish_step(when, version) then
        self._version = 0
        self._began_s = 0.0
        self._step_s = 0.0  # of each step of the present stretch; 0 while idle
        self._steps = 0
        self._chunks: list[tuple[Job, int]] = []

    def submit(self, now: float, job: Job) -> None:
        """A request arrives. A stretch of pure decode steps ends at the next step's end."""
        self.waiting.append(job)
        if not self._step_s:
            self._begin(now)
        elif self._steps > 1:
            done = min(self._steps, int((now - self._began_s) / self._step_s) + 1)
            self._plan_end(done)

    def finish_step(self, now: float, version: int) -> None:
        """The end of a stretch, unless it was cut short meanwhile."""
        if version != self._version:
            return
        self.busy_s += self._steps * self._step_s
        chunks = {id(job) for job, _ in self._chunks}
        decoding = [job for job in self.running if id(job) not in chunks and job.computed == job.prompt]
        for job, tokens in self._chunks:
            job.computed += tokens
            self._offer(job)
            if job.computed == job.prompt:
                job.first_s, job.made = now, 1
                job.on_first()
        for job in decoding:
            job.made += self._steps
        for job in [job for job in self.running if job.made >= job.output]:
            self.running.remove(job)
            self.output_tokens += job.output
            self.pool.release(job.blocks)
            job.on_end()
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Plan the next stretch, or fall idle."""
        room = self.speed.chunk_tokens
        self._chunks = []
        for job in self.running:
            if job.computed < job.prompt and room:
                room -= self._chunk(job, room)
        while room and self.waiting and len(self.running) < self.speed.slots and self._admit(self.waiting[0]):
            job = self.waiting.popleft()
            self.running.append(job)
            room -= self._chunk(job, room)
        self._began_s = now
        if not self.running:
            self._step_s = 0.0
            return
        tokens = sum(count for _, count in self._chunks)
        decoding = len(self.running) - len(self._chunks)
        self._step_s = self.speed.step_s + tokens / self.speed.prefill_tokens_per_s + decoding * self.speed.decode_row_s
        self._plan_end(1 if self._chunks else min(job.output - job.made for job in self.running))

    def _plan_end(self, steps: int) -> None:
        self._steps = steps
        self._version += 1
        self._wake(self._began_s + steps * self._step_s, self, self._version)

    def _chunk(self, job: Job, room: int) -> int:
        tokens = min(room, job.prompt - job.computed)
        self._chunks.append((job, tokens))
        self.prefilled_tokens += tokens
        return tokens

    def _admit(self, job: Job) -> bool:
        """Give it what is cached and room for the rest, as engine/tables.py does; False while there is too little."""
        size = self.speed.block_tokens
        cached = self.pool.find(job.digests[: (job.prompt - 1) // size])
        needed = self.pool.blocks_for(job.prompt + job.output) - len(cached)
        if needed > self.pool.free - self.pool.count_free(cached):
            return False
        self.pool.share(cached)
        fresh = self.pool.take(needed)
        assert fresh is not None, "counted above"
        job.blocks = cached + fresh
        job.offered = len(cached)
        job.cached = job.computed = len(cached) * size
        self.cached_tokens += job.cached
        return True

    def _offer(self, job: Job) -> None:
        """Others find the blocks that are full now."""
        full = min(job.computed // self.speed.block_tokens, len(job.digests))
        for place in range(job.offered, full):
            self.pool.register(job.blocks[place], job.digests[place])
        job.offered = max(job.offered, full)
