"""A population: runs of the same code that differ in values, whose compiled programs run for all of them at once.

Each member runs its code in a thread of its own, and one thread goes at a time. A function that was made by ``jit`` is
``jax.jit``'s where there is no population. In a member the call waits until no other member can go on without one; then
the members that wait for the same program, with arguments of the same shapes, get it as one program, mapped over a
leading dim of members (``jax.vmap``). A call that is the same in no other member runs too. So which members differ in
what they do next costs time and changes no result.

What a program gives is a ``Row`` for each member: its row of arrays that lie on the device together, and that the next
program takes as they are. Values that differ between members but are constants of a program are asked for by
``setting``, which gives the traced number of each member.

A program's ``rank`` says what runs first where several wait: the lowest. What all members do about as often (an update)
has a higher one than what some do more often than others (a segment of the sampler), so that those that are behind
catch up.
"""

import contextlib
import contextvars
import functools
import inspect
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "member"
"""Name of the dim that programs are mapped over, and of the mesh axis that cuts it."""
_OFTEN, _SELDOM, _TOGETHER = 0, 2, 3  # ranks

_here = threading.local()  # ``member``: of this thread; ``settings``: of the program that it traces


class Row(np.lib.mixins.NDArrayOperatorsMixin):
    """A member's row of an array [S, ...] of all members. It can be read as a numpy array; ``own`` makes it a JAX array."""

    def __init__(self, rows: "_Rows", index: int):
        self.rows, self.index = rows, index

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.signature[0]

    @property
    def dtype(self) -> Any:
        return self.rows.signature[1]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def sharding(self) -> jax.sharding.Sharding:
        """That of an array of its own: whole, on the mesh of its member."""
        mesh = jax.sharding.get_mesh()
        device = jax.devices()[0]
        return jax.sharding.SingleDeviceSharding(device) if mesh.empty else NamedSharding(mesh, PartitionSpec())

    def block_until_ready(self) -> "Row":
        self.rows.array.block_until_ready()
        return self

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.rows.on_host()[self.index], dtype, copy=copy)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)

    def __float__(self) -> float:
        return float(np.asarray(self))

    def __int__(self) -> int:
        return int(np.asarray(self))

    __index__ = __int__

    def __bool__(self) -> bool:
        return bool(np.asarray(self))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key) -> np.ndarray:
        return np.asarray(self)[key]


class _Rows:
    """An array of all members, and its copy on the host once that was asked for."""

    def __init__(self, array: jax.Array):
        self.array, self._host = array, None
        self.signature = array.shape[1:], array.dtype  # of a row

    def on_host(self) -> np.ndarray:
        if self._host is None:
            self._host = np.asarray(self.array)
        return self._host


def _plain(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, Row) else value


class Member:
    """One run of a population, in its thread."""

    def __init__(self, population: "Population", index: int, function: Callable[[], Any]):
        self.population, self.index, self._function = population, index, function
        self.asked: tuple | None = None  # (rank, key, call) of what it waits for
        self.answer: Any = None
        self.error: BaseException | None = None  # of what it waited for
        self.result: Any = None
        self.failure: BaseException | None = None
        self.made: Counter = Counter()  # functions that it has made by ``jit``, by name
        self._wake = threading.Semaphore(0)
        self.thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name=f"member {index}", daemon=True
        )

    def _run(self) -> None:
        self._wake.acquire()
        _here.member = self
        try:
            self.result = self._function()
        except BaseException as error:
            self.failure = error
        self.population.leave(self)

    def wake(self) -> None:
        """Lets its thread go on."""
        self._wake.release()

    def wait_for(self, rank: int, key: Any, call: Any) -> Any:
        """What the population gives for the call, when its turn has come."""
        self.asked = rank, key, call
        self.population.hand_on()
        self._wake.acquire()
        error, self.error = self.error, None
        if error is not None:
            raise error
        answer, self.answer = self.answer, None
        return answer


