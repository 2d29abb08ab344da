"""Files appear whole or not at all, and are on the disk before they take the place of another."""

import ast
import os
from pathlib import Path

import pytest

from cogen.inference.whole_files import move_whole, write_whole

ROOT = Path(__file__).parents[2]


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    target, did = tmp_path / "state", []
    target.write_bytes(b"old")
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        did.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        assert target.read_bytes() == (b"new" if "replaced" in did else b"old")
        fsync(descriptor)

    def replaced(*paths):
        did.append("replaced")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_whole(target, b"new")
    part, *after = did
    assert part.startswith(".state.")
    assert after == ["replaced", tmp_path.name]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_what_was_there_stays_where_it_cannot_be_written(tmp_path, monkeypatch, fails):
    target = tmp_path / "state"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_file_that_was_written_elsewhere_takes_the_place_of_another(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a").write_text("new")
    (tmp_path / "a").write_text("old")
    move_whole(tmp_path / "work" / "a", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "new"
    assert not any((tmp_path / "work").iterdir())


def test_there_is_no_other_writer_of_whole_files():
    """In the models and the face; `inference.checkpoint` is to follow."""
    others = []
    for folder in ("models", "diagnostics", "src/cogen"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.replace", "os.rename", "os.fsync"):
                    others.append(path.name)
    assert not others
