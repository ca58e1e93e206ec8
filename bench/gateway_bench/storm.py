"""Faults one after another against real engines under open-loop traffic, for minutes: a week in small.

Every answer is compared with an undisturbed one. The faults, and how each is mended, are those of the gateway's tests.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from gateway.lab.faults import FAULTS, FLAGS, SHORT_DRAIN, Site
from gateway.lab.served import Served
from gateway.lab.stage import KEY, Gateway, eventually
from gateway_bench import front
from traffic import OpenLoop, long, mixed, undisturbed

_NAMESPACE, _MODEL = "storm", "smollm2"
_SILENCE_S: Final = 5.0  # the gateway's default
_REST_S: Final = (1.0, 6.0)  # between a mended pod and the next fault


def run(minutes: float, engines: int, per_s: float, seed: int) -> dict[str, Any]:
    """The figures of the storm; `clean` is whether nobody noticed anything but time."""
    draw, asks = random.Random(seed), [*mixed(48, seed), *long(16)]
    struck: Counter[str] = Counter()
    with front.control_plane() as stage, tempfile.TemporaryDirectory() as folder:
        stage.namespace(_NAMESPACE)
        served: list[Served] = []
        gateway = Gateway(stage.kubeconfig, "--namespace", _NAMESPACE, "--silence-s", f"{_SILENCE_S:g}")
        try:
            served += [Served(Path(folder), _MODEL, flags=(*FLAGS, *SHORT_DRAIN)) for _ in range(engines)]
            for engine in served:
                eventually(engine.ready, "the engine is ready", 180)
            expected = undisturbed(f"http://{served[0].ip}:8000/v1", _MODEL, asks)
            site = Site(stage, _NAMESPACE, _MODEL, served)
            gateway.wait_ready().sees(f"{_NAMESPACE}/{_MODEL}", engines)
            ends_s = time.monotonic() + minutes * 60
            with OpenLoop([f"{gateway.url}/v1"], KEY, _MODEL, asks, expected, per_s=per_s, seed=seed) as log:
                while time.monotonic() < ends_s:
                    name, victim = draw.choice(list(FAULTS)), draw.choice(served)
                    struck[name] += 1
                    FAULTS[name].strike(site, victim)
                    # Some wait longer than silence takes to be noticed, some come back before it.
                    time.sleep(draw.uniform(0.5, 2 * _SILENCE_S))
                    FAULTS[name].mend(site, victim)
                    time.sleep(draw.uniform(*_REST_S))
                    print(f"{name}: {log.report()}", flush=True)
            report = log.report()
            figures = {name: gateway.metric(f"topmast_gateway_{name}") for name in _KEPT}
        finally:
            gateway.close()
            for engine in served:
                engine.close()
    wrong = [str(visit) for kind in (log.errors, log.truncated, log.different) for visit in kind]
    return {
        **{"minutes": minutes, "engines": engines, "asked_per_s": per_s, "seed": seed, "faults": dict(struck)},
        **report,
        "gateway_afterwards": figures,
        "clean": not wrong and not any(figures[name] for name in _EMPTY),
        "wrong": wrong[:20],
    }


_EMPTY: Final = ("requests_in_flight", "tokens_in_flight", "requests_held", "body_bytes_reserved")
_KEPT: Final = (*_EMPTY, "move_gap_seconds_count", "move_gap_seconds_sum")
