"""Generators on disk: what is saved comes back, what is broken is refused in one line, nothing runs unasked."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from numpyro import handlers

from cogen.models import Array, Classes, CoGenerator, views
from cogen.models.networks.architectures import ConditionalGenerator, DcganGenerator, DenseGenerator
from cogen.models.pixels.censored import pixel_noise_of
from cogen.models.storage import generators
from cogen.models.storage.encoders import GUIDE, load_guide
from cogen.models.storage.generators import GeneratorConfig, load_generator, save_generator, shipped_generators, shipped_images

CONFIG = GeneratorConfig(
    architecture="DenseGenerator",
    arguments={"latent_dim": 3, "event_shape": (1, 4, 4), "hidden": (8,)},
    latent_dim=3,
    event_shape=(1, 4, 4),
    value_range=(-1, 1),
    noise_scale=0.1,
)


def make() -> DenseGenerator:
    torch.manual_seed(0)
    return DenseGenerator(3, (1, 4, 4), (8,))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_generator(tmp_path / "toy", make(), CONFIG)


def edit(path: Path, **changes) -> None:
    stored = json.loads(path.with_suffix(".json").read_text())
    stored.update(changes)
    stored = {key: value for key, value in stored.items() if value is not ...}
    path.with_suffix(".json").write_text(json.dumps(stored))


@pytest.mark.parametrize("name", ["toy", "toy.safetensors"])
def test_what_is_saved_comes_back_frozen(saved, name):
    generator = load_generator(saved.parent / name)
    z = torch.randn(5, 3)
    torch.testing.assert_close(generator(z), make()(z))
    assert not generator.training
    assert not any(p.requires_grad for p in generator.parameters())
    assert generator.config == replace(CONFIG, bytes=saved.stat().st_size, arguments=generator.config.arguments)
    assert generator.config.event_shape == (1, 4, 4)
    assert generator.config.value_range == (-1.0, 1.0)


def test_names_with_dots_keep_them(tmp_path):
    assert save_generator(tmp_path / "noise-0.5", make(), CONFIG).name == "noise-0.5.safetensors"
    assert load_generator(tmp_path / "noise-0.5").config.latent_dim == 3


def test_a_shipped_name_does_not_depend_on_the_folder_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_generator("mnist", make(), CONFIG)
    assert load_generator("mnist").config.event_shape == (1, 28, 28)
    assert load_generator(Path("mnist")).config.event_shape == (1, 4, 4)
    assert load_generator("./mnist").config.event_shape == (1, 4, 4)


def test_batch_norm_statistics_travel(tmp_path):
    generator = DcganGenerator(3, (1, 8, 8), (4, 4))
    for _ in range(3):
        generator(1 + torch.randn(16, 3))
    arguments = {"latent_dim": 3, "event_shape": [1, 8, 8], "channels": [4, 4]}
    config = replace(CONFIG, architecture="DcganGenerator", arguments=arguments, event_shape=(1, 8, 8))
    save_generator(tmp_path / "conv", generator, config)
    z = torch.randn(2, 3)
    torch.testing.assert_close(load_generator(tmp_path / "conv")(z), generator.eval()(z))


def test_half_precision_halves_the_file_and_is_single_again_when_loaded(tmp_path):
    generator = make()
    save_generator(tmp_path / "whole", generator, CONFIG)
    save_generator(tmp_path / "half", generator, CONFIG, half=True)
    weights = [sum(p.numel() for p in generator.parameters()) * size for size in (4, 2)]
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[0] - sizes[1] >= weights[0] - weights[1] - 64  # of the header
    loaded = load_generator(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    z = torch.randn(4, CONFIG.latent_dim)
    torch.testing.assert_close(loaded(z), generator.eval()(z), rtol=1e-2, atol=1e-2)
    assert not torch.equal(loaded(z), load_generator(tmp_path / "whole")(z))
    assert {p.dtype for p in generator.parameters()} == {torch.float32}  # the caller's own


def test_a_failed_save_leaves_the_old_files(saved, monkeypatch):
    before = saved.read_bytes(), saved.with_suffix(".json").read_bytes()

    def interrupted(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_generator(saved, DenseGenerator(3, (1, 4, 4), (8,)), CONFIG)
    assert (saved.read_bytes(), saved.with_suffix(".json").read_bytes()) == before
    assert sorted(p.name for p in saved.parent.iterdir()) == ["toy.json", "toy.safetensors"]


def test_a_module_of_ones_own(saved):
    own, z = make(), torch.randn(2, 3)
    torch.nn.init.zeros_(own.layers[0].weight)
    loaded = load_generator(saved, module=own)
    torch.testing.assert_close(own(z), make()(z))  # filled, and otherwise as it was
    assert own.training
    assert all(p.requires_grad for p in own.parameters())
    assert not hasattr(own, "config")
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.config.latent_dim == 3
    saved.with_suffix(".json").unlink()
    loaded = load_generator(saved, module=make())
    assert (loaded.config.latent_dim, loaded.config.value_range) == (3, (-1.0, 1.0))  # read off the module
    torch.testing.assert_close(loaded(z), make()(z))


def test_missing_files_are_named(saved):
    with pytest.raises(FileNotFoundError, match=r"no generator called 'nobody' and no such file: give a shipped name .*mnist"):
        load_generator("nobody")
    with pytest.raises(FileNotFoundError, match=r"no file of weights at .*gone.safetensors"):
        load_generator(saved.with_name("gone.safetensors"))
    saved.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"toy.json is missing.*give --module my_net.py:make"):
        load_generator(saved)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    torch.save(make().state_dict(), path)


def old_pickle(path: Path) -> None:
    torch.save(make().state_dict(), path, _use_new_zipfile_serialization=False)


def other_shapes(path: Path) -> None:
    save_generator(path, DenseGenerator(3, (1, 4, 4), (9,)), CONFIG)


def other_keys(path: Path) -> None:
    save_generator(path, DcganGenerator(3, (1, 4, 4), (4, 4)), CONFIG)


def diverged(path: Path) -> None:
    generator = make()
    torch.nn.init.constant_(generator.layers[0].weight, float("nan"))
    save_generator(path, generator, CONFIG)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "not a complete safetensors file"),
        (cut_in_header, "not a complete safetensors file"),
        (empty, "not a complete safetensors file"),
        (pickled, "is a pickle, which can run code"),
        (old_pickle, "is a pickle, which can run code"),
        (other_shapes, r"layers.0.weight has shape \(9, 3\), expected \(8, 3\)"),
        (other_keys, "does not fit DenseGenerator: it lacks layers.0.bias"),
        (diverged, "layers.0.weight contains NaN or infinite values"),
    ],
)
def test_broken_weights_are_refused(saved, damage, message):
    damage(saved)
    with pytest.raises(ValueError, match=message) as caught:
        load_generator(saved)
    assert "toy.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": -3}, "latent_dim is -3; it must be a positive integer"),
        ({"latent_dim": 0}, "latent_dim is 0; it must be a positive integer"),
        ({"latent_dim": True}, "latent_dim is True"),
        ({"latent_dim": ...}, "missing 1 required positional argument: 'latent_dim'"),
        ({"latent_dim": 4}, "with its arguments does not fit event_shape .*, latent_dim 4"),
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
        ({"event_shape": [1, 0, 4]}, "event_shape is .1, 0, 4.; it must be positive integers"),
        ({"event_shape": [1, 16]}, r"event_shape is \(1, 16\), but the architecture makes \(1, 4, 4\)"),
        ({"event_shape": "abc"}, "event_shape is 'abc'"),
        ({"value_range": [1, -1]}, "value_range is .1, -1.; it must be two finite numbers, the lower first"),
        ({"value_range": [0]}, "value_range is .0."),
        ({"noise_scale": 0}, "noise_scale is 0; it must be a positive number"),
        ({"noise_scale": "small"}, "noise_scale is 'small'"),
        ({"architecture": "Diffusion"}, "unknown architecture 'Diffusion'; known are DenseGenerator, DcganGenerator"),
        ({"arguments": [3]}, r"arguments is \[3\]"),
        ({"arguments": {"latent_dim": 3}}, "cannot be built from its arguments"),
        ({"arguments": {"latent_dim": "x", "event_shape": [1]}}, "cannot be built from its arguments"),
    ],
)
def test_a_wrong_configuration_is_named(saved, changes, message):
    edit(saved, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_generator(saved)
    assert "toy.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1, 2]", "", "\x00\xff"])
def test_what_is_not_a_json_object_is_refused(saved, content):
    saved.with_suffix(".json").write_text(content)
    with pytest.raises(ValueError, match=r"toy.json (is not JSON|contains a list)"):
        load_generator(saved)


class Bomb:
    """Unpickled, it leaves a mark: the file has run code."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["bomb.pt", "bomb.pth", "bomb.pt2", "bomb.safetensors"])
