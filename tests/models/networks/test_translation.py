"""Networks that make an image of an image: shapes, what a logit and what an x may depend on, and sizes that do not fit."""

import pytest
import torch

from cogen.models.networks.architectures import count_parameters
from cogen.models.networks.translation import ConvolutionalEncoder, EncoderDecoder, PatchCritic, UNet


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("latent_dim", [0, 3])
@pytest.mark.parametrize("sides", [(8, 8), (28, 28), (16, 48)])
@pytest.mark.parametrize("network", [UNet, EncoderDecoder])
def test_images_are_made_one_by_one_and_in_range(network, sides, latent_dim, batch_norm):
    torch.manual_seed(0)
    options = {"dropout": 0.0} if network is UNet else {}
    generator = network((3, *sides), (2, *sides), latent_dim, width=2, batch_norm=batch_norm, **options)
    z, condition = torch.randn(4, latent_dim), torch.randn(4, 2, *sides)
    assert generator(z, condition).shape == (4, 3, *sides)  # batch statistics, too
    generator.eval()
    x = generator(z, condition)
    assert x.abs().max() <= 1
    torch.testing.assert_close(generator(z[1:2], condition[1:2]), x[1:2], rtol=1e-4, atol=1e-5)
    assert not torch.equal(generator(z, condition.roll(1, 0)), x)
    if latent_dim:
        assert not torch.equal(generator(z.roll(1, 0), condition), x)


def test_the_published_sizes():
    """64 to 512 feature maps, eight layers each way: the 54.4 million weights of pix2pix's U-Net, and 2.77 of its critic."""
    with torch.device("meta"):
        assert count_parameters(UNet((3, 256, 256), (3, 256, 256))) == pytest.approx(54.41e6, rel=1e-3)
        critic = PatchCritic((6, 256, 256))
        assert count_parameters(critic) == pytest.approx(2.77e6, rel=1e-3)
        images = torch.zeros(1, 3, 256, 256)
        assert critic(images, images).shape == (1, 30, 30)


@pytest.mark.parametrize(("layers", "seen"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch_of_both_images(layers, seen):
    torch.manual_seed(0)
    critic = PatchCritic((2, 96, 96), width=1, layers=layers, batch_norm=True).eval()
    x, condition = torch.randn(2, 1, 1, 96, 96).requires_grad_()
    logits = critic(x, condition)
    middle = logits.shape[1] // 2
    for gradient in torch.autograd.grad(logits[0, middle, middle], (x, condition)):
        rows, columns = gradient[0, 0].any(1), gradient[0, 0].any(0)
        assert (int(rows.sum()), int(columns.sum())) == (seen, seen)


def test_features_of_a_condition_can_be_taken_apart_and_put_together():
    torch.manual_seed(0)
    condition, z = torch.randn(2, 1, 16, 16), torch.randn(2, 3)
    unet = UNet((1, 16, 16), (1, 16, 16), 3, width=2).eval()
    features = unet.encode(z, condition)
    assert [each.shape[-1] for each in features] == [8, 4, 2, 1]
    torch.testing.assert_close(unet.decode(features), unet(z, condition))
    plain = EncoderDecoder((1, 16, 16), (1, 16, 16), 3, width=2).eval()
    torch.testing.assert_close(plain.decode(z, plain.down(condition), condition), plain(z, condition))


@pytest.mark.parametrize("network", [UNet, EncoderDecoder])
def test_what_is_seen_stays_where_the_hidden_part_is_filled_in(network):
    torch.manual_seed(0)
    condition = torch.randn(2, 3, 8, 8)
    x = network((2, 8, 8), (3, 8, 8), width=2, fills=True)(torch.zeros(2, 0), condition)
    seen = condition[:, -1:] > 0
    assert torch.equal(x * seen, condition[:, :-1] * seen)
    assert (x != condition[:, :-1])[~seen.expand_as(x)].all()


def test_dropout_is_in_as_many_layers_as_asked():
    for layers, expected in ((0, 0), (2, 2), (None, 4)):
        unet = UNet((1, 32, 32), (1, 32, 32), 1, width=1, dropout_layers=layers)
        assert sum(isinstance(part, torch.nn.Dropout) for layer in unet.up for part in layer) == expected


def test_an_encoder_of_images_of_any_size():
    for sides in ((8, 8), (28, 20), (64, 64)):
        mean, log_sd = ConvolutionalEncoder(5, (3, *sides), width=2)(torch.zeros(2, 3, *sides))
        assert mean.shape == log_sd.shape == (2, 5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: UNet((3, 30, 30), (3, 30, 30)), r"images of 30 x 30 pixels: .* divisible by four.* resize them"),
        (lambda: EncoderDecoder((3, 32, 32), (3, 64, 64)), r"event_shape \(3, 32, 32\) and condition_shape \(3, 64, 64\)"),
        (
            lambda: UNet((3, 32, 32), (3, 32, 32), fills=True),
            r"condition has 3 channels, .* needs the 3 of the image and a mask",
        ),
        (lambda: PatchCritic((6, 16, 16)), r"images of 16 x 16 pixels: .* sides of 32 or more; give larger images, or fewer"),
        (lambda: UNet((3, 32, 32), (3, 32, 32), dropout=1.0), r"dropout=1.0: it must be in \[0, 1\)"),
    ],
)
def test_sizes_that_do_not_fit(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()
