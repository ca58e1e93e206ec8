"""What the gateway knows of the cluster. It only reads."""
