"""Solids and meshes: what a cloud is, families that differ, files of every kind, and those that are broken."""

import sys

import numpy as np
import pytest
import trimesh

from cogen.models.data.shapes import FAMILIES, in_ball, load_cloud, load_shapes, radial, solids
from cogen.models.data.spectral import directions


def test_a_cloud_fills_the_unit_ball():
    cloud = in_ball(np.array([[1.0, 2, 3], [3, 2, 3], [2, 4, 3]]))
    np.testing.assert_allclose(cloud.mean(0), 0, atol=1e-12)
    assert np.linalg.norm(cloud, axis=1).max() == pytest.approx(1)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (np.zeros((1, 3)), "1 points at one position: at least two distinct points"),
        (np.ones((5, 3)), "5 points at one position"),
        (np.zeros((0, 3)), "0 points at one position"),
        (np.array([[0, 0, np.nan], [1, 1, 1]]), "non-finite"),
        (np.zeros((4, 2)), r"shape \(4, 2\), expected \(point, 3\)"),
    ],
)
def test_what_is_no_cloud(points, reason):
    with pytest.raises(ValueError, match=reason):
        in_ball(points)


def test_the_surface_in_every_direction():
    """Of a sphere the radius, of a box the way to its walls."""
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(20_000, 3))
    sphere *= 0.7 / np.linalg.norm(sphere, axis=1, keepdims=True)
    np.testing.assert_allclose(radial(sphere, 8), 0.7, atol=1e-9)
    box = trimesh.sample.sample_surface(trimesh.creation.box([1.0, 1.0, 1.0]), 40_000, seed=0)[0]
    exact = 0.5 / np.abs(directions(8)).max(-1)
    assert np.abs(radial(np.asarray(box), 8) - exact).mean() < 0.01
    with pytest.raises(ValueError, match="has 3 points away from the origin: at least 4"):
        radial(np.eye(3), 4)


def test_solids_of_twelve_classes():
    shapes = solids(4, seed=0, points=64)
    assert shapes.classes == tuple(FAMILIES)
    assert len(shapes.classes) == 12
    assert (shapes.train.shape, shapes.test.shape) == ((36, 64, 3), (12, 64, 3))
    assert shapes.test_labels.tolist() == list(range(12))
    np.testing.assert_allclose(np.linalg.norm(shapes.train, axis=2).max(1), 1)
    again, other = solids(4, seed=0, points=64), solids(4, seed=1, points=64)
    np.testing.assert_array_equal(again.train, shapes.train)
    assert not np.array_equal(other.train, shapes.train)
    with pytest.raises(ValueError, match="count=1"):
        solids(1, seed=0)


@pytest.fixture
def folder(tmp_path):
    for name, make in (("ball", trimesh.creation.icosphere), ("block", trimesh.creation.box)):
        for part, count in (("train", 2), ("test", 1)):
            (tmp_path / "split" / name / part).mkdir(parents=True)
            for k in range(count):
                make().export(tmp_path / "split" / name / part / f"{k}.off")
        (tmp_path / "whole" / name).mkdir(parents=True)
        for k in range(4):
            make().export(tmp_path / "whole" / name / f"{k}.ply")
    return tmp_path


def test_folders_of_meshes(folder):
    shapes = load_shapes(folder / "split", points=32)
    assert shapes.classes == ("ball", "block")
    assert (shapes.train.shape, shapes.test.shape) == ((4, 32, 3), (2, 32, 3))
    assert shapes.train_labels.tolist() == [0, 0, 1, 1]
    whole = load_shapes(folder / "whole", points=32)
    assert (len(whole.train), len(whole.test)) == (6, 2)
    lengths = np.linalg.norm(whole.train[whole.train_labels == 0], axis=2)
    assert lengths.min() > 0.6  # of a sphere, whose mean few points find
    with pytest.raises(ValueError, match="classes with training and test meshes"):
        load_shapes(folder / "split" / "ball")
    with pytest.raises(FileNotFoundError, match="no folder at"):
        load_shapes(folder / "nowhere")


def test_files_of_one_shape(tmp_path):
    box = trimesh.creation.box()
    for suffix in (".off", ".obj", ".ply", ".stl"):
        box.export(tmp_path / f"box{suffix}")
        assert load_cloud(tmp_path / f"box{suffix}", points=50).shape == (50, 3)
    # ModelNet writes the counts behind the first word of some files.
    text = (tmp_path / "box.off").read_text().replace("OFF\n", "OFF", 1)
    (tmp_path / "glued.off").write_text(text)
    np.testing.assert_array_equal(load_cloud(tmp_path / "glued.off", points=9), load_cloud(tmp_path / "box.off", points=9))
    np.save(tmp_path / "cloud.npy", np.random.default_rng(0).normal(size=(30, 3)))
    assert load_cloud(tmp_path / "cloud.npy", points=50).shape == (50, 3)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.off", b"", r"empty.off (cannot be read as a mesh|has 0 faces)"),
        ("cut.off", b"OFF\n8 12 0\n0 0 0\n1 0", r"cut.off (cannot be read as a mesh|holds)"),
        ("nothing.off", b"OFF\n0 0 0\n", r"nothing.off (cannot be read as a mesh|has 0 faces)"),
        ("flat.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", r"flat.off has 1 faces of total area 0"),
        ("noise.stl", b"\x00\x01garbage", r"noise.stl (cannot be read as a mesh|has 0 faces)"),
        ("text.npy", b"not an array", r"text.npy is not an array of numbers"),
        ("shape.glb", b"", r"shape.glb: unknown kind of file; meshes are .off, .obj, .ply, .stl, clouds .npy"),
    ],
)
def test_broken_files_are_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        load_cloud(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_point_alone_and_no_file(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"one.npy has 1 points at one position"):
        load_cloud(tmp_path / "one.npy")
    with pytest.raises(FileNotFoundError, match="no file at"):
        load_cloud(tmp_path / "none.off")


def test_a_missing_package_is_said(tmp_path, monkeypatch):
    trimesh.creation.box().export(tmp_path / "box.off")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match=r"require trimesh, which is not installed: pip install 'cogen-ppl\[shapes\]'"):
        load_cloud(tmp_path / "box.off")
