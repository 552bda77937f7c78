"""What `tests.forks` forks from: a process that has imported Grizz, and does nothing else."""

import gc
import os

import tests.forks  # noqa: F401  # so that a fork has it, too
from grizz.upstream.http import trust
from grizz.web.pages import read_pages

# What each would read once.
read_pages()
trust(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))

# Or each fork's first collection would touch, and so copy, all of it: 0.1 s.
gc.freeze()
