"""The comparison runs for every family with tiny arguments; a later run adds its rows to the table."""

import dataclasses
import json

import numpy as np
import pytest


def test_all_families_and_a_later_run(script, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(script.PAPER, data.name, {"aim": {"mse": 0.0123}})

    def options(*families):
        return script.Options(
            data=str(data),
            families=families,
            epochs=0.5,
            batch=16,
            latent_dim=3,
            validation=32,
            points=1,
            samples=200,
            output=tmp_path / "out" / "aim",
        )

    script.main(options("gan", "ali", "aim-minus"))
    script.main(options("alice:2", "aim"))
    said = capsys.readouterr().out
    assert "the test set's own inception score" in said
    (line,) = (line for line in said.splitlines() if line.startswith("aim  "))
    assert line.split()[2] == "0.0123"  # the paper's, for these data
    record = json.loads((tmp_path / "out" / "aim.json").read_text())
    rows = {row["family"]: row for row in record["rows"]}
    assert list(rows) == ["gan", "ali", "aim-minus", "alice:2", "aim"]
    assert all(row["inception_score"] >= 1 for row in rows.values())
    assert "mse" not in rows["gan"]
    assert 0 < rows["aim"]["mse"] < 1
    assert rows["aim"]["curve"][-1]["epoch"] > 0
    assert (tmp_path / "out" / "aim-alice-2.png").exists()


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
    options = script.Options(
        data=str(tmp_path / "colour.npz"),
        families=("aim",),
        epochs=1,
        batch=16,
        latent_dim=3,
        validation=16,
        points=1,
        output=tmp_path / "colour",
    )
    with pytest.raises(SystemExit, match="judges images of shape"):
        script.main(options)
    script.main(dataclasses.replace(options, classifier=None))
    assert "inception" not in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "colour.json").read_text())["rows"]
    assert "inception_score" not in row
    assert row["mse"] > 0
    assert (tmp_path / "colour-aim.png").exists()
    assert (tmp_path / "colour-curves.png").exists()
    record = json.loads((tmp_path / "colour.json").read_text())
    (tmp_path / "colour.json").write_text(json.dumps(record | {"classifier": "another"}))
    with pytest.raises(SystemExit, match=r"colour.json is of other data or another classifier"):
        script.main(dataclasses.replace(options, classifier=None))
