"""What do we believe? Generators, views of what they make, and their training."""

from cogen.models import views
from cogen.models.cogenerator import CoGenerator
from cogen.models.datasets import load_idx_folder, load_images
from cogen.models.generators import (
    GeneratorConfig,
    load_generator,
    save_generator,
    shipped_generators,
    shipped_images,
)
from cogen.models.torch_to_jax import as_jax

__all__ = [
    "CoGenerator",
    "GeneratorConfig",
    "as_jax",
    "load_generator",
    "load_idx_folder",
    "load_images",
    "save_generator",
    "shipped_generators",
    "shipped_images",
    "views",
]
