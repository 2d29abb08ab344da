"""The example runs with tiny budgets for both tasks, hides what it says, and draws from the posterior."""

import json

import pytest
import torch

from cogen.models.networks.architectures import ConvolutionalCritic
from cogen.models.storage.classifiers import ClassifierConfig, save_classifier

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TINY = {"minutes": 1e-4, "width": 2, "latent_dim": 3, "batch": 8, "draws": 4, "average": 0.0, "first": 0, "count": 6}


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    arguments = {"event_shape": [1, 28, 28], "channels": [2, 2], "width": 3, "outputs": 2}
    config = ClassifierConfig("ConvolutionalCritic", arguments, (1, 28, 28), (-1.0, 1.0), 2, "tiny")
    save_classifier(tmp_path / "tiny", ConvolutionalCritic(**arguments), config)
    return str(tmp_path / "tiny")


@pytest.mark.parametrize(("task", "measure", "drawn"), [("corrupted", "apart", 2), ("alternate", "box", 0)])
def test_the_example_runs(script, data, classifier, tmp_path, capsys, task, measure, drawn):
    where = {"folder": data, "classifier": classifier, "output": tmp_path / "out"}
    options = script.Options(task=task, posterior=drawn, pictures=2, **where, **TINY)
    record = script.main(options)
    rows = [(line["family"], line["row"], line["items"]) for line in record["table"]]
    of_cgml = [("cgml", row, 6) for row in ("predicted", "without rho", "random", "oracle")]
    of_posterior = [("cgml", "posterior", 2)] if drawn else []
    assert rows == [*of_cgml, *of_posterior, ("l1", "draws", 6), ("context-encoder", "draws", 6)]
    assert 0 <= record["table"][0][measure] <= 1
    assert "energy_score_difference" not in record["table"][0]
    assert record["table"][1]["energy_score_difference_se"] >= 0
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored["options"]["num_steps"] == "2"
    assert len(stored["runs"][0]["on_the_way"]["oracle"]) == 3
    assert len(stored["runs"][0]["rows"]["predicted"]["crps"]) == 6
    assert (tmp_path / "out.png").exists()
    assert "cgml, without rho" in capsys.readouterr().out


@pytest.mark.slow
def test_modes_evidence_and_the_course_of_training(script, data, classifier, tmp_path, monkeypatch, capsys):
    for name, value in (("MODES_DRAWS", 3), ("EVIDENCE_WARMUPS", (2,)), ("EVIDENCE_RUNS", 1)):
        monkeypatch.setattr(script, name, value)
    where = {"folder": data, "classifier": classifier, "output": tmp_path / "out"}
    families = ("cgml", "dsgan", "published")
    options = script.Options(task="alternate", families=families, modes=2, evidence=2, watched=2, pictures=2, **where, **TINY)
    record = script.main(options)
    ways = ["predicted", "without rho", "random", "posterior", "mixture over both"]
    assert [row["z"] for row in record["modes"]["rows"]] == ways
    assert all(0 <= row["box"] <= 1 for row in record["modes"]["rows"])
    assert 1 <= record["modes"]["effective"] <= 3
    stored = json.loads((tmp_path / "out.json").read_text())
    starts = [row["start"] for row in stored["evidence"]]
    assert starts == ["prior", "end points, kernels x 3", "end points, kernels x 10"]
    assert stored["runs"][0]["course"][0]["seconds"] > 0
    assert stored["runs"][0]["operations"] > stored["runs"][1]["operations"] > 0  # the descent is counted
    assert (tmp_path / "out-convergence.png").exists()
    assert "mixture over both: box" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="cgml_digits: --modes 2: two modes exist only with --task alternate"):
        script.main(script.Options(modes=2, **where, **TINY))


def test_what_is_hidden_and_changed(script):
    torch.manual_seed(0)
    x = 2 * torch.rand(40, 1, 32, 32) - 1
    rows = script.hidden_rows("corrupted", 40)
    assert ((rows[:, 1] - rows[:, 0] >= 6) & (rows[:, 1] <= 16)).all()
    hidden, condition = script.where_hidden(x, rows), script.seen_of(x, rows)
    assert (hidden.flatten(1).sum(1) == 32 * (rows[:, 1] - rows[:, 0])).all()
    assert (condition[:, :1][hidden] == 0).all()
    assert torch.equal(condition[:, :1][~hidden], x[~hidden])
    assert torch.equal(condition[:, 1:] > 0, ~hidden)
    other = script.overlaid(x)
    assert torch.equal(other[:, :, 16:], x[:, :, 16:])
    assert (other >= x).all()
    assert (script.boxed(x) != x).flatten(1).sum(1).unique().tolist() == [36]
    bytes_ = torch.randint(0, 256, (200, 1, 28, 28), dtype=torch.uint8)
    made, _ = script.Digits("alternate", 0.3)(bytes_)
    share = (made[script.BOX] == 1).flatten(1).all(1).float().mean()
    assert abs(float(share) - 0.3) < 0.13


def test_the_paper_s_diversity(script):
    from cgml_runs import diversity

    draws = torch.zeros(20, 2, 1, 4, 4)
    draws[:10, 0] = 1.0
    found = diversity(draws)
    assert found[1] == 0
    # The middle draw is one of either kind; the ten of the other kind are farthest, and all alike.
    assert found[0] == 0
    draws[:, 0] = torch.linspace(0, 1, 20)[:, None, None, None]
    assert diversity(draws)[0] > 0.2


def test_bad_input_is_one_line(script, data, classifier, tmp_path):
    options = {"folder": data, "classifier": classifier, "output": tmp_path / "out", **TINY}
    with pytest.raises(SystemExit, match="cgml_digits: --first 900: there are 32 test images"):
        script.main(script.Options(**{**options, "first": 900}))
    with pytest.raises(
        SystemExit, match="cgml_digits: --families gan: choose from cgml, l1, context-encoder, pix2pix, dsgan and published"
    ):
        script.main(script.Options(families=("gan",), **options))
