"""What a traced function computes."""

import jax


def equations(jaxpr):
    """All equations of a jaxpr, inner jaxprs included, whose results are used: XLA drops the others."""
    used = {id(variable) for equation in jaxpr.eqns for variable in equation.invars} | set(map(id, jaxpr.outvars))
    for equation in jaxpr.eqns:
        if not used & set(map(id, equation.outvars)):
            continue
        yield equation
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def array_sizes(jaxpr):
    """Sizes of all values that a jaxpr computes, inner jaxprs included."""
    for equation in equations(jaxpr):
        yield from (variable.aval.size for variable in equation.outvars if hasattr(variable.aval, "size"))


def kernel_costs(function, *arguments):
    """{name: CostEstimate} of the Pallas kernels that a function calls, as they state it."""

    def of(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "pallas_call":
                yield equation.params["name"], equation.params["cost_estimate"]
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns") and equation.primitive.name != "pallas_call":
                    yield from of(inner)

    return dict(of(jax.make_jaxpr(function)(*arguments).jaxpr))
