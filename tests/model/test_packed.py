"""The encoder without padding against the encoder with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from riboray.model import RnaBertConfig, RnaBertForPreTraining, RnaBertModel
from riboray.model.packed import pack

#: float32 through six post-norm layers: activations are of order 1 and rounding of order 1e-6.
TOLERANCE = 1e-5


def make_model(initializer_range=0.1, **options):
    """A model with weights five times as large as at the start, so that errors cannot hide."""
    torch.manual_seed(7)
    config = RnaBertConfig(initializer_range=initializer_range, **options)
    model = RnaBertForPreTraining(config).eval().model
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=initializer_range)
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


def make_batch(lengths, seed=0, width=None):
    width = max(lengths, default=0) if width is None else width
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(6, 22, (len(lengths), width), generator=generator, dtype=torch.int32)
    return ids, torch.tensor(lengths, dtype=torch.int32)


def padded_states(model, ids, lengths):
    """What PyTorch's own attention makes of the batch, padding and mask."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RnaBertModel, "_packs", lambda self, ids: False)
        return model.hidden_states(ids, lengths)


def real(states, lengths):
    return torch.cat([row[:size] for row, size in zip(states, lengths, strict=True)])


@given(st.lists(st.integers(1, 90) | st.sampled_from([16, 440]), min_size=1, max_size=6))
@example([1])
@example([440, 1])
@settings(max_examples=15, deadline=None)
def test_states_equal_those_with_padding(model, lengths):
    """Both ways without padding: all in one kernel, and layer by layer where gradients count."""
    ids, sizes = make_batch(lengths, seed=len(lengths))
    wanted = padded_states(model, ids, sizes)
    layered = model.hidden_states(ids, sizes)
    assert layered[-1].requires_grad
    with torch.no_grad():
        fused = model.hidden_states(ids, sizes)
        assert torch.equal(model(ids, sizes), fused[-1])
    assert torch.equal(model(ids, sizes), layered[-1])
    assert len(wanted) == len(layered) == len(fused) == 7
    for a, b, c in zip(wanted, layered, fused, strict=True):
        assert a.shape == b.shape == c.shape
        assert torch.isfinite(b).all()
        assert torch.isfinite(c).all()
        assert (real(a, lengths) - real(b, lengths)).abs().max() <= TOLERANCE
        assert (real(a, lengths) - real(c, lengths)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("grad", [False, True])
def test_other_shapes_of_model(grad):
    """Sizes that neither the vectors nor the groups of five divide; several token types."""
    model = make_model(
        hidden_size=34,
        num_attention_heads=2,
        intermediate_size=7,
        num_hidden_layers=3,
        type_vocab_size=3,
        max_position_embeddings=50,
    )
    lengths = [50, 1, 17, 23]
    ids, sizes = make_batch(lengths)
    with torch.set_grad_enabled(grad):
        found = model.hidden_states(ids, sizes)
    for a, b in zip(padded_states(model, ids, sizes), found, strict=True):
        assert (real(a, lengths) - real(b, lengths)).abs().max() <= TOLERANCE


def gradients(model, states, lengths):
    """Gradients of all parameters of a loss that weighs every number of the last state."""
    generator = torch.Generator().manual_seed(2)
    slope = torch.randn(sum(lengths), 120, generator=generator)
    loss = (real(states[-1], lengths) * slope).sum()
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


@given(st.lists(st.integers(2, 60) | st.sampled_from([16, 440]), min_size=1, max_size=4))
@example([440, 1, 30])
@settings(max_examples=8, deadline=None)
def test_gradients_of_all_parameters_equal_those_with_padding(lengths):
    """Errors are told relative to the largest gradient of a parameter.

    Measured, with and without padding: 4e-6 from the same in float64, and worst for queries and
    keys, whose gradients are differences. With larger weights these become as small as their
    rounding: then neither way is right. The bias of keys has no gradient but for rounding, because
    it moves all scores of a query alike; it is measured by its weights' gradient.
    """
    model = make_model(0.05)
    ids, sizes = make_batch(lengths, seed=1)
    wanted = gradients(model, padded_states(model, ids, sizes), lengths)
    found = gradients(model, model.hidden_states(ids, sizes), lengths)
    for name, gradient in wanted.items():
        if gradient is None:
            assert name.startswith("pooler")
            assert found[name] is None
            continue
        largest = wanted[name.replace("key.bias", "key.weight")].abs().max()
        assert (found[name] - gradient).abs().max() <= 2e-5 * largest, name


@pytest.mark.parametrize("grad", [False, True])
def test_single_equals_batched_equals_reordered(model, grad, rng):
    lengths = [5, 440, 1, 33, 16, 150]
    ids, sizes = make_batch(lengths)
    order = torch.from_numpy(rng.permutation(len(lengths)))
    with torch.set_grad_enabled(grad):
        together = model(ids, sizes)
        shuffled = model(ids[order], sizes[order])
        for row, length in enumerate(lengths):
            alone = model(ids[row : row + 1, :length])[0]
            assert (together[row, :length] - alone).abs().max() <= TOLERANCE
    for row, source in enumerate(order):
        length = lengths[source]
        assert (shuffled[row, :length] - together[source, :length]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("threads", [1, 3])
def test_every_run_gives_the_same_bits(model, threads):
    ids, sizes = make_batch([300, 20, 150, 440, 16])
    before = torch.get_num_threads()
    with torch.no_grad():
        first = model(ids, sizes)
        torch.set_num_threads(threads)
        try:
            again = model(ids, sizes)
        finally:
            torch.set_num_threads(before)
    assert torch.equal(first, again)


@pytest.mark.parametrize("padding", ["masked", "original"])
def test_packed_gives_the_rows_of_forward(padding):
    model = make_model(padding=padding, num_hidden_layers=2)
    lengths = [12, 1, 40]
    ids, sizes = make_batch(lengths)
    offsets = torch.tensor([0, 12, 13, 53])
    flat = torch.cat([row[:size] for row, size in zip(ids, lengths, strict=True)])
    with torch.no_grad():
        found = model.packed(flat, offsets)
        assert found.shape == (53, 120)
        assert (found - real(model(ids, sizes), lengths)).abs().max() <= TOLERANCE
    gradient = model.packed(flat, offsets)
    assert gradient.requires_grad
    assert (found - gradient).abs().max() <= TOLERANCE


def test_other_numbers_take_the_way_with_padding(model):
    lengths = [12, 3]
    ids, sizes = make_batch(lengths)
    with torch.no_grad():
        wanted = real(model(ids, sizes), lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarse = model(ids, sizes)
        double = make_model().double()
        fine = double(ids, sizes)
        flat = torch.cat([ids[0], ids[1, :3]])
        packed = double.packed(flat, torch.tensor([0, 12, 15]))
    assert fine.dtype == packed.dtype == torch.float64
    assert (real(fine, lengths) - wanted).abs().max() <= TOLERANCE
    assert (real(fine, lengths) - packed).abs().max() <= 1e-12
    assert 1e-4 < (real(coarse, lengths).float() - wanted).abs().max() < 0.5


def test_hooks_are_called_and_replaced_parts_count():
    """Where one kernel cannot stand for the parts, they do their own work, gradients or not."""
    model = make_model(num_hidden_layers=2)
    ids, sizes = make_batch([12, 3])
    with torch.no_grad():
        wanted = model(ids, sizes)
        seen = []
        handle = model.encoder.layer[0].register_forward_hook(lambda *_: seen.append(1))
        assert (model(ids, sizes) - wanted).abs().max() <= TOLERANCE
        assert seen == [1]
        handle.remove()
        assert torch.equal(model(ids, sizes), wanted)

        class Doubled(torch.nn.Linear):
            def forward(self, x):
                return 2 * super().forward(x)

        model.encoder.layer[1].intermediate.dense.__class__ = Doubled
        assert (model(ids, sizes) - wanted).abs().max() > 0.1


@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("padding", ["masked", "original"])
@pytest.mark.parametrize("grad", [False, True])
def test_what_is_added_to_a_projection_counts(part, padding, grad):
    """An adapter around a layer's query, key or value: as if it were in the weights."""

    class Added(torch.nn.Module):
        def __init__(self, base, extra):
            super().__init__()
            self.base, self.weight, self.bias, self.extra = base, base.weight, base.bias, extra

        def forward(self, x):
            return self.base(x) + x @ self.extra.t()

    model = make_model(num_hidden_layers=2, padding=padding)
    ids, sizes = make_batch([12, 3])
    attention = model.encoder.layer[0].attention.self
    plain = getattr(attention, part)
    extra = 0.3 * torch.randn_like(plain.weight)
    with torch.set_grad_enabled(grad):
        before = model(ids, sizes)
        setattr(attention, part, Added(plain, extra))
        found = model(ids, sizes)
        setattr(attention, part, plain)
        with torch.no_grad():
            plain.weight += extra
        wanted = model(ids, sizes)
    assert (real(found, [12, 3]) - real(wanted, [12, 3])).abs().max() <= TOLERANCE
    assert (real(found, [12, 3]) - real(before, [12, 3])).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("grad", [False, True])
def test_nothing_to_embed(model, grad):
    with torch.set_grad_enabled(grad):
        assert model(torch.zeros(0, 5, dtype=torch.int32)).shape == (0, 5, 120)
        assert model(torch.zeros(2, 0, dtype=torch.int32)).shape == (2, 0, 120)
        assert model.packed(torch.zeros(0, dtype=torch.int32), torch.tensor([0])).shape == (0, 120)
        ids, sizes = make_batch([4, 0, 2])
        found = model(ids, sizes)
        assert not found[1].any()
        assert (found[2, :2] - model(ids[2:, :2])[0]).abs().max() <= TOLERANCE


def test_lengths_beyond_the_width_count_as_the_width(model):
    ids, _ = make_batch([4, 4])
    assert torch.equal(model(ids, torch.tensor([9, 4])), model(ids))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("wrong", [-1, 28])
def test_unknown_tokens_are_refused(model, grad, wrong):
    ids, sizes = make_batch([4, 2])
    ids[1, 1] = wrong
    with torch.set_grad_enabled(grad), pytest.raises(IndexError):
        model(ids, sizes)
    ids[1, 1], ids[1, 3] = 6, wrong  # in the padding: nobody looks
    with torch.set_grad_enabled(grad):
        model(ids, sizes)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 3], "must rise from 0 to the number of tokens, 4"),
        ([1, 4], "must rise"),
        ([0, 3, 2, 4], "must rise"),
        ([], "begin with 0"),
        ([[0, 4]], "one-dimensional"),
    ],
)
def test_offsets_that_are_none(model, offsets, message):
    with pytest.raises(ValueError, match=message):
        model.packed(torch.full((4,), 6), torch.tensor(offsets, dtype=torch.int64))


