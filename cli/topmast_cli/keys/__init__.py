"""`topmast key`: the API keys of the gateway, which are the entries of one Secret."""
