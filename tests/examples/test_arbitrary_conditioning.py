"""The directly trained baseline, end to end with tiny arguments, and its flow against its own inverse."""

import json

import numpy as np
import pytest
import torch
from torch.distributions import Normal


def test_the_example_runs_and_its_weights_come_back(script, data, tmp_path, capsys):
    options = script.Options(
        images=data,
        steps=6,
        batch=8,
        latent_dim=4,
        channels=8,
        blocks=1,
        couplings=2,
        widths=(8,),
        masks=3,
        held_out=4,
        draws=2,
        output=tmp_path / "out" / "direct",
    )
    record = script.main(options)
    assert "CRPS of held-out images" in capsys.readouterr().out
    assert set(record["held_out_crps"]) == {"half", "left", "block", "thumbnail"}
    assert all(0 < score < 2 for score in record["held_out_crps"].values())
    assert json.loads((tmp_path / "out" / "direct.json").read_text()) == record
    model, figures = script.load_direct(options.output)
    assert figures == record
    x = torch.rand(2, 1, 28, 28) * 2 - 1
    noise = torch.randn(3, 2, 4)
    mask = torch.from_numpy(script.views.half((1, 28, 28), "top")).expand_as(x)
    made = model.complete(script.seen_pixels(x, mask), noise)
    assert made.shape == (3, 2, 1, 28, 28)
    other = torch.where(mask, x, 0.5)  # what is hidden is not seen
    assert torch.equal(model.complete(script.seen_pixels(other, mask), noise), made)


def test_the_flow_has_the_density_of_its_draws(script):
    """Against the change of variables with the Jacobian of automatic differentiation."""
    torch.manual_seed(0)
    flow = script.ConditionalFlow(latent_dim=4, context=3, couplings=3).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    noise, context = torch.randn(1, 4).double(), torch.randn(1, 3).double()
    z = flow(noise, context)
    jacobian = torch.autograd.functional.jacobian(lambda n: flow(n, context)[0], noise)[:, 0]
    expected = Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(jacobian).logabsdet
    assert flow.log_density(z, context).item() == pytest.approx(expected.item())


def test_only_hidden_pixels_count(script):
    torch.manual_seed(0)
    model = script.DirectModel((1, 8, 8), 4, 8, 1, 2)
    family = script.ArbitraryConditioning(
        model, script.DenseEncoder(4, (4, 8, 8), (8,)), script.stock((1, 8, 8), 2, seed=0), learning_rate=1e-3
    )
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    seen = script.seen_thumbnail(torch.nn.functional.avg_pool2d(x, 4))
    hidden = torch.zeros_like(x, dtype=torch.bool)
    torch.manual_seed(1)
    nothing = family.negative_bound(x, seen, hidden)
    torch.manual_seed(1)
    everything = family.negative_bound(x, seen, ~hidden)
    torch.manual_seed(1)
    features, _ = model.read(seen)
    mean, log_sd = family.encoder(torch.cat([x, seen], dim=1))
    made = model.decode(mean + log_sd.exp() * torch.randn_like(mean), features)
    fit = model.noise.log_prob(x, made).flatten(1).sum(1)
    assert torch.allclose(nothing - everything, fit, atol=1e-3)


def test_the_stock_has_every_kind_of_mask(script):
    masks = script.stock((1, 28, 28), 5, seed=0)
    assert masks.shape == (20, 1, 28, 28)
    shares = masks.float().mean((1, 2, 3)).numpy()
    assert (shares[::4] == 0.5).all()
    assert np.all((shares > 0) & (shares < 1))
