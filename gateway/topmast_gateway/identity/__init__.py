"""Who calls: API keys, tokens, addresses, and the token that gateways and operator share."""
