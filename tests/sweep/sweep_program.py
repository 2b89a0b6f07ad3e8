"""`r1jax sweep` with the stub in the place of `r1jax run`, and no check that would take JAX's devices."""

import sys
from pathlib import Path

from r1jax.sweep import __main__ as sweep

STUB = [sys.executable, "-I", str(Path(__file__).with_name("stub.py"))]

if __name__ == "__main__":
    sweep.check_trials = lambda trials: None
    sys.exit(sweep.main(sys.argv[1:], run=STUB))
