"""How do we compute the posterior? Kernels, schedules, step sizes, and the driver `infer`."""

from cogen.inference.annealed_hmc import AnnealedHMC
from cogen.inference.driver import Inference, infer
from cogen.inference.gradient_descent import GradientDescent
from cogen.inference.importance_resampling import ImportanceResampling
from cogen.inference.schedules import Geometric, Linear, Sigmoid
from cogen.inference.step_size import ConstantGain, Fixed, PaperRule, Recorded

__all__ = [
    "AnnealedHMC",
    "ConstantGain",
    "Fixed",
    "Geometric",
    "GradientDescent",
    "ImportanceResampling",
    "Inference",
    "Linear",
    "PaperRule",
    "Recorded",
    "Sigmoid",
    "infer",
]
