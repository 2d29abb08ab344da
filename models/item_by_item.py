"""Checks that a generator or a view is a function of each item only, x_i = G(z_i, c_i), with a correct gradient.

The posterior of one item is not defined if x_i also depends on the other items of the batch (batch statistics, a branch on
``h.sum() > 0``), on random numbers or on earlier calls, and gradient-based samplers fail where ``detach`` cuts the gradient.
Both are therefore probed at a few points when a model is made:

* in one call, no tensor may become a Python number, and no random number may be drawn;
* two calls, with different states of torch's global generator, must agree;
* each item alone must have the same value and gradient as in the batch;
* inputs without a gradient must not change the value, and the gradient must agree with finite differences.

These checks can miss faults that appear only at other points (a branch of a scripted module that the points do not take, a
gradient that is wrong by a few per cent). Tolerances are relative to the output, so rounding errors pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.models.watched_call import WatchedCall
from cogen.models.wrapped import as_image, further_inputs, kind_of, unflattened

POINTS = 6
VALUE_TOLERANCE = 1e-4  # of the largest magnitude of an entry, plus a tenth of the largest of all
HALF_TOLERANCE = 0.1  # the same, if a part is computed in float16 or bfloat16
GRADIENT_TOLERANCE = 3e-2  # of the largest magnitude: rounding can move a unit across the kink of its activation
SLOPE_TOLERANCE = 0.1  # of finite differences, in addition to their own error
STEP = 5e-3  # of finite differences, in standard deviations of the points

QUICKLY: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiler options for a function that runs a few times."""

Probe = Callable[[np.ndarray, np.ndarray, slice], tuple[np.ndarray, np.ndarray]]
"""(points, cotangent, slice of the items) -> value and gradient of <cotangent, value> with respect to the points (zero if the
shapes of the two differ)."""

ALL = slice(None)


def check_module(
    module: nn.Module, points: Tensor, name: str, variable: str, context: Mapping[str, Tensor] = MappingProxyType({})
) -> Tensor:
    """Check a torch module and return its output. Its mode and torch's global random state are not changed.

    :param points: inputs, (batch, *shape).
    :param name: the module, for messages.
    :param variable: its input, for messages.
    :param context: further inputs by name, (batch, *shape) each, which are not varied.
    :raises ValueError: if a check fails.
    """

    def fresh(items: slice = ALL) -> dict[str, Tensor]:  # a module may change its inputs in place
        return {key: values[items].clone() for key, values in context.items()}

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        source, beside = points.clone(), fresh()
        watch = WatchedCall(source, *beside.values())
        torch.default_generator.manual_seed(1)
        with watch:
            first = _output(module, source, name, variable, beside)
        state = torch.random.get_rng_state()
        if watch.number:
            raise ValueError(
                f"{name} converts a tensor that depends on {' or '.join([variable, *context])} to a Python number"
                f" ({watch.number}), which has no gradient and is the same for the whole batch. Use torch.where instead of"
                " branches, keep values in tensors, and remove assertions on values"
            )
        tolerance = HALF_TOLERANCE if watch.half else VALUE_TOLERANCE
        if changed := [key for key, values in context.items() if not torch.equal(values, beside[key])]:
            raise ValueError(
                f"{name} changes the context {changed[0]!r} in place, so the next call gets other values: compute a new tensor,"
                f" as in {changed[0]} = 2 * {changed[0]}"
            )
        torch.default_generator.manual_seed(2)
        if not _agree(_numpy(first), _numpy(_output(module, points.clone(), name, variable, fresh())), tolerance).all():
            raise ValueError(_two_values(name, variable, f" ({watch.random})" if watch.random else ""))
        if torch.equal(state, torch.random.get_rng_state()):
            raise ValueError(
                f"{name} seeds torch's global generator in its forward, so a sampler would repeat its draws in every step: use"
                " a separate torch.Generator, or draw the constants in the constructor"
            )

        def probe(inputs: np.ndarray, cotangent: np.ndarray, items: slice) -> tuple[np.ndarray, np.ndarray]:
            at = torch.from_numpy(inputs).to(points).requires_grad_()
            with torch.enable_grad():
                value = module(at, **fresh(items))
                found = None
                if value.requires_grad and value.shape == cotangent.shape:
                    (found,) = torch.autograd.grad(value, at, torch.from_numpy(cotangent).to(value), allow_unused=True)
            return _numpy(value), np.zeros(at.shape) if found is None else _numpy(found)

        with np.errstate(all="ignore"):  # non-finite values are compared too
            _check(probe, _numpy(points), tuple(first.shape), name, variable, tolerance)
    return first


