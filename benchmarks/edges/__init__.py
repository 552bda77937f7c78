"""The promises Grizz makes about its limits, measured from outside: `make edges`."""
