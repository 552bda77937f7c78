"""Servers that Grizz is measured against, each as its documentation says to run it; none is installed by default."""
