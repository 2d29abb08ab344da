"""Generators that somebody else trained: as code, as a checkpoint, as a folder of the hub; what is read off them, and said."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cogen.models import Classes, CoGenerator, as_jax, load_generator, views
from cogen.models.networks.architectures import DenseGenerator
from cogen.models.storage import hub_folders
from cogen.models.storage.entry_points import files_beside, is_entry_point, made_by
from cogen.models.storage.generators import GeneratorConfig, find_generator
from cogen.models.storage.inferred_config import inferred
from cogen.models.wrapped import NeedsWrapper

SOURCE = '''
import torch
from torch import nn

from parts import SIZE  # of a file beside this one


class Dcgan(nn.Module):
    """z is (batch, 5, 1, 1), as in the DCGAN tutorials."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.main = nn.Sequential(nn.ConvTranspose2d(SIZE, 3, 4), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1), nn.Tanh())

    def forward(self, z):
        return self.main(z)


class WithFeatures(Dcgan):
    def forward(self, z):
        return self.main(z), None


class Twins(Dcgan):
    def forward(self, z):
        return self.main(z), self.main(-z)


class ByClass(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2 + 3, 4)

    def forward(self, z, y):
        return self.linear(torch.cat([z, y], 1)).reshape(-1, 1, 2, 2)


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 9), nn.Sigmoid(), nn.Unflatten(1, (1, 3, 3)))


def double():
    return dense().double()


def sized(width, depth=2):
    return dense()


def broken():
    return nn.Linear(3, 4)(torch.zeros(2, 5))


def nothing():
    return None


def the_class():
    return Dcgan


def without_parameters():
    return nn.Unflatten(1, (1, 1, 3))


