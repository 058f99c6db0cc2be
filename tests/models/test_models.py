"""What each module computes."""

import math
from fractions import Fraction
from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from models.accumulator import Accumulator, rounding_error
from models.batchnorm import BatchNorm, BatchNormClassifier
from models.rnn import RNNClassifier

seeds = st.integers(0, 2**32)


class TestBatchNorm:
    """It agrees to 1e-6 with `nn.BatchNorm1d`, and in float64 with the paper's formulas."""

    @given(
        seed=seeds,
        shape=st.sampled_from([(2, 1), (3, 17), (33, 5), (4, 3, 5), (2, 2, 3, 4)]),
        scale=st.floats(0.01, 1000),
        eps=st.sampled_from([1e-5, 1e-3]),
        momentum=st.floats(0, 1),
    )
    @settings(deadline=None)
    def test_outputs_buffers_and_gradients_are_those_of_pytorch(
        self, seed: int, shape: tuple[int, ...], scale: float, eps: float, momentum: float
    ) -> None:
        torch.manual_seed(seed)
        ours = BatchNorm(shape[1], eps, momentum)
        reference = (nn.BatchNorm1d if len(shape) < 4 else nn.BatchNorm2d)(shape[1], eps, momentum)
        for _ in range(3):
            x = scale * torch.randn(shape) + torch.randn(shape[1:])
            assert_agree(ours(x), reference(x))
            assert_same_buffers(ours, reference)
        for layer in (ours, reference):
            torch.autograd.backward(layer(x).square().sum())
        for name, parameter in reference.named_parameters():
            assert_close(ours.get_parameter(name).grad, parameter.grad)
        ours.eval()
        reference.eval()
        assert_agree(ours(x), reference(x))
        assert_same_buffers(ours, reference)

    @given(seed=seeds, batch=st.integers(2, 33), momentum=st.floats(0, 1))
    @settings(deadline=None)
    def test_outputs_and_buffers_are_those_of_the_formulas(self, seed: int, batch: int, momentum: float) -> None:
        torch.manual_seed(seed)
        layer = BatchNorm(4, momentum=momentum).double()
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        running_mean, running_var = torch.zeros(4).double(), torch.ones(4).double()
        for _ in range(3):
            x = torch.randn(batch, 4).double()
            mean, variance = x.sum(0) / batch, (x - x.mean(0)).square().sum(0)
            normal = (x - mean) / (variance / batch + layer.eps).sqrt()
            assert_agree(layer(x), normal * layer.weight + layer.bias)
            running_mean = (1 - momentum) * running_mean + momentum * mean
            running_var = (1 - momentum) * running_var + momentum * variance / (batch - 1)
            assert_agree(layer.running_mean, running_mean)
            assert_agree(layer.running_var, running_var)
        normal = (x - running_mean) / (running_var + layer.eps).sqrt()
        assert_agree(layer.eval()(x), normal * layer.weight + layer.bias)

    def test_a_thousand_training_steps_stay_those_of_pytorch(self) -> None:
        torch.manual_seed(0)
        ours, reference = BatchNorm(6), nn.BatchNorm1d(6)
        optimizers = [torch.optim.SGD(layer.parameters(), lr=1e-3) for layer in (ours, reference)]
        spread, centre = torch.rand(6) * 3 + 0.1, torch.randn(6)
        for _ in range(1000):
            x = torch.randn(16, 6) * spread + centre
            for layer, optimizer in zip((ours, reference), optimizers, strict=True):
                optimizer.zero_grad()
                torch.autograd.backward((layer(x) - x).square().mean())
                optimizer.step()
        assert_same_buffers(ours, reference)
        assert_agree(ours(x), reference(x))
        assert_agree(ours.eval()(x), reference.eval()(x))
        assert_close(ours.running_mean, centre, rtol=0, atol=0.5)
        assert_close(ours.running_var, spread.square(), rtol=0.5, atol=0)

    def test_a_batch_of_one_cannot_be_normalised_and_moves_nothing(self) -> None:
        layer = BatchNorm(2)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            layer(torch.ones(1, 2))
        assert layer.running_mean.tolist() == [0, 0]
        assert layer.running_var.tolist() == [1, 1]

    def test_in_evaluation_an_image_counts_for_itself_alone(self) -> None:
        torch.manual_seed(0)
        model = BatchNormClassifier().eval()
        pixels = torch.rand(5, 64) * 16
        together = model(pixels)
        assert together.shape == (5, 10)
        assert_agree(together.sum(-1), torch.ones(5))
        assert_agree(together, torch.cat([model(image[None]) for image in pixels]))
        assert_agree(together, model.logits(pixels).softmax(-1))


