"""Diagnostics of a run: weighted summaries, convergence, evidence, scores and plots."""

import lazy_loader

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    from cogen.diagnostics.deprecated import RENAMED

    if name not in RENAMED:
        return _public(name)
    import warnings

    new = RENAMED[name]
    warnings.warn(f"cogen.diagnostics.{name} is now cogen.diagnostics.{new}", DeprecationWarning, stacklevel=2)
    return _public(new)
