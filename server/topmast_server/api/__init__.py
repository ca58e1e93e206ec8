"""The API process: HTTP in, tokens out. It never imports torch, and nothing here waits for the engine in a probe."""