class TestRNN:
    """The buffer `hidden` carries an image's rows from call to call."""

    @given(seed=seeds, cuts=st.sets(st.integers(1, 7)), images=st.integers(1, 3))
    @settings(deadline=None)
    def test_rows_in_several_calls_are_rows_in_one(self, seed: int, cuts: set[int], images: int) -> None:
        torch.manual_seed(seed)
        model = RNNClassifier().eval()
        rows = torch.rand(8, images, 8) * 16
        model.reset(images)
        whole = model(rows)
        hidden = model.hidden
        model.reset(images)
        parts = [model(rows[start:end]) for start, end in pairwise([0, *sorted(cuts), 8])]
        assert_agree(torch.cat(parts), whole)
        assert_agree(model.hidden, hidden)
        assert whole.shape == (8, images, 10)
        assert_agree(whole.sum(-1), torch.ones(8, images))

    def test_images_side_by_side_do_not_mix(self) -> None:
        torch.manual_seed(0)
        model = RNNClassifier().eval()
        rows = torch.rand(8, 3, 8) * 16
        model.reset(3)
        together = model(rows)
        for image in range(3):
            model.reset()
            assert_agree(model(rows[:, [image]]), together[:, [image]])

    def test_the_same_row_means_another_thing_in_another_context(self) -> None:
        torch.manual_seed(0)
        model = RNNClassifier().eval()
        row = torch.rand(1, 1, 8) * 16
        first, second = model(row), model(row)
        assert not torch.allclose(first, second)
        model.reset()
        assert torch.equal(model(row), first)

    def test_hidden_starts_empty(self) -> None:
        model = RNNClassifier(hidden_size=16)
        assert torch.equal(model.hidden, torch.zeros(1, 1, 16))
        model.reset(4)
        assert torch.equal(model.hidden, torch.zeros(1, 4, 16))


numbers = st.floats(-1e150, 1e150)


