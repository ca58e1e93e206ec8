"""Which pod gets a request: the table of models, loads, cached prefixes, and pods that are ejected."""
