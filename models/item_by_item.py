"""Whether a generator or a view is a function of each item alone, x_i = G(z_i, c_i), with the gradient of its value.

A posterior of one item means nothing where x_i also depends on the other items of the batch (batch statistics, a branch on
``h.sum() > 0``), on random numbers or on earlier calls, and a sampler that follows gradients is lost where ``detach`` cuts
them. So both are probed when a model is made, on a few points:

* one call is watched for tensors that become Python numbers on the way, and for random numbers;
* two calls, from different states of torch's random numbers, must agree;
* each item alone must have the value and the gradient that it has in the batch;
* inputs without a gradient must not change the value, and the gradient must be that of finite differences.

This detects such faults and proves nothing: what shows only at other points (a branch inside a scripted module that the points
do not take, a gradient that is a few per cent wrong) passes. Rounding passes as well: tolerances are relative to the output.
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
VALUE_TOLERANCE = 1e-4  # of the largest magnitude of an entry, and of a tenth of the largest of all
HALF_TOLERANCE = 0.1  # the same, where something is computed in float16 or bfloat16
GRADIENT_TOLERANCE = 3e-2  # of the largest magnitude: rounding may put a unit on the other side of its kink
SLOPE_TOLERANCE = 0.1  # of finite differences, besides their own error
STEP = 5e-3  # of finite differences, in standard deviations of the points

QUICKLY: dict[str, Any] = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Options of a compilation for what runs a few times."""

Probe = Callable[[np.ndarray, np.ndarray, slice], tuple[np.ndarray, np.ndarray]]
"""From points and a cotangent, and which of all items these are, to the value, and the gradient of <cotangent, value> with
respect to the points (zero where the shapes of the two differ)."""

ALL = slice(None)


