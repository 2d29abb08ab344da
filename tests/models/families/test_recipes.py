"""Every family by its name: it is built, trained, stored and read by its recipe, and its name is known in one place."""

import ast
import dataclasses
import importlib
import re
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import torch

import cogen.models
from cogen.models import Array, Classes, EnergyConfig, Family, load_energy, load_generator, save_energy
from cogen.models.data.tables import Schema
from cogen.models.families import registry
from cogen.models.families.gan import NonSaturating, with_penalty
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.registry import FAMILIES, recipe, recipes, weighted
from cogen.models.families.sizes import PairSizes, Sizes, TableSizes
from cogen.models.storage.encoders import EncoderConfig, load_encoder, save_encoder
from cogen.models.storage.generators import GeneratorConfig, save_generator
from cogen.models.training.preparation import as_floats
from cogen.models.training.trainer import train
from cogen.options import Name, Train
from cogen.training import check, train_on_images

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ROOT = Path(__file__).parents[3]
PICTURES = np.random.default_rng(0).integers(0, 256, (32, 1, 8, 8), dtype=np.uint8)
OF_IMAGES = [name for name in FAMILIES if any(Kind.IMAGES in found.takes for found in recipes(name))]
OF_POINTS = [name for name in FAMILIES if any(Kind.POINTS in found.takes for found in recipes(name))]
OF_PAIRS = [name for name in FAMILIES if any(Kind.PAIRS in found.takes for found in recipes(name))]
OF_TABLES = [name for name in FAMILIES if any(Kind.TABLE in found.takes for found in recipes(name))]