class TestAccumulator:
    """The totals are those of exact arithmetic, but for errors of the second order."""

    @pytest.mark.parametrize("calls", [1, 1000, 8000])
    def test_a_million_tenths_are_a_hundred_thousand(self, calls: int) -> None:
        totals = Accumulator()
        for part in torch.full((1_000_000,), 0.1, dtype=torch.float64).chunk(calls):
            answer = totals(part)
            assert abs(totals.sum.item() - int(totals.count) / 10) < 1e-9
        assert answer["count"].item() == 1_000_000
        assert answer["sum"].item() == pytest.approx(100_000, rel=0, abs=1e-9)
        assert answer["mean"].item() == pytest.approx(0.1, rel=1e-15)

    @pytest.mark.parametrize("calls", [[[1e16, 1.0, -1e16]], [[1e16], [1.0], [-1e16]], [[1e16, 1.0], [-1e16]]])
    def test_a_small_value_is_not_lost_beside_a_large_one(self, calls: list[list[float]]) -> None:
        totals = Accumulator()
        for values in calls:
            answer = totals(float64(values))
        assert answer["sum"].item() == 1

    @given(calls=st.lists(st.lists(numbers, max_size=20), max_size=10))
    @settings(deadline=None)
    def test_any_values_in_any_calls_add_up_to_their_exact_sum(self, calls: list[list[float]]) -> None:
        totals = Accumulator()
        for values in calls:
            totals(float64(values))
        values = [value for call in calls for value in call]
        exact = sum(map(Fraction, values), Fraction(0))
        unit = Fraction(1, 2**53)
        # Ogita, Rump and Oishi (2005), proposition 4.5, with one more addition for every call.
        second_order = ((len(values) + len(calls)) * unit) ** 2 * sum(map(abs, map(Fraction, values)))
        assert abs(Fraction(totals.sum.item()) - exact) <= unit * abs(exact) + 2 * second_order
        assert totals.count.item() == len(values)
        assert totals.minimum.item() == min(values, default=math.inf)
        assert totals.maximum.item() == max(values, default=-math.inf)

    @given(values=st.lists(numbers, max_size=300))
    @settings(deadline=None)
    def test_cumsum_adds_in_order(self, values: list[float]) -> None:
        assert float64(values).cumsum(0).tolist() == list(accumulate(values))

    @given(seed=seeds, size=st.integers(1_000, 50_000))
    @settings(deadline=None, max_examples=20)
    def test_cumsum_adds_long_vectors_in_order(self, seed: int, size: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        exponents = torch.randint(-20, 20, (size,), generator=generator)
        values = torch.randn(size, generator=generator, dtype=torch.float64) * 10.0**exponents
        assert values.cumsum(0).tolist() == list(accumulate(values.tolist()))

    @given(a=numbers, b=numbers)
    def test_a_rounding_error_is_exact_and_neumaiers(self, a: float, b: float) -> None:
        lost = rounding_error(float64(a), float64(b), float64(a + b)).item()
        assert Fraction(a + b) + Fraction(lost) == Fraction(a) + Fraction(b)
        assert lost == ((a - (a + b)) + b if abs(a) >= abs(b) else (b - (a + b)) + a)

    def test_values_may_be_nested(self) -> None:
        values = torch.arange(24, dtype=torch.float64)
        answers = [Accumulator()(values.view(shape)) for shape in [(24,), (2, 12), (2, 3, 4), (24, 1)]]
        answers.append(Accumulator()(values.view(4, 6).T))
        assert all(answer == answers[0] for answer in answers)
        assert {name: total.item() for name, total in answers[0].items()} == {
            "count": 24,
            "sum": 276,
            "mean": 11.5,
            "minimum": 0,
            "maximum": 23,
        }
        assert Accumulator()(float64(7.0))["sum"].item() == 7

    def test_totals_are_scalars_and_only_count_is_an_integer(self) -> None:
        for name, total in Accumulator()(float64([1.0])).items():
            assert total.shape == ()
            assert total.dtype == (torch.int64 if name == "count" else torch.float64)

    @pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
    def test_no_values_leave_the_totals_as_they_are(self, shape: tuple[int, ...]) -> None:
        nothing = torch.empty(shape, dtype=torch.float64)
        totals = Accumulator()
        answer = totals(nothing)
        assert answer["count"].item() == 0
        assert answer["sum"].item() == 0
        assert math.isnan(answer["mean"].item())
        assert answer["minimum"].item() == math.inf
        assert answer["maximum"].item() == -math.inf
        answer = totals(float64([0.1, 0.2, 1e17]))
        before = totals.state_dict()
        assert totals(nothing) == answer
        assert totals.state_dict() == before

    @pytest.mark.parametrize(
        "calls",
        [[[1e308, 1e308]], [[1e308], [1e308]], [[-1e308, -1e308, 1e308]], [[math.inf]], [[1.0], [math.nan]]],
    )
    def test_an_overflow_stands_in_the_state(self, calls: list[list[float]]) -> None:
        totals = Accumulator()
        for values in calls:
            totals(float64(values))
        assert not totals.sum.isfinite()
        assert not totals(float64([-1e308]))["sum"].isfinite()

    def test_sums_up_to_the_largest_number_are_exact(self) -> None:
        largest = torch.finfo(torch.float64).max
        totals = Accumulator()
        for values in [[largest], [-largest], [largest / 2, largest / 2], [-largest, -largest], [1.0]]:
            totals(float64(values))
        assert totals.sum.item() == -largest
        assert totals(float64([largest]))["sum"].item() == 1


def float64(values: float | list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_agree(ours: Tensor, reference: Tensor) -> None:
    assert_close(ours, reference, rtol=1e-6, atol=1e-6)


def assert_same_buffers(ours: nn.Module, reference: nn.Module) -> None:
    buffers = dict(reference.named_buffers())
    buffers.pop("num_batches_tracked")
    assert dict(ours.named_buffers()).keys() == buffers.keys()
    for name, buffer in buffers.items():
        assert_agree(ours.get_buffer(name), buffer)