def test_executable_content_does_not_run_unasked(tmp_path, name):
    mark = tmp_path / "mark"
    torch.save(Bomb(mark), tmp_path / name)
    with pytest.raises(ValueError, match=r"can run code.*: convert it to safetensors"):
        load_generator(tmp_path / name, module=make())
    assert not mark.exists()


def test_pickles_load_when_allowed(tmp_path):
    z = torch.randn(2, 3)
    torch.save(make().state_dict(), tmp_path / "weights.pt")
    torch.testing.assert_close(load_generator(tmp_path / "weights.pt", module=make(), allow_pickle=True)(z), make()(z))
    with pytest.raises(FileNotFoundError, match=r"weights.json is missing"):
        load_generator(tmp_path / "weights.pt", allow_pickle=True)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"contains a list, expected a module or a state dict"):
        load_generator(tmp_path / "list.pth", module=make(), allow_pickle=True)
    (tmp_path / "torn.pt").write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match=r"torn.pt cannot be read"):
        load_generator(tmp_path / "torn.pt", module=make(), allow_pickle=True)


GENERATORS = sorted(p.stem for p in generators.SHIPPED.glob("*.safetensors") if not p.stem.endswith(GUIDE))


@pytest.mark.parametrize("name", GENERATORS)
def test_every_shipped_generator_makes_what_it_says(name):
    generator = load_generator(name)
    config = shipped_generators()[name]
    assert generator.config == config
    assert config.name == name
    assert config.training_data
    assert config.licence
    assert "command" in config.figures
    if "rms_whole" in config.figures:  # of `examples/train_mnist.py`, which measures more
        assert 0.02 < config.figures["rms_whole"] < 0.3
        assert config.figures["rms_whole"] <= config.noise_scale < 1  # independent noise has to stand for misfit that is not
        assert {"rms_seen_half", "frechet"} <= config.figures.keys()
    else:
        assert pixel_noise_of(generator) is not None
    x = generator(torch.randn(64, config.latent_dim))
    assert x.shape == (64, *config.event_shape)
    low, high = config.value_range
    assert low - 1e-3 <= x.min() < x.max() <= high + 1e-3
    assert x.std(0).mean() > 0.2  # no two digits are alike
    torch.testing.assert_close(generator(torch.zeros(1, config.latent_dim)), generator(torch.zeros(2, config.latent_dim))[:1])


