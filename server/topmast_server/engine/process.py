"""The engine process: load, warm up, then one loop of messages and steps until the parent says stop or is gone.

Idle, it sleeps in the pipe and wakes every two seconds to touch the progress page.
"""

from __future__ import annotations

import gc
import hashlib
import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from topmast_kernels.cpu import cache
from topmast_server.engine.compiling import BackgroundCompile
from topmast_server.engine.config import EngineConfig
from topmast_server.engine.core import EngineCore, make_core
from topmast_server.engine.device import cpu_device
from topmast_server.engine.faults import EngineBroken
from topmast_server.engine.memory_plan import fit_kv, kv_bytes, plan_memory
from topmast_server.engine.threads import usable_cores
from topmast_server.engine.warmup import warm_up
from topmast_server.messages import Cancel, Failed, Loading, Message, Ready, Step, Stop, Submit, Token, pack, unpack
from topmast_server.models.kernels import load_kernels
from topmast_server.models.llama import Llama
from topmast_server.models.precision import PRECISIONS
from topmast_server.progress import IDLE_TICK_S, Progress
from topmast_server.weights.errors import ModelError, unsupported
from topmast_server.weights.files import place_of
from topmast_server.weights.load import load_weights

_MAX_DIGEST_BYTES = 1 << 30  # beyond, hashing would delay the start
_STATS_S = 0.25  # between two Step frames without a token


def run(config: EngineConfig, connection: Connection, progress: Progress, *, started_s: float) -> int:
    """Serve until Stop or end of file; the exit status. `started_s`: CLOCK_MONOTONIC when the process began."""
    pipe = _Pipe(connection)
    try:
        core, info, compiling = _start(config, pipe, progress, started_s)
    except ModelError as error:
        pipe.send(Failed(error.code, error.message))
        return 1
    except MemoryError:
        pipe.send(Failed("OutOfMemory", f"{config.model} does not fit into memory; raise the memory limit."))
        return 1
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return 0
    try:
        pipe.send(Ready(info))
        gc.freeze()  # what is loaded stays; collections then look at requests only
        _serve(core, pipe, progress, compiling, config)
    except EngineBroken as error:
        pipe.send(Failed("EngineDied", str(error)))
        return 1
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # the parent is gone, and nobody is left to serve
    finally:
        compiling.stop()
    return 0


