"""The model API: the port, the adapter for any OpenAI-compatible server, and a demo server to talk to without a key."""
