"""The process: queue, workers, Lease, metrics, probes, signals."""
