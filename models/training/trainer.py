"""A small trainer for all families: devices, mixed precision, progress, checkpoints, exact resuming, averaged weights.

It is built on Lightning Fabric and independent of the family (`cogen.models.families.family`). All randomness of a step, its
batch and its latents, is a function of (seed, step, device). An interrupted run therefore resumes bit for bit on the CPU, and
no state of a random generator is stored.

With several devices each takes a part of the batch, and gradients are averaged before a step. DistributedDataParallel is not
used, since it supports neither losses that train one of several networks nor penalties on a critic's gradient.

On a GPU the data are on the device if they need less than half of its free memory. With ``graph`` they always are, and a step
is a CUDA graph, so that small networks are not limited by the time that Python takes to launch kernels. Several such trainings
share a GPU by taking turns (`interleaved`). They then share its random generator, and are not reproducible bit for bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tqdm.auto import tqdm

from cogen.models.families.family import Family, Updates
from cogen.models.training.captured_step import CapturedStep
from cogen.models.training.checkpoint import TrainingCheckpoint, describe, digest
from cogen.models.training.learning_rates import Constant, Schedule
from cogen.models.training.preparation import Joint

Prepare = Callable[[Tensor], Tensor]
"""From a batch of one tensor of the data, (item, ...), to the input of the networks."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclasses.dataclass
class Training:
    """The result of a training. The family itself was trained in place and is in evaluation mode."""

    losses: dict[str, np.ndarray]
    """The loss of every step, by optimiser, (step,)."""
    seconds: float
    """Seconds of training, including previous calls of the checkpoint."""
    average: nn.Module | None
    """The averaged network (`Family.averaged`), in evaluation mode with batch statistics of the averaged weights."""


