"""The Responses API, pure: bytes and dicts in, requests and events out. No I/O, no clock, no randomness of its own."""