class _Pipe:
    """Frames of messages.py on the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, message: Message) -> None:
        self._connection.send_bytes(pack(message))

    def received(self, wait_s: float) -> list[Message]:
        """Everything that has arrived, after waiting for the first up to `wait_s`."""
        messages = []
        while self._connection.poll(wait_s):
            messages.append(unpack(self._connection.recv_bytes()))
            wait_s = 0.0
        return messages


def _start(
    config: EngineConfig, pipe: _Pipe, progress: Progress, started_s: float
) -> tuple[EngineCore, dict[str, Any], BackgroundCompile]:
    """Everything before Ready."""
    imported_s = time.monotonic()
    if config.dtype not in PRECISIONS:
        raise unsupported(f"--dtype {config.dtype} is not known; use one of {', '.join(PRECISIONS)}.")
    dtype, kv_dtype = PRECISIONS[config.dtype]
    path = Path(config.model)
    digest = _Digest(path)

    def on_progress(done: int, total: int) -> None:
        progress.tick(has_work=False)
        pipe.send(Loading("loading", done, total))

    place = place_of(path)
    weights = load_weights(path, on_progress, place)
    read_s = time.monotonic() - imported_s
    plan = plan_memory(weights.bytes)
    size = fit_kv(config, weights.shape, kv_dtype.itemsize, plan)
    model = Llama(weights, dtype, size.blocks, config.block_size, size.max_model_len, kv_dtype=kv_dtype)
    loaded_s = time.monotonic()
    pipe.send(Loading("warming", 1, 1))
    progress.tick(has_work=False)
    threads = os.environ.get("OMP_NUM_THREADS", "as many")
    compiling, notes = BackgroundCompile(), [f"{usable_cores()} cores, {threads} threads"]
    notes.append(f"weights read in {read_s:.2f} s from {place}")
    full_bytes = kv_bytes(size, config, weights.shape, kv_dtype.itemsize)
    notes.append(plan.note(size, config.block_size, full_bytes, weights.bytes))
    if config.batch_invariant and not model.compilable:
        raise unsupported(
            f"--batch-invariant needs the compiled kernels, and they do not take this model as {config.dtype}; "
            "use --dtype auto, or leave out --batch-invariant."
        )
    if config.batch_invariant:  # torch's bits depend on the batch, so it cannot stand in
        compiling.wait(lambda: progress.tick(has_work=False))
    if model.compilable and (cache.is_complete() or config.batch_invariant):
        notes.append(_use_kernels(model, config))
    elif not model.compilable:
        notes.append(f"torch only: the compiled kernels do not take this model as {config.dtype}")
    else:
        notes.append("torch for now: the CPU kernels are being compiled for this machine (once, about half a minute)")
    core = make_core(
        model,
        blocks=size.blocks,
        max_num_seqs=config.max_num_seqs,
        max_model_len=size.max_model_len,
        itl_goal_s=config.itl_goal_s,
        stop_ids=weights.stop_ids,
        prefix_cache=config.prefix_cache,
    )
    warm_up(core, lambda: progress.tick(has_work=False))
    progress.tick(has_work=False)
    ready_s = time.monotonic()
    info = {
        "model": {
            "architecture": weights.architecture,
            "format": weights.format,
            "digest": digest.value(),
            "parameters": weights.parameters,
        },
        "device": cpu_device(),
        "start": {
            "import_s": imported_s - started_s,
            "weights_s": loaded_s - imported_s,
            "warmup_s": ready_s - loaded_s,
            "total_s": ready_s - started_s,
        },
        "capacity": {
            "prefill_tokens_per_s": core.step_time.prefill_tokens_per_s,
            "decode_tokens_per_s": core.step_time.decode_tokens_per_s,
            "kv_tokens": size.blocks * config.block_size,
            "max_num_seqs": config.max_num_seqs,
            "max_model_len": size.max_model_len,
        },
        "notes": notes,
    }
    return core, info, compiling


def _use_kernels(model: Llama, config: EngineConfig) -> str:
    """Load the compiled kernels and switch; a line for the log."""
    import numba  # only where the kernels are compiled: it costs 0.3 s

    kernels, exact = load_kernels(), config.dtype == "float32"
    model.use(kernels, exact=exact)
    products = "exact products, as asked for" if exact else f"products of bytes by {kernels.products}"
    return f"{products}, the same bits in every batch; threads by {numba.threading_layer()}"


def _serve(
    core: EngineCore, pipe: _Pipe, progress: Progress, compiling: BackgroundCompile, config: EngineConfig
) -> None:
    told_s = 0.0
    while True:
        tokens: list[Token] = []
        messages = pipe.received(0.0 if core.has_work else IDLE_TICK_S)
        for message in messages:
            if isinstance(message, Submit):
                tokens += core.submit(message)
            elif isinstance(message, Cancel):
                core.cancel(message.request_id)
            elif isinstance(message, Stop):
                return
        if compiling.running and compiling.finished() and core.model.compilable:
            _use_kernels(core.model, config)
        if core.has_work:
            progress.tick(has_work=True)
            started = time.monotonic()
            tokens += core.step()
            progress.step_done(time.monotonic() - started, has_work=core.has_work)
        else:
            progress.tick(has_work=False)
            core.check_when_idle()
        # A long prefill makes no tokens for a while; /state and /metrics should not stand still meanwhile.
        if tokens or messages or (core.has_work and time.monotonic() - told_s > _STATS_S):
            pipe.send(Step(tokens, core.stats()))
            told_s = time.monotonic()


class _Digest:
    """The file's SHA-256, computed beside the loading; None for directories and very large files."""

    def __init__(self, path: Path) -> None:
        self._value: str | None = None
        self._thread: threading.Thread | None = None
        if path.is_file() and path.stat().st_size <= _MAX_DIGEST_BYTES:
            self._thread = threading.Thread(target=self._compute, args=(path,), daemon=True)
            self._thread.start()

    def _compute(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._value = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            self._value = None

    def value(self) -> str | None:
        if self._thread is not None:
            self._thread.join()
        return self._value
