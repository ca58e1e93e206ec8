"""Whether gateways charged what engines made and clients got, though some of them were killed.

Compared are the gateways' usage logs, the engines' own accounts and the clients' answers, request by request. A killed
gateway writes no more: what it had open has no line of its own, and is charged by its callers' lines of open requests.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gateway.lab.accounts.engine_accounts import Tokens, by_request
from traffic import Answer, Log, Visit

_UNWRITTEN_S = 1.0  # an answer's line is written after its last byte is sent; a kill so soon may come between them


def lines_of(usage_logs: Iterable[Path]) -> list[dict[str, Any]]:
    """All whole lines of these logs: a kill may have left half a one, and another may just be written."""
    found = []
    for log in usage_logs:
        for line in log.read_text().splitlines() if log.exists() else ():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


class Charges:
    """`wrong` says what contradicts what; the rest is what kills explain.

    `charged` is the sum of the lines of requests in the usage logs, `uncharged` what engines made for requests without
    one, and `charged_open` what was charged for these while they were open. Requests
    are counted by `kinds`: "open" at a kill; "unwritten", whose answer was whole a moment before; "late", which had
    their line and lost their last bytes; "refused" by a gateway that was away; "unknown", of which no engine has an
    account, as it had not got them or died, too: of these at most `unknown` tokens were made. `unread` is, for each
    stream that was open, what its engine made beyond what its client has read.
    """

    def __init__(
        self, log: Log, expected: Mapping[int, Answer], usage_logs: Iterable[Path], engine_logs: Iterable[Path]
    ) -> None:
        """`expected` are the undisturbed answers, of the same engines."""
        written = lines_of(usage_logs)
        lines = [line for line in written if line["finish"] != "open"]
        self._log, self._expected = log, expected
        self._lines = {line["request"]: line for line in lines}
        self._engines = by_request(engine_logs)
        self.charged, self.uncharged = sum(map(_charged, lines), Tokens()), Tokens()
        total = self.charged.prompt + self.charged.output
        self.charged_open = sum(line["charged"] for line in written) - total
        self.kinds, self.unknown, self.unread = Counter[str](), 0, list[int]()
        times = Counter(line["request"] for line in lines)
        self.wrong = [f"{request} was charged {count} times" for request, count in times.items() if count > 1]
        strangers = times.keys() - {visit.answer.request_id for visit in log.ended}
        self.wrong += [f"{request} was charged, and no client asked it" for request in strangers]
        for visit in log.ended:
            if visit.interrupted:
                self._interrupted(visit)
            elif visit.fine:
                self._whole(visit)

    def _whole(self, visit: Visit) -> None:
        """An answer that its client has to the end is charged to the token."""
        line, made, whole = self._known_of(visit)
        if made not in (whole, None):  # no line is left of an engine that died as it ended
            self.wrong.append(f"{visit}: the engine made {made}, and {whole} for the undisturbed answer")
        if line is not None:
            if (_charged(line), line["exact"], line["finish"]) != (whole, True, "answered"):
                self.wrong.append(f"{visit}: the engine made {whole}, and charged was {line}")
        elif self._log.absent(visit.answer.door, (ended_s := visit.answer.events_s[-1]), ended_s + _UNWRITTEN_S):
            self.kinds["unwritten"] += 1
            self.uncharged += whole
        else:
            self.wrong.append(f"{visit}: the answer is whole and was not charged")

    def _interrupted(self, visit: Visit) -> None:
        """What a killed gateway had open is charged to nobody, or it was complete for the gateway."""
        line, made, whole = self._known_of(visit)
        if line is not None:
            self.kinds["late"] += 1
            if _charged(line) != whole:
                self.wrong.append(f"{visit}: interrupted, and charged for an answer that is not whole: {line}")
        elif made is not None:
            self.kinds["open"] += 1
            self.uncharged += made
            if visit.ask.streams:
                # Some tokens have no text of their own, so that a client cannot count them.
                silent = whole.output - self._expected[visit.ask.number].pieces
                self.unread.append(max(0, made.output - visit.answer.pieces - silent))
        elif self._log.absent(visit.answer.door, visit.answer.sent_s, visit.answer.sent_s):
            self.kinds["refused"] += 1
        else:
            self.kinds["unknown"] += 1
            self.unknown += whole.output

    def _known_of(self, visit: Visit) -> tuple[dict[str, Any] | None, Tokens | None, Tokens]:
        """Its line in a usage log, the engines' account of it, and theirs of the undisturbed answer."""
        request = visit.answer.request_id
        whole = self._engines[self._expected[visit.ask.number].request_id]
        return self._lines.get(request), self._engines.get(request), whole


def _charged(line: dict[str, Any]) -> Tokens:
    return Tokens(line["prompt"], line["output"])
