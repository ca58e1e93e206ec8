"""What the gateway tells of itself: metrics, logs, traces, and what waits."""
