"""What one try teaches about its pod: when its first token came, and whether it worked."""

from __future__ import annotations

import time

from topmast_gateway.loads import Credit
from topmast_gateway.outliers import Outliers
from topmast_gateway.routes import Pod


class Trial:
    """A try that ends without a verdict, because its client left or the pod was only full, teaches nothing."""

    def __init__(self, pod: Pod, credit: Credit, outliers: Outliers) -> None:
        self.pod, self._credit, self._outliers = pod, credit, outliers
        self._sent_at = time.monotonic()
        self._first_token_s: float | None = None

    def first_token(self) -> None:
        """The prompt is computed. Cheap, and may be said again."""
        if self._first_token_s is None:
            self._first_token_s = time.monotonic() - self._sent_at
            self._credit.first_token()

    def worked(self) -> None:
        """The pod did its part to the end."""
        self._outliers.worked(self.pod, self._first_token_s)

    def failed(self) -> None:
        """It did not, and that speaks against it."""
        self._outliers.failed(self.pod)