def test_every_shipped_guide_lies_beside_its_generator():
    guides = [p.stem.removesuffix(GUIDE) for p in generators.SHIPPED.glob(f"*{GUIDE}.safetensors")]
    assert set(guides) <= set(GENERATORS)
    for name in guides:
        assert load_guide(name) is not None


def test_the_shipped_folder_stays_small():
    """All of it: generators, guides, classifiers, test images and what is said of them."""
    files = {
        path.relative_to(generators.SHIPPED): path.stat().st_size for path in generators.SHIPPED.rglob("*") if path.is_file()
    }
    assert sum(files.values()) <= 8 * 2**20, sorted(files.items(), key=lambda each: -each[1])


def test_test_images_are_shipped():
    for name, shape in (("mnist", (1, 28, 28)), ("fashion", (1, 28, 28)), ("cifar10", (3, 32, 32))):
        images, labels = shipped_images(name)
        assert images.shape == (16, *shape)
        assert images.dtype == np.float32
        assert (images.min(), images.max()) == (-1, 1)
        assert labels.tolist() == [*range(10), *range(6)]
    with pytest.raises(FileNotFoundError, match="no test images called 'cats' are shipped; shipped are: cifar10"):
        shipped_images("cats")


def test_an_exported_program_loads_when_allowed_and_keeps_gradients_to_z(tmp_path):
    exported = torch.export.export(make().eval(), (torch.randn(2, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(exported, tmp_path / "program.pt2")
    generator = load_generator(tmp_path / "program.pt2", allow_pickle=True)
    z = torch.randn(5, 3, requires_grad=True)
    torch.testing.assert_close(generator(z), make()(z))
    (gradient,) = torch.autograd.grad(generator(z).sum(), z)
    assert gradient.abs().sum() > 0


def test_weights_whose_header_begins_like_a_pickle_are_read(tmp_path):
    """One file in 32: the length of a safetensors header, which comes first, is then 128 and a multiple of 256."""
    for width in range(1, 200):
        config = GeneratorConfig(
            "DenseGenerator", {"latent_dim": 2, "event_shape": (2,), "hidden": (width,)}, 2, (2,), (-1, 1), 0.1
        )
        network = DenseGenerator(2, (2,), (width,))
        network.register_buffer("padding_" + "x" * width, torch.zeros(1))
        path = save_generator(tmp_path / "two", network, config)
        if path.read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no width gave such a header")
    module = DenseGenerator(2, (2,), (width,))
    module.register_buffer("padding_" + "x" * width, torch.ones(1))
    load_generator(path, module=module)
    assert module.get_buffer("padding_" + "x" * width).item() == 0


class Tied(torch.nn.Module):
    """Two layers of one weight, and a buffer that is a part of it."""

    def __init__(self, tied=True):
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        if tied:
            self.second.weight = self.first.weight
        self.register_buffer("row", self.first.weight.detach()[0])

    def forward(self, z):
        return self.second(torch.tanh(self.first(z))) + self.row


TIED = replace(CONFIG, architecture="Tied", arguments={}, event_shape=(3,))


def test_tied_weights_are_stored_and_tied_again(tmp_path):
    torch.manual_seed(0)
    network, own, z = Tied(), Tied(), torch.randn(4, 3)
    save_generator(tmp_path / "tied", network, TIED)
    loaded = load_generator(tmp_path / "tied", module=own)
    torch.testing.assert_close(loaded(z), network(z))
    assert own.second.weight is own.first.weight
    assert loaded.second.weight is loaded.first.weight
    apart = load_generator(tmp_path / "tied", module=Tied(tied=False))
    torch.testing.assert_close(apart(z), network(z))


def test_weights_that_differ_do_not_go_into_tied_ones(tmp_path):
    save_generator(tmp_path / "apart", Tied(tied=False), TIED)
    with pytest.raises(ValueError, match=r"apart.safetensors does not fit Tied: the module ties .* different values"):
        load_generator(tmp_path / "apart", module=Tied())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_module_loads_when_allowed(saved):
    torch.jit.script(make()).save(saved.with_suffix(".pt"))
    saved.unlink()
    z = torch.randn(2, 3)
    with pytest.raises(ValueError, match=r"toy.pt can run code .* give --allow-pickle \(allow_pickle=True in Python\)"):
        load_generator(saved.with_suffix(".pt"))
    generator = load_generator(saved.with_suffix(".pt"), allow_pickle=True)
    torch.testing.assert_close(generator(z), make()(z))
    assert generator.config.latent_dim == 3
    assert not any(p.requires_grad for p in generator.parameters())
    model = CoGenerator(generator, views={"all": views.Identity(scale=0.1)})
    assert model.value_range == (-1.0, 1.0)


def test_an_exported_program_is_a_generator(tmp_path):
    exported = torch.export.export(make().eval(), (torch.randn(2, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(exported, tmp_path / "program.pt2")
    generator = load_generator(tmp_path / "program.pt2", allow_pickle=True)
    seen = CoGenerator(generator, latent_dim=3, views={"all": views.Identity(scale=0.1)}).condition(all=np.zeros((2, 1, 4, 4)))
    z = torch.randn(2, 3)
    torch.testing.assert_close(pyro.condition(seen, data={"z": z})(), make()(z).detach())
    np.testing.assert_allclose(handlers.substitute(seen.numpyro, data={"z": z.numpy()})(), make()(z).detach(), atol=1e-5)


# --- contexts ------------------------------------------------------------------------------------------------------

INNER = {"latent_dim": 3 + 2, "event_shape": (1, 4, 4), "hidden": (8,)}
ARGUMENTS = {"architecture": "DenseGenerator", "num_classes": 2, "arguments": INNER}


@pytest.fixture
def conditional(tmp_path):
    """A conditional generator as it was stored before configurations had contexts."""
    torch.manual_seed(0)
    config = replace(CONFIG, architecture="ConditionalGenerator", arguments=ARGUMENTS)
    path = save_generator(tmp_path / "conditional", ConditionalGenerator(**ARGUMENTS), config)
    edit(path, contexts=...)
    assert "contexts" not in path.with_suffix(".json").read_text()
    return path


def test_a_conditional_generator_takes_a_context_or_is_of_one_class(conditional):
    z, labels = torch.randn(4, 3), torch.tensor([1, 0, 0, 1])
    whole = load_generator(conditional)
    assert whole.config.contexts == {"label": Classes(2)}
    expected = whole(z, labels)
    torch.testing.assert_close(whole(z, label=torch.eye(2)[labels]), expected)
    for label in (0, 1):
        one = load_generator(conditional, label=label)
        assert one.config.contexts == {}
        torch.testing.assert_close(one(z)[labels == label], expected[labels == label])
        assert CoGenerator(one, views={"seen": views.Identity(scale=0.1)}).contexts == {}
    model = CoGenerator(whole, views={"seen": views.Identity(scale=0.1)}).given(label=labels)
    np.testing.assert_allclose(model.decode(z.numpy()), expected.numpy(), atol=1e-6)
    with pytest.raises(ValueError, match="label 2: the classes are 0 to 1"):
        load_generator(conditional, label=2)
    save_generator(conditional.with_name("plain"), make(), CONFIG)
    with pytest.raises(ValueError, match="label 0 was given, but this generator is not conditional"):
        load_generator(conditional.with_name("plain"), label=0)


def test_what_is_stored_says_its_contexts(tmp_path):
    torch.manual_seed(0)
    contexts = {"label": Classes(2, names=("cat", "dog"))}
    config = replace(CONFIG, architecture="ConditionalGenerator", arguments=ARGUMENTS, contexts=contexts)
    path = save_generator(tmp_path / "named", ConditionalGenerator(**ARGUMENTS), config)
    assert load_generator(path).config.contexts == contexts
    stored = json.loads(path.with_suffix(".json").read_text())["contexts"]
    assert stored["label"]["count"] == 2
    assert stored["label"]["names"] == ["cat", "dog"]


class ByPhoto(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 16)

    def forward(self, z, photo):
        return self.linear(z).reshape(-1, 1, 4, 4) + photo


def test_a_module_of_ones_own_takes_its_contexts(tmp_path):
    own = ByPhoto()
    config = replace(CONFIG, architecture="ByPhoto", contexts={"photo": Array((1, 4, 4), value_range=(-1, 1))})
    path = save_generator(tmp_path / "photo", own, config)
    generator = load_generator(path, module=ByPhoto())
    model = CoGenerator(generator, views={"seen": views.Identity(scale=0.1)})
    photo, z = np.random.default_rng(0).uniform(-1, 1, (2, 1, 4, 4)).astype(np.float32), np.ones((2, 3), np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(model.given(photo=photo).decode(z), own(torch.as_tensor(z), torch.as_tensor(photo)))


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ({"label": {"count": 3}}, "does not fit event_shape"),
        ({}, None),
        ({"label": {"count": 1}}, "context 'label': Classes.1.: the number of classes"),
        ({"label": {"names": ["a"]}}, "context 'label'"),
        ({"label": 2}, "context 'label' is 2; it must be Classes"),
        ([2], "contexts is .2.; it must be a mapping"),
        ({"photo": {"shape": [3]}}, "does not fit event_shape"),
    ],
)
def test_contexts_of_a_configuration_that_are_wrong(conditional, contexts, message):
    edit(conditional, contexts=contexts)
    if message is None:
        assert load_generator(conditional).config.contexts == {"label": Classes(2)}
        return
    with pytest.raises(ValueError, match=message) as caught:
        load_generator(conditional)
    assert "conditional.json" in str(caught.value)
    assert "\n" not in str(caught.value)
