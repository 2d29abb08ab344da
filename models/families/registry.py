"""The names of the families. A new family needs a file with a recipe and a line here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cogen.models.families.recipe import Kind, Recipe

FAMILIES: dict[str, tuple[str, ...]] = {
    "gan": ("cogen.models.families.gan:RECIPE",),
    "saturating-gan": ("cogen.models.families.gan:SATURATING",),
    "cgan": ("cogen.models.families.gan:CONDITIONAL",),
    "wgan": ("cogen.models.families.wgan:CLIPPED",),
    "wgan-gp": ("cogen.models.families.wgan:PENALISED",),
    "fgan": ("cogen.models.families.fgan:RECIPE",),
    "unrolled-gan": ("cogen.models.families.unrolled:RECIPE",),
    "vae": ("cogen.models.families.vae:RECIPE", "cogen.models.families.tabular_vae:RECIPE"),
    "cvae": ("cogen.models.families.vae:CONDITIONAL",),
    "glf": ("cogen.models.families.glf:RECIPE",),
    "glo": ("cogen.models.families.glo:RECIPE",),
    "realnvp": ("cogen.models.families.realnvp:RECIPE",),
    "ali": ("cogen.models.families.ali:RECIPE",),
    "bigan": ("cogen.models.families.ali:DETERMINISTIC",),
    "alice": ("cogen.models.families.alice:RECIPE",),
    "veegan": ("cogen.models.families.veegan:RECIPE",),
    "aim": ("cogen.models.families.aim:RECIPE",),
    "aim-minus": ("cogen.models.families.aim:UNIT_VARIANCE",),
    "abp": ("cogen.models.families.alternating:RECIPE",),
    "ebm": ("cogen.models.families.ebm:RECIPE",),
    "ebm-density": ("cogen.models.families.ebm:DENSITY",),
    "rbm": ("cogen.models.families.rbm:RECIPE",),
    "coopnets": ("cogen.models.families.coopnets:RECIPE",),
    "ccoopnets": ("cogen.models.families.coopnets:CONDITIONAL",),
    "pix2pix": ("cogen.models.families.pix2pix:RECIPE",),
    "unet-l1": ("cogen.models.families.pix2pix:ALONE",),
    "cvae-gan": ("cogen.models.families.bicyclegan:ENCODED",),
    "cvae-gan++": ("cogen.models.families.bicyclegan:WITHOUT_LATENT_TERM",),
    "clr-gan": ("cogen.models.families.bicyclegan:DRAWN",),
    "bicyclegan": ("cogen.models.families.bicyclegan:RECIPE",),
    "coopnets-unet": ("cogen.models.families.coopnets:OF_PAIRS",),
    "cgml": ("cogen.models.families.cgml:RECIPE",),
    "context-encoder": ("cogen.models.families.context_encoder:RECIPE",),
}
"""The recipes of each name as MODULE:NAME; several recipes of a name are for different kinds of data. Modules are imported when
used, so that the command line lists the names quickly."""


def recipes(name: str) -> list[Recipe]:
    """The recipes of a family name.

    :raises ValueError: for an unknown name.
    """
    if name not in FAMILIES:
        raise ValueError(f"there is no family {name!r}; known are {', '.join(FAMILIES)}")
    paths = (path.split(":") for path in FAMILIES[name])
    return [getattr(import_module(module), attribute) for module, attribute in paths]


def recipe(name: str, kind: Kind) -> Recipe:
    """The recipe of a family name for a kind of data.

    :raises ValueError: for an unknown name, or a family that does not train on this kind.
    """
    for found in recipes(name):
        if kind in found.takes:
            return found
    others = [other for other in FAMILIES if any(kind in found.takes for found in recipes(other))]
    raise ValueError(f"{name} does not train on {kind.value}; {', '.join(others)} {'do' if len(others) > 1 else 'does'}")


def weighted(text: str, kind: Kind) -> tuple[Recipe, dict[str, float]]:
    """The recipe and settings of NAME, or of NAME:WEIGHT for a family with a weight.

    :raises ValueError: for any other text.
    """
    name, colon, number = text.partition(":")
    found = recipe(name, kind)
    if not colon:
        return found, {}
    if "weight" not in found.settings:
        raise ValueError(f"family {text!r}: {name} has no weight; write {name}")
    try:
        return found, {"weight": float(number)}
    except ValueError:
        raise ValueError(f"family {text!r}: {number!r} is not a number; write {name}:WEIGHT, as in {name}:0.1") from None
