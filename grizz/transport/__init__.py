"""How jobs reach workers and events come home: one port (`base`), and the adapters behind it."""
