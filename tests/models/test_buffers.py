"""What a buffer is: state that a module owns and saves, and that no optimizer touches."""

import pytest
import torch
from torch import Tensor, nn

from models.accumulator import Accumulator
from models.batchnorm import BatchNorm, BatchNormClassifier
from models.rnn import RNNClassifier

FRESH = [
    (
        BatchNormClassifier,
        ["layers.1.running_mean", "layers.1.running_var", "layers.4.running_mean", "layers.4.running_var"],
    ),
    (RNNClassifier, ["hidden"]),
    (Accumulator, ["sum", "compensation", "count", "minimum", "maximum"]),
]
every_model = pytest.mark.parametrize(("build", "buffers"), FRESH, ids=[build.__name__ for build, _ in FRESH])

EXAMPLES: dict[type[nn.Module], Tensor] = {
    BatchNormClassifier: torch.rand(4, 64, generator=torch.Generator().manual_seed(0)) * 16,
    RNNClassifier: torch.rand(8, 1, 8, generator=torch.Generator().manual_seed(0)) * 16,
    Accumulator: torch.tensor([0.1, 0.2, 1e17], dtype=torch.float64),
}


@every_model
def test_buffers_are_known_by_name(build: type[nn.Module], buffers: list[str]) -> None:
    assert [name for name, _ in build().named_buffers()] == buffers


@pytest.mark.parametrize("build", [BatchNormClassifier, RNNClassifier])
def test_no_parameter_group_of_an_optimizer_holds_a_buffer(build: type[nn.Module]) -> None:
    model = build()
    held = {
        id(parameter)
        for group in torch.optim.SGD(model.parameters(), lr=1.0).param_groups
        for parameter in group["params"]
    }
    assert held == {id(parameter) for parameter in model.parameters()}
    assert held.isdisjoint(id(buffer) for buffer in model.buffers())


def test_an_accumulator_has_nothing_to_optimize() -> None:
    assert list(Accumulator().parameters()) == []


@every_model
def test_no_gradient_reaches_a_buffer(build: type[nn.Module], buffers: list[str]) -> None:
    model = build()
    assert not any(model.get_buffer(name).requires_grad for name in buffers)


def test_training_changes_buffers_that_no_optimizer_holds() -> None:
    torch.manual_seed(0)
    model = BatchNormClassifier()
    before = copied(model)
    model(EXAMPLES[BatchNormClassifier])
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, _ in model.named_buffers()}


def test_an_optimizers_step_changes_no_buffer() -> None:
    torch.manual_seed(0)
    model = BatchNormClassifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    torch.autograd.backward(model.logits(EXAMPLES[BatchNormClassifier]).square().sum())
    before = copied(model)
    optimizer.step()
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, _ in model.named_parameters()}


def test_inference_only_reads_the_running_statistics() -> None:
    model = BatchNormClassifier()
    model(EXAMPLES[BatchNormClassifier])
    model.eval()
    before = copied(model)
    pointers = [buffer.data_ptr() for buffer in model.buffers()]
    for _ in range(100):
        model(EXAMPLES[BatchNormClassifier] + 1)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert [buffer.data_ptr() for buffer in model.buffers()] == pointers


@pytest.mark.parametrize("build", [RNNClassifier, Accumulator])
def test_inference_changes_the_state(build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = build().eval()
    before = copied(model)
    with torch.inference_mode():
        model(EXAMPLES[build])
    for name, buffer in model.named_buffers():
        assert not torch.equal(buffer, before[name]), name
        assert buffer.shape == before[name].shape, name
        assert buffer.dtype == before[name].dtype, name
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


@every_model
def test_a_state_dict_carries_the_buffers_to_another_module(build: type[nn.Module], buffers: list[str]) -> None:
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        model(EXAMPLES[build])
    saved = copied(model)
    assert set(buffers) <= saved.keys()
    other = build()
    other.load_state_dict(saved, strict=True)
    for name in buffers:
        assert torch.equal(other.get_buffer(name), model.get_buffer(name)), name


@pytest.mark.parametrize("missing", ["running_mean", "running_var"])
def test_a_strict_load_names_the_buffer_that_is_missing(missing: str) -> None:
    weights = BatchNorm(3).state_dict()
    del weights[missing]
    with pytest.raises(RuntimeError, match=f'Missing key.*"{missing}"'):
        BatchNorm(3).load_state_dict(weights, strict=True)


@every_model
def test_a_strict_load_names_any_buffer_that_is_missing(build: type[nn.Module], buffers: list[str]) -> None:
    for missing in buffers:
        weights = build().state_dict()
        del weights[missing]
        with pytest.raises(RuntimeError, match=f'Missing key.*"{missing}"'):
            build().load_state_dict(weights, strict=True)


def test_without_its_statistics_a_trained_model_would_answer_otherwise() -> None:
    torch.manual_seed(0)
    layer = BatchNorm(3)
    for _ in range(100):
        layer(torch.randn(16, 3) * 5 + 7)
    parameters_alone = BatchNorm(3)
    parameters_alone.load_state_dict(dict(layer.named_parameters()), strict=False)
    x = torch.randn(4, 3) * 5 + 7
    assert (layer.eval()(x) - parameters_alone.eval()(x)).abs().max() > 1


@pytest.mark.parametrize("build", [BatchNormClassifier, RNNClassifier])
def test_buffers_follow_their_module_to_another_datatype(build: type[nn.Module]) -> None:
    model = build().double()
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float64}
    assert model(EXAMPLES[build].double()).dtype == torch.float64


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
