"""What the routes share: the model's text side, the engine's supervisor, the door, and the counters.

The text side (tokenizer, template) is loaded beside the engine's weights; the server is ready when both are there.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from topmast_server.api.admission import Admission, Limits
from topmast_server.api.body import BodyRoom
from topmast_server.api.chat import ChatTemplate
from topmast_server.api.detokenize import Vocabulary
from topmast_server.api.errors import ApiError
from topmast_server.api.metrics import EngineReport, Metrics
from topmast_server.supervisor.drain import Drain, InFlight
from topmast_server.supervisor.supervisor import Supervisor
from topmast_server.weights.tokenizer import ModelTokenizer, load_tokenizer, try_out

_ENCODE_IN_THREAD_CHARACTERS: Final = 4096


class TextSide:
    """Everything about the model that concerns text and not tensors."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError; takes some hundred milliseconds, so not in the event loop."""
        self.tokenizer: ModelTokenizer = load_tokenizer(path)
        try_out(self.tokenizer, path)
        self.template = ChatTemplate(self.tokenizer.chat_template, self.tokenizer.bos_token, self.tokenizer.eos_token)
        self.vocabulary = Vocabulary(self.tokenizer.tokenizer)
        self.longest_token_bytes = self.vocabulary.longest_token_bytes()
        # One thread: tokenising is bounded by the door, and the engine needs the cores.
        self._beside = ThreadPoolExecutor(1, "tokenise")

    async def encode(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids; long texts are tokenised beside the event loop."""
        if len(text) <= _ENCODE_IN_THREAD_CHARACTERS:
            return self.tokenizer.encode(text, add_special=add_special)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._beside, lambda: self.tokenizer.encode(text, add_special=add_special))


class Service:
    """One served model. All state here belongs to the event loop."""

    def __init__(
        self,
        names: list[str],
        supervisor: Supervisor,
        drain: Drain,
        *,
        max_waiting_requests: int,
        max_waiting_tokens: int | None,
        ttft_target_s: float,
        started_s: float,
    ) -> None:
        self.names = names
        self.supervisor = supervisor
        self.drain = drain
        self.in_flight = InFlight()
        self.bodies = BodyRoom()
        self.metrics = Metrics(names[0])
        self.metrics.registry.register(EngineReport(self))
        self.created = int(time.time())
        self.input_tokens = 0
        self.requests = 0
        self.requests_finished = 0
        self.ready_after_s: float | None = None
        self._bounds = (max_waiting_requests, max_waiting_tokens, ttft_target_s)
        self._started_s = started_s
        self._text: TextSide | None = None
        self._admission: Admission | None = None

    def set_text(self, text: TextSide) -> None:
        """The text side is loaded."""
        self._text = text
        self.open_if_complete()

    def open_if_complete(self) -> bool:
        """Open the door once engine and text side are there; True when that happened now."""
        if self._admission is not None or self._text is None or self.supervisor.phase != "ready":
            return False
        self._admission = Admission(Limits.of(self.supervisor.info["capacity"], *self._bounds))
        self.ready_after_s = time.monotonic() - self._started_s
        return True

    @property
    def phase(self) -> str:
        """As in /state."""
        if self.supervisor.failure is not None:
            return "failed"
        if self.drain.started:
            return "draining"
        if self.supervisor.phase == "ready" and self._admission is None:
            return "warming"
        return self.supervisor.phase

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.phase == "ready"

    @property
    def start_seconds(self) -> dict[str, float]:
        """Measured phases of the start; empty until it is over."""
        if self.ready_after_s is None:
            return {}
        phases: dict[str, float] = self.supervisor.info["start"]
        return {**phases, "total_s": round(self.ready_after_s, 3)}

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens that were accepted and are not computed yet."""
        return 0 if self._admission is None else self._admission.waiting_tokens

    @property
    def capacity(self) -> dict[str, Any] | None:
        """What the engine can do: its start-up measurement, replaced by what the busy periods showed."""
        if not self.supervisor.info:
            return None
        fixed: dict[str, Any] = self.supervisor.info["capacity"]
        stats = self.supervisor.stats
        rates = ("prefill_tokens_per_s", "decode_tokens_per_s")
        return {**fixed, **{rate: stats[rate] for rate in rates if stats.get(rate)}}

    def doors(self) -> tuple[Admission, TextSide]:
        """What a generation needs; 503 while there is none to be had here."""
        if self.supervisor.failure is not None:
            raise self._unavailable("the engine has failed and the server restarts", "engine_failed", 5)
        if self.drain.refuses:
            raise self._unavailable("the server is shutting down", "draining", 1, close=True)
        if self._admission is None or self._text is None:
            load = self.supervisor.load
            wait_s = max(1, round(load.eta_s or 1))
            raise self._unavailable(f"the model is not ready yet ({self.phase})", "not_ready", wait_s)
        rates = self.supervisor.stats
        self._admission.ttft_estimate.believe(rates.get("prefill_tokens_per_s", 0), rates.get("decode_tokens_per_s", 0))
        return self._admission, self._text

    def _unavailable(self, what: str, code: str, wait_s: int, *, close: bool = False) -> ApiError:
        self.metrics.rejected(code)
        message = f"{what}; try again in {wait_s} s or elsewhere"
        return ApiError(503, message, code=code, retry_after_s=wait_s, close=close)
