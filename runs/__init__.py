"""The verbs a user types, and what a run leaves behind."""
