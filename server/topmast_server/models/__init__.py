"""Decoders: a batch of rows in, logits of the sampled rows out. They own no requests and no blocks."""
