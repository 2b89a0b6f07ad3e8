"""Specs of tasks from dicts, as a config gives them."""

from r1jax.specs.reader import read
from r1jax.specs.tasks import Task


def spec(values):
    return read(Task, values, "task")


def specs(values):
    return read(tuple[Task, ...], values, "tasks")
