"""Specs of tasks from dicts, as a config gives them."""

from r1jax.specs.reader import read
from r1jax.specs.tasks import AnyTask


def spec(values):
    return read(AnyTask, values, "task")


def specs(values):
    return read(tuple[AnyTask, ...], values, "tasks")
