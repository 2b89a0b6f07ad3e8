"""Do two written mathematical answers mean the same? Reading, values, structure. No jax, no sympy in this process."""
