"""What a caller may use, and what the gateway takes on at once. Counts, rates and budgets, added up over gateways."""
