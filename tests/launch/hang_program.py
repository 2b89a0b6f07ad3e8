"""What tests/launch/test_watchdog.py runs in several processes: they meet, then one of them hangs in the way that is
asked for.

python tests/launch/hang_program.py MANNER WHICH --coordinator=... ; each says "begun" when all have met.
"""

import argparse
import re
import sys
import time

import jax

from r1jax.launch.distributed import add_arguments, initialise
from r1jax.processes import any_process, gather


def a_reward_that_hangs():
    time.sleep(600)


def hang(manner: str) -> None:
    """Never returns, in a thread that lets others run ("host") or in one that does not ("interpreter")."""
    if manner == "host":
        a_reward_that_hangs()
    re.fullmatch(r"(a|aa)+b", "a" * 64)  # exponential; holds the interpreter all the time


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("manner", choices=["stopped", "host", "interpreter"])
    parser.add_argument("which", type=int)
    add_arguments(parser)
    options = parser.parse_args()
    initialise(options)
    any_process(False)
    print("begun", flush=True)
    while options.manner == "stopped":  # by a signal
        any_process(False)
        time.sleep(0.1)
    gather(lambda: hang(options.manner) if jax.process_index() == options.which else None)


if __name__ == "__main__":
    sys.exit(main())
