"""The edge: HTTP, WebSocket, pages. Knows the engine, never an adapter."""
