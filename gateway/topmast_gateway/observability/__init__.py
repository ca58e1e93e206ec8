"""What the gateway reports of itself: metrics, logs, traces, and what waits."""