network = dense()
number = 3
'''


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A file of networks, with another that it imports, in the current folder."""
    (tmp_path / "nets.py").write_text(SOURCE)
    (tmp_path / "parts.py").write_text("SIZE = 5\n")
    monkeypatch.chdir(tmp_path)
    for name in ("parts", "nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in ("parts", "nets"):
        sys.modules.pop(name, None)


def notes_of(generator) -> str:
    return "\n".join(generator.notes)


# --- code ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nets.py:make", "nets-make"),
        ("some/nets.py:Net.make", "some/nets-Net-make"),
        ("pack.nets:make", "pack-nets-make"),
        ("digits", None),
        ("some/file.safetensors", None),
        ("hf://user/repository", None),
        ("nets.py", None),
        ("nets:", None),
    ],
)
def test_the_form_of_an_entry_point(text, expected):
    assert is_entry_point(text) == (expected is not None)
    if expected is not None:
        assert str(files_beside(text)) == expected
        assert find_generator(text) == files_beside(text)


@pytest.mark.parametrize("name", ["nets.py:dense", "nets:dense", "nets.py:network", "{folder}/nets.py:dense"])
def test_a_function_that_makes_a_module_is_a_generator(source, name):
    path = list(sys.path)
    name = name.format(folder=source)
    generator = load_generator(name)
    assert sys.path == path
    assert not generator.training
    assert not any(p.requires_grad for p in generator.parameters())
    config = generator.config
    assert (config.latent_dim, config.event_shape, config.value_range) == (4, (1, 3, 3), (0.0, 1.0))
    assert config.noise_scale == 0.25
    assert f"the weights are those returned by {name}" in generator.notes
    assert "latent_dim 4: the input of its first Linear" in generator.notes
    assert "its last layer is Sigmoid" in notes_of(generator)
    z = torch.randn(3, 4)
    torch.testing.assert_close(generator(z), made_by(name)(z))


def test_z_as_an_image_and_a_tuple_with_one_tensor_are_wrapped(source):
    z = torch.randn(3, 5)
    expected = made_by("nets:Dcgan").eval()(z[:, :, None, None])
    for name in ("nets.py:Dcgan", "nets.py:WithFeatures"):
        generator = load_generator(name)
        torch.testing.assert_close(generator(z), expected)
        assert "z of shape (batch, 5, 1, 1): wrapped as nn.Sequential(nn.Unflatten(1, (5, 1, 1)), network)" in generator.notes
        assert generator.config.latent_dim == 5
        assert generator.config.value_range == (-1.0, 1.0)
    assert "tuple (2 x 1 x 4 x 4, NoneType): its only tensor is used" in notes_of(generator)
    CoGenerator(generator, views={"seen": views.Identity(scale=0.1)})
    assert as_jax(generator, (5,))(z.numpy()).shape == (3, 1, 4, 4)


def test_float64_is_converted(source):
    generator = load_generator("nets.py:double")
    assert {p.dtype for p in generator.parameters()} == {torch.float32}
    assert "weights of float64, converted to float32" in notes_of(generator)


def test_what_leaves_a_choice_comes_with_the_lines_that_make_it(source):
    for name, reason, call in (
        ("Twins", "Twins returns tuple", "self.network(z[:, :, None, None])[0]"),
        ("ByClass", "ByClass takes y besides z", "self.network(z, y=torch.zeros(len(z), dtype=torch.long))"),
    ):
        with pytest.raises(NeedsWrapper, match=reason) as caught:
            load_generator(f"nets.py:{name}")
        assert str(caught.value).endswith(call)
        assert "\n" not in str(caught.value)
        assert f"        return {call}" in caught.value.lines
    names = {"torch": torch}
    with pytest.raises(NeedsWrapper) as caught:
        load_generator("nets.py:Twins")
    exec(caught.value.lines, names)
    assert inferred(names["Generator"](made_by("nets.py:Twins")), 5).fields["event_shape"] == (1, 4, 4)


BAD = {
    "gone.py:make": (FileNotFoundError, "there is no file gone.py"),
    "gone.deep:make": (FileNotFoundError, "gone.deep:make: there is no module 'gone'; the current folder"),
    "nets.py:dens": (ValueError, "there is no 'dens' in nets.py, which defines Dcgan, WithFeatures, Twins, ByClass, dense"),
    "nets.py:number": (ValueError, "nets.py:number is a <class 'int'>"),
    "nets.py:sized": (ValueError, r"takes arguments, \(width, depth=2\): give a function without arguments"),
    "nets.py:broken": (ValueError, r"fails when it is called: RuntimeError: mat1 and mat2 .* \(nets.py, line 53\)"),
    "nets.py:nothing": (ValueError, "returns a NoneType: it must return a torch.nn.Module"),
    "nets.py:the_class": (ValueError, "returns the class itself"),
    "nets.py:without_parameters": (ValueError, r"cannot be inferred from Unflatten \(it has no parameters\)"),
    "nets.py": (ValueError, "is code: name the function in it that makes the generator, as in nets.py:make"),
    "absent.py:f": (ValueError, r"cannot be imported: ModuleNotFoundError: No module named 'lpipses' \(absent.py, line 2\)"),
    "syntax.py:f": (ValueError, r"cannot be imported: SyntaxError: .*\(syntax.py, line 1\)"),
    "script.py:f": (ValueError, r"cannot be imported: SystemExit: 3 \(script.py, line 2\)"),
    "absent:f": (ValueError, r"absent:f cannot be imported: .*'lpipses' \(absent.py, line 2\)"),
    "picture.png": (ValueError, "has an unknown suffix; weights are .safetensors, or, with --allow-pickle"),
    "empty": (FileNotFoundError, "the folder empty has no model.safetensors .*, but README.md"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_in_one_line(source, name):
    (source / "absent.py").write_text("import torch\nimport lpipses\n")
    (source / "syntax.py").write_text("def f(:\n")
    (source / "script.py").write_text("import sys\nsys.exit(3)\n")
    (source / "picture.png").write_bytes(b"\x89PNG")
    (source / "empty").mkdir()
    (source / "empty" / "README.md").touch()
    kind, message = BAD[name]
    with pytest.raises(kind, match=message) as caught:
        load_generator(name)
    assert "\n" not in str(caught.value)


def test_a_module_without_parameters_runs_when_z_has_a_size(source):
    generator = load_generator("nets.py:without_parameters", latent_dim=3)
    assert "has no trained parameters" in notes_of(generator)
    assert generator.config.event_shape == (1, 1, 3)


def test_sizes_that_do_not_fit(source):
    with pytest.raises(ValueError, match=r"Sequential does not take z of shape \(batch, 7\)"):
        load_generator("nets.py:dense", latent_dim=7)
    with pytest.raises(ValueError, match=r"latent_dim=0 \(--latent-dim\)"):
        load_generator("nets.py:dense", latent_dim=0)
    with pytest.raises(ValueError, match=r"--latent-dim 3 .* the configuration of digits has 64"):
        load_generator("digits", latent_dim=3)
    with pytest.raises(ValueError, match=r"--module .* but nets.py:dense returns a network with its weights"):
        load_generator("nets.py:dense", module="nets.py:dense")


# --- what is read off a module -------------------------------------------------------------------------------------


class Affine(nn.Module):
    """x = low + (high - low) u(z) with u in [0, 1]."""

    def __init__(self, low: float, high: float, **attributes):
        super().__init__()
        self.low, self.high, self.linear = low, high, nn.Linear(3, 200)
        nn.init.normal_(self.linear.weight, std=3.0)
        vars(self).update(attributes)

    def forward(self, z):
        return self.low + (self.high - self.low) * self.linear(z).sigmoid()


@pytest.mark.parametrize(
    ("network", "limits"),
    [
        (Affine(-1, 1), (-1, 1)),
        (Affine(0, 1), (0, 1)),
        (Affine(-1, 1, value_range=(-2, 2)), (-2, 2)),
        (Affine(0, 255), (0, 255)),
        (Affine(-3, 1), (-3, 1)),
        (nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Unflatten(1, (2, 2))), (-1, 1)),
        (nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), (0, 1)),
    ],
)
def test_the_range(network, limits):
    low, high = inferred(network).fields["value_range"]
    width = limits[1] - limits[0]
    assert abs(low - limits[0]) < 1e-3 * width
    assert abs(high - limits[1]) < 1e-3 * width


@pytest.mark.parametrize("name", ["latent_dim", "z_dim", "nz"])
def test_the_size_of_z_is_an_attribute_of_the_module_or_of_its_config(name):
    first = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten(1), nn.Linear(6, 2))
    for network in (
        Affine(0, 1, **{name: 3}),
        Affine(0, 1, config={name: 3}),
        Affine(0, 1, config=SimpleNamespace(**{name: 3})),
        type("OfClass", (Affine,), {name: 3})(0, 1),
    ):
        assert f"latent_dim 3: its {name}" in inferred(network).notes
    assert inferred(first, settings={name: 6}).fields["latent_dim"] == 6
    wrong = Affine(0, 1, **{name: 4})
    with pytest.raises(ValueError, match=f"This size is its {name}: give --latent-dim"):
        inferred(wrong)


def test_the_layers_own_axes_and_subclasses():
    normalised = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    assert inferred(normalised.requires_grad_(False)).fields["latent_dim"] == 3
    with pytest.raises(ValueError, match=r"Affine returns non-finite values .*: check its weights"):
        inferred(Affine(0, float("inf")))
    with pytest.raises(ValueError, match="returns the constant 1 for every z"):
        inferred(Affine(1, 1))
    with pytest.raises(ValueError, match=r"value_range is 3; it must be two numbers"):
        inferred(Affine(0, 1, value_range=3))


def test_a_configuration_of_its_own_is_taken_whole():
    network = Affine(0, 1)
    network.config = GeneratorConfig("Affine", {}, 3, (200,), (-7, 7), 0.3)
    sys.modules["of_this_test"] = SimpleNamespace(network=network)
    try:
        assert load_generator("of_this_test:network").config == network.config
    finally:
        del sys.modules["of_this_test"]


def test_a_class_as_a_context(source):
    network = made_by("nets.py:ByClass")
    network.contexts = {"y": Classes(3)}
    fields = inferred(network, 2).fields
    assert fields["contexts"] == {"y": Classes(3)}
    assert fields["event_shape"] == (1, 2, 2)


# --- checkpoints ---------------------------------------------------------------------------------------------------


def states(*seeds: int) -> list[dict[str, torch.Tensor]]:
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        found.append(DenseGenerator(3, (1, 4, 4), (8,), normalize=True).state_dict())
    return found


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: value for key, value in state.items()}


def empty() -> DenseGenerator:
    return DenseGenerator(3, (1, 4, 4), (8,), normalize=True)


CRITIC = under("discriminator.", {"layers.0.weight": torch.zeros(8, 16), "layers.0.bias": torch.zeros(8)})


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda last, mean: last, ""),
        (lambda last, mean: under("module.", last), "weights under module"),
        (lambda last, mean: under("_orig_mod.", last), ""),
        (lambda last, mean: under("module._orig_mod.", last), "weights under module"),
        (lambda last, mean: {k.replace("layers.", "layers._orig_mod."): v for k, v in last.items()}, ""),
        (lambda last, mean: under("generator.", last) | CRITIC, "weights under generator"),
        (lambda last, mean: under("net.", mean) | under("net_ema.", last), "weights under net_ema, which are averaged (others"),
        (lambda last, mean: {**mean, **under("ema.", last)}, "weights under ema, which are averaged"),
    ],
)
def test_weights_under_prefixes(tmp_path, make, where):
    last, other = states(0, 1)
    save_file({key: value.clone() for key, value in make(last, other).items()}, tmp_path / "w.safetensors")
    generator = load_generator(tmp_path / "w.safetensors", module=empty())
    torch.testing.assert_close(generator.state_dict(), last, check_device=False)
    assert where in notes_of(generator)
    assert ("weights under" in notes_of(generator)) == bool(where)


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda last, mean: {"g_ema": last, "g": mean, "step": 3}, "weights under g_ema, which are averaged (others under g)"),
        (lambda last, mean: {"G_ema": under("module.", last), "G": mean}, "weights under G_ema.module"),
        (lambda last, mean: {"generator": last, "args": {"lr": 0.1}}, "weights under generator"),
        (lambda last, mean: {"state_dict": under("generator.", last) | CRITIC}, "weights under state_dict.generator"),
        (lambda last, mean: {"model": {"state_dict": last}, "optimizer": {"state": {0: torch.zeros(3)}}}, "model.state_dict"),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
def test_weights_inside_of_a_checkpoint(tmp_path, make, where, suffix):
    last, other = states(0, 1)
    path = tmp_path / f"w{suffix}"
    torch.save(make(last, other), path)  # tensors and plain containers, which need no permission
    generator = load_generator(path, module=empty())
    torch.testing.assert_close(generator.state_dict(), last)
    assert where in notes_of(generator)
    torch.save(make(last, other) | {"options": SimpleNamespace(rate=0.1)}, path)
    with pytest.raises(ValueError, match=r"can run code .* give --allow-pickle \(allow_pickle=True in Python\)"):
        load_generator(path, module=empty())
    generator = load_generator(path, module=empty(), allow_pickle=True)
    torch.testing.assert_close(generator.state_dict(), last)
    assert where in notes_of(generator)


def test_a_checkpoint_of_modules_gives_the_averaged_one(tmp_path):
    last, mean = empty(), empty()
    torch.save({"G": last, "G_ema": mean, "seed": 1}, tmp_path / "w.pt")
    torch.testing.assert_close(load_generator(tmp_path / "w.pt", allow_pickle=True).state_dict(), mean.state_dict())
    own = load_generator(tmp_path / "w.pt", allow_pickle=True, module=empty())
    torch.testing.assert_close(own.state_dict(), mean.state_dict())
    torch.save({"G": last, "D": mean}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="contains several modules, G, D: save the generator alone"):
        load_generator(tmp_path / "w.pt", allow_pickle=True)


def test_weights_that_do_not_fit_or_fit_twice(tmp_path):
    last, other = states(0, 1)
    path = tmp_path / "w.safetensors"
    save_file(under("A.", last) | under("B.", other), path)
    with pytest.raises(ValueError, match="several weights that fit DenseGenerator, under A, B: save only those to use"):
        load_generator(path, module=empty())
    last.pop("layers.0.bias")
    save_file(under("generator.", last) | CRITIC, path)
    with pytest.raises(ValueError, match=r"does not fit DenseGenerator: it lacks layers.0.bias$"):
        load_generator(path, module=empty())
    with pytest.raises(FileNotFoundError, match=r"w.json is missing.* give --module my_net.py:make \(module= in Python\)"):
        load_generator(path)


def test_a_pickled_module_whose_source_is_not_there(tmp_path):
    class Gone(nn.Linear):
        pass

    Gone.__module__, Gone.__qualname__ = "gone_networks", "Gone"
    sys.modules["gone_networks"] = SimpleNamespace(Gone=Gone)
    try:
        torch.save(Gone(2, 3), tmp_path / "w.pt")
    finally:
        del sys.modules["gone_networks"]
    with pytest.raises(ValueError, match=r"No module named 'gone_networks'.*add its folder to PYTHONPATH"):
        load_generator(tmp_path / "w.pt", allow_pickle=True)


def test_a_program_of_one_batch_size_names_the_remedy(source):
    for batch, said in ((3, "does not take z"), (2, "runs on two items but not on 6")):
        program = torch.export.export(made_by("nets.py:dense").eval(), (torch.randn(batch, 4),))
        torch.export.save(program, "program.pt2")
        with pytest.raises(ValueError, match=f"{said}.* export it with dynamic_shapes=") as caught:
            load_generator("program.pt2", allow_pickle=True)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripts_and_exported_programs_say_the_size_of_z(source):
    dense, dcgan = made_by("nets.py:dense").eval(), made_by("nets.py:Dcgan").eval()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(dense, (torch.randn(2, 4),), dynamic_shapes=dynamic), "program.pt2")
    torch.jit.trace(dense, torch.randn(2, 4)).save("traced.pt")
    torch.jit.script(dcgan).save("scripted.pt")
    z = torch.randn(3, 4)
    for name, found in (("program.pt2", "the input of the program"), ("traced.pt", "the input of its first Linear")):
        generator = load_generator(name, allow_pickle=True)
        assert f"latent_dim 4: {found}" in generator.notes
        torch.testing.assert_close(generator(z), dense(z))
    generator = load_generator("scripted.pt", allow_pickle=True)
    assert as_jax(generator, (5,))(torch.zeros(3, 5).numpy()).shape == (3, 1, 4, 4)


# --- folders of the hub --------------------------------------------------------------------------------------------


def hub_folder(folder, settings, name="model.safetensors"):
    (state,) = states(0)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(state, folder / name)
    return state


OURS = {"latent_dim": 3, "event_shape": [1, 4, 4], "hidden": [8], "normalize": True, "torch_dtype": "float32"}


@pytest.mark.parametrize("named", [{"architectures": ["DenseGenerator"]}, {"_class_name": "DenseGenerator"}])
@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.safetensors"])
def test_a_folder_that_names_one_of_our_architectures(tmp_path, named, name):
    state = hub_folder(tmp_path / "hub", {**OURS, **named}, name)
    generator = load_generator(tmp_path / "hub")
    torch.testing.assert_close(generator.state_dict(), state)
    assert generator.config.latent_dim == 3


def test_a_folder_with_a_module_of_ones_own_and_one_with_our_configuration(tmp_path):
    state = hub_folder(tmp_path / "hub", {"_class_name": "AutoencoderKL", "z_dim": 3})
    with pytest.raises(ValueError, match=r"config.json names AutoencoderKL, which cogen does not have: give --module"):
        load_generator(tmp_path / "hub")
    generator = load_generator(tmp_path / "hub", module=empty())
    torch.testing.assert_close(generator.state_dict(), state)
    assert "latent_dim 3: its z_dim" in generator.notes
    arguments = {key: OURS[key] for key in ("latent_dim", "event_shape", "hidden", "normalize")}
    ours = {"architecture": "DenseGenerator", "arguments": arguments, "latent_dim": 3, "event_shape": [1, 4, 4]}
    (tmp_path / "hub" / "config.json").write_text(json.dumps({**ours, "value_range": [-1, 1], "noise_scale": 0.1}))
    assert load_generator(tmp_path / "hub").config.noise_scale == 0.1
    for content, message in (("[]", "contains a list"), ("{", "is not JSON"), ("{}", "names no architecture: give --module")):
        (tmp_path / "hub" / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load_generator(tmp_path / "hub")


def test_shards(tmp_path):
    state = hub_folder(tmp_path / "hub", {**OURS, "_class_name": "DenseGenerator"})
    (tmp_path / "hub" / "model.safetensors").unlink()
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    places = {key: names[key.startswith("layers.0")] for key in state}
    for name in names:
        save_file({key: value for key, value in state.items() if places[key] == name}, tmp_path / "hub" / name)
    index = tmp_path / "hub" / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    torch.testing.assert_close(load_generator(tmp_path / "hub").state_dict(), state)
    for content, message in (
        ({"weight_map": {**places, "more": names[0]}}, "lists more, which no shard contains"),
        ({"weight_map": {**places, "more": "third.safetensors"}}, "lists third.safetensors, missing in the folder"),
        ({"weight_map": {"more": "../other.safetensors"}}, "not an index of shards .*a shard must be in the folder"),
        ({}, "not an index of shards"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            load_generator(tmp_path / "hub")


def test_the_hub_is_fetched_by_its_own_package(tmp_path, monkeypatch):
    """A stub in the place of huggingface_hub: no network here."""
    hub_folders.fetched.cache_clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'cogen-ppl\[hub\]', or give a downloaded folder"):
        load_generator("hf://user/repository")
    hub_folder(tmp_path / "hub", {**OURS, "_class_name": "DenseGenerator"})
    asked = []

    def snapshot_download(repository, allow_patterns):
        asked.append((repository, allow_patterns))
        if repository != "user/repository":
            raise ConnectionError("Name or service not known\nand more")
        return str(tmp_path / "hub")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    for _ in range(2):
        assert load_generator("hf://user/repository").config.latent_dim == 3
    assert asked == [("user/repository", ["*.json", "*.safetensors"])]  # nothing that can run code, and once
    with pytest.raises(
        ValueError, match=r"cannot be downloaded \(ConnectionError: Name or service not known\): check the network"
    ):
        load_generator("hf://user/private")
    with pytest.raises(ValueError, match="an address must have the form hf://user/repository"):
        load_generator("hf://user")
    hub_folders.fetched.cache_clear()