def check_module(
    module: nn.Module, points: Tensor, name: str, variable: str, context: Mapping[str, Tensor] = MappingProxyType({})
) -> Tensor:
    """What a torch module makes of points (batch, *shape), after the checks above; its mode is left as it is.

    ``name`` and ``variable`` are what the messages call the module and its input; ``context`` are further inputs by name,
    (batch, *shape) each, which keep their values. torch's global random state is as before.
    Raises ValueError, with what is wrong and the remedy, where a check fails.
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
                f"{name} makes a Python number of a tensor that depends on {' or '.join([variable, *context])} ({watch.number}"
                "): a branch on it is taken once for the whole batch, and it carries no gradient. Decide item by item with"
                " torch.where, keep what is computed in tensors, and remove assertions on values"
            )
        tolerance = HALF_TOLERANCE if watch.half else VALUE_TOLERANCE
        if changed := [key for key, values in context.items() if not torch.equal(values, beside[key])]:
            raise ValueError(
                f"{name} changes the context {changed[0]!r} in place, so that the next call is given other values: compute a"
                f" new tensor, as in {changed[0]} = 2 * {changed[0]}"
            )
        torch.default_generator.manual_seed(2)
        if not _agree(_numpy(first), _numpy(_output(module, points.clone(), name, variable, fresh())), tolerance).all():
            raise ValueError(_two_values(name, variable, f" ({watch.random})" if watch.random else ""))
        if torch.equal(state, torch.random.get_rng_state()):
            raise ValueError(
                f"{name} seeds torch's global random numbers in its forward, so that a sampler would repeat its draws in every"
                " step: give it a torch.Generator of its own, or draw its constants when it is made"
            )

        def probe(inputs: np.ndarray, cotangent: np.ndarray, items: slice) -> tuple[np.ndarray, np.ndarray]:
            at = torch.from_numpy(inputs).to(points).requires_grad_()
            with torch.enable_grad():
                value = module(at, **fresh(items))
                found = None
                if value.requires_grad and value.shape == cotangent.shape:
                    (found,) = torch.autograd.grad(value, at, torch.from_numpy(cotangent).to(value), allow_unused=True)
            return _numpy(value), np.zeros(at.shape) if found is None else _numpy(found)

        with np.errstate(all="ignore"):  # what is not finite is compared as that
            _check(probe, _numpy(points), tuple(first.shape), name, variable, tolerance)
    return first


def check_function(
    function: Callable, points: np.ndarray, name: str, variable: str, context: Mapping[str, np.ndarray] = MappingProxyType({})
) -> np.ndarray:
    """The same for a JAX function. One whose weights are being traced has no values yet: only its shapes are checked then, and
    the value that is returned is any."""
    import jax

    def value_and_gradient(z: Any, cotangent: Any, beside: dict) -> Any:
        value, pull = jax.vjp(lambda z: function(z, **beside), z)
        again = function(z, **beside)  # traced anew: what NumPy draws in it is another constant now
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
            hint = " (what is no torch module is taken for a JAX function)"
            raise ValueError(_does_not_take(name, variable, points.shape, error, context) + hint) from None
        if not hasattr(made, "shape") or not jax.numpy.issubdtype(made.dtype, np.floating):
            kind = getattr(made, "dtype", type(made).__name__)
            remedy = ": return one of them" if isinstance(made, tuple | list | dict) else ""
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


# --- the numbers ---------------------------------------------------------------------------------------------------


def _check(probe: Probe, points: np.ndarray, shape: tuple[int, ...], name: str, variable: str, tolerance: float) -> None:
    """The comparisons of values and gradients. Raises ValueError where one fails."""
    rng = np.random.default_rng(0)
    cotangent = rng.normal(size=shape)
    try:
        value, gradient = probe(points, cotangent, ALL)
    except Exception as error:
        raise ValueError(_no_gradient(name, error)) from None
    if not np.isfinite(value).any():
        raise ValueError(f"{name} gives no finite value for any of {len(points)} probed {variable}: look at its weights")
    _check_alone(probe, points, cotangent, (value, gradient), name, tolerance)
    if not (np.isfinite(value).all() and np.isfinite(gradient).all()):
        return  # there is nothing to compare with

    # Entries without a gradient at any point, moved to their values in the next item.
    still = np.broadcast_to((gradient == 0).all(axis=0), points.shape)
    moved, slope = probe(np.where(still, np.roll(points, 1, axis=0), points), cotangent, ALL)
    if not _agree(value, moved, tolerance).all() and not slope[still].any():
        of_it = variable if still.all() else f"{still[0].sum()} of the {still[0].size} entries of {variable}"
        raise ValueError(
            f"{name} depends on {of_it}, and its gradient does not: it is cut (detach, no_grad, NumPy, stop_gradient), or the"
            " function has steps (round, argmax). Samplers follow the gradient: remove the cut, or smooth the steps"
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
    if 2 * wrong.sum() > len(points):  # a few items may stand at a kink
        raise ValueError(
            f"{name} has a gradient that is not that of its value: {np.sqrt(np.square(claimed).mean()):.3g} along random"
            f" directions, where finite differences give {typical:.3g}. A part of it is cut (detach, no_grad, NumPy,"
            " stop_gradient) or replaced by a rule of its own: let the gradient be that of what is computed"
        )


def _check_alone(
    probe: Probe,
    points: np.ndarray,
    cotangent: np.ndarray,
    together: tuple[np.ndarray, np.ndarray],
    name: str,
    tolerance: float,
) -> None:
    """Each item alone against the batch."""
    remedy = (
        "causes are batch statistics (batch norm without running statistics, h - h.mean(0)), a branch taken for the whole batch"
        " and noise of the batch's shape. Compute every item from itself alone"
    )
    alone = []
    for at in range(len(points)):
        one = slice(at, at + 1)
        try:
            alone.append(probe(points[one], cotangent[one], one))
        except Exception as error:
            raise ValueError(
                f"{name} runs on a batch of {len(points)} and not on one item ({_line(error)}): {remedy}"
            ) from None
        if alone[-1][0].shape != (1, *cotangent.shape[1:]):
            raise ValueError(_batch_axis(name, 1, alone[-1][0].shape))
    values, gradients = (np.concatenate(parts) for parts in zip(*alone, strict=True))
    apart = ~_agree(together[0], values, tolerance)
    if apart.any():
        largest = np.abs((together[0] - values)[apart]).max()
        raise ValueError(
            f"{name} mixes the items of a batch: the value of an item changes by {largest:.2g} between a batch of {len(points)}"
            f" and the item alone; {remedy}"
        )
    size = np.abs(gradients[np.isfinite(gradients)]).max(initial=1e-30)
    if (np.abs(together[1] - gradients) > max(GRADIENT_TOLERANCE, tolerance) * size).any():
        raise ValueError(f"{name} mixes the items of a batch: the gradient of an item depends on the others; {remedy}")


def _agree(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    """Where two batches of values agree; what is not finite must be the same."""
    size = np.maximum(*(np.abs(np.where(np.isfinite(values), values, 0.0)) for values in (a, b))).max(axis=0)
    return np.isclose(a, b, rtol=0.0, atol=tolerance * (size + 0.1 * size.max()), equal_nan=True)


def _per_item(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1).sum(axis=1)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


# --- what is said --------------------------------------------------------------------------------------------------


def _output(module: nn.Module, points: Tensor, name: str, variable: str, context: Mapping[str, Tensor]) -> Tensor:
    try:
        value = module(points, **context)
    except Exception as error:  # a module raises what it likes; the guard of an exported program is an AssertionError
        hint = hint_of_batch_size(module) or _hint_of_dtype(module) or _hint_of_inputs(module, points, context)
        raise ValueError(_does_not_take(name, variable, tuple(points.shape), error, context) + hint) from None
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{name} returns {kind_of(value)}: it must return one tensor. Wrap it in a module whose forward returns one of"
            " them, as network(z)[0]"
        )
    if not value.is_floating_point():
        raise ValueError(f"{name} returns {value.dtype}: it must return floats, as only they carry a gradient")
    if value.shape[:1] != points.shape[:1]:
        raise ValueError(_batch_axis(name, len(points), tuple(value.shape)))
    return value


def hint_of_batch_size(module: nn.Module) -> str:
    """What may be wrong with an exported program that does not take a batch; nothing for other modules."""
    if not isinstance(module, torch.fx.GraphModule):
        return ""
    return (
        "; a program exported for one batch size takes no other: export it with dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)"
    )


def _hint_of_dtype(module: nn.Module) -> str:
    """What is wrong with weights that are not float32; nothing where they are."""
    others = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()} - {"float32"}
    return f"; its weights are {' and '.join(sorted(others))}, and latents are float32: give module.float()" if others else ""


def _hint_of_inputs(module: nn.Module, points: Tensor, context: Mapping[str, Tensor]) -> str:
    """How to give a module what it takes, where that is more than the points or another shape; nothing where it is neither."""
    if missing := [key for key in further_inputs(module) if key not in context]:
        return (
            f"; declare a context, as in CoGenerator(..., contexts={{{missing[0]!r}: Classes(10)}}), which it is given as"
            f" one-hot rows, or wrap it in a module whose forward gives {missing[0]}"
        )
    return f"; it takes (batch, d, 1, 1): give {unflattened(points.shape[1])}" if as_image(module, points, context) else ""


def _does_not_take(name: str, variable: str, shape: tuple[int, ...], error: Exception, context: Mapping[str, Any]) -> str:
    shapes = {variable: shape, **{key: tuple(values.shape) for key, values in context.items()}}
    inputs = " with ".join(f"{key} of shape (batch, {', '.join(map(str, size[1:]))})" for key, size in shapes.items())
    return f"{name} does not take {inputs}: {_line(error)}"


def _no_gradient(name: str, error: Exception) -> str:
    return f"{name} runs, and fails where its gradient is asked for, which samplers follow: {_line(error)}"


def _two_values(name: str, variable: str, where: str = "") -> str:
    return (
        f"{name} gives two values for the same {variable}: it draws random numbers or keeps a state{where}, so it is not a"
        " function. Make the noise part of the latent or a constant of the network, or leave it to the view's noise model"
    )


def _batch_axis(name: str, batch: int, shape: tuple[int, ...]) -> str:
    return (
        f"{name} turns a batch of {batch} into shape {tuple(shape)}: the output must keep the batch axis first (a squeeze()"
        " without an axis removes it when the batch is one)"
    )


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
