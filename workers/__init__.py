"""Takes shards from the queue and makes pictures; one process per device."""
