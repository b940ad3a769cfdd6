"""The small models that ship with the project: their weights and their training."""
