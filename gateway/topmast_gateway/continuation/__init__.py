"""An answer that more than one pod makes: what is known of it, and how the next pod continues it."""