def training_steps(
    family: Family,
    data: Tensor | Sequence[Tensor],
    *,
    num_steps: int,
    batch_size: int,
    seed: int,
    schedule: Schedule = Constant(),
    average: float = 0.0,
    prepare: Prepare | Joint | Sequence[Prepare | None] | None = None,
    checkpoint: str | Path | None = None,
    save_every: int = 1_000,
    watch: Callable[[int, Family, Callable[[], nn.Module | None]], None] | None = None,
    watch_every: int = 1_000,
    precision: Literal["32-true", "bf16-mixed"] = "32-true",
    accelerator: str = "cpu",
    devices: int = 1,
    graph: bool = False,
    seconds: float = math.inf,
    prolong: bool = False,
    progress: bool = True,
) -> Generator[int, None, Training]:
    """Train a family in place for ``num_steps`` steps. Yields the number of steps after each and returns the `Training`.

    `train` runs all steps; `interleaved` runs several trainings in turn.

    :param data: x (item, *event_shape), or x and further tensors with the item axis first, such as labels. Tensors are stored
        as given, for example as bytes.
    :param batch_size: items of a batch, over all devices; a step takes ``family.batches_per_step`` batches. An epoch is a new
        permutation of the items, without the incomplete last step.
    :param seed: seed of batches and latents, not negative; it does not affect initial weights.
    :param schedule: the learning-rate schedule, a factor of every learning rate.
    :param average: decay per step of a moving average of the weights of `Family.averaged`, in [0, 1); 0 for no average. After n
        steps it is at most (1 + n) / (10 + n).
    :param prepare: from a batch of x to the input of the networks, such as bytes to floats
        (`cogen.models.training.preparation`); or one function for each tensor of ``data``, None for no preparation, as of
        labels; or a `Joint` preparation.
    :param checkpoint: a folder to which the complete state is written every ``save_every`` steps. A call with the same
        arguments resumes an interrupted run. More ``num_steps`` prolong a run whose schedule does not depend on their number.
    :param prolong: also resume from a checkpoint with another schedule, and use this call's schedule from there on.
    :param watch: called as ``watch(steps, family, averaged)`` every ``watch_every`` steps and after the last; ``averaged()``
        returns the averaged network, or None. Its random draws do not affect the training.
    :param precision: "32-true", or "bf16-mixed", which is several times faster on CPUs with AMX and on GPUs.
    :param accelerator: "cpu", "cuda" or "auto".
    :param devices: number of devices; the script is launched once for each.
    :param graph: run each step as a CUDA graph (`cogen.models.training.captured_step`); for one GPU in full precision.
    :param seconds: no step starts later than this after the call; the result is the state at that time.
    :raises ValueError: for settings out of range, too few items, images besides x without a preparation, or a checkpoint of
        another run.
    :raises FloatingPointError: for a non-finite loss, with its name, its step and the last good checkpoint.
    """
    arrays = (data,) if isinstance(data, Tensor) else tuple(data)
    for name, value in (("num_steps", num_steps), ("batch_size", batch_size), ("save_every", save_every), ("devices", devices)):
        if value < 1:
            raise ValueError(f"{name}={value}: it must be at least 1")
    if precision not in ("32-true", "bf16-mixed"):
        raise ValueError(f"precision={precision!r}: it must be '32-true' or 'bf16-mixed'")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("accelerator='cuda': torch finds no GPU; use 'cpu' or 'auto'")
    if graph and (not torch.cuda.is_available() or accelerator == "cpu" or devices > 1 or precision != "32-true"):
        raise ValueError(
            f"graph=True with accelerator={accelerator!r}, devices={devices}, precision={precision!r}: CUDA graphs require one"
            " GPU and '32-true'; omit graph otherwise"
        )
    if not seconds > 0:
        raise ValueError(f"seconds={seconds}: the time to train must be positive; omit it for no limit")
    if not 0.0 <= average < 1.0:
        raise ValueError(f"average={average}: the decay of the moving average must be in [0, 1)")
    if seed < 0:
        raise ValueError(f"seed={seed}: it must not be negative")
    if len({len(a) for a in arrays}) > 1:
        raise ValueError(f"the tensors of data have different numbers of items: {[len(a) for a in arrays]}")
    if batch_size % devices:
        raise ValueError(f"batch_size={batch_size} is not divisible by devices={devices}")
    prepared = _joint(prepare, arrays)
    per_step = batch_size * family.batches_per_step
    per_epoch = len(arrays[0]) // per_step
    if not per_epoch:
        raise ValueError(f"a step takes {per_step} items, and there are {len(arrays[0])}: give a smaller batch_size")

    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)
    fabric.launch()
    family.to(fabric.device).train()
    if devices > 1:  # all devices start with the weights of the first
        for tensor in (*family.parameters(), *family.buffers()):
            tensor.data.copy_(fabric.broadcast(tensor.data))
    averaged = AveragedModel(family.averaged) if average else None
    optimizers = family.optimizers()
    rates = {name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in optimizers.items()}
    update = Updates(family, optimizers, reduce=_mean_over_devices(fabric) if devices > 1 else None)
    store = None
    if checkpoint is not None:
        identity = {"batch_size": batch_size, "seed": seed, "schedule": repr(schedule), "average": average}
        if prolong:
            del identity["schedule"]
        identity |= {"precision": precision, "devices": devices, "data": digest(*arrays), **describe(family)}
        store = TrainingCheckpoint(Path(checkpoint), identity, family, averaged, optimizers)
    done, before, losses = store.restore() if store is not None else (0, 0.0, {})
    if done > num_steps:
        raise ValueError(
            f"num_steps={num_steps} (--epochs): the checkpoint in {checkpoint} has made {done} steps already; remove it to"
            " begin again"
        )

    def averaged_generator() -> nn.Module | None:
        if averaged is None:
            return None
        for own, current in zip(averaged.module.buffers(), family.averaged.buffers(), strict=True):
            own.copy_(current)
        module = AveragedModel(averaged.module)  # a copy, since update_bn overwrites the statistics of training
        _reseed(fabric.device, seed, 2, done)
        with torch.no_grad():
            update_bn((family.latent(256) for _ in range(40)), _WithContexts(module, arrays, prepared))
        return module.module.eval()

    pending: list[dict[str, Tensor]] = []

    def last_checkpoint() -> str:
        return store.last() if store is not None else "there is no checkpoint"

    def fetch_losses() -> None:
        """Copy the pending losses from the device, and check that they are finite."""
        nonlocal pending
        for name in pending[0] if pending else ():
            values = torch.stack([row[name] for row in pending]).float().cpu().numpy()
            losses.setdefault(name, np.full(done - len(pending), np.nan, np.float32))
            losses[name] = np.concatenate([losses[name], values])
            if not np.isfinite(values).all():
                step = done - len(pending) + int(np.argmin(np.isfinite(values))) + 1
                raise FloatingPointError(
                    f"the loss {name!r} is {values[~np.isfinite(values)][0]} at step {step}: the training has diverged;"
                    f" {last_checkpoint()}; try a smaller learning rate"
                )
        pending = []

    device = fabric.device
    if device.type == "cuda" and (graph or sum(a.nbytes for a in arrays) < torch.cuda.mem_get_info(device)[0] / 2):
        arrays = tuple(a.to(device) for a in arrays)

    def step(items: Tensor, iteration: int) -> dict[str, Tensor]:
        batch = prepared(*(a[items].to(device, non_blocking=True) for a in arrays))
        if family.takes_items:
            batch = (*batch, items.to(device))
        with fabric.autocast() if precision != "32-true" else nullcontext():
            try:
                family.step(batch, update, iteration)
            except FloatingPointError as error:
                raise FloatingPointError(f"step {iteration + 1}: {error}; {last_checkpoint()}") from None
        return dict(update.losses)

    captured = None
    if graph:
        captured = CapturedStep(step, optimizers, per_step=per_step, variant=family.variant, device=device)
    side: Any = torch.cuda.Stream(device) if graph else None
    if side is not None:
        side.wait_stream(torch.cuda.current_stream(device))
    fetched_every = 500 if graph else 50  # fetching waits for the device
    started = time.perf_counter()
    order, of_epoch, factor = None, -1, math.nan
    bar = tqdm(total=num_steps, initial=done, disable=not (progress and fabric.is_global_zero), unit="step", mininterval=0.5)
    with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while done < num_steps:
            with torch.cuda.stream(side):
                before_factor, factor = factor, schedule(done, done / per_epoch)
                if factor != before_factor:
                    for name, optimizer in optimizers.items():  # restoring a checkpoint replaces the groups
                        for k, (group, rate) in enumerate(zip(optimizer.param_groups, rates[name], strict=True)):
                            group["lr"] = rate * factor
                            if captured is not None:
                                captured.set_rate(name, k, rate * factor)
                _reseed(device, seed, 0, done, fabric.global_rank)
                epoch, index = divmod(done, per_epoch)
                if order is None or epoch != of_epoch:
                    order, of_epoch = _permutation(len(arrays[0]), seed, epoch).to(arrays[0].device), epoch
                items = order[index * per_step : (index + 1) * per_step][fabric.global_rank :: devices]
                pending.append(step(items, done) if captured is None else captured(items, done))
                if averaged is not None:
                    _follow(averaged, family.averaged, average)
                done += 1
                bar.update()
                last = done == num_steps or time.perf_counter() - started > seconds
                if len(pending) == fetched_every or last or done % save_every == 0:
                    fetch_losses()
                    bar.set_postfix({name: f"{values[-1]:.4g}" for name, values in losses.items()}, refresh=False)
                if store is not None and fabric.is_global_zero and (done % save_every == 0 or last):
                    store.save(done, before + time.perf_counter() - started, losses)
                if watch is not None and (done % watch_every == 0 or last):
                    with torch.random.fork_rng():
                        watch(done, family, averaged_generator)
                    family.train()
            yield done
            if last:
                break
        family.eval()  # first, since the average copies buffers that are fitted here
        final = averaged_generator()
    return Training(losses, before + time.perf_counter() - started, final)


