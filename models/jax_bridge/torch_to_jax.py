"""Conversion of a torch module to a JAX function, for samplers that are compiled as a whole.

The module, in evaluation mode, is exported for a batch of one (`torch.export`) as a graph of ATen operators without side
effects. torch computes once what does not depend on the input (weights, spectral normalisation, position grids). The rest is
interpreted operator by operator with the table `cogen.models.jax_bridge.operators`. The function for a batch is `jax.vmap` of
the function for one item, so sizes fixed by the export are valid for every batch, and JAX merges the batch into convolutions
and products. Nothing is compiled here: the caller's `jax.jit` traces plain operations.

The value and gradient of the result are compared with torch before it is returned, which detects modules that mix the items of
a batch, and operators that torch and JAX interpret differently.
"""

from __future__ import annotations

import copy
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stderr
from types import BuiltinFunctionType, MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_aggregate

from cogen.models.frozen import evaluation
from cogen.models.item_by_item import POINTS, QUICKLY, check_module, hint_of_batch_size

if TYPE_CHECKING:
    import jax
    from torch.export import ExportedProgram

TOLERANCE = 1e-4  # of the largest magnitude, float32
KINK_TOLERANCE = 3e-2  # for a float32 gradient if float64 agrees: rounding moved a unit across the kink of its ReLU
_REMEDY = (
    "rewrite that part of the module, give the generator as a JAX function, or use the Pyro backend (a Pyro kernel, or"
    " --backend pyro)"
)
_IGNORED = ("device", "layout", "pin_memory", "memory_format", "non_blocking", "requires_grad")
_ASSERTIONS = ("_assert_tensor_metadata", "_assert_scalar", "sym_constrain_range", "sym_constrain_range_for_size")
_DROPOUT = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")


class ConversionError(ValueError):
    """A torch module that cannot be converted to JAX; the message names the operator, the submodule and a remedy."""


class _Untranslated(ConversionError):
    """A failure of the conversion only: torch can run the module, if it is correct."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; {_REMEDY}")
        self.reason = reason


Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the inputs without their batch axis: the first under "", contexts under their names."""


class _Step(NamedTuple):
    node: Node
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    dtypes: tuple[Any, ...]  # of outputs that are tensors, None for others


def as_jax(
    module: nn.Module,
    input_shape: tuple[int, ...],
    contexts: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
    *,
    check: bool = True,
) -> Callable[..., jax.Array]:
    """The JAX function ``(batch, *input_shape) -> (batch, *output_shape)`` that computes ``module`` in evaluation mode.

    It can be jitted, mapped and differentiated. The weights are copied, so further training of the module does not change it.
    It computes in float32 (in float64 for a float64 module if JAX has 64 bits enabled).

    :param contexts: shapes of further inputs by name, without their batch axis: with ``{"label": (10,)}`` the module and the
        function are called as ``module(z, label=...)``.
    :param check: compare value and gradient with torch on random inputs, to 1e-4 of their largest magnitude.
    :raises ConversionError: (a ValueError) for a module that cannot be exported, draws random numbers, uses an unsupported
        operator, or disagrees with torch.

    >>> function = as_jax(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), (2,))
    >>> function(torch.zeros(5, 2).numpy()).shape
    (5, 3)
    """
    shapes = {"": tuple(int(size) for size in input_shape)}
    shapes |= {name: tuple(int(size) for size in size_of) for name, size_of in contexts.items()}
    wanted = next((p.dtype for p in [*module.parameters(), *module.buffers()] if p.is_floating_point()), torch.float32)
    dtype = torch.float64 if wanted == torch.float64 and _jax_dtype(wanted).itemsize == 8 else torch.float32
    if wanted != dtype:
        module = copy.deepcopy(module).to(dtype)
    with evaluation(module):
        try:
            function = _convert(module, shapes, dtype)
            if check:
                _check(module, function, shapes, dtype)
        except _Untranslated as error:
            wrong = _wrong_in_torch(module, shapes, dtype)
            if not wrong:
                raise
            raise ConversionError(f"{error.reason}; the Pyro backend does not help: {wrong}") from None
    return function


# --- from module to function ----------------------------------------------------------------------------------------


