"""What `tests.forks` forks from: a process that has imported Grizz, and does nothing else."""

import gc

import tests.forks  # noqa: F401  # so that a fork has it, too

# Or each fork's first collection would touch, and so copy, all of it: 0.1 s.
gc.freeze()
