"""The inference server: one model in one pod, an API process and an engine process."""
