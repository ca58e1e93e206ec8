"""The engine process seen from outside: its life, its pipe, its health, and what its end means."""