def _convert(module: nn.Module, shapes: Shapes, dtype: torch.dtype) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    from cogen.inference.loops import in_compiled_loop

    name = type(module).__name__
    program = _export(module, shapes, dtype)
    constants, steps, sources, result = _analyse(program, name)
    first, *others = sources
    inputs = {"": first, **dict(zip(_order(module, [key for key in shapes if key]), others, strict=True))}
    with jax.ensure_compile_time_eval():  # weights must be arrays even if the caller is being traced
        values = {node: _to_jax(value) for node, value in constants.items()}
        compute = jnp.asarray(0.0, _jax_dtype(dtype)).dtype

    @functools.partial(jax.jit, static_argnames="in_loop")  # traced once for all batches, and once more for loops
    def single(given: Mapping[str, jax.Array], in_loop: bool) -> jax.Array:  # by name, "" for the first input
        known = {**values, **{node: given[key][None] for key, node in inputs.items()}}
        for step in steps:
            args, kwargs = map_aggregate((step.args, step.kwargs), lambda a: known[a] if isinstance(a, Node) else a)
            try:
                known[step.node] = _cast(step.function(*args, **kwargs), step.dtypes)
            except Exception as error:
                raise _Untranslated(f"{_location(step.node, name)} failed in JAX: {_line(error)}") from error
        return known[result][0]

    def function(x: jax.Array, **context: jax.Array) -> jax.Array:
        given = {"": x, **context}
        if set(given) != set(shapes):
            raise ValueError(f"{name} takes the contexts {sorted(shapes)[1:]}, not {sorted(context)}")
        given = {key: jnp.asarray(value, compute) for key, value in given.items()}
        for key, shape in shapes.items():
            if given[key].shape[1:] != shape:
                what = f"{name} takes {key or 'inputs'} of shape (batch, {', '.join(map(str, shape))})"
                raise ValueError(f"{what}, not {given[key].shape}")
        return jax.vmap(functools.partial(single, in_loop=in_compiled_loop()))(given)

    examples = {key: jax.ShapeDtypeStruct((1, *shape), compute) for key, shape in shapes.items()}
    jax.eval_shape(lambda given: function(given.pop(""), **given), examples)  # reports now what cannot be traced
    return function


def _export(module: nn.Module, shapes: Shapes, dtype: torch.dtype) -> ExportedProgram:
    """Export the module as a functional graph, without decomposing the operators of the table."""
    from torch.export import export

    name = type(module).__name__
    context = {key: torch.zeros(1, *shape, dtype=dtype, device=_device(module)) for key, shape in shapes.items()}
    example = context.pop("")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = module(example, **context)
    except Exception as error:
        beside = "".join(f" with {key} of shape {tuple(value.shape)}" for key, value in context.items())
        raise ConversionError(
            f"{name} does not run on an input of shape {tuple(example.shape)}{beside}: {_line(error)}"
            + hint_of_batch_size(module)
        ) from error
    if not isinstance(output, Tensor):
        raise ConversionError(
            f"{name} returns {type(output).__name__}, but a generator returns one tensor: return network(z)[0]"
        )
    if output.ndim == 0 or output.shape[0] != 1:
        raise ConversionError(
            f"{name} turns a batch of one into shape {tuple(output.shape)}: the output must keep the batch axis first "
            "(squeeze() without an axis removes it)"
        )
    try:
        with warnings.catch_warnings(), _without_dumps():
            # torch's own code and its copies of tree specifications use deprecated features.
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            if isinstance(module, torch.jit.ScriptModule):
                program = _exported_script(module, example, context)
            else:
                program = export(module, (example,), context, strict=False)
            return program if _is_translatable(program) else program.run_decompositions(_decompositions())
    except Exception as error:
        raise _Untranslated(f"torch.export cannot export {name}: {_line(error)}") from error


def _exported_script(module: torch.jit.ScriptModule, example: Tensor, context: dict[str, Tensor]) -> Any:
    """Export a scripted or traced module with torch's converter, which torch.export recommends in its error."""
    from torch._export.converter import TS2EPConverter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about buffers that evaluation does not use
        return TS2EPConverter(module, (example, *(context[name] for name in _order(module, context))), {}).convert()


@contextmanager
def _without_dumps() -> Iterator[None]:
    """Suppress the graph that torch.export prints on stderr before an error, and its log, since the error contains the cause;
    and the note that a script's batch size of one is fixed, as intended."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def _order(module: nn.Module, contexts: Iterable[str]) -> list[str]:
    """The contexts in the order of the exported graph's inputs: that of keywords, or of a script's arguments, because its
    converter has no keywords."""
    if isinstance(module, torch.jit.ScriptModule):
        forward: Any = module.forward
        return [argument.name for argument in forward.schema.arguments if argument.name in contexts]
    return list(contexts)


def _wrong_in_torch(module: nn.Module, shapes: Shapes, dtype: torch.dtype) -> str:
    """Why a module is not a valid generator in torch either; empty if it is one."""
    points = _points(POINTS, shapes, torch.Generator().manual_seed(0), module, dtype)
    try:
        check_module(module, points.pop(""), type(module).__name__, "its input", points)
    except ValueError as error:
        return str(error)
    return ""


def _is_translatable(program: Any) -> bool:
    """Whether the table contains all operators of an exported graph, and none of them modifies its inputs."""
    from cogen.models.jax_bridge.operators import OPERATORS

    def known(node: Node) -> bool:
        if isinstance(node.target, torch._ops.OpOverload):
            return _operator(node) in OPERATORS and not node.target._schema.is_mutable
        return node.op in ("placeholder", "output") or isinstance(node.target, BuiltinFunctionType)

    return all(known(node) for node in program.graph.nodes)


@functools.cache
def _decompositions() -> dict[str, Any]:
    """torch's decompositions into its core operators, except those of operators in the table."""
    from torch.export import default_decompositions

    from cogen.models.jax_bridge.operators import OPERATORS

    known = [getattr(torch.ops.aten, name, None) for name in OPERATORS]  # some exist only in other versions of torch
    kept = {getattr(packet, overload) for packet in known if packet is not None for overload in packet.overloads()}
    return {overload: rule for overload, rule in default_decompositions().items() if overload not in kept}


