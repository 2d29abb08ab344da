"""Should we believe the answer? Weighted summaries, convergence, evidence, scores and pictures of a run."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
