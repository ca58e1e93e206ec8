"""Who used what, as gateways, engines and clients say it, and whether they agree."""
