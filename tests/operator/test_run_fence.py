"""After its Lease is lost an operator writes nothing more, in the middle of a pass either. A process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from operatorlab import bodies
from operatorlab.slow_api import SlowApi, slow_api

from topmast_operator.act.client import Api, FencedError
from topmast_operator.run.lease import DURATION_S, GIVE_UP_ACTING_S

pytestmark = pytest.mark.alone
WRITE_S = 1.5  # what the API server takes for a write: a pass of four takes six seconds


@contextmanager
def acting(tmp_path: Path, models: int) -> Iterator[tuple[SlowApi, subprocess.Popen[bytes]]]:
    """An operator process at work on so many new models, against an API server that is slow."""
    fresh = []
    for number in range(models):
        body = bodies.model(uid=f"u{number}")
        fresh.append({**body, "metadata": {**body["metadata"], "name": f"m{number}"}})
    kubeconfig = tmp_path / "kubeconfig"
    with slow_api(kubeconfig, fresh, WRITE_S) as api:
        command = [sys.executable, "-m", "topmast_cli.main", "operator", "--engine-image", "x"]
        command += ["--lease-namespace", "system", "--metrics-host", "127.0.0.1", "--metrics-port", "0"]
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([*command], env=environment, stdout=log, stderr=log)
        try:
            until(lambda: bool(api.writes), tmp_path)
            yield api, process
        finally:
            process.kill()
            process.wait()
            assert "Traceback" not in (tmp_path / "log").read_text()


def until(look: Callable[[], bool], tmp_path: Path, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < end, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.02)


def test_a_lease_that_another_one_took_ends_the_pass_in_the_middle(tmp_path: Path) -> None:
    with acting(tmp_path, models=4) as (api, process):
        api.holder = "thief"
        assert process.wait(timeout=30) == 1
        assert api.told_lost_at < float("inf")
        late = [write for at, write in api.writes if at > api.told_lost_at + 0.2]
        assert late == [], f"of {len(api.writes)} writes"


def test_a_lease_that_cannot_be_renewed_stops_writing_before_another_may_take_it(tmp_path: Path) -> None:
    """More to write than ten seconds hold: 40 models, 8 at a time, four slow writes each."""
    with acting(tmp_path, models=40) as (api, process):
        api.holder = None  # not another word about the Lease
        end = api.renewed_at + DURATION_S + 3
        until(lambda: time.monotonic() > end, tmp_path)
        assert process.poll() is None, "an API server that is away is no reason to end"
        latest = max(at for at, _ in api.writes) - api.renewed_at
        assert latest < GIVE_UP_ACTING_S + 0.2, f"a write {latest:.1f} s after the last renewal"
        assert latest > GIVE_UP_ACTING_S / 2, "it stopped because it had to"


async def test_a_write_is_not_sent_and_not_waited_for_longer_than_the_lease_holds() -> None:
    class Connection:
        calls: list[tuple[str, float]] = []  # noqa: RUF012

        async def param_serialize(self, method: str, path: str, **_: object) -> tuple[str, str]:
            return method, path

        async def call_api(self, method: str, path: str, *, _request_timeout: float) -> object:
            self.calls.append((method, _request_timeout))
            raise TimeoutError

    left_s = 4.0
    api = Api(Connection()).fenced(lambda: left_s, lambda _: None)
    for method in ("GET", "PATCH"):
        with pytest.raises(Exception, match="did not answer"):
            await api.request(method, "/x")
    assert Connection.calls == [("GET", 10.0), ("PATCH", 4.0)]
    left_s = 0.0
    for method in ("PATCH", "POST", "PUT", "DELETE"):
        with pytest.raises(FencedError, match="the Lease is not held"):
            await api.request(method, "/x")
    assert len(Connection.calls) == 2