def check_function(
    function: Callable[..., Any],
    points: np.ndarray,
    name: str,
    variable: str,
    context: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> np.ndarray:
    """`check_module` for a JAX function. While its weights are traced there are no values: only shapes are checked, and the
    returned values are arbitrary."""
    import jax

    def value_and_gradient(z: Any, cotangent: Any, beside: dict[str, Any]) -> Any:
        value, pull = jax.vjp(lambda z: function(z, **beside), z)
        again = function(z, **beside)  # traced again: numbers drawn by NumPy become other constants
        gradient = pull(cotangent)[0] if value.shape == cotangent.shape else jax.numpy.zeros_like(z)
        return value, gradient, again

    compiled: dict[int, Any] = {}

    def run(inputs: np.ndarray, cotangent: np.ndarray, items: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        beside = {key: values[items] for key, values in context.items()}
        given = inputs.astype(np.float32), cotangent.astype(made.dtype), beside
        if len(inputs) not in compiled:
            compiled[len(inputs)] = jax.jit(value_and_gradient).lower(*given).compile(QUICKLY)
        value, gradient, again = (np.array(array, dtype=np.float64) for array in compiled[len(inputs)](*given))
        return value, gradient, again

    with jax.ensure_compile_time_eval():
        try:
            shapes = {key: jax.ShapeDtypeStruct(np.shape(value), np.float32) for key, value in {"": points, **context}.items()}
            traced, made = jax.make_jaxpr(lambda s: function(s.pop(""), **s), return_shape=True)(shapes)
        except jax.errors.ConcretizationTypeError as error:
            raise ValueError(
                f"{name} needs the value of {variable} while JAX traces it ({_line(error)}): decide with jax.numpy.where or"
                " jax.lax.cond, and compute with jax.numpy"
            ) from None
        except Exception as error:
            hint = " (it is not a torch module, so it is treated as a JAX function)"
            raise ValueError(_does_not_take(name, variable, points.shape, error, context) + hint) from None
        if not hasattr(made, "shape") or not jax.numpy.issubdtype(made.dtype, np.floating):
            kind = getattr(made, "dtype", type(made).__name__)
            remedy = "; return one of them" if isinstance(made, tuple | list | dict) else ""
            raise ValueError(f"{name} returns {kind}: it must return one array of floats, with the batch axis first{remedy}")
        if made.shape[:1] != points.shape[:1]:
            raise ValueError(_batch_axis(name, len(points), made.shape))
        if any(isinstance(weight, jax.core.Tracer) for weight in traced.consts):
            return np.random.default_rng(0).normal(size=made.shape)
        tolerance = VALUE_TOLERANCE if made.dtype.itemsize > 2 else HALF_TOLERANCE
        try:
            first, _, again = run(points, np.zeros(made.shape), ALL)
        except Exception as error:
            raise ValueError(_no_gradient(name, error)) from None
        if not _agree(first, again, tolerance).all():
            raise ValueError(_two_values(name, variable))
        with np.errstate(all="ignore"):
            _check(lambda z, c, items: run(z, c, items)[:2], points.astype(np.float64), made.shape, name, variable, tolerance)
    return first


# --- comparisons ---------------------------------------------------------------------------------------------------


def _check(probe: Probe, points: np.ndarray, shape: tuple[int, ...], name: str, variable: str, tolerance: float) -> None:
    """Compare values and gradients.

    :raises ValueError: if a comparison fails.
    """
    rng = np.random.default_rng(0)
    cotangent = rng.normal(size=shape)
    try:
        value, gradient = probe(points, cotangent, ALL)
    except Exception as error:
        raise ValueError(_no_gradient(name, error)) from None
    if not np.isfinite(value).any():
        raise ValueError(f"{name} gives no finite value at any of {len(points)} values of {variable}: check its weights")
    _check_alone(probe, points, cotangent, (value, gradient), name, tolerance)
    if not (np.isfinite(value).all() and np.isfinite(gradient).all()):
        return  # the remaining comparisons require finite values

    # Replace entries without a gradient at any point by their values in the next item.
    still = np.broadcast_to((gradient == 0).all(axis=0), points.shape)
    moved, slope = probe(np.where(still, np.roll(points, 1, axis=0), points), cotangent, ALL)
    if not _agree(value, moved, tolerance).all() and not slope[still].any():
        of_it = variable if still.all() else f"{still[0].sum()} of the {still[0].size} entries of {variable}"
        raise ValueError(
            f"{name} depends on {of_it}, but its gradient is zero: it is cut (detach, no_grad, NumPy, stop_gradient), or the"
            " function has steps (round, argmax). Samplers use the gradient: remove the cut, or smooth the steps"
        )

    direction = (points.std(axis=0).mean() or 1.0) * rng.normal(size=points.shape)

    def slopes(step: float) -> np.ndarray:  # (item,)
        ahead, behind = (probe(points + sign * step * direction, cotangent, ALL)[0] for sign in (1.0, -1.0))
        return _per_item((ahead - behind) * cotangent) / (2 * step)

    claimed, coarse, fine = _per_item(gradient * direction), slopes(STEP), slopes(STEP / 2)
    typical = np.sqrt(np.square(fine).mean())
    rounding = 1e-6 * np.abs(value).max() * np.sqrt(_per_item(cotangent**2)) / STEP
    allowed = SLOPE_TOLERANCE * (np.abs(fine) + 0.2 * typical) + 4 * np.abs(fine - coarse) + rounding
    wrong = np.abs(fine - claimed) > allowed
    if 2 * wrong.sum() > len(points):  # a few items may be at a kink
        raise ValueError(
            f"{name} has a wrong gradient: {np.sqrt(np.square(claimed).mean()):.3g} along random directions, where finite"
            f" differences give {typical:.3g}. A part of it is cut (detach, no_grad, NumPy, stop_gradient) or replaced by a"
            " custom rule: use the gradient of the computed function"
        )


def _check_alone(
    probe: Probe,
    points: np.ndarray,
    cotangent: np.ndarray,
    together: tuple[np.ndarray, np.ndarray],
    name: str,
    tolerance: float,
) -> None:
    """Compare each item alone with the same item in the batch."""
    remedy = (
        "possible causes are batch statistics (batch norm without running statistics, h - h.mean(0)), a branch for the whole"
        " batch and noise of the batch's shape. Compute every item from itself only"
    )
    alone = []
    for at in range(len(points)):
        one = slice(at, at + 1)
        try:
            alone.append(probe(points[one], cotangent[one], one))
        except Exception as error:
            raise ValueError(
                f"{name} runs on a batch of {len(points)} but not on one item ({_line(error)}): {remedy}"
            ) from None
        if alone[-1][0].shape != (1, *cotangent.shape[1:]):
            raise ValueError(_batch_axis(name, 1, alone[-1][0].shape))
    values, gradients = (np.concatenate(parts) for parts in zip(*alone, strict=True))
    different = ~_agree(together[0], values, tolerance)
    if different.any():
        largest = np.abs((together[0] - values)[different]).max()
        raise ValueError(
            f"{name} mixes the items of a batch: the value of an item changes by {largest:.2g} between a batch of {len(points)}"
            f" and the item alone; {remedy}"
        )
    size = np.abs(gradients[np.isfinite(gradients)]).max(initial=1e-30)
    if (np.abs(together[1] - gradients) > max(GRADIENT_TOLERANCE, tolerance) * size).any():
        raise ValueError(f"{name} mixes the items of a batch: the gradient of an item depends on the others; {remedy}")


def _agree(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    """Where two batches of values agree; non-finite values must be equal."""
    size = np.maximum(*(np.abs(np.where(np.isfinite(values), values, 0.0)) for values in (a, b))).max(axis=0)
    return np.isclose(a, b, rtol=0.0, atol=tolerance * (size + 0.1 * size.max()), equal_nan=True)


def _per_item(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1).sum(axis=1)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


# --- messages ------------------------------------------------------------------------------------------------------


def _output(module: nn.Module, points: Tensor, name: str, variable: str, context: Mapping[str, Tensor]) -> Tensor:
    try:
        value = module(points, **context)
    except Exception as error:  # a module can raise any error; the guard of an exported program is an AssertionError
        hint = hint_of_batch_size(module) or _hint_of_dtype(module) or _hint_of_inputs(module, points, context)
        raise ValueError(_does_not_take(name, variable, tuple(points.shape), error, context) + hint) from None
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} returns {kind_of(value)}: it must return one tensor. Wrap it in a module whose forward returns one of"
            " them, such as network(z)[0]"
        )
    if not value.is_floating_point():
        raise ValueError(f"{name} returns {value.dtype}: it must return floats, because only floats have a gradient")
    if value.shape[:1] != points.shape[:1]:
        raise ValueError(_batch_axis(name, len(points), tuple(value.shape)))
    return value


def hint_of_batch_size(module: nn.Module) -> str:
    """A hint for an exported program that fails on a batch; empty for other modules."""
    if not isinstance(module, torch.fx.GraphModule):
        return ""
    return (
        "; a program exported for one batch size rejects others: export it with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)"
    )


def _hint_of_dtype(module: nn.Module) -> str:
    """A hint for weights that are not float32; empty if they are."""
    others = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()} - {"float32"}
    return f"; its weights are {' and '.join(sorted(others))}, but latents are float32: use module.float()" if others else ""


