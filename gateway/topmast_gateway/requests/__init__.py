"""What a request asks for, and the stations on its way: read, parsed, limited, queued, charged."""
