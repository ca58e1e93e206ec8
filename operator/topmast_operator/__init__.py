"""The operator: watches models, plans, renders manifests, writes them, and says why in status."""
