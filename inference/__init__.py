"""How do we compute the posterior? Kernels, schedules, step sizes, and the driver `infer`."""

from importlib import import_module

from cogen.inference.annealed_hmc import AnnealedHMC
from cogen.inference.blackjax_kernel import BlackJAX
from cogen.inference.checkpoint import Checkpoint
from cogen.inference.conditional_annealing import ConditionalAnnealedHMC
from cogen.inference.driver import Inference, infer
from cogen.inference.gradient_descent import GradientDescent
from cogen.inference.guide_start import GuideStart
from cogen.inference.importance_resampling import ImportanceResampling
from cogen.inference.langevin import Langevin
from cogen.inference.parallel_tempering import ParallelTempering
from cogen.inference.schedules import Adaptive, Geometric, Ladder, Linear, Sigmoid
from cogen.inference.step_size import ConstantGain, Fixed, PaperRule, Recorded
from cogen.inference.tempering import temper
from cogen.inference.variational import SVI

__all__ = [
    "SVI",
    "Adaptive",
    "AnnealedHMC",
    "BlackJAX",
    "Checkpoint",
    "ConditionalAnnealedHMC",
    "ConstantGain",
    "Fixed",
    "Geometric",
    "GradientDescent",
    "GuideStart",
    "ImportanceResampling",
    "Inference",
    "Ladder",
    "Langevin",
    "Linear",
    "PaperRule",
    "ParallelTempering",
    "PyroAnnealedHMC",
    "PyroGuideStart",
    "PyroSVI",
    "Recorded",
    "Sigmoid",
    "infer",
    "temper",
]


_FOR_PYRO = {
    "PyroAnnealedHMC": "cogen.inference.pyro_annealed_hmc",
    "PyroGuideStart": "cogen.inference.pyro_guide_start",
    "PyroSVI": "cogen.inference.pyro_variational",
}


def __getattr__(name: str) -> object:
    """What brings torch and Pyro with it is imported when it is asked for."""
    if name in _FOR_PYRO:
        return getattr(import_module(_FOR_PYRO[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