@pytest.mark.parametrize("convolutional", [True, False])
@pytest.mark.parametrize("name", OF_IMAGES)
def test_what_is_stored_is_what_was_trained(tmp_path, name, convolutional):
    torch.manual_seed(0)
    made = recipe(name, Kind.IMAGES)
    sizes = Sizes((1, 8, 8), 3, 2 if made.labelled else 0, convolutional, widths=(8, 4), num_items=len(PICTURES))
    family, x, label = made.family(sizes), torch.from_numpy(PICTURES), torch.arange(len(PICTURES)) % 2
    family.initialise(made.prepare(x))
    data = (x, label) if made.labelled else (x,)
    train(family, data, num_steps=2, batch_size=4, seed=0, prepare=made.prepare, schedule=made.schedule(2), progress=False)
    about = {"event_shape": (1, 8, 8), "value_range": made.value_range}
    if made.energy is not None:
        contexts = {"label": Classes(2)} if made.labelled else {}
        energy = EnergyConfig(*made.energy(sizes), **about, run=family.run, contexts=contexts)
        save_energy(tmp_path / "energy", family.energy, energy)
        again, images = load_energy(tmp_path / "energy"), as_floats(x)
        torch.testing.assert_close(again(images, *data[1:]), family.energy(images, *data[1:]))
        assert again.config.run == family.run
    if made.generator is None:
        return
    about["latent_dim"] = family.latent_dim
    stored = GeneratorConfig(*made.generator(sizes), **about, noise_scale=0.1)
    save_generator(tmp_path / "made", family.generator, stored)
    z = torch.randn(5, family.latent_dim)
    again = load_generator(tmp_path / "made", label=1 if made.labelled else None)
    torch.testing.assert_close(again(z), family.generator(z, *[torch.ones(5)][: len(data) - 1]))
    if made.encoder is not None:
        save_encoder(tmp_path / "encoder", family.encoder, EncoderConfig(*made.encoder(sizes), **about))
        for mine, theirs in zip(family.encoder(as_floats(x)), load_encoder(tmp_path / "encoder")(as_floats(x)), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_of_pairs_what_is_stored_is_what_was_trained(tmp_path, name):
    torch.manual_seed(0)
    made = recipe(name, Kind.PAIRS)
    sizes = PairSizes((1, 8, 8), (2, 8, 8), made.latent_dim, width=2, fills=True)
    family, x = made.family(sizes), made.prepare(torch.from_numpy(PICTURES))
    condition = torch.cat([x.flip(3), torch.ones_like(x).tril() * 2 - 1], dim=1)
    train(family, (x, condition), num_steps=2, batch_size=4, seed=0, schedule=made.schedule(2), progress=False)
    about = {"event_shape": (1, 8, 8), "value_range": made.value_range, "latent_dim": family.latent_dim}
    contexts = {"condition": Array((2, 8, 8))}
    save_generator(
        tmp_path / "made",
        family.generator,
        GeneratorConfig(*made.generator(sizes), **about, contexts=contexts, noise_scale=0.1),
    )
    again, z, draws = load_generator(tmp_path / "made"), torch.randn(5, family.latent_dim), []
    assert again.config.contexts == contexts
    for generator in (again, family.generator):
        torch.manual_seed(1)  # of dropout
        draws.append(generator(z, condition=condition[:5]))
    torch.testing.assert_close(*draws)
    if made.encoder is not None:
        save_encoder(tmp_path / "encoder", family.encoder, EncoderConfig(*made.encoder(sizes), **about))
        for mine, theirs in zip(family.encoder(x), load_encoder(tmp_path / "encoder")(x), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", OF_TABLES)
def test_a_table_s_family_is_trained_and_stored(tmp_path, name):
    schema = Schema.of({"age": [20, 30, 40, None], "smokes": ["no", "yes", "no", "?"]})
    rows = torch.from_numpy(schema.encode({"age": [20, 30, 40, 50], "smokes": ["no", "yes", "no", "?"]}))
    made = recipe(name, Kind.TABLE)
    family = made.family(TableSizes(schema, 3, (8,)))
    train(family, rows, num_steps=2, batch_size=2, seed=0, average=made.average, progress=False)
    save_generator(tmp_path / "made", family.generator, family.config())
    assert load_generator(tmp_path / "made").config.schema["columns"] == schema.to_json()["columns"]
    assert torch.isfinite(family.log_likelihood(rows)).all()


def test_small_tables_are_trained_for_enough_steps():
    made = recipe("vae", Kind.TABLE)
    assert [made.default_epochs(steps) for steps in (1, 4, 149, 150, 1000)] == [3000, 750, 21, 20, 20]
    assert recipe("vae", Kind.IMAGES).default_epochs(1) == 20


@pytest.mark.parametrize("name", [name for name in OF_POINTS if not recipe(name, Kind.POINTS).labelled])
def test_points_are_trained_on_with_fourier_features(name):
    sizes = Sizes((2,), 2, widths=(8,), critic_widths=(8,), pair_widths=(8,), bounded=False, bandwidth=1.0)
    family = recipe(name, Kind.POINTS).family(sizes, learning_rate=1e-4)
    trained = train(family, torch.randn(64, 2), num_steps=2, batch_size=4, seed=0, progress=False)
    assert all(np.isfinite(values).all() for values in trained.losses.values())


# --- one file and one line -----------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The family of the page on how to add one, as its text stands there."""
    page = (ROOT / "docs" / "adding_a_family.md").read_text(encoding="utf-8")
    (tmp_path / "wae.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.FAMILIES, "wae", ("wae:RECIPE",))
    yield importlib.import_module("wae")
    del sys.modules["wae"]


def test_a_family_is_one_file_and_one_line(own, tmp_path, capsys):
    np.save(tmp_path / "pictures.npy", PICTURES)
    options = Train("wae", data=str(tmp_path / "pictures.npy"), output=tmp_path / "made", batch=8, weight=2.0, noise_images=2)
    check(options)
    train_on_images(options)
    assert "wae on pictures: 30 steps" in capsys.readouterr().out  # the recipe's ten epochs, of 26 images
    generator, encoder = load_generator(tmp_path / "made"), load_encoder(tmp_path / "made-encoder")
    assert generator(torch.zeros(2, 64)).shape == (2, 1, 8, 8)
    assert encoder(torch.zeros(2, 1, 8, 8))[0].shape == (2, 64)
    with pytest.raises(ValueError, match=r"--real-target 0.9: wae has no such setting"):
        train_on_images(dataclasses.replace(options, real_target=0.9))


def test_the_command_line_takes_the_names_of_the_registry():
    assert typing.get_args(Name) == tuple(FAMILIES)


def names_in(path: Path) -> list[str]:
    """The names of families that a file uses as strings, but for those of a Pyro module's parameters."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    parameters = [n.args[0] for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "pyro.module"]
    return [n.value for n in nodes if isinstance(n, ast.Constant) and n.value in FAMILIES and n not in parameters]


def test_a_family_is_known_by_its_name_in_the_registry_alone(tmp_path):
    files = [path for folder in ("models", "diagnostics", "inference", "src/cogen") for path in (ROOT / folder).rglob("*.py")]
    # published_aim.py has the networks of a paper by the names of its methods
    assert {path.name for path in files if names_in(path)} == {"registry.py", "published_aim.py"}
    (tmp_path / "other.py").write_text("def rate(family):\n    return 5e-4 if family == 'wgan' else 1e-3\n")
    assert names_in(tmp_path / "other.py") == ["wgan"]


def test_the_families_are_exported():
    classes = set()
    for path in (ROOT / "models" / "families").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and path.stem not in ("recipe", "registry", "sizes"):
                found = getattr(__import__(f"cogen.models.families.{path.stem}", fromlist=["_"]), node.name)
                classes |= {found} if issubclass(found, Family) else set()
    assert {getattr(cogen.models, found.__name__) for found in classes} == classes
    assert len(classes) > 8


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("gam", Kind.IMAGES, r"there is no family 'gam'; known are gan, .*ccoopnets"),
        ("gan", Kind.PAIRS, r"gan does not train on pairs of images; pix2pix, .*context-encoder do"),
        ("pix2pix", Kind.IMAGES, r"pix2pix does not train on images; gan, .*aim-minus, .* do"),
        ("gan", Kind.TABLE, r"gan does not train on a table; vae does"),
    ],
)
def test_a_name_that_has_no_recipe(name, kind, reason):
    with pytest.raises(ValueError, match=reason):
        recipe(name, kind)


def test_settings_are_those_of_the_family():
    made = recipe("veegan", Kind.IMAGES)
    assert made.settings == {"weight": 1.0, "gamma": 1.0}
    with pytest.raises(ValueError, match=r"noise=0.1: .* no such setting; it has learning_rate, betas, weight, gamma"):
        made.family(Sizes((1, 8, 8), 3), noise=0.1)
    family = made.family(Sizes((1, 8, 8), 3), weight=0.5, learning_rate=1e-5, betas=(0.1, 0.2))
    assert (family.weight, family.learning_rate, family.betas) == (0.5, 1e-5, (0.1, 0.2))
    assert made.family(Sizes((1, 8, 8), 3)).learning_rate == made.learning_rate


def test_the_rates_of_a_table_s_family_are_those_of_its_optimiser():
    schema = Schema.of({"age": [20, 30, 40, None], "smokes": ["no", "yes", "no", "?"]})
    family = recipe("vae", Kind.TABLE).family(TableSizes(schema, 3), learning_rate=1e-5, betas=(0.5, 0.9))
    (optimizer,) = family.optimizers().values()
    assert [(group["lr"], group["betas"]) for group in optimizer.param_groups] == [(1e-5, (0.5, 0.9))] * 2


@pytest.mark.parametrize(
    ("name", "switch"), [("vae", "bernoulli"), ("cvae", "bernoulli"), ("aim", "unit_variance"), ("ali", "stochastic")]
)
def test_a_switch_of_the_class_that_its_recipe_cannot_follow_is_no_setting(name, switch):
    """`bernoulli` is for data in [0, 1], and theirs lie in (-1, 1); the others make what `aim-minus` and `bigan` are."""
    made = recipe(name, Kind.IMAGES)
    with pytest.raises(ValueError, match=f"{switch}=True: the family has no such setting"):
        made.family(Sizes((1, 8, 8), 3, 2 if made.labelled else 0), **{switch: True})


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_recipe_says_which_sizes_it_reads(name):
    made, read = recipe(name, Kind.IMAGES), set()
    plain = {"latent_dim": 3, "convolutional": False, "widths": (8, 4)}
    for size, other in {"latent_dim": 2, "convolutional": True, "widths": (4, 8)}.items():
        one, two = ((made.generator or made.energy)(Sizes((1, 8, 8), **(plain | changed))) for changed in ({}, {size: other}))
        read |= {size} if one != two else set()
    assert made.reads == read


@pytest.mark.parametrize("name", OF_PAIRS)
def test_a_recipe_of_pairs_reads_the_width_and_the_size_of_z(name):
    made, shapes = recipe(name, Kind.PAIRS), ((3, 32, 32), (4, 32, 32))
    one, *others = (made.generator(PairSizes(*shapes, latent_dim, width)) for latent_dim, width in ((2, 4), (3, 4), (2, 5)))
    assert one not in others
    assert made.reads == {"latent_dim", "widths"}


def test_a_weight_behind_the_name():
    assert weighted("aim:0.5", Kind.IMAGES) == (recipe("aim", Kind.IMAGES), {"weight": 0.5})
    assert weighted("gan", Kind.POINTS) == (recipe("gan", Kind.POINTS), {})


def test_the_penalty_is_put_where_the_family_has_it():
    assert with_penalty(recipe("aim", Kind.IMAGES), 0.3, 2) == {"objective": NonSaturating(0.3, 2)}
    assert with_penalty(recipe("ali", Kind.IMAGES), 0.3) == {"gamma": 0.3}
    assert with_penalty(recipe("wgan", Kind.IMAGES), 0.3) == {}
    assert with_penalty(Recipe(lambda sizes, rates: None), 0.3) == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"convolutional": True, "widths": (4, 5, 6)}, r"widths \(4, 5, 6\): a convolutional network needs two channel counts"),
        ({"critic_widths": (4,)}, r"critic_widths \(4,\): a convolutional network"),
    ],
)
def test_sizes_that_do_not_go_together(options, reason):
    with pytest.raises(ValueError, match=reason):
        recipe("gan", Kind.IMAGES).family(Sizes((1, 8, 8), 3, **options))


@pytest.mark.parametrize(
    ("shape", "options", "reason"),
    [
        ((1, 8, 8), {"bandwidth": 1.0}, r"bandwidth=1.0: Fourier features require points of shape .*\(1, 8, 8\)"),
        ((1, 8, 8), {"bandwidth": 1.0, "convolutional": False}, "bandwidth=1.0: Fourier features"),
        ((2,), {"latent_dim": 0}, "latent_dim=0: it must be at least 1"),
        ((2,), {"widths": (0, 0)}, r"widths=\(0, 0\): the widths of layers must be at least 1"),
        ((1, 8, 8), {"widths": (-5, 4)}, r"widths=\(-5, 4\)"),
        ((2,), {"critic_widths": (4, 0)}, r"critic_widths=\(4, 0\)"),
        ((2,), {"encoder_widths": (-1,)}, r"encoder_widths=\(-1,\)"),
        ((2,), {"head_widths": (0,)}, r"head_widths=\(0,\)"),
        ((2,), {"pair_widths": (0,)}, r"pair_widths=\(0,\)"),
    ],
)
def test_sizes_that_cannot_be(shape, options, reason):
    with pytest.raises(ValueError, match=reason):
        Sizes(shape, **({"latent_dim": 2} | options))


def test_what_reads_fourier_features_is_not_stored():
    with pytest.raises(ValueError, match="an encoder on Fourier features cannot be stored"):
        Sizes((2,), 2, bandwidth=1.0).encoder_architecture()
