"""The engine process: scheduler, paged KV, runner and sampler. Importing this package alone loads no torch."""
