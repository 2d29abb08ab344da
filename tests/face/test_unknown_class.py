"""`cogen complete --label unknown`: the page's command on its pictures, its results, and the options that it refuses."""

import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import cogen
from cogen.command_line import main
from cogen.diagnostics import context_probabilities, decoded, diagnose
from cogen.models import Classes, GeneratorConfig, save_generator
from cogen.models.networks.architectures import ConditionalGenerator
from cogen.options import Complete
from cogen.output import read_posterior
from cogen.unknown_class import InferredClass, class_lines, class_metrics, with_defaults

PAGE = (Path(__file__).parents[2] / "docs" / "unknown_class.md").read_text(encoding="utf-8")
NAMES = ["horizontal", "vertical"]
QUICK = ["--chains", "8", "--warmup", "8", "--samples", "2", "--pilot", "8"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """The folder of the page: its generator and pictures, and the results of its command with fewer chains."""
    folder, before = tmp_path_factory.mktemp("desk"), Path.cwd()
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (command,) = re.findall(r"```sh\n(.*?)\n```", PAGE, flags=re.DOTALL)
    os.chdir(folder)
    try:
        exec(compile("\n".join(blocks[:2]), "unknown_class.py", "exec"), {"__name__": "unknown_class"})
        main([*shlex.split(command)[1:], "--chains", "32", "--warmup", "60"])
        yield folder
    finally:
        os.chdir(before)


@pytest.fixture
def at_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    return desk


def completing(*options: str) -> list[str]:
    return ["complete", "--generator", "bars", "--images", "pictures", "--mask", "seen.png", *options]


# --- results -------------------------------------------------------------------------------------------------------


def test_the_probabilities_are_in_every_result(at_desk, capsys):
    metrics = json.loads(Path("completed/metrics.json").read_text())
    found = metrics["classes"]["label"]
    assert metrics["images"] == ["across", "down", "elsewhere"]
    assert found["names"] == NAMES
    probability = np.array(found["probability"])
    np.testing.assert_allclose(probability.sum(axis=1), 1.0, atol=1e-6)
    assert probability[0, 0] > 0.9
    assert probability[1, 1] > 0.9
    assert 0.2 < probability[2, 0] < 0.8
    assert found["most_probable"][:2] == NAMES
    posterior = read_posterior(Path("completed/posterior.nc"))
    table = context_probabilities(posterior)
    np.testing.assert_allclose(probability, table["label"].values)
    np.testing.assert_allclose(found["standard_error"], table["label_se"].values)
    page = Path("completed/report.html").read_text(encoding="utf-8")
    line = f"horizontal ({probability[0, 0]:.2f} +- {found['standard_error'][0][0]:.2f})"
    assert page.count(line) == 2  # beside the picture, and in the table
    main(["diagnose", "completed/posterior.nc"])
    assert "log_evidence" in capsys.readouterr().out


def test_draws_are_decoded_with_their_class(at_desk):
    """A written draw of a class is a bar of this class."""
    metrics = json.loads(Path("completed/metrics.json").read_text())
    labels = metrics["classes"]["label"]["of_draws"]
    assert len(labels) == 3
    for name, of_draws in zip(metrics["images"], labels, strict=True):
        for k in range(4):
            pixels = np.asarray(Image.open(f"completed/completed/{name}/draw-{k + 1}.png"), float)[4:, 4:]
            along = {"horizontal": pixels.std(axis=1).mean(), "vertical": pixels.std(axis=0).mean()}
            if max(along.values()) > 5:  # a bar reaches this quarter
                assert min(along, key=along.get) == of_draws[k]


def test_the_run_is_repeated_and_rebuilt(at_desk, tmp_path):
    assert 'label = ["unknown"]' in Path("completed/run.toml").read_text()
    posterior, seen = cogen.load_run("completed")
    x = decoded(posterior, seen).values
    mean, of_draws = posterior["predictions"]["x_mean"].values, x.mean(axis=(0, 1))
    assert np.abs(mean - of_draws).mean() < 0.1
    main(["complete", "--config", "completed/run.toml", "--output", str(tmp_path / "again")])
    again, first = (json.loads((path / "metrics.json").read_text()) for path in (tmp_path / "again", Path("completed")))
    assert again["classes"] == first["classes"]


def test_a_run_that_is_too_short_says_what_to_do(at_desk, tmp_path, capsys):
    main(completing("--label", "unknown", *QUICK, "--set", "num_leapfrog=1", "--output", str(tmp_path)))
    said = capsys.readouterr().out
    assert "the most probable classes of each image" in said
    assert re.search(r"^  across: (horizontal|vertical) \([01]\.\d\d \+- \d\.\d\d\)", said, flags=re.MULTILINE)


def test_a_large_standard_error_is_a_finding():
    of_first = np.log(np.array([0.1, 0.9, 0.5, 0.8]))[:, None, None, None]  # (chain, draw, item, class)
    of_other = np.log(np.array([0.9, 0.1, 0.5, 0.2]))[:, None, None, None]
    both = np.concatenate([of_first, of_other], axis=-1)
    statistics = {
        "context_log_evidence": (("chain", "draw", "item", "class"), both),
        "population_log_evidence": (("chain", "draw", "item"), np.zeros((4, 1, 1))),
        "population": (("chain", "draw", "item"), np.arange(4)[:, None, None]),
    }
    attributes = {"num_populations": 4, "evidence_kind": "annealed", "kernel": "AnnealedHMC"}
    z = (("chain", "draw", "item", "latent"), np.random.default_rng(0).normal(size=(4, 1, 1, 2)))
    draws = xr.Dataset({"z": z, "label": (("chain", "draw", "item"), np.zeros((4, 1, 1), int))}, attrs=attributes)
    known = xr.Dataset({"label_log_prior": (("class",), np.log([0.5, 0.5]))})
    posterior = xr.DataTree.from_dict({"posterior": draws, "sample_stats": xr.Dataset(statistics), "constant_data": known})
    found = [each for each in diagnose(posterior) if "probability of a class" in each]
    assert len(found) == 1
    assert "above 0.1. Use more chains, or more temperatures (num_warmup)" in found[0]


def test_the_lines_of_classes():
    probability = np.array([[0.22, 0.71, 0.04, 0.03], [np.nan] * 4])
    error = np.array([[0.04, 0.05, 0.01, np.nan], [np.nan] * 4])
    drawn = np.array([[[0, 3]], [[1, 2]]])  # (chain, draw, item)
    each = InferredClass(["a", "b", "c", "d"], probability, error, drawn)
    assert class_lines({"label": each}, ["x", "y"]) == [
        "x: b (0.71 +- 0.05), a (0.22 +- 0.04)",
        "y: no class explains what is seen",
    ]
    assert class_lines({"label": each, "style": each}, ["x"])[0].startswith(
        "x: label b (0.71 +- 0.05), a (0.22 +- 0.04); style b"
    )
    alone = InferredClass(["a", "b"], np.array([[0.2, 0.8]]), np.full((1, 2), np.nan), drawn)
    assert class_lines({"label": alone}, ["x"]) == ["x: b (0.80), a (0.20)"]
    metrics = class_metrics({"label": each}, np.array([[1, 0], [0, 1], [1, 1]]))["classes"]["label"]
    assert metrics["of_draws"] == [["b", "a", "b"], ["d", "c", "c"]]
    assert class_metrics({}, np.zeros((2, 1), int)) == {}
    assert class_lines({}, ["x"]) == []


class TwoClasses(torch.nn.Module):
    """A class, a second class and a picture as contexts."""

    latent_dim, value_range, noise_scale = 2, (-1.0, 1.0), 0.3

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = torch.nn.Linear(2 + 2 + 3, 64)

    def forward(self, z, label, style, photo):
        x = self.last(torch.cat([z, label, style], dim=1)).unflatten(1, (1, 8, 8))
        return torch.tanh(x + photo)


def test_two_classes_beside_a_picture(desk, at_desk, tmp_path, capsys):
    Path("two.py").write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('test_unknown_class', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(module)\n"
        "from cogen.models import Array, Classes\n"
        "def make():\n    network = module.TwoClasses()\n"
        "    network.contexts = {'label': Classes(2), 'style': Classes(3), 'photo': Array((1, 8, 8), (-1, 1))}\n"
        "    return network\n"
    )
    options = ["--generator", "two.py:make", "--images", "pictures", "--context", "photo=pictures", "--mask", "seen.png"]
    main(["complete", *options, "--label", "unknown", *QUICK, "--output", str(tmp_path)])
    assert re.search(r"across: label [01] \(.*; style [012] \(", capsys.readouterr().out)
    classes = json.loads((tmp_path / "metrics.json").read_text())["classes"]
    assert {name: len(each["names"]) for name, each in classes.items()} == {"label": 2, "style": 3}


def test_parallel_tempering_and_a_view(at_desk, tmp_path):
    view = ["complete", "--generator", "bars", "--images", "pictures", "--view", "half", "--algorithm", "parallel-tempering"]
    main([*view, "--label", "unknown", "--chains", "4", "--warmup", "10", "--output", str(tmp_path)])
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(metrics["classes"]["label"]["probability"]) == 3
    assert metrics["hidden_mse"] > 0


# --- options -------------------------------------------------------------------------------------------------------


def test_defaults_depend_on_the_class():
    found = with_defaults(Complete(label=("unknown",)))
    assert (found.weighted, found.chains, found.warmup, found.pilot) == (True, 64, 200, 16)
    found = with_defaults(Complete(label=("unknown",), chains=16, warmup=50, pilot=8))
    assert (found.weighted, found.chains, found.warmup, found.pilot) == (True, 16, 50, 8)
    found = with_defaults(Complete(label=("3",)))
    assert (found.weighted, found.chains, found.warmup, found.pilot) == (False, 16, None, 0)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--label", "unknown", "1"], "--label unknown 1: the class is inferred for all images or for none"),
        (
            ["--label", "unknown", "--algorithm", "nuts"],
            "--algorithm nuts: it does not estimate the evidence of a class: use annealed",
        ),
        (["--label", "unknown", "--backend", "pyro"], "--backend pyro: the unbiased evidence of a class needs a pilot run"),
        (["--label", "unknown", "--certify"], "--label unknown with --certify: a certificate needs images of known classes"),
        (["--label", "unknown", "--noise", "fit"], "--noise fit: the noise is estimated for known classes: give a number"),
        (["--label", "unknown", "--guide", "predictor"], "--guide predictor: runs of an unknown class start at the prior"),
        (["--label", "unknown", "--chains", "10"], "--weighted --chains 10: weighted chains form four populations"),
        (["--label", "unknown", "--generator", "named"], "a class of named has this name: give its number, --label 1"),
        (["--label", "unknown", "--generator", "mnist", "--fit", "resize"], "mnist is not conditional on a class; omit it"),
        ([], "give --label, one class for all images or one for each, or --label unknown to infer the class of each image"),
    ],
)
def test_options_that_cannot_be_combined(at_desk, tmp_path, capsys, options, reason):
    inner = {"latent_dim": 3, "event_shape": (1, 8, 8), "hidden": (4,)}
    arguments = {"architecture": "DenseGenerator", "num_classes": 2, "arguments": inner}
    contexts = {"label": Classes(2, names=("known", "unknown"))}
    config = GeneratorConfig("ConditionalGenerator", arguments, 1, (1, 8, 8), (-1, 1), 0.3, contexts=contexts)
    save_generator("named", ConditionalGenerator(**arguments), config)
    with pytest.raises(SystemExit) as stop:
        main([*completing(*options), "--output", str(tmp_path / "out")])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert not (tmp_path / "out").exists()


def test_an_energy_is_refused():
    from types import SimpleNamespace

    from cogen.by_energy import check_of_energy

    with pytest.raises(ValueError, match="--label unknown: pair is an energy, and only generators infer a class"):
        check_of_energy(Complete(label=("unknown",), generator="pair"), SimpleNamespace())