def _to_the_end(steps: Callable[Arguments, Generator[int, None, Training]]) -> Callable[Arguments, Training]:
    def train(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Training:
        return interleaved([steps(*args, **kwargs)])[0]

    train.__doc__ = steps.__doc__
    train.__signature__ = inspect.signature(steps).replace(return_annotation="Training")  # type: ignore[attr-defined]
    return train


train = _to_the_end(training_steps)
"""Run all `training_steps`."""


def interleaved(trainings: Sequence[Generator[int, None, Result]]) -> list[Result]:
    """Run several `training_steps` in turn, one step each, until all have ended; concurrently on a GPU with ``graph``.

    An error in one of them ends all.

    :returns: the return values of the generators, in their order.
    """
    results: dict[int, Result] = {}
    while len(results) < len(trainings):
        for k, steps in enumerate(trainings):
            if k in results:
                continue
            try:
                next(steps)
            except StopIteration as end:
                results[k] = end.value
    return [results[k] for k in range(len(trainings))]


@torch.no_grad()
def _follow(averaged: AveragedModel, generator: nn.Module, decay: float) -> None:
    """Update the average. Its decay is smaller in early steps, so that initial weights are forgotten.

    `AveragedModel.update_parameters` would wait for the device at every step.
    """
    count = int(averaged.n_averaged)  # on the CPU
    own: list[Tensor] = [*averaged.module.parameters()]
    current: list[Tensor] = [*generator.parameters()]
    if count:
        get_ema_multi_avg_fn(min(decay, (1.0 + count) / (10.0 + count)))(own, current, count)
    else:
        torch._foreach_copy_(own, current)
    averaged.n_averaged += 1


def _stream(*numbers: int) -> int:
    """A seed that is a hash of ``numbers``, in a microsecond."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest()) >> 1


def _joint(
    prepare: Prepare | Joint | Sequence[Prepare | None] | None, arrays: tuple[Tensor, ...]
) -> Callable[..., tuple[Tensor, ...]]:
    """The preparation of a batch of all tensors."""
    if isinstance(prepare, Joint):
        return prepare
    if prepare is None or callable(prepare):
        for k, tensor in enumerate(arrays[1:], start=1):
            if tensor.dtype == torch.uint8 and tensor.ndim > 1:
                raise ValueError(
                    f"tensor {k} of data holds bytes of shape {tuple(tensor.shape)} without a preparation: give prepare one"
                    " function for each tensor (None to pass bytes to the networks)"
                )
        prepare = (prepare, *[None] * (len(arrays) - 1))
    if len(prepare) != len(arrays):
        raise ValueError(f"prepare holds {len(prepare)} functions, and data {len(arrays)} tensors: give one for each, or None")
    each = tuple(prepare)
    return lambda *batch: tuple(part if f is None else f(part) for f, part in zip(each, batch, strict=True))


class _WithContexts(nn.Module):
    """A generator of latents whose other inputs come from random items of the data."""

    def __init__(self, generator: nn.Module, arrays: tuple[Tensor, ...], prepared: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.generator, self.arrays, self.prepared = generator, arrays, prepared

    def forward(self, z: Tensor) -> Tensor:
        if len(self.arrays) == 1 and not isinstance(self.prepared, Joint):
            return self.generator(z)
        items = torch.randint(len(self.arrays[0]), (len(z),))
        _, *contexts = self.prepared(*(each[items.to(each.device)].to(z.device) for each in self.arrays))
        return self.generator(z, *contexts)


def _reseed(device: torch.device, *numbers: int) -> None:
    # torch.manual_seed seeds every kind of device, which takes longer than a small network's step.
    torch.default_generator.manual_seed(_stream(*numbers))
    if device.type == "cuda":
        torch.cuda.manual_seed(_stream(*numbers))


def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_stream(seed, 1, epoch)))


def _mean_over_devices(fabric: Any) -> Callable[[list[nn.Parameter]], None]:
    def reduce(parameters: list[nn.Parameter]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = fabric.all_reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    return reduce
