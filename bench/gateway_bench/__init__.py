"""What bench/gateway.py is made of: a cheap engine, a cheap client, a pinned gateway, scenarios, bars and a table."""
