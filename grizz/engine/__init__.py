"""What happens between a request and its last event. Knows ports, never an adapter."""