class Population:
    """Runs functions as members.

    Args:
      settings: of each member, name -> number: what ``setting`` gives. The names are the same in all.
      devices: what the dim of members is split over, evenly, as the mesh axis ``AXIS``; None: the default device.
    """

    def __init__(self, settings: Sequence[Mapping[str, float]], *, devices: Sequence[Any] | None = None):
        self.size = len(settings)
        names = settings[0].keys()
        self.settings = {name: np.array([of[name] for of in settings], np.float32) for name in names}
        self.mesh = None if devices is None or len(devices) < 2 else Mesh(np.array(devices), (AXIS,))
        if self.mesh is not None and self.size % self.mesh.size:
            raise ValueError(f"{self.mesh.size} devices do not divide the {self.size} members")
        self.num_calls: Counter = Counter()
        """Programs run, by (name, how many members they ran for)."""
        self._members: list[Member] = []
        self._ready: list[Member] = []
        self._mapped: dict[Any, Callable] = {}
        self._done = threading.Event()

    def run(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        """Calls a function in each member; what each returned, or the exception that it raised."""
        members = [Member(self, index, function) for index, function in enumerate(functions)]
        self._members, self._ready = list(members), list(members)
        for member in members:
            member.thread.start()
        self.hand_on()
        self._done.wait()
        return [member.result if member.failure is None else member.failure for member in members]

    def leave(self, member: Member) -> None:
        """The member is done."""
        self._members.remove(member)
        self.hand_on()

    def hand_on(self) -> None:
        """Lets the next member go on; where all wait for a program, runs one first."""
        if not self._ready and self._members:
            self._answer(self._next_group())
        if self._ready:
            self._ready.pop(0).wake()
        else:
            self._done.set()

    def _next_group(self) -> list[Member]:
        groups = defaultdict(list)
        for member in self._members:
            assert member.asked is not None
            groups[member.asked[:2]].append(member)
        lowest = min(rank for rank, _ in groups)
        return max((group for (rank, _), group in groups.items() if rank == lowest), key=len)

    def _answer(self, group: list[Member]) -> None:
        calls = [member.asked[2] for member in group if member.asked is not None]
        before, _here.member = getattr(_here, "member", None), None  # what runs here is of no member
        try:
            answers = calls[0].run(self, [member.index for member in group], calls)
        except BaseException as error:
            for member in group:
                member.error = error
        else:
            for member, answer in zip(group, answers, strict=True):
                member.answer = answer
        finally:
            _here.member = before
        for member in group:
            member.asked = None
        self._ready += group

    def place(self, array: Any) -> Any:
        """An array [S, ...] where programs want it."""
        return array if self.mesh is None else jax.device_put(array, NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def mapped(self, key: Any, make: Callable[[], Callable], is_donated: bool) -> Callable:
        """Jitted (leaves [S, ...] to be consumed, others, settings, numbers [S]) -> results [S, ...], made once a key."""
        if key not in self._mapped:
            function = jax.vmap(make(), axis_name=AXIS)
            if self.mesh is not None:
                spec = PartitionSpec(AXIS)
                function = jax.shard_map(function, mesh=self.mesh, in_specs=spec, out_specs=spec, check_vma=False)
            self._mapped[key] = jax.jit(function, donate_argnums=(0,) if is_donated else ())
        return self._mapped[key]


class _Call:
    """A member's call of a program."""

    def __init__(self, program: "Program", key: Any, arguments: dict[str, Any], static: dict[str, Any]):
        self.program, self.key, self.static = program, key, static
        donated = {name: value for name, value in arguments.items() if name in program.donated}
        kept = {name: value for name, value in arguments.items() if name not in program.donated}
        consumed, of_consumed = jax.tree.flatten(donated)
        others, of_kept = jax.tree.flatten(kept)
        self.leaves, self.treedefs, self.num_donated = consumed + others, (of_consumed, of_kept), len(consumed)

    def signature(self) -> Any:
        """What calls have in common that run as one."""
        shapes = tuple([_signature(leaf) for leaf in self.leaves])
        return self.key, tuple(sorted(self.static.items())), self.treedefs, shapes

    def run(self, population: Population, members: list[int], calls: "Sequence[_Call]") -> list[Any]:
        """The results of these members."""
        population.num_calls[self.program.name, len(members)] += 1

        function, static = self.program.function, self.static  # not self, which holds arrays
        of_donated, of_kept = self.treedefs

        def of_member(donated, kept, settings, _):
            consumed, others = of_donated.unflatten(donated), of_kept.unflatten(kept)
            before = getattr(_here, "settings", None)
            _here.settings = settings
            try:
                return function(**consumed, **others, **static)
            finally:
                _here.settings = before

        mapped = population.mapped(self.signature(), lambda: of_member, self.num_donated > 0)
        with contextlib.nullcontext() if population.mesh is None else jax.set_mesh(population.mesh):
            leaves = _stacked(population, members, [call.leaves for call in calls], self.num_donated)
            donated, kept = leaves[: self.num_donated], leaves[self.num_donated :]
            results = mapped(donated, kept, population.settings, np.arange(population.size))
        arrays, of_results = jax.tree.flatten(results)
        rows = [_Rows(array) for array in arrays]
        return [of_results.unflatten([Row(each, index) for each in rows]) for index in members]


def _signature(leaf: Any) -> tuple[tuple[int, ...], Any]:
    """(shape, type) of an argument."""
    if type(leaf) is Row:
        return leaf.rows.signature
    return np.shape(leaf), leaf.dtype if hasattr(leaf, "dtype") else np.result_type(leaf)


def _stacked(population: Population, members: list[int], leaves: list[list[Any]], num_donated: int) -> list[Any]:
    """Each leaf of the members' arguments as one array [S, ...].

    A member that does not take part has its own row of before, or any: its results are dropped. Then what would be
    consumed is copied first, since that member may still need its row.
    """
    is_full = len(members) == population.size
    stacked: list[Any] = []
    to_merge: list[int] = []
    for number, values in enumerate(zip(*leaves, strict=True)):
        rows = list({id(value.rows): value.rows for value in values if isinstance(value, Row)}.values())
        if len(rows) == 1 and all(isinstance(value, Row) for value in values):
            is_copied = number < num_donated and not is_full
            stacked.append(jnp.copy(rows[0].array) if is_copied else rows[0].array)
        elif rows and all(isinstance(value, Row) for value in values):
            which = np.zeros(population.size, np.int32)
            which[members] = [rows.index(value.rows) for value in values]
            to_merge.append(number)
            stacked.append((tuple(each.array for each in rows), which))
        else:
            every = [values[0]] * population.size
            for member, value in zip(members, values, strict=True):
                every[member] = value
            stacked.append(population.place(np.stack([np.asarray(value) for value in every])))
    if to_merge:
        for number, array in zip(to_merge, _merged([stacked[number] for number in to_merge]), strict=True):
            stacked[number] = array
    return stacked


@jax.jit
def _merged(pairs):
    """Of (arrays [S, ...], which [S]) the rows of the array that each says."""

    def merge(arrays, which_S):
        merged = arrays[0]
        for index, array in enumerate(arrays[1:], start=1):
            merged = jnp.where((which_S == index).reshape(-1, *[1] * (array.ndim - 1)), array, merged)
        return merged

    return [merge(arrays, which_S) for arrays, which_S in pairs]


class Program:
    """A jitted function; see ``jit``."""

    def __init__(
        self,
        function: Callable,
        *,
        rank: int,
        is_shared: bool,
        donated: tuple[str, ...],
        static: tuple[str, ...],
        options,
    ):
        self.function, self.rank, self.donated, self.static = function, rank, donated, static
        self.name = getattr(function, "__qualname__", repr(function))
        self.alone = jax.jit(function, donate_argnames=donated, static_argnames=static, **options)
        member = getattr(_here, "member", None)
        self._key: Any = self
        if member is not None and not is_shared:  # every member makes one of its own of the same code
            member.made[self.name] += 1
            self._key = self.name, member.made[self.name]
        self._signature = inspect.signature(function)
        functools.update_wrapper(self, function)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["alone"], name)  # ``lower`` and all else that a jitted function has

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        member = getattr(_here, "member", None)
        if member is None:
            return self.alone(*args, **kwargs)
        arguments = self._signature.bind(*args, **kwargs).arguments
        static = {name: arguments.pop(name) for name in self.static if name in arguments}
        call = _Call(self, self._key, arguments, static)
        return member.wait_for(self.rank, call.signature(), call)


def jit(
    function: Callable,
    *,
    rank: int = 1,
    is_shared: bool = False,
    donated: tuple[str, ...] = (),
    static: tuple[str, ...] = (),
    **options: Any,
) -> Program:
    """``jax.jit(function, donate_argnames=donated, static_argnames=static, **options)`` that a population maps.

    The options say how arrays lie on a mesh and hold outside of a population alone. In one, a function that a member
    makes is taken for the one of the same name that another member makes: they may differ in ``setting`` alone. Unless
    it ``is_shared``: then members have one where they use this object.
    """
    return Program(function, rank=rank, is_shared=is_shared, donated=donated, static=static, options=options)


class _Agreement:
    """A member's call of ``most`` or ``meet``."""

    def __init__(self, value: int):
        self._value = value

    def run(self, population: Population, members: list[int], calls: "Sequence[_Agreement]") -> list[int]:
        return [max(call._value for call in calls)] * len(members)


def most(value: int) -> int:
    """The largest that any member asks with, of those that ask now: for sizes that need not be the same, but may."""
    member = getattr(_here, "member", None)
    return value if member is None else member.wait_for(_OFTEN, "most", _Agreement(value))


def meet() -> None:
    """Returns when no member can go on without it: all begin what comes next together."""
    member = getattr(_here, "member", None)
    if member is not None:
        member.wait_for(_TOGETHER, "meet", _Agreement(0))


def is_any(flag: jax.Array) -> jax.Array:
    """Within a program: whether the flag is set in any member, so that a loop goes on for all of them alike."""
    if getattr(_here, "settings", None) is None:
        return flag
    return jax.lax.pmax(flag.astype(jnp.int32), AXIS) > 0


def over_rows(function: Callable, *arguments: Any) -> Any:
    """``function(*arguments)``, trees of arrays with a leading dim of rows that do not depend on each other.

    Within a program of a population it runs once, on the rows of all members in one dim: loops and sorts over rows are
    not mapped. It has no gradient there.
    """
    if getattr(_here, "settings", None) is None:
        return function(*arguments)
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def _(size, is_batched, *arguments):
        def merged(array, is_mapped):
            array = array if is_mapped else jnp.broadcast_to(array, (size, *array.shape))
            return array.reshape(-1, *array.shape[2:])

        results = function(*jax.tree.map(merged, arguments, tuple(is_batched)))
        split = jax.tree.map(lambda array: array.reshape(size, -1, *array.shape[1:]), results)
        return split, jax.tree.map(lambda _: True, results)

    return mapped(*arguments)


def setting(name: str, value: Any) -> Any:
    """``value``; within a program of a population whose members differ in it, the member's own."""
    settings = getattr(_here, "settings", None)
    return value if settings is None else settings.get(name, value)


def here() -> int | None:
    """The index of the member that this thread runs; None outside of a population."""
    member = getattr(_here, "member", None)
    return None if member is None else member.index


def own(tree: Any) -> Any:
    """The tree with JAX arrays of their own instead of ``Row``s."""
    leaves, treedef = jax.tree.flatten(tree)
    leaves = [jax.device_put(np.asarray(leaf), leaf.sharding) if isinstance(leaf, Row) else leaf for leaf in leaves]
    return treedef.unflatten(leaves)


def on_host(tree: Any) -> Any:
    """The tree with numpy arrays instead of ``Row``s."""
    return jax.tree.map(_plain, tree)


def together(tree: Any) -> Any:
    """A copy of the tree whose arrays lie with those of the other members; outside of a population the tree itself."""
    return tree if here() is None else _copied(tree)


_copied = jit(lambda tree: jax.tree.map(jnp.copy, tree), rank=_SELDOM)
