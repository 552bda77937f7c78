"""What operators see.

logs.py       log lines: JSON or text, off the event loop, without secrets
metrics.py    the numbers on /metrics
"""
