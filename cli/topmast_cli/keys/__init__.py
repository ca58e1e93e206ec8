"""`topmast key` and `topmast team`: the API keys of the gateway and their teams, the entries of one Secret."""
