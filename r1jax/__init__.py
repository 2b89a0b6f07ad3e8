"""DeepSeek-R1 in JAX, for research.

The command line is ``r1jax`` (``r1jax.__main__``). Each folder is a room with a README that says what it holds, what it
may import and how it is used; README.md of the repository leads to all of them. A stage of the recipe is a module of
``r1jax.stages``, and its settings are a dataclass of ``r1jax.specs.stages``.
"""
