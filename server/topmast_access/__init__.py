"""Who may call an engine: short-lived tokens, signed by gateway and operator, and verified by engines.

Engines hold public keys only, so what an engine knows opens no other one. All parts may import this package; it knows
none of them, and loads cryptography when the first key is read.
"""
