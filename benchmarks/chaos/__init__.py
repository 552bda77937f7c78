"""The fault suite: real processes, faults while answers stream, and a judge of what the clients saw."""