def _analyse(program: ExportedProgram, name: str) -> tuple[dict[Node, Any], list[_Step], list[Node], Node]:
    """The constants that torch can compute now, the steps that depend on the inputs, the inputs and the result."""
    from cogen.models.jax_bridge.operators import OPERATORS

    signature = program.graph_signature
    if signature.buffers_to_mutate or getattr(signature, "parameters_to_mutate", None):
        changed = ", ".join(signature.buffers_to_mutate.values())
        raise ConversionError(f"{name} changes its buffers in evaluation mode ({changed}): a generator must be a function of z")
    stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    stored |= signature.inputs_to_lifted_tensor_constants
    constants: dict[Node, Any] = {}
    steps: list[_Step] = []
    sources: list[Node] = []
    result: Node
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in stored:
            path = stored[node.name]
            constants[node] = program.state_dict[path] if path in program.state_dict else program.constants[path]
        elif node.op == "placeholder":
            sources.append(node)
        elif node.op == "output":
            result = node.args[0][0]
        elif _draws_random_numbers(node):
            raise ConversionError(
                f"{_location(node, name)} draws random numbers, so the module is not a function of its input: "
                "store the noise in a buffer, or make it part of the latent"
            )
        elif node.op == "call_function" and all(parent in constants for parent in node.all_input_nodes):
            args, kwargs = map_aggregate((node.args, node.kwargs), lambda a: constants[a] if isinstance(a, Node) else a)
            with torch.no_grad():
                constants[node] = node.target(*args, **kwargs)
        elif isinstance(node.target, BuiltinFunctionType):  # Python's: one of several outputs, arithmetic of sizes
            steps.append(_Step(node, node.target, node.args, {}, _dtypes(node)))
        elif _operator(node) not in _ASSERTIONS:
            if _operator(node) not in OPERATORS:
                raise _Untranslated(f"{_location(node, name)} is not supported in JAX")
            kwargs = {key: value for key, value in node.kwargs.items() if key not in _IGNORED}
            args, kwargs = map_aggregate((node.args, kwargs), _jax_dtype)
            steps.append(_Step(node, OPERATORS[_operator(node)], args, kwargs, _dtypes(node)))
    used = {parent for step in steps for parent in step.node.all_input_nodes} | {result}
    return {node: value for node, value in constants.items() if node in used}, steps, sources, result


