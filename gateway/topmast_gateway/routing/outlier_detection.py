"""Which pods are ejected for a while because they fail, or are much slower than their siblings.

Pure: it is given results and the time, and never looks for itself. What a pod says of itself (not ready, full,
draining) is not its business. At most half of a model's pods are ever out; a pod comes back by one request that works.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from topmast_gateway.routing.endpoint_load import InFlight
from topmast_gateway.routing.model_table import Pod

FAILURES = 3  # in a row
FIRST_EJECTION_S, LONGEST_EJECTION_S = 5.0, 60.0
_MOST_EJECTIONS = 10  # counted: a pod may fail for days, and 2**1024 is no float
_PROBE_S = 30.0  # a probe without any result, its client may have left, makes room for another one after this time
_WINDOW_S = 60.0
_SAMPLES, _MOST_SAMPLES = 10, 50
_COMPARE_EVERY_S = 1.0
_TIMES_SLOWER, _AT_LEAST_S = 4.0, 1.0  # than the median pod; below a second it is not worth a healthy pod's capacity


@dataclass(slots=True)
class _Record:
    pod: Pod
    failures: int = 0
    firsts: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))  # when, seconds
    ejections: int = 0  # one soon after the other
    until: float | None = None  # out; past this time one probe may go
    probed_at: float | None = None
    back_at: float | None = None
    compared_at: float = float("-inf")


class OutlierDetector:
    """`clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._siblings: dict[str, tuple[Pod, ...]] = {}

    def set_pods(self, pods: Iterable[Pod]) -> None:
        """These are all pods now. A pod that became ready again begins with a clean record."""
        siblings: dict[str, list[Pod]] = {}
        records = {}
        for pod in pods:
            siblings.setdefault(pod.model, []).append(pod)
            record = self._records.get(pod.uid)
            if record and record.pod.ready_since == pod.ready_since:
                records[pod.uid] = record
        self._records = records
        self._siblings = {model: tuple(found) for model, found in siblings.items()}
        for found in self._siblings.values():  # some may have left: still no more than half may be out
            self._readmit(found)

    def usable(self, pods: Sequence[Pod]) -> list[Pod]:
        """Those of `pods` that are not out; of those whose time is over, the ones that no probe is under way to."""
        return [pod for pod in pods if self._is_usable(pod)]

    def sent(self, pod: Pod) -> None:
        """A request goes there. For a pod that was out it is the probe that decides."""
        record = self._records.get(pod.uid)
        if record and record.until is not None:
            record.probed_at = self._clock()

    def succeeded(self, pod: Pod, first_token_s: float | None = None) -> None:
        """An answer came to its end. The time to its first token is known for streams."""
        record = self._of(pod)
        record.failures = 0
        if record.until is not None:
            if self._clock() < record.until:
                return  # an old request, from before the pod was put out, proves nothing
            record.until = record.probed_at = None
            record.back_at = self._clock()
            record.firsts.clear()
        if first_token_s is not None:
            record.firsts.append((self._clock(), first_token_s))
            if self._is_slow(pod, record):
                self._eject(pod, record)

    def failed(self, pod: Pod) -> None:
        """A connection broke, a stream ended early, or the pod answered 5xx about itself."""
        record = self._of(pod)
        record.failures += 1
        if record.until is not None:
            if self._clock() >= record.until:  # the probe
                self._eject(pod, record)
        elif record.failures >= FAILURES:
            self._eject(pod, record)

    def ejected(self) -> list[Pod]:
        """Those that are out, the half-open ones included."""
        return [record.pod for record in self._records.values() if record.until is not None]

    def _is_usable(self, pod: Pod) -> bool:
        record = self._records.get(pod.uid)
        if record is None or record.until is None or record.pod.ready_since != pod.ready_since:
            return True
        now = self._clock()
        return now >= record.until and (record.probed_at is None or now - record.probed_at > _PROBE_S)

    def _eject(self, pod: Pod, record: _Record) -> None:
        siblings = self._siblings.get(pod.model, ())
        others_ejected = sum(one.uid != pod.uid and self._is_ejected(one) for one in siblings)
        record.failures = 0
        record.probed_at = None
        if 2 * (others_ejected + 1) > len(siblings):
            record.until = None
            return
        now = self._clock()
        if record.back_at is not None and now - record.back_at > LONGEST_EJECTION_S:
            record.ejections = 0  # it has worked for long enough in between
        record.until = now + min(FIRST_EJECTION_S * 2**record.ejections, LONGEST_EJECTION_S)
        record.ejections = min(record.ejections + 1, _MOST_EJECTIONS)

    def _readmit(self, siblings: Sequence[Pod]) -> None:
        out = sorted(
            (pod for pod in siblings if self._is_ejected(pod)), key=lambda pod: self._records[pod.uid].until or 0
        )
        for pod in out[: max(0, len(out) - len(siblings) // 2)]:
            self._records[pod.uid].until = None

    def _is_ejected(self, pod: Pod) -> bool:
        record = self._records.get(pod.uid)
        return record is not None and record.until is not None

    def _is_slow(self, pod: Pod, record: _Record) -> bool:
        """Whether its median is far above the median of its siblings' medians, each over enough recent samples."""
        now = self._clock()
        if now - record.compared_at < _COMPARE_EVERY_S or (own := self._median(record)) is None:
            return False
        record.compared_at = now
        known = (self._records.get(one.uid) for one in self._siblings.get(pod.model, ()) if one.uid != pod.uid)
        medians = [value for one in known if one and (value := self._median(one)) is not None]
        if not medians:
            return False
        usual = median(medians)
        return own > _TIMES_SLOWER * usual and own - usual > _AT_LEAST_S

    def _median(self, record: _Record) -> float | None:
        oldest = self._clock() - _WINDOW_S
        recent = [seconds for when, seconds in record.firsts if when >= oldest]
        return median(recent) if len(recent) >= _SAMPLES else None

    def _of(self, pod: Pod) -> _Record:
        record = self._records.get(pod.uid)
        if record is None or record.pod.ready_since != pod.ready_since:
            record = self._records[pod.uid] = _Record(pod)
        return record


class AttemptResult:
    """A try that ends without a verdict, because its client left or the pod was only full, teaches nothing."""

    def __init__(self, pod: Pod, in_flight: InFlight, outliers: OutlierDetector) -> None:
        self.pod, self._credit, self._outliers = pod, in_flight, outliers
        self._sent_at = time.monotonic()
        self._first_token_s: float | None = None

    def first_token(self) -> None:
        """The prompt is computed. Cheap, and may be said again."""
        if self._first_token_s is None:
            self._first_token_s = time.monotonic() - self._sent_at
            self._credit.first_token()

    def succeeded(self) -> None:
        """The pod did its part to the end."""
        self._outliers.succeeded(self.pod, self._first_token_s)

    def failed(self) -> None:
        """It did not, and that speaks against it."""
        self._outliers.failed(self.pod)
