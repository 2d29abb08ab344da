"""The comparison runs for every family with tiny arguments, and its report puts the runs beside the paper's table."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from cogen.models.families.aim import AIM
from cogen.models.training.trainer import training_steps


def tiny(script, data, tmp_path, **options):
    return script.Options(
        **{
            "data": str(data),
            "epochs": 0.5,
            "batch": 16,
            "latent_dim": 3,
            "validation": 32,
            "average": 0.0,
            "points": 1,
            "samples": 200,
            "output": tmp_path / "out" / "aim",
            **options,
        }
    )


def test_all_families_and_a_later_run(script, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules["aim_report"].PAPER, data.name, {"aim": {"mse": 0.0123}})
    script.main(tiny(script, data, tmp_path, families=("gan", "ali", "aim-minus"), seeds=(0, 1)))
    script.main(tiny(script, data, tmp_path, families=("alice:2", "aim"), together=True))
    script.main(tiny(script, data, tmp_path, families=("aim",), latent_dim=2))
    said = capsys.readouterr().out
    assert "inception score of the test set" in said
    *_, line = (line for line in said.splitlines() if line.startswith("| ours | AIM, 2 latents | 0.5 | 1 |"))
    assert line.split(" | ")[6] == "0.012"  # the paper's, for these data
    rows = json.loads((tmp_path / "out" / "aim.json").read_text())["rows"]
    assert list(rows) == [
        "ours GAN, 3 latents, 0.5 epochs",
        "ours ALI, 3 latents, 0.5 epochs",
        "ours ALICE, weight 2, 3 latents, 0.5 epochs",
        "ours AIM-, 3 latents, 0.5 epochs",
        "ours AIM, 2 latents, 0.5 epochs",
        "ours AIM, together, 3 latents, 0.5 epochs",
    ]
    assert all(row["inception_score"]["mean"] >= 1 and 0 < row["share_of_test_set"]["mean"] < 1 for row in rows.values())
    assert "mse" not in rows["ours GAN, 3 latents, 0.5 epochs"]
    ali = rows["ours ALI, 3 latents, 0.5 epochs"]
    first, second = (run["mse"] for run in ali["runs"])
    assert ali["mse"] == pytest.approx({"mean": (first + second) / 2, "se": abs(first - second) / 2})
    assert ali["mse_of_range_two"]["mean"] == pytest.approx(4 * ali["mse"]["mean"])
    assert ali["runs"][0]["curve"][-1]["epoch"] > 0
    assert (tmp_path / "out" / "aim-ours-alice-weight-2-3-latents-0.5-epochs.png").exists()
    assert (tmp_path / "out" / "aim-ours-aim-2-latents-0.5-epochs-latents.png").exists()


def test_runs_of_several_folders_are_reported_without_training(script, data, tmp_path):
    options = tiny(script, data, tmp_path, families=("aim",), samples=50)
    script.main(options)
    script.main(dataclasses.replace(options, seeds=(1,), output=tmp_path / "other" / "aim"))
    folders = (tmp_path / "out" / "aim-runs", tmp_path / "other" / "aim-runs")
    record = script.main(script.Options(report=folders, output=tmp_path / "both"))
    (row,) = record["rows"].values()
    assert row["seeds"] == [0, 1]
    record["rows"]["x"] = {"runs": [{**row["runs"][0], "seed": 2, "steps": 9}, {**row["runs"][0], "mse": 0.5}]}
    (tmp_path / "earlier.json").write_text(json.dumps(record))
    (again,) = script.main(script.Options(report=(tmp_path / "earlier.json", folders[1]), output=tmp_path / "again"))[
        "rows"
    ].values()
    assert again["seeds"] == [0, 1, 2]  # of a record without pictures; and of one seed the last run counts
    assert [run["mse"] for run in again["runs"]][:2] == [0.5, row["runs"][1]["mse"]]
    assert (tmp_path / "again-ours-aim-3-latents-0.5-epochs.png").exists()
    script.main(dataclasses.replace(options, classifier=None, output=tmp_path / "unjudged" / "aim"))
    with pytest.raises(SystemExit, match="the runs of a table must have the same data set and classifier"):
        script.main(script.Options(report=(tmp_path,), output=tmp_path / "all"))
    with pytest.raises(SystemExit, match="found no runs at all"):
        script.main(script.Options(report=(tmp_path / "nothing",), output=tmp_path / "all"))


def test_the_published_recipe_has_its_own_networks_and_units(script, data, tmp_path):
    options = tiny(script, data, tmp_path, recipe="published", latent_dim=None, batch=8, samples=20, seconds=1e-6)
    record = script.main(dataclasses.replace(options, families=("aim",)))
    (row,) = record["rows"].values()
    assert row["runs"][0]["steps"] == 1  # no time for a second
    assert 0 < row["mse"]["mean"] < 1
    with pytest.raises(
        SystemExit, match=r"family 'ali': the paper has only networks of aim, aim-minus, gan; use --recipe ours"
    ):
        script.main(options)


def test_a_run_that_diverges_leaves_the_others(script, data, tmp_path, capsys, monkeypatch):
    def steps(family, *args, **kwargs):
        if isinstance(family, AIM):
            raise FloatingPointError("the loss 'critic' is nan at step 7")
        return (yield from training_steps(family, *args, **kwargs))

    monkeypatch.setattr(script, "training_steps", steps)
    record = script.main(tiny(script, data, tmp_path, families=("aim", "gan")))
    assert list(record["rows"]) == ["ours GAN, 3 latents, 0.5 epochs"]
    assert "ours aim, seed 0: the loss 'critic' is nan at step 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gam", "there is no family 'gam'; known are gan, "),
        ("gan:2", "family 'gan:2': gan has no weight; write gan"),
        ("aim:", "family 'aim:': '' is not a number; write aim:WEIGHT"),
        ("aim:much", "family 'aim:much': 'much' is not a number"),
        ("cgan", "family 'cgan' needs labels"),
    ],
)
def test_an_unknown_family_is_named_before_anything_runs(script, data, tmp_path, name, reason):
    with pytest.raises(SystemExit, match=f"aim_mnist: {reason}"):
        script.main(script.Options(data=str(data), families=("aim", name), output=tmp_path / "aim"))


def test_a_classifier_of_other_images_is_refused_and_none_is_allowed(script, tmp_path, capsys):
    rng = np.random.default_rng(0)
    colour = {name: rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8) for name in ("train_images", "test_images")}
    np.savez(tmp_path / "colour.npz", **colour)
    options = tiny(script, tmp_path / "colour.npz", tmp_path, families=("aim",), validation=16, output=tmp_path / "colour")
    with pytest.raises(SystemExit, match="classifies images of shape"):
        script.main(options)
    script.main(dataclasses.replace(options, classifier=None))
    assert "inception" not in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "colour.json").read_text())["rows"].values()
    assert "inception_score" not in row
    assert row["mse"]["mean"] > 0
    assert (tmp_path / "colour-curves.png").exists()