def test_packed_sequences_may_be_too_long(model):
    with pytest.raises(ValueError, match="441 tokens exceed max_position_embeddings=440"):
        model.packed(torch.full((442,), 6), torch.tensor([0, 1, 442]))


@pytest.mark.parametrize("lengths", [[1], [1, 2, 3], [1, -1]])
def test_lengths_that_are_none(model, lengths):
    ids, _ = make_batch([4, 4])
    with pytest.raises(ValueError, match="2 rows need as many lengths"):
        model(ids, torch.tensor(lengths))


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_arrays_that_must_not_be_written(model):
    """What Ray hands over can only be read."""
    ids, sizes = (tensor.numpy() for tensor in make_batch([30, 4]))
    wanted = model(torch.from_numpy(ids), torch.from_numpy(sizes))
    ids.setflags(write=False)
    sizes.setflags(write=False)
    with torch.no_grad():
        found = model(torch.from_numpy(ids), torch.from_numpy(sizes))
        offsets = np.array([0, 30, 60])
        offsets.setflags(write=False)
        model.packed(torch.from_numpy(ids.reshape(-1)), torch.from_numpy(offsets))
    assert (found - wanted).abs().max() <= TOLERANCE


@pytest.mark.parametrize("grad", [False, True])
def test_compiled_model(model, grad):
    """`torch.compile` leaves what is packed alone."""
    ids, sizes = make_batch([30, 4])
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(model, backend="aot_eager")
        assert torch.equal(compiled(ids, sizes), model(ids, sizes))
        flat, offsets = ids.flatten(), torch.tensor([0, 30, 60])
        assert torch.equal(torch.compile(model.packed)(flat, offsets), model.packed(flat, offsets))


def test_packing():
    packing = pack(3, 4, torch.tensor([2, 0, 3]))
    assert packing.where.tolist() == [0, 1, 8, 9, 10]
    assert packing.positions.tolist() == [0, 1, 0, 1, 2]
    assert packing.offsets.tolist() == [0, 2, 2, 5]
    unpacked = packing.unpack(torch.arange(1.0, 6.0)[:, None])
    assert unpacked[..., 0].tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [3, 4, 5, 0]]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("where", ["words", "dense"])
def test_weights_that_overflow_are_seen(grad, where):
    """An infinite variance divides everything to 0, which would look like an embedding."""
    model = make_model()
    with torch.no_grad():
        if where == "words":
            model.embeddings.word_embeddings.weight.mul_(1e38)
        else:
            model.encoder.layer[1].intermediate.dense.weight.mul_(1e30)
    ids, lengths = make_batch([5, 30, 1])
    with torch.set_grad_enabled(grad):
        states = model(ids, lengths)
    for row, length in zip(states, lengths, strict=True):
        assert not torch.isfinite(row[:length]).all()