def _operator(node: Node) -> str:
    """The name of an operator: ``conv2d`` for aten.conv2d.default, the full name for one that is not from ATen."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return target._schema.name.removeprefix("aten::")
    return str(target)


def _draws_random_numbers(node: Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    name = _operator(node)
    if name in _DROPOUT:
        return bool(node.args[2])
    if name == "scaled_dot_product_attention":
        return bool(node.args[4] if len(node.args) > 4 else node.kwargs.get("dropout_p", 0))
    return torch.Tag.nondeterministic_seeded in node.target.tags


def _location(node: Node, name: str) -> str:
    """``aten.conv2d.default in decoder.3 (Conv2d) of Generator``"""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", "")
    kind = getattr(kind, "__name__", str(kind)).rpartition(".")[2]
    return f"{node.target} in {path} ({kind}) of {name}" if path else f"{node.target} in the forward of {name}"


def _line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


# --- types and values -----------------------------------------------------------------------------------------------


def _jax_dtype(value: Any) -> Any:
    """A torch dtype as the available JAX dtype; any other value unchanged."""
    if not isinstance(value, torch.dtype):
        return value
    import jax.numpy as jnp
    from jax import dtypes

    return dtypes.canonicalize_dtype(jnp.dtype(str(value).removeprefix("torch.")))


def _dtypes(node: Node) -> tuple[Any, ...]:
    values = node.meta.get("val")
    values = values if isinstance(values, tuple | list) else (values,)
    return tuple(_jax_dtype(value.dtype) if isinstance(value, Tensor) else None for value in values)


def _cast(value: Any, dtypes: tuple[Any, ...]) -> Any:
    """Cast to the dtypes of torch, because the two libraries promote scalars differently."""
    if isinstance(value, tuple | list):
        return [a if a is None or d is None else a.astype(d) for a, d in zip(value, dtypes, strict=True)]
    return value if dtypes[0] is None or value.dtype == dtypes[0] else value.astype(dtypes[0])


def _to_jax(value: Any) -> Any:
    """Floats as JAX arrays; integers and booleans as NumPy arrays, so that indices and masks are constants."""
    import jax.numpy as jnp

    if isinstance(value, tuple | list):
        return [_to_jax(part) for part in value]
    if not isinstance(value, Tensor):
        return value
    array = value.detach().cpu().resolve_conj().resolve_neg()
    if array.is_floating_point():
        wide = array.double() if array.dtype == torch.float64 else array.float()  # numpy has no bfloat16
        return jnp.asarray(wide.numpy().astype(_jax_dtype(value.dtype), copy=True))
    return array.numpy().copy()


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in [*module.parameters(), *module.buffers()]), torch.device("cpu"))


# --- the comparison with torch --------------------------------------------------------------------------------------


def _check(module: nn.Module, function: Callable[..., Any], shapes: Shapes, dtype: torch.dtype) -> None:
    name = type(module).__name__
    value_error, gradient_error = _errors(module, function, shapes, dtype)
    if value_error <= TOLERANCE and gradient_error <= TOLERANCE:
        return
    if value_error <= TOLERANCE and gradient_error <= KINK_TOLERANCE and dtype == torch.float32:
        # Rounding can move a unit across its kink in float32, but not in float64.
        twin = copy.deepcopy(module).double()
        with _double():
            _, exact = _errors(twin, _convert(twin, shapes, torch.float64), shapes, torch.float64)
        if exact <= TOLERANCE:
            return
    raise _Untranslated(
        f"{name} in JAX differs from torch by {value_error:.1e} in the value and {gradient_error:.1e} in the gradient "
        f"(relative to the largest magnitude; {TOLERANCE:.0e} is allowed)"
    )


def _errors(module: nn.Module, function: Callable[..., Any], shapes: Shapes, dtype: torch.dtype) -> tuple[float, float]:
    """The largest errors of value and gradient over a few batches of three, relative to the largest magnitude. Contexts are
    drawn like the input, and the gradient includes them."""
    import jax

    def value_and_gradient(given: dict[str, jax.Array], cotangent: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        value, pull = jax.vjp(lambda given: function(given[""], **{key: given[key] for key in shapes if key}), given)
        return value, pull(cotangent)[0]

    compiled = None
    generator, worst = torch.Generator().manual_seed(0), [0.0, 0.0]
    for _ in range(3):
        given = _points(3, shapes, generator, module, dtype)
        with torch.enable_grad():
            value = module(given[""].requires_grad_(), **{key: given[key].requires_grad_() for key in shapes if key})
            cotangent = torch.randn(value.shape, generator=generator, dtype=dtype)
            gradients = {key: torch.zeros_like(each) for key, each in given.items()}
            if value.requires_grad:
                found = torch.autograd.grad(value, list(given.values()), cotangent.to(value), allow_unused=True)
                gradients |= {key: each for key, each in zip(given, found, strict=True) if each is not None}
        inputs = {key: each.detach().cpu().numpy() for key, each in given.items()}, cotangent.numpy()
        if compiled is None:
            with jax.default_matmul_precision("highest"):
                compiled = jax.jit(value_and_gradient).lower(*inputs).compile(QUICKLY)
        ours, slopes = compiled(*inputs)
        worst[0] = max(worst[0], _relative_error(ours, value))
        worst[1] = max(worst[1], *(_relative_error(slopes[key], gradients[key]) for key in shapes))
    return worst[0], worst[1]


def _points(count: int, shapes: Shapes, generator: torch.Generator, module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Standard normal inputs by name, (count, *shape)."""
    drawn = {key: torch.randn(count, *shape, generator=generator, dtype=dtype) for key, shape in shapes.items()}
    return {key: values.to(_device(module)) for key, values in drawn.items()}


def _relative_error(mine: jax.Array, theirs: Tensor) -> float:
    import numpy as np

    reference, found = theirs.detach().cpu().numpy(), np.asarray(mine)
    if found.shape != reference.shape or not np.isfinite(found[np.isfinite(reference)]).all():
        return float("inf")
    scale = max(float(np.abs(reference).max()), 1e-30)
    return float(np.abs(found - reference).max()) / scale


def _double() -> AbstractContextManager[object]:
    """A context manager that enables 64 bits in JAX."""
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    import jax.experimental

    return jax.experimental.enable_x64(True)  # type: ignore[attr-defined]  # before jax 0.8
