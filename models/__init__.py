"""What do we believe? Generators, views of what they make, and their training."""

from cogen.models import views
from cogen.models.classifiers import load_classifier
from cogen.models.cogenerator import CoGenerator
from cogen.models.datasets import ImageData, load_idx_folder, load_image_data, load_images
from cogen.models.encoders import EncoderGuide
from cogen.models.generators import (
    GeneratorConfig,
    load_generator,
    save_generator,
    shipped_generators,
    shipped_images,
)
from cogen.models.tables import Column, Schema, Table, read_csv, write_csv, write_filled
from cogen.models.torch_to_jax import as_jax
from cogen.models.trainer import train

__all__ = [
    "CoGenerator",
    "Column",
    "EncoderGuide",
    "GeneratorConfig",
    "ImageData",
    "Schema",
    "Table",
    "as_jax",
    "load_classifier",
    "load_generator",
    "load_idx_folder",
    "load_image_data",
    "load_images",
    "read_csv",
    "save_generator",
    "shipped_generators",
    "shipped_images",
    "train",
    "views",
    "write_csv",
    "write_filled",
]