def _hint_of_inputs(module: nn.Module, points: Tensor, context: Mapping[str, Tensor]) -> str:
    """A hint for a module that takes further inputs or another shape; empty if it takes neither."""
    if missing := [key for key in further_inputs(module) if key not in context]:
        return (
            f"; declare a context, as in CoGenerator(..., contexts={{{missing[0]!r}: Classes(10)}}), which is passed as one-hot"
            f" rows, or wrap it in a module whose forward sets {missing[0]}"
        )
    return f"; it takes (batch, d, 1, 1): use {unflattened(points.shape[1])}" if as_image(module, points, context) else ""


def _does_not_take(name: str, variable: str, shape: tuple[int, ...], error: Exception, context: Mapping[str, Any]) -> str:
    shapes = {variable: shape, **{key: tuple(values.shape) for key, values in context.items()}}
    inputs = " with ".join(f"{key} of shape (batch, {', '.join(map(str, size[1:]))})" for key, size in shapes.items())
    return f"{name} does not take {inputs}: {_line(error)}"


def _no_gradient(name: str, error: Exception) -> str:
    return f"{name} runs, but its gradient, which samplers use, cannot be computed: {_line(error)}"


def _two_values(name: str, variable: str, where: str = "") -> str:
    return (
        f"{name} returns different values for the same {variable}: it draws random numbers or keeps a state{where}. Make the"
        " noise a part of the latent or a constant of the network, or use the noise model of the view"
    )


def _batch_axis(name: str, batch: int, shape: tuple[int, ...]) -> str:
    return (
        f"{name} turns a batch of {batch} into shape {tuple(shape)}: the output must keep the batch axis first (squeeze()"
        " without an axis removes a batch axis of size one)"
    )


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
