"""How do we compute the posterior? Kernels, schedules, step sizes, and the driver `infer`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
