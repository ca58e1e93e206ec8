"""The two ports: connections, TLS, CORS, and the applications behind them."""
