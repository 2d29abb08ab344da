"""The example runs with a generator whose style is known, and tells it from shuffled latents."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from cogen.models import Classes, GeneratorConfig, save_generator
from cogen.models.networks.architectures import ConditionalGenerator, ConvolutionalCritic
from cogen.models.storage.classifiers import ClassifierConfig, save_classifier

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def files(tmp_path):
    torch.manual_seed(0)
    arguments = {"latent_dim": 4, "event_shape": [1, 8, 8], "hidden": [6]}
    inner = {"architecture": "DenseGenerator", "num_classes": 2, "arguments": arguments}
    contexts = {"label": Classes(2)}
    config = GeneratorConfig("ConditionalGenerator", inner, 2, (1, 8, 8), (-1, 1), 0.3, contexts=contexts)
    save_generator(tmp_path / "made", ConditionalGenerator(**inner), config)
    judge = {"event_shape": [1, 8, 8], "channels": [2, 2], "width": 3, "outputs": 2}
    about = ClassifierConfig("ConvolutionalCritic", judge, (1, 8, 8), (-1.0, 1.0), 2, "tiny")
    save_classifier(tmp_path / "tiny", ConvolutionalCritic(**judge), about)
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(40) % 2)
    return tmp_path


def options(script, files, **changed):
    places = {"generator": str(files / "made"), "data": str(files / "x.npz"), "classifier": str(files / "tiny")}
    tiny = {"count": 6, "chains": 8, "temperatures": 2, "leapfrog": 2, "inner": 2, "shown": 2, "output": files / "out"}
    return script.Options(**{**places, **tiny, **changed})


@pytest.mark.parametrize(
    "ways", [("known", "published", "by turns"), pytest.param(("exact", "relaxed"), marks=pytest.mark.slow)]
)
def test_the_example_runs(script, files, capsys, ways):
    record = script.main(options(script, files, ways=ways))
    assert [row["way"] for row in record["rows"]] == list(ways)
    assert ways[0] != "known" or record["rows"][0]["named"] == 1.0
    assert all(np.isfinite(row["changed"]) for row in record["rows"])
    assert (files / "out.png").exists()
    assert json.loads((files / "out.json").read_text())["rows"] == record["rows"]
    assert ways[-1] in capsys.readouterr().out


def test_colours_are_made_for_every_image(script, files):
    assert script.main(options(script, files, colour=files / "coloured.npz")) == {}
    with np.load(files / "coloured.npz") as written:
        assert written["train"].shape[1:] == (3, 8, 8)
        assert len(written["train_labels"]) == len(written["train"])


class Bar(nn.Module):
    """A bar of the class's place, as bright as z."""

    def forward(self, z, label):
        x = torch.full((len(z), 1, 8, 8), -1.0)
        x[:, 0, :, 2:4] += label[:, :1, None] * torch.sigmoid(z[:, :1, None])
        x[:, 0, :, 5:7] += label[:, 1:, None] * torch.sigmoid(z[:, :1, None])
        return x


def test_style_goes_along_and_shuffled_style_does_not(script):
    torch.manual_seed(0)
    generator, z, labels = Bar(), torch.randn(60, 1), torch.arange(60) % 2
    images = generator(z, torch.eye(2)[labels])
    x = script.transferred(generator, z, 2)
    others = (torch.arange(2)[:, None] != labels[None]).double()
    found = script.of_style(x, images, x[:, torch.randperm(60)], others)
    assert found["weight"] == pytest.approx(1.0, abs=0.1)
    assert abs(found["weight_shuffled"]) < 0.5
    assert found["weight_z"] > 3
    assert script.of_style(x, images, x, others)["weight"] == found["weight"]


def test_a_generator_without_classes_is_refused(script, files):
    with pytest.raises(SystemExit, match=r"style_and_class: .*not conditional on a class"):
        script.main(options(script, files, generator="mnist"))
    with pytest.raises(SystemExit, match="choose from known, exact"):
        script.main(options(script, files, ways=("guess",)))
