"""Choice of the program that runs a kernel: the arguments of `Run` become a recipe, a program, and blocks of items.

NumPyro's kernels and cogen's for NumPyro models are compiled (`blocks`); cogen's for Pyro models run all items as one block
(`torch.program`); Pyro's run the items one by one (`adapters.pyro_chains`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from cogen.inference.items import ItemModel, Items
from cogen.inference.program import Program
from cogen.inference.seeds import id_halves
from cogen.inference.signatures import ArrayLike, Model

if TYPE_CHECKING:
    import jax
    from numpyro.infer.mcmc import MCMCKernel as NumPyroKernel
    from pyro.infer.mcmc.mcmc_kernel import MCMCKernel as PyroKernel

    from cogen.inference.adapters.numpyro_chains import NumPyroRecipe
    from cogen.inference.adapters.recipe import Recipe


Sampler: TypeAlias = "Recipe | NumPyroRecipe | Callable[..., NumPyroKernel | PyroKernel]"
"""A kernel of cogen constructed without a model, a kernel class of NumPyro or Pyro, or a ``functools.partial`` of one."""


class Blocks(NamedTuple):
    recipe: Sampler
    program: Program
    all_items: Items
    block_size: int
    """The number of items of a block."""


def blocks_for(
    model: Model,
    items: ItemModel | None,
    ids: np.ndarray,
    kernel: Sampler,
    *,
    num_warmup: int,
    num_chains: int,
    seed: int,
    items_at_once: int | None,
    start: Mapping[str, ArrayLike] | None = None,
    whole: Items | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Blocks:
    """Choose the program for a kernel and divide the items into blocks.

    :param start: values of the latent sites, (chain, [item,] *shape), if the chains do not start from exact draws.
    :param whole: the items as a value, if already made.
    :param devices: the devices that share a block, each with ``items_at_once`` of its items.
    :raises TypeError: for an unsupported kernel.
    :raises ValueError: for a model or settings that cannot run.
    """
    counts = {"num_warmup": num_warmup, "num_chains": num_chains, "seed": seed}
    if start is not None:
        start = _checked(start, (num_chains,) if items is None else (num_chains, len(ids)))
    if _is_pyro(kernel):
        return _with_pyro(model, items, ids, kernel, counts, start)
    return _compiled(model, items, ids, kernel, counts, items_at_once, start, whole, devices)


def _compiled(
    model: Model,
    items: ItemModel | None,
    ids: np.ndarray,
    kernel: Any,
    counts: dict[str, int],
    items_at_once: int | None,
    start: Mapping[str, np.ndarray] | None,
    whole: Items | None,
    devices: Sequence[jax.Device] | None,
) -> Blocks:
    import jax
    import jax.numpy as jnp

    from cogen.inference.blocks import JaxProgram, items_per_block
    from cogen.inference.targets.masked_sites import ProperUnobserved
    from cogen.inference.targets.model_checks import check_numpyro_model, check_supports

    recipe = _recipe(kernel)
    if items is None:
        check_numpyro_model(model, (), {})
    program_model: Callable[..., Any] = ProperUnobserved(model) if items is None else items.numpyro
    if whole is None:
        data = None if items is None else jax.tree.map(lambda a: np.asarray(jnp.asarray(a)), dict(items.item_data))
        whole = Items(id_halves(ids), data, own=recipe.own(counts["num_warmup"], ids))
    args = () if items is None else (jax.tree.map(lambda a: a[:1], whole.data),)
    bound = recipe.for_model(program_model, args, {})
    own = jax.tree.map(lambda a: a[0], whole.own)
    jax.eval_shape(lambda: jnp.zeros(bound.target(args, model=program_model, own=own).dim))  # raises the model's errors early
    if start is not None:
        whole = whole._replace(start=_positions(recipe, program_model, whole, start))
        check_supports(start, [whole.start])
    size = 1 if items is None else items_at_once or items_per_block(counts["num_chains"])
    first = whole.take(blocks_of(len(ids), size)[0][0])
    program = JaxProgram(bound, program_model, first, **counts, devices=devices)
    return Blocks(recipe, program, whole, size * len(devices or (None,)))


def blocks_of(num_items: int, size: int) -> list[tuple[np.ndarray, int]]:
    """For each block of ``size`` items, their indices, padded by repeating the last item, and the count without padding."""
    firsts = range(0, num_items, size)
    return [(np.minimum(np.arange(k, k + size), num_items - 1), min(size, num_items - k)) for k in firsts]


def _checked(start: Mapping[str, ArrayLike], lead: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Starting values as arrays.

    :raises ValueError: unless they are finite and their first axes are chains (and items).
    """
    values = {name: np.asarray(value) for name, value in start.items()}
    for name, value in values.items():
        if value.shape[: len(lead)] != lead:
            axes = "(chain, ...)" if len(lead) == 1 else "(chain, item, ...)"
            raise ValueError(f"start of site {name!r} has shape {value.shape}: it must be {axes}, beginning with {lead}")
        if not np.isfinite(value).all():
            raise ValueError(f"start of site {name!r} has non-finite values")
    return values


