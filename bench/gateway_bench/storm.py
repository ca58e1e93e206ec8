"""Faults of engines, gateways and the API server against real engines under open-loop traffic: a week in minutes.

Every answer is compared with an undisturbed one, and what was charged with what engines made. The faults of engines,
and how each is mended, are those of the gateway's tests.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from gateway.lab.accounts.charges import Charges
from gateway.lab.accounts.engine_accounts import Meter
from gateway.lab.faults import FAULTS, FLAGS, SHORT_DRAIN, Site
from gateway.lab.replica import Replica, spender, two_gateways
from gateway.lab.served import Served
from gateway.lab.stage import KEY, Stage, eventually
from gateway_bench import front
from traffic import Log, OpenLoop, long, mixed, undisturbed

_NAMESPACE, _MODEL, _CALLER = "storm", "smollm2", "bench"
_SILENCE_S: Final = 5.0  # the gateway's default
_REST_S: Final = (1.0, 6.0)  # between what was mended and the next faults
_OUT_OF_SERVICE_S: Final = 1.0  # until clients no longer find a gateway that was killed
_ENGINE, _GATEWAY, _API_SERVER = "an engine", "a gateway is killed", "the API server is away"
_TOGETHER: Final = [
    kinds for count in (1, 2, 3) for kinds in itertools.combinations((_ENGINE, _GATEWAY, _API_SERVER), count)
]
_EMPTY: Final = ("requests_in_flight", "tokens_in_flight", "requests_held", "body_bytes_reserved")
_KEPT: Final = (*_EMPTY, "move_gap_seconds_count", "move_gap_seconds_sum")


def run(minutes: float, engines: int, per_s: float, seed: int) -> dict[str, Any]:
    """The figures of the storm; `clean` is whether all went as promised."""
    asks, flags = [*mixed(48, seed), *long(16)], ("--namespace", _NAMESPACE, "--silence-s", f"{_SILENCE_S:g}")
    with front.control_plane() as stage, tempfile.TemporaryDirectory() as name:
        folder, served = Path(name), list[Served]()
        stage.namespace(_NAMESPACE)
        spender(stage, _CALLER, KEY)
        try:
            served += [Served(folder, _MODEL, flags=(*FLAGS, *SHORT_DRAIN)) for _ in range(engines)]
            for engine in served:
                eventually(engine.ready, "the engine is ready", 180)
            expected = undisturbed(f"http://{served[0].ip}:8000/v1", _MODEL, asks)
            with two_gateways(stage.kubeconfig, folder, *flags) as replicas:
                doors = [replica.door for replica in replicas]
                load = OpenLoop(doors, KEY, _MODEL, asks, expected, per_s=per_s, seed=seed)
                storm = _Storm(stage, served, replicas, doors, load.log, seed)
                with storm.meter, load:
                    storm.rage(minutes)
                eventually(lambda: all(replica.wrote_all() for replica in replicas), "every line is written")
                logs = [replica.usage_log for replica in replicas], [engine.log for engine in served]
                figures = storm.figures(Charges(load.log, expected, *logs))
        finally:
            for engine in served:
                engine.close()
    return {"minutes": minutes, "engines": engines, "gateways": 2, "asked_per_s": per_s, "seed": seed, **figures}


class _Storm:
    """What may be struck, and what came of it. At most one engine and one gateway at a time are not well."""

    def __init__(
        self, stage: Stage, served: list[Served], replicas: list[Replica], doors: list[str], log: Log, seed: int
    ) -> None:
        self._site, self._served = Site(stage, _NAMESPACE, _MODEL, served), served
        self._replicas, self._doors, self._log = replicas, doors, log
        self._cluster, self._draw = front.own_cluster(), random.Random(seed)
        self._struck: Counter[str] = Counter()
        self.meter = Meter(served)
        for replica in replicas:
            self._serves(replica)

    def rage(self, minutes: float) -> None:
        """Strike and mend until the time is over."""
        ends_s = time.monotonic() + minutes * 60
        while time.monotonic() < ends_s:
            time.sleep(self._draw.uniform(*_REST_S))
            names = self._strike_and_mend(self._draw.choice(_TOGETHER))
            print(f"{', '.join(names)}: {self._log.report()}", flush=True)

    def _strike_and_mend(self, kinds: tuple[str, ...]) -> list[str]:
        """Faults of these kinds together, in any order; returns what they were."""
        draw = self._draw
        engine, replica = draw.choice(self._served), draw.choice(self._replicas)
        name = draw.choice([name for name, fault in FAULTS.items() if not (fault.by_api and _API_SERVER in kinds)])
        strikes = {
            _ENGINE: lambda: self._strike(name, engine),
            _GATEWAY: lambda: self._kill(replica),
            _API_SERVER: self._cluster.stop_apiserver,
        }
        mends = {
            _ENGINE: lambda: FAULTS[name].mend(self._site, engine),
            _GATEWAY: replica.start,
            _API_SERVER: self._cluster.start_apiserver,
        }
        names = [name if kind == _ENGINE else kind for kind in kinds]
        self._struck.update(names)
        for kind in draw.sample(kinds, len(kinds)):
            strikes[kind]()
            time.sleep(draw.uniform(0, 1))
        # Some wait longer than silence takes to be noticed, some come back before it.
        time.sleep(draw.uniform(0.5, 2 * _SILENCE_S))
        for kind in draw.sample(kinds, len(kinds)):
            mends[kind]()
        if _GATEWAY in kinds:
            self._serves(replica)
            self._log.returned(replica.door)
            self._doors.append(replica.door)
        return names

    def _strike(self, name: str, engine: Served) -> None:
        self.meter.read()  # its totals may be lost with it
        FAULTS[name].strike(self._site, engine)

    def _kill(self, replica: Replica) -> None:
        self._log.killed(replica.door)
        replica.kill()
        time.sleep(_OUT_OF_SERVICE_S)
        self._doors.remove(replica.door)

    def _serves(self, replica: Replica) -> None:
        replica.gateway.wait_ready().sees(f"{_NAMESPACE}/{_MODEL}", len(self._served), 60)

    def figures(self, charges: Charges) -> dict[str, Any]:
        """What came of it, once all answers have ended."""
        log = self._log
        wrong = [str(visit) for kind in (log.errors, log.truncated, log.different) for visit in kind]
        if lost := len(log.interrupted) - log.retried_fine:
            wrong.append(f"{lost} interrupted requests did not lead to a whole answer")
        left = {name: sum(each.gateway.metric(f"topmast_gateway_{name}") for each in self._replicas) for name in _KEPT}
        wrong += [f"{left[name]:g} {name} are left" for name in _EMPTY if left[name]]
        account = self._account(charges, wrong)
        return {
            **{"faults": dict(self._struck), **log.report(), "charges": account, "gateways_afterwards": left},
            **{"clean": not wrong, "wrong": wrong[:20]},
        }

    def _account(self, charges: Charges, wrong: list[str]) -> dict[str, Any]:
        """What was charged beside what engines made: the rest is less than a second of tokens for each interruption."""
        wrong += charges.wrong
        made, second = self.meter.made, self.meter.one_second
        rest = made.output - charges.charged.output - charges.uncharged.output
        bound = second * (self._struck.total() - self._struck[_API_SERVER]) + charges.unknown
        if abs(rest) > bound:
            wrong.append(f"engines made {rest} tokens more than were charged or open, and may {bound:.0f}")
        lost = charges.uncharged.output - charges.charged_open
        if lost > (at_most := second * self._struck[_GATEWAY]):
            wrong.append(f"{lost} tokens of what was open at kills were charged to nobody, and may {at_most:.0f}")
        if (unread := max(charges.unread, default=0)) > second:
            wrong.append(f"an engine made {unread} tokens more of a stream than its client had read")
        eventually(lambda: len({each.charged(_CALLER) for each in self._replicas}) == 1, "both know the same")
        logged = charges.charged.prompt + charges.charged.output + charges.charged_open
        budget = self._replicas[0].charged(_CALLER)
        if budget != logged and not charges.kinds["unwritten"]:
            wrong.append(f"the budget has lost {budget} tokens, and {logged} were charged")
        return {
            **{"charged": asdict(charges.charged), "open_at_kills": asdict(charges.uncharged)},
            **{"open_at_kills_charged": charges.charged_open},
            **{"engines_made": asdict(made), "rest": rest, "rest_at_most": round(bound)},
            **{"one_second": round(second), "requests": dict(charges.kinds), "unread_max": unread, "budget": budget},
        }
