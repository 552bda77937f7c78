"""What one process keeps across a restart, in a SQLite file: finished responses, unfinished jobs, conversations."""