def _positions(recipe: Any, model: Model, whole: Items, start: Mapping[str, np.ndarray]) -> np.ndarray:
    """Starting values in the coordinates of the kernel's target, (item, chain, dim)."""
    import jax
    import jax.numpy as jnp

    values = {name: jnp.asarray(value) for name, value in start.items()}
    if whole.data is None:
        return np.asarray(jax.vmap(lambda v: recipe.position(model, (), v))(values))[None]

    def one(data: Any, values: dict[str, Any]) -> Any:
        args = (jax.tree.map(lambda a: a[None], data),)
        plate = {name: value[:, None] for name, value in values.items()}
        return jax.vmap(lambda v: recipe.position(model, args, v))(plate)

    return np.asarray(jax.vmap(one, in_axes=(0, 1))(whole.data, values))


def _with_pyro(
    model: Model,
    items: ItemModel | None,
    ids: np.ndarray,
    kernel: Any,
    counts: dict[str, int],
    start: Mapping[str, np.ndarray] | None,
) -> Blocks:
    from cogen.inference.torch.ensemble_kernel import PyroEnsembleKernel
    from cogen.inference.torch.model_checks import check_pyro_model
    from cogen.inference.torch.program import TorchProgram

    factory = kernel.func if isinstance(kernel, functools.partial) else kernel
    whole = Items(id_halves(ids), None if items is None else items.item_data)
    if start is not None:
        whole = whole._replace(start={n: value[None] if items is None else value.swapaxes(0, 1) for n, value in start.items()})
    if inspect.isclass(factory) and issubclass(factory, PyroEnsembleKernel):
        kernel = kernel()
    if isinstance(kernel, PyroEnsembleKernel):
        whole = whole._replace(own=kernel.own(counts["num_warmup"], ids))
        return Blocks(kernel, TorchProgram(kernel, model, whole, **counts), whole, len(ids))
    if not inspect.isclass(factory):
        raise TypeError(_made_with_a_model(type(factory).__name__))
    from cogen.inference.adapters.pyro_chains import PyroProgram

    if items is None:
        check_pyro_model(model)
    return Blocks(kernel, PyroProgram(kernel, model, items, name=factory.__name__, **counts), whole, 1)


def _recipe(kernel: Any) -> Any:
    from numpyro.infer.mcmc import MCMCKernel

    from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
    from cogen.inference.adapters.numpyro_chains import NumPyroRecipe

    factory = kernel.func if isinstance(kernel, functools.partial) else kernel
    if inspect.isclass(factory) and issubclass(factory, EnsembleKernel):
        kernel = kernel()
    if isinstance(kernel, NumPyroRecipe):
        return kernel
    if isinstance(kernel, EnsembleKernel):
        if kernel.model is not None:
            raise ValueError(f"this {type(kernel).__name__} was constructed with a model: construct it without one for infer")
        return kernel
    if isinstance(kernel, MCMCKernel):
        raise TypeError(_made_with_a_model(type(kernel).__name__))
    if inspect.isclass(factory) and issubclass(factory, MCMCKernel):
        return NumPyroRecipe(kernel)
    raise TypeError(
        f"{kernel!r} is not a kernel: pass a NumPyro or Pyro kernel class, a functools.partial of one, or a kernel of cogen,"
        " such as AnnealedHMC(num_leapfrog=10)"
    )


def _made_with_a_model(name: str) -> str:
    return (
        f"this {name} was constructed with a model: pass the class, or functools.partial({name}, ...), to which infer passes"
        " the model"
    )


def _is_pyro(kernel: Any) -> bool:
    factory = kernel.func if isinstance(kernel, functools.partial) else kernel
    kind = factory if inspect.isclass(factory) else type(factory)
    return any(base.__module__.partition(".")[0] == "pyro" for base in kind.__mro__)
