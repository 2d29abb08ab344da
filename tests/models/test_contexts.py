"""Contexts: what they may be, what `given` takes, one density in two libraries, and where they travel with the item."""

import copy
import functools
import pickle
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer.util
import pyro
import pyro.infer
import pytest
import torch
from numpyro import handlers
from torch import nn

from cogen.inference.items import count_items, find_items, take_items
from cogen.models import Array, Classes, CoGenerator, views
from cogen.models.contexts import contexts_of
from cogen.models.likelihoods import Normal
from cogen.models.views import View

ITEMS, SHAPE, PHOTO = 3, (1, 4, 4), (2, 4, 4)
RNG = np.random.default_rng(0)
LABELS = np.array([2, 0, 1])
Z = RNG.normal(size=(ITEMS, 2)).astype(np.float32)


class ByClass(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(2 + classes, 16)

    def forward(self, z, label):
        return torch.tanh(self.linear(torch.cat([z, label], dim=1))).reshape(-1, *SHAPE)


class ByPhoto(nn.Module):
    """A small convolutional network of a picture, with z as constant planes beside it, and a class as a bias."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.bias = nn.Linear(3, 8)

    def forward(self, z, photo, label):
        planes = z[:, :, None, None].expand(-1, -1, *photo.shape[2:])
        features = self.first(torch.cat([photo, planes], dim=1)) + self.bias(label)[:, :, None, None]
        return torch.tanh(self.last(nn.functional.silu(features)))


def by_class(classes=None, view=None, generator=None, **options):
    contexts = {"label": classes or Classes(3)}
    shown = {"seen": view or views.Identity(scale=0.3)}
    return CoGenerator(generator or ByClass(), latent_dim=2, contexts=contexts, views=shown, **options)


def by_photo():
    contexts = {"photo": Array(PHOTO, value_range=(-1, 1)), "label": Classes(3)}
    return CoGenerator(ByPhoto(), latent_dim=2, contexts=contexts, views={"seen": views.Thumbnail(2, scale=0.3)})


def pixels(items=ITEMS, shape=SHAPE):
    return RNG.uniform(-0.5, 0.5, size=(items, *shape)).astype(np.float32)


def log_joints(model, z=Z, **sites):
    values = {"z": z, **sites}
    conditioned = pyro.condition(lambda: model(), data={name: torch.as_tensor(v) for name, v in values.items()})
    ours = float(pyro.poutine.trace(conditioned).get_trace().log_prob_sum())
    theirs, _ = numpyro.infer.util.log_density(model.numpyro, (), {}, {name: jnp.asarray(v) for name, v in values.items()})
    return ours, float(theirs)


def one_by_one(generator, z, **context):
    """The log joint of z under the view 'seen', by torch alone."""
    x = generator(torch.as_tensor(z), **{name: torch.as_tensor(v) for name, v in context.items()})
    return torch.distributions.Normal(0.0, 1.0).log_prob(torch.as_tensor(z)).sum(), x


# --- densities -----------------------------------------------------------------------------------------------------


def test_a_class_is_one_more_input_in_both_libraries():
    y = pixels()
    model = by_class().condition(seen=y).given(label=LABELS)
    ours, theirs = log_joints(model)
    prior, x = one_by_one(model.generator, Z, label=np.eye(3, dtype=np.float32)[LABELS])
    expected = float(prior + torch.distributions.Normal(x, 0.3).log_prob(torch.as_tensor(y)).sum())
    assert ours == pytest.approx(expected, rel=1e-5)
    assert theirs == pytest.approx(expected, rel=1e-5)
    swapped, _ = log_joints(model.given(label=LABELS[::-1].copy()))
    assert abs(swapped - ours) > 1e-3


def test_a_picture_through_a_convolutional_network():
    y, photo = pixels(shape=(1, 2, 2)), RNG.uniform(-1, 1, size=(ITEMS, *PHOTO)).astype(np.float32)
    model = by_photo().given(photo=photo).condition(seen=y).given(label=LABELS)
    ours, theirs = log_joints(model)
    prior, x = one_by_one(model.generator, Z, photo=photo, label=np.eye(3, dtype=np.float32)[LABELS])
    shown = nn.functional.avg_pool2d(x, 2)
    expected = float(prior + torch.distributions.Normal(shown, 0.3).log_prob(torch.as_tensor(y)).sum())
    assert ours == pytest.approx(expected, rel=1e-5)
    assert theirs == pytest.approx(expected, rel=1e-5)
    dims, kept = model.result_groups()["constant_data"]["photo"]
    assert dims == ("item", "photo_channel", "photo_height", "photo_width")
    np.testing.assert_array_equal(kept, photo)


def test_a_relaxed_class_is_the_softmax_of_a_normal_site():
    y = pixels()
    model = by_class(Classes(3, unknown="relaxed")).condition(seen=y)
    logits = RNG.normal(size=(ITEMS, 3)).astype(np.float32)
    ours, theirs = log_joints(model, label_logits=logits)
    weights = torch.as_tensor(logits).softmax(-1)
    prior, x = one_by_one(model.generator, Z, label=weights)
    prior = prior + torch.distributions.Normal(0.0, 1.0).log_prob(torch.as_tensor(logits)).sum()
    expected = float(prior + torch.distributions.Normal(x, 0.3).log_prob(torch.as_tensor(y)).sum())
    assert ours == pytest.approx(expected, rel=1e-5)
    assert theirs == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(torch.as_tensor(model.latent_contexts({"label_logits": logits})["label"]), weights)
    trace = pyro.poutine.trace(model).get_trace()
    twin = handlers.trace(handlers.seed(model.numpyro, 0)).get_trace()
    for nodes in (trace.nodes, twin):
        np.testing.assert_allclose(np.asarray(nodes["label"]["value"]).sum(-1), 1.0, rtol=1e-5)
    known = model.given(label=LABELS)  # what is given is known
    assert "label_logits" not in pyro.poutine.trace(known).get_trace().nodes
    assert "label_logits" not in handlers.trace(handlers.seed(known.numpyro, 0)).get_trace()


def test_the_sites_of_the_two_libraries_are_the_same():
    model = by_class().given(label=LABELS)
    ours = {name for name, node in pyro.poutine.trace(model).get_trace().nodes.items() if node["type"] == "sample"} - {"item"}
    theirs = handlers.trace(handlers.seed(model.numpyro, 0)).get_trace()
    assert ours == {"z", "label", "x", "seen"} == set(theirs) - {"item"}
    assert theirs["z"]["value"].shape == (ITEMS, 2)  # as many as were given classes


def test_a_jax_generator_takes_its_contexts_by_name():
    weight = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)

    def generator(z, label):
        return jnp.tanh(jnp.concatenate([z, label], axis=1) @ weight)

    model = by_class(generator=generator).condition(seen=pixels(shape=(4,))).given(label=LABELS)
    joint, _ = numpyro.infer.util.log_density(model.numpyro, (), {}, {"z": jnp.asarray(Z)})
    assert np.isfinite(float(joint))
    np.testing.assert_allclose(model.decode(Z), generator(Z, np.eye(3)[LABELS]), rtol=1e-4, atol=1e-5)
    by_class(Classes(3, unknown="relaxed"), generator=generator)
    with pytest.raises(ValueError, match="its gradient is zero"):
        by_class(Classes(3, unknown="relaxed"), generator=lambda z, label: generator(z, jax.lax.stop_gradient(label)))


# --- what travels with the item ------------------------------------------------------------------------------------


def test_contexts_are_in_the_data_of_the_item():
    model = by_class(view=views.Mask(views.half(SHAPE, "top"), scale=0.3)).condition(seen=pixels()).given(label=LABELS)
    data = model.item_data
    assert set(data) == {"seen", "context"}
    assert set(model.observed) == {"seen"}
    assert count_items(data) == model.num_items == ITEMS
    one = take_items(data, np.array([1]))
    np.testing.assert_array_equal(one["context"]["label"], [[1, 0, 0]])
    assert pyro.poutine.trace(model).get_trace(one).nodes["z"]["value"].shape == (1, 2)
    assert model.result_groups()["constant_data"]["label"][0] == ("item",)
    np.testing.assert_array_equal(model.result_groups()["constant_data"]["label"][1], LABELS)


def test_decode_takes_contexts_or_goes_through_the_items_in_turn():
    model = by_class().given(label=LABELS)
    weights = np.eye(3, dtype=np.float32)[LABELS]
    with torch.no_grad():
        expected = model.generator(torch.as_tensor(np.tile(Z, (2, 1))), torch.as_tensor(np.tile(weights, (2, 1)))).numpy()
    np.testing.assert_array_equal(model.decode(np.tile(Z, (2, 1))), expected)
    # Half as many rows may be multiplied in another order.
    np.testing.assert_allclose(by_class().decode(Z, label=weights), expected[:3], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"given for 3 items, and 4 rows are not a multiple of 3"):
        model.decode(np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"context 'label' is not given: use model.given\(label=...\)"):
        by_class().decode(Z)
    with pytest.raises(ValueError, match=r"context 'label' has shape \(3,\), expected \(3, 3\)"):
        by_class().decode(Z, label=LABELS)
    with pytest.raises(ValueError, match="there is no context 'lable'; this model has label"):
        model.decode(Z, lable=weights)


class Shifted(View):
    """x plus a constant for each class."""

    def forward(self, x, label):
        return x + (label * torch.tensor([0.0, 1.0, 2.0])).sum(1).reshape(-1, 1, 1, 1)


def test_a_view_that_names_a_context_is_given_it():
    shown = {"seen": Shifted(scale=0.1), "plain": views.Identity(scale=0.1)}
    model = CoGenerator(ByClass(), latent_dim=2, contexts={"label": Classes(3)}, views=shown)
    assert model.shapes == {"seen": SHAPE, "plain": SHAPE}
    x = model.decode(Z, label=np.eye(3)[LABELS])
    y = x + LABELS[:, None, None, None].astype(np.float32)
    seen = model.condition(seen=y).given(label=LABELS)
    ours, theirs = log_joints(seen)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert seen.misfit(x[None], {})["seen"].max() < 1e-4
    weights = np.eye(3, dtype=np.float32)[LABELS[::-1]][None]
    np.testing.assert_allclose(seen.misfit(x[None], {"label": weights})["seen"][0], [10, 0, 10], atol=1e-4)
    drawn = model.simulate(np.repeat(x, 400, axis=0), {"label": np.repeat(np.eye(3)[LABELS], 400, axis=0)}, seed=0)
    np.testing.assert_allclose((drawn["seen"] - drawn["plain"]).reshape(3, -1).mean(1), LABELS, atol=0.02)


def test_a_copy_stays_what_it_was_and_pickles_as_before():
    first = by_class().given(label=LABELS)
    second = first.given(label=[0, 0, 0])
    np.testing.assert_array_equal(first.item_data["context"]["label"], np.eye(3)[LABELS])
    for again in (copy.deepcopy(first), pickle.loads(pickle.dumps(first)), copy.copy(first)):
        np.testing.assert_array_equal(again.decode(Z), first.decode(Z))
    assert np.abs(second.decode(Z) - first.decode(Z)).max() > 1e-3


def test_ids_that_leave_no_room_for_the_classes_are_refused():
    seen = by_class(Classes(3, unknown="exact")).condition(seen=pixels())
    limit = 2**63 // 3
    expanded = seen.with_ids([0, 5, limit - 1]).expand_unknown().model
    assert expanded.ids.tolist() == [3 * item + k for item in (0, 5, limit - 1) for k in range(3)]
    with pytest.raises(ValueError, match=rf"id {limit}: .* the 3 combinations .* so ids must be below {limit}"):
        seen.with_ids([0, 1, limit]).expand_unknown()


# --- declarations --------------------------------------------------------------------------------------------------


def test_the_configuration_declares_contexts():
    generator = ByClass()
    generator.config = type(
        "Config", (), {"latent_dim": 2, "contexts": {"label": Classes(3)}, "value_range": None, "name": ""}
    )()
    model = CoGenerator(generator, views={"seen": views.Identity(scale=0.1)})
    assert model.contexts == {"label": Classes(3)}
    assert model.attributes["contexts"] == "label: 3 classes"
    relaxed = Classes(3, names=("a", "b", "c"), unknown="relaxed")
    model = CoGenerator(generator, contexts={"label": relaxed}, views={"seen": views.Identity(scale=0.1)})
    assert model.attributes["label_names"] == ["a", "b", "c"]


def test_contexts_are_written_and_read_as_mappings():
    import json
    from dataclasses import asdict

    contexts = {"label": Classes(2, names=["cat", "dog"]), "photo": Array((3, 8, 8), value_range=(-1, 1)), "v": Array([5])}
    stored = json.loads(json.dumps({name: asdict(context) for name, context in contexts.items()}))
    assert contexts_of(stored) == contexts


def test_integers_of_numpy_are_integers():
    labels = np.array([2, 0, 1])
    classes, array = Classes(labels.max() + 1), Array(np.array([3, 4]), value_range=np.array([0, 1]))
    assert (classes, array) == (Classes(3), Array((3, 4), value_range=(0.0, 1.0)))
    assert [type(number) for number in (classes.count, *array.shape, *array.value_range)] == [int, int, int, float, float]
    for number in (True, np.True_, np.float64(3)):
        with pytest.raises(ValueError, match="the number of classes must be an integer"):
            Classes(number)
        with pytest.raises(ValueError, match="a shape is a tuple of positive integers"):
            Array((3, number))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Classes(1), "at least 2"),
        (lambda: Classes(2.0), r"Classes\(2.0\)"),
        (lambda: Classes(3, names=5), "names=5 must be 3 different strings"),
        (lambda: Classes(2, names=(["a"], ["b"])), "2 different strings"),
        (lambda: Classes(2, unknown="exact", prior=int), "2 positive probabilities"),
        (lambda: Classes(2, names=("a", "a")), "2 different strings"),
        (lambda: Classes(2, names=("a",)), "2 different strings"),
        (lambda: Classes(2, unknown="maybe"), "unknown='maybe'; it must be 'exact'"),
        (lambda: Classes(2, prior=(0.5, 0.5)), "prior= is for unknown='exact'; a known class has no prior"),
        (lambda: Classes(2, unknown="relaxed", prior=(0.5, 0.5)), r"the logits of a relaxed class have the prior N\(0, I\)"),
        (lambda: Classes(2, unknown="exact", prior=(0.5, 0.6)), "2 positive probabilities that sum to 1"),
        (lambda: Classes(2, unknown="exact", prior=(1.0, 0.0)), "2 positive probabilities"),
        (lambda: Array(5), r"Array\(shape=5\)"),
        (lambda: Array((3, 0)), "positive integers"),
        (lambda: Array(np.array(5)), "positive integers"),
        (lambda: Array((3,), value_range=5), "value_range=5 must be two finite numbers"),
        (lambda: Array((3,), value_range=("a", "b")), "must be two finite numbers"),
        (lambda: Array((3,), value_range=(1, -1)), "the lower first"),
        (lambda: contexts_of({"a b": Classes(2)}), "its name must be a Python identifier"),
        (lambda: contexts_of({"class": Classes(2)}), "context 'class': .* not a keyword"),
        (lambda: contexts_of({"label": 10}), r"'label' is 10; it must be Classes\(count\)"),
        (lambda: contexts_of({"label": {"count": 1}}), "'label': Classes"),
        (lambda: contexts_of({"label": {"classes": 3}}), "'label': .*unexpected keyword argument 'classes'"),
        (lambda: contexts_of([10]), "a mapping of names"),
    ],
)
def test_contexts_that_cannot_be(make, said):
    with pytest.raises(ValueError, match=said):
        make()


class Cut(ByClass):
    def forward(self, z, label):
        return super().forward(z, label.detach())


class Two(ByClass):
    def __init__(self):
        super().__init__(2)


class Branches(ByClass):
    def forward(self, z, label):
        return super().forward(z, label) if label[0, 0] > 0.5 else super().forward(-z, label)


class MixesContexts(ByClass):
    def forward(self, z, label):
        return super().forward(z, label - label.mean(0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: by_class(Classes(4)), r"does not take z of shape \(batch, 2\) with label of shape \(batch, 4\)"),
        (
            lambda: CoGenerator(ByClass(), latent_dim=2, views={"seen": views.Identity(scale=0.1)}),
            r"the generator does not take z of shape \(batch, 2\): .*label",
        ),
        (lambda: by_class(generator=Branches()), "depends on z or label"),
        (lambda: by_class(generator=MixesContexts()), "mixes the items of a batch"),
        (
            lambda: by_class(Classes(3, unknown="relaxed"), generator=Cut()),
            "depends on 3 of the 5 entries of z and label_logits, but its gradient is zero",
        ),
        (lambda: by_class(Classes(2), Shifted(scale=0.1), Two()), r"view 'seen' does not take x of .* with label of .*2\)"),
    ],
)
def test_generators_and_views_that_do_not_fit_their_contexts(make, said):
    with pytest.raises(ValueError, match=said):
        make()
    by_class(generator=Cut())  # a class that is given needs no gradient


def test_declared_contexts_agree_with_the_configuration():
    generator = ByClass()
    generator.config = SimpleNamespace(latent_dim=2, contexts={"label": Classes(3)}, value_range=None, name="by class")
    view = {"seen": views.Identity(scale=0.1)}
    with pytest.raises(
        ValueError, match=r"context 'label': .* as 4 classes, unknown, exact, .*config has 3 classes: .*Classes\(3\)"
    ):
        CoGenerator(generator, contexts={"label": Classes(4, unknown="exact")}, views=view)
    assert (
        CoGenerator(generator, contexts={"label": Classes(3, unknown="exact")}, views=view).contexts["label"].unknown == "exact"
    )


@pytest.mark.parametrize("name", ["z", "x", "item", "context", "seen", "seen_scale", "seen_mask"])
def test_names_of_contexts_that_are_taken(name):
    with pytest.raises(ValueError, match=f"context '{name}': this name is taken"):
        CoGenerator(ByClass(), latent_dim=2, contexts={name: Classes(3)}, views={"seen": views.Identity(scale=0.1)})


def test_names_that_clash_with_a_relaxed_class_or_with_contexts():
    shown = {"label_logits": views.Identity(scale=0.1)}
    with pytest.raises(ValueError, match="'label_logits' is the latent site of a relaxed class"):
        CoGenerator(ByClass(), latent_dim=2, contexts={"label": Classes(3)}, views=shown)
    with pytest.raises(ValueError, match="view 'context': this name is reserved"):
        CoGenerator(nn.Linear(2, 3), latent_dim=2, views={"context": views.Identity(scale=0.1)})


# --- what is given -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"label": [0, 1, 3]}, r"item 2 has the class 3, but the classes are 0 to 2 \(1 such items\)"),
        ({"label": [0, -1, 1]}, "item 1 has the class -1"),
        ({"label": [0.0, 1.0, 2.0]}, r"the classes are float64 of shape \(3,\); .*labels.astype\(int\)"),
        ({"label": [0, np.nan, 2]}, "the classes are float64"),
        ({"label": [True, False, True]}, "the classes are bool"),
        ({"label": np.eye(3)}, r"shape \(3, 3\); .*for one-hot rows give rows.argmax\(1\)"),
        ({"label": 2}, r"np.full\(16, 3\) for sixteen"),
        ({"label": ["a", "b", "c"]}, "must be integers"),
        ({"label": np.zeros(0, int)}, "no items"),
        ({"label": [0, 1]}, r"the views and contexts have different numbers of items: {'seen': 3, 'label': 2}"),
        ({"photo": np.zeros((3, 3, 4, 4))}, r"the values have shape \(3, 3, 4, 4\), expected \(item, 2, 4, 4\)"),
        ({"photo": np.zeros(PHOTO)}, r"use values\[None\]"),
        ({"photo": np.full((3, *PHOTO), np.nan)}, r"item 0 is nan at \(0, 0, 0\) \(96 such values\): fill missing values"),
        ({"photo": np.full((3, *PHOTO), 255.0)}, r"item 0 is 255 at .*\[-1, 1\]: .*-1 \+ 2 \* bytes / 255"),
        ({"photo": np.full((3, *PHOTO), "a")}, "must be numbers"),
        ({"photo": np.zeros((0, *PHOTO))}, "no items"),
        (
            {"seen": np.zeros((3, 1, 2, 2))},
            r"'seen' is a view, and only contexts are given: use model.condition\(seen=...\)",
        ),
        ({"colour": [0]}, r"there is no context 'colour'; this model has photo, label: declare it"),
    ],
)
def test_given_contexts_that_are_wrong(given, said):
    model = by_photo().condition(seen=pixels(shape=(1, 2, 2)))
    with pytest.raises(ValueError, match=said) as caught:
        model.given(**given)
    assert "\n" not in str(caught.value)


def test_classes_by_name_and_from_torch():
    model = by_class(Classes(3, names=("cat", "dog", "bird")))
    expected = np.eye(3)[[1, 0]]
    for labels in (["dog", "cat"], np.array(["dog", "cat"]), torch.tensor([1, 0]), np.array([1, 0], np.uint8)):
        np.testing.assert_array_equal(model.given(label=labels).item_data["context"]["label"], expected)
    with pytest.raises(ValueError, match="item 1 has the class 'cow'; the classes are cat, dog, bird"):
        model.given(label=["dog", "cow"])


@pytest.mark.parametrize(
    "run",
    [
        lambda m: m(),
        lambda m: m.numpyro(),
        lambda m: pyro.poutine.trace(m).get_trace(),
        lambda m: handlers.trace(handlers.seed(m.numpyro, 0)).get_trace(),
    ],
)
def test_a_context_that_is_not_given_raises(run):
    for model in (by_class(), by_class().condition(seen=pixels())):
        with pytest.raises(ValueError, match=r"context 'label' \(3 classes\) is not given: use model.given\(label=...\)"):
            run(model)
    with pytest.raises(ValueError, match=r"cogen\.inference\.infer runs the model once per class"):
        run(by_class(Classes(3, unknown="exact")).condition(seen=pixels()))


def test_conditioning_a_context_names_given():
    model, one_hot = by_class(), np.eye(3, dtype=np.float32)[LABELS]
    with pytest.raises(ValueError, match=r"'label' is a context, and only views can be conditioned: use model.given"):
        model.condition(label=LABELS)
    for conditioned in (
        pyro.condition(model, data={"label": torch.as_tensor(one_hot)}),
        handlers.condition(model.numpyro, data={"label": one_hot}),
    ):
        with pytest.raises(ValueError, match="'label' is a context"):
            find_items(conditioned)
    given = pyro.condition(model.given(label=LABELS), data={"label": torch.as_tensor(one_hot)})
    with pytest.raises(ValueError, match=r"'label' is a context, and pyro.condition is for views: use model.given"):
        given()


def test_a_view_of_ones_own_keeps_its_likelihood():
    """A view that takes contexts is shown by the probe what shape it has, and its noise is checked against it."""
    with pytest.raises(ValueError, match=r"the noise scale has shape \(7,\), the view of an item \(1, 4, 4\)"):
        by_class(view=Shifted(likelihood=Normal(torch.full((7,), 0.1))))


def test_a_partial_of_a_model_with_contexts_is_found():
    model = by_class().condition(seen=pixels()).given(label=LABELS)
    assert find_items(functools.partial(model)) is model
    found = find_items(pyro.condition(by_class().given(label=LABELS), data={"seen": torch.as_tensor(pixels())}))
    assert set(found.item_data) == {"seen", "context"}
