"""Posterior inference: kernels, schedules, step sizes, and `Run` with its short form `infer`."""

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

_RENAMED = {"Inference": "Run", "PaperRule": "MovingAverage", "Recorded": "RecordedSteps"}


def __getattr__(name: str) -> object:
    if name not in _RENAMED:
        return _public(name)
    import warnings

    new = _RENAMED[name]
    warnings.warn(f"cogen.inference.{name} is now cogen.inference.{new}", DeprecationWarning, stacklevel=2)
    return _public(new)
