"""The code of the README's section on contexts runs as it stands, but for the length of its runs."""

import re
from pathlib import Path

import pytest
import torch

from cogen.models import Classes, GeneratorConfig, save_generator
from cogen.models.networks.architectures import ConditionalGenerator

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ROOT = Path(__file__).parents[2]
SHORT = {"num_warmup": 4, "num_samples": 1, "num_chains": 8, "pilot": 8}


def code_of(text):
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    code = "\n".join(blocks)
    for name, value in SHORT.items():
        code = re.sub(rf'("?{name}"?[=:] ?)\d+', rf"\g<1>{value}", code)
    return code.replace('"seed": 0', '"seed": 0, "progress": False')


def test_the_section_on_contexts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    inner = {"latent_dim": 3 + 10, "event_shape": (1, 28, 28), "hidden": (4,)}
    arguments = {"architecture": "DenseGenerator", "num_classes": 10, "arguments": inner}
    config = GeneratorConfig("ConditionalGenerator", arguments, 3, (1, 28, 28), (-1, 1), 0.7, contexts={"label": Classes(10)})
    save_generator("my-digits", ConditionalGenerator(**arguments), config)
    section = (ROOT / "README.md").read_text().split("## A class or an image as context")[1].split("\n## ")[0]
    found: dict = {}
    exec(code_of(section), found)
    assert found["context_probabilities"](found["posterior"])["label"].shape == (16, 10)
