"""The comparison runs for every family with tiny arguments; a later run adds its rows to the table."""

import json

import pytest


def test_all_families_and_a_later_run(script, data, tmp_path, capsys):
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
    assert "0.026" in said  # the paper's
    record = json.loads((tmp_path / "out" / "aim.json").read_text())
    rows = {row["family"]: row for row in record["rows"]}
    assert list(rows) == ["gan", "ali", "aim-minus", "alice:2", "aim"]
    assert all(row["inception_score"] >= 1 for row in rows.values())
    assert "mse" not in rows["gan"]
    assert 0 < rows["aim"]["mse"] < 1
    assert rows["aim"]["curve"][-1]["epoch"] > 0
    assert (tmp_path / "out" / "aim-alice-2.png").exists()


def test_an_unknown_family_is_named_before_anything_runs(script, data, tmp_path):
    with pytest.raises(SystemExit, match="family 'gam': known are gan"):
        script.main(script.Options(data=str(data), families=("gam",), output=tmp_path / "aim"))
