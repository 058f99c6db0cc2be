"""What is wrong with a model's folder is told in one sentence, when it is loaded."""

import io
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import torch as safetensors
from torch import Tensor, nn

from carryover.errors import ConfigurationError
from carryover.runtime.datatypes import Datatype
from carryover.runtime.repository import load_model
from carryover.runtime.version import Call
from tests.support.own_cases import CASES, GRU, OTHERS, Case, as_state_dict, same_axes
from tests.support.sources import own_models

Spoil = Callable[[Path], object]


@dataclass(frozen=True)
class Refused:
    """A model's folder, what is done to it, and the sentence; it follows the name of the file that it is about."""

    case: Case
    spoil: Spoil
    sentence: str


def edited(old: str, new: str) -> Spoil:
    """Replace a piece of the manifest."""

    def spoil(folder: Path) -> None:
        before = (folder / "model.toml").read_text()
        assert old in before
        (folder / "model.toml").write_text(before.replace(old, new, 1))

    return spoil


def added(line: str) -> Spoil:
    """Put a line at the manifest's top."""
    return edited("class =", f"{line}\nclass =")


def weights(change: Callable[[dict[str, Tensor]], object]) -> Spoil:
    """Change the state dict."""

    def spoil(folder: Path) -> None:
        file = folder / "1" / "weights.safetensors"
        held = safetensors.load_file(file)
        change(held)
        file.write_bytes(safetensors.save(held))

    return spoil


def pickled(held: object) -> Spoil:
    """Save something else in the state dict's place, with `torch.save`."""

    def spoil(folder: Path) -> None:
        (folder / "1" / "weights.safetensors").unlink()
        torch.save(held, folder / "1" / "weights.pt")

    return spoil


def written(file: str, data: bytes) -> Spoil:
    """Write a file of the folder."""
    return lambda folder: (folder / file).write_bytes(data)


gru = CASES["gru"]
several_gpus = CASES["gru-from-several-gpus"]

KEEPS = (
    "forward keeps {0!r} where all sessions share it: the same call gave another 'y' after others; "
    "what is to be remembered belongs in a buffer, registered in __init__, or "
    'under [state.{0}] attribute = "{0}" in the manifest'
)

UNSTORED = (
    "forward keeps {0!r} where all sessions share it: the same call gave another 'y' after others; {0!r} is a {1}, "
    "which cannot be state; keep a number or a tensor that stands for it, in an attribute or in a buffer"
)

OUTSIDE = (
    "forward keeps something where all sessions share it: the same call gave another 'y' after others, and no "
    "attribute has changed; it may be in {}; what is to be remembered belongs in a buffer, a number or tensor of the "
    "module, or an argument"
)

REFUSED: dict[str, Refused] = {
    "no manifest": Refused(
        gru,
        lambda folder: (folder / "model.toml").unlink(),
        "there is no such file; every model's folder needs one",
    ),
    "not TOML": Refused(
        gru,
        edited("inputs =", "inputs"),
        "not TOML: Expected '=' after a key in a key/value pair (at line 3, column 8)",
    ),
    "an unknown key": Refused(gru, added("devise = 1"), "devise: unknown key"),
    "an unknown datatype": Refused(
        gru,
        edited('"FP32"', '"FLOAT"'),
        f"inputs.0.datatype: 'FLOAT' is not one of {', '.join(Datatype.__members__)}",
    ),
    "no such axis": Refused(
        gru,
        edited("batch_dim = 1", "batch_dim = 3"),
        "inputs.0: batch_dim = 3 is not an axis of shape [-1, 1, 3]",
    ),
    "batch_dim here and there": Refused(
        gru,
        edited(", batch_dim = 1", ""),
        "the file as a whole: batch_dim must be given for every input and output, or for none",
    ),
    "labels that do not fit": Refused(
        gru,
        added('labels = ["no", "yes"]'),
        "the file as a whole: labels: a classifier has one output whose last axis has the size of its 2 labels",
    ),
    "an unknown device": Refused(
        gru,
        added('device = "gpu"'),
        "device: String should match pattern '^(auto|cpu|cuda(:[0-9]+)?)$' (it is 'gpu')",
    ),
    "no file beside": Refused(
        gru,
        edited("own_models.py", "mine.py"),
        "class: mine.py cannot be imported: there is no file mine.py beside the manifest",
    ),
    "no package": Refused(
        gru,
        edited("own_models.py", "nowhere.models"),
        "class: nowhere.models cannot be imported: No module named 'nowhere'",
    ),
    "a file that fails": Refused(
        gru,
        written("own_models.py", b"class Gru("),
        "class: own_models.py cannot be imported: '(' was never closed (own_models.py, line 1)",
    ),
    "no class": Refused(gru, edited(":Gru", ":Lstm"), "class: own_models.py has no nn.Module named Lstm"),
    "no class and no program": Refused(
        gru, edited('class = "own_models.py:Gru"\n', ""), "class: is required, as …/1 holds no model.pt2"
    ),
    "a program that nobody trusts": Refused(
        gru,
        lambda folder: (
            edited('class = "own_models.py:Gru"\n', "")(folder),
            (folder / "1/model.pt2").write_bytes(b"any code"),
        ),
        "a program can run any code when it is loaded; TRUST_PT2=true says it may",
    ),
    "other arguments": Refused(
        gru,
        added("arguments = { size = 3 }"),
        "arguments: Gru rejected them: Gru.__init__() got an unexpected keyword argument 'size'",
    ),
    "no version": Refused(
        gru,
        lambda folder: shutil.rmtree(folder / "1"),
        "there is no version; expected a numbered folder, such as …/1",
    ),
    "no such version": Refused(gru, added('version = "7"'), "version: there is no version 7; there are 1"),
    "no weights": Refused(
        gru,
        lambda folder: (folder / "1" / "weights.safetensors").unlink(),
        "holds no weights: expected weights.safetensors or weights.pt",
    ),
    "a tensor missing": Refused(
        gru, weights(lambda held: held.pop("gru.bias_hh_l0")), "does not fit Gru: missing gru.bias_hh_l0"
    ),
    "a tensor too many": Refused(
        gru,
        weights(lambda held: held.update(cell=torch.zeros(1))),
        'does not fit Gru: unexpected cell; it fits if the manifest says weights = { ignore = ["cell"] }',
    ),
    "a tensor of another shape": Refused(
        gru,
        weights(lambda held: held.update(hidden=torch.zeros(1, 1, 6))),
        "does not fit Gru: hidden has shape [1, 1, 6] where the class has [1, 1, 5]; if it is state, [state.hidden] "
        'initial = "class" starts it as the class does',
    ),
    "damaged weights": Refused(
        gru,
        written("1/weights.safetensors", b"not weights"),
        "is not a readable checkpoint: Error while deserializing header: header too large",
    ),
    "more than a state dict": Refused(
        several_gpus,
        edited('key = "state_dict", ', ""),
        "is not a state dict, a dict of tensors by name: it holds 'epoch', 'state_dict', 'optimizer'; "
        "where the state dict lies in that, say so in the manifest: weights.key; it fits if the manifest says "
        'weights = { key = "state_dict" }',
    ),
    "another key": Refused(
        several_gpus,
        edited('"state_dict"', '"model"'),
        "holds nothing under weights.key = 'model': it holds 'epoch', 'state_dict', 'optimizer'; it fits if the "
        'manifest says weights = { key = "state_dict" }',
    ),
    "another prefix": Refused(
        several_gpus,
        edited('"module."', '"_orig_mod."'),
        "weights.prefix = '_orig_mod.', but the tensors are 'module.hidden', 'module.gru.weight_ih_l0', "
        "'module.gru.weight_hh_l0' …; it fits if the manifest says weights = { key = \"state_dict\" }",
    ),
    "an input of another shape": Refused(
        gru,
        edited("[-1, 1, 3]", "[-1, 1, 4]"),
        "forward failed on zeros of x [1, 1, 4]: input.size(-1) must be equal to input_size. Expected 3, got 4",
    ),
    "an output of another shape": Refused(
        gru,
        edited("[-1, 1, 5]", "[-1, 1, 4]"),
        "outputs: the output 'y' has another shape; expected [-1, 1, 4], got [1, 1, 5]",
    ),
    "an output of another datatype": Refused(
        gru,
        edited('"y", datatype = "FP32"', '"y", datatype = "FP64"'),
        "outputs: the output 'y' has another datatype; expected FP64, got FP32",
    ),
    "an output too many": Refused(
        gru,
        edited("outputs = [", 'outputs = [{ name = "z", datatype = "FP32", shape = [-1], batch_dim = 0 }, '),
        "outputs: forward returned tuple with 1 tensors where the manifest names 2",
    ),
    "no such output": Refused(
        CASES["returns-a-dict"],
        edited('"total"', '"sum"'),
        "outputs: forward returned no tensor for the output 'sum'",
    ),
    "no such buffer": Refused(
        gru,
        edited("state.hidden", "state.cell"),
        "state: the module has no buffer 'cell'; its buffers are 'hidden'",
    ),
    "a buffer's name without quotes": Refused(
        CASES["nested-lstm"],
        edited('"encoder.h"', "encoder.h"),
        "state.encoder.h: unknown key",
    ),
    "no such axis of a buffer": Refused(
        gru,
        edited("state.hidden.batch_dim = 1", "state.hidden.batch_dim = 3"),
        "state.hidden: batch_dim = 3 is not an axis of shape [1, 1, 5]",
    ),
    "another axis of a buffer": Refused(
        gru,
        edited("state.hidden.batch_dim = 1", "state.hidden.batch_dim = 0"),
        "batch_dim: a forward of one session works, a batch of 3 does not: "
        "the forward of model 'gru' raised RuntimeError: Expected hidden size (1, 3, 5), got [3, 1, 5]",
    ),
    "a parameter that changes": Refused(
        Case(own_models.Learning, same_axes("[-1]")),
        lambda _: None,
        "forward changed the parameter 'weight' without a trace, as .data does",
    ),
    "a buffer that changes without a trace": Refused(
        Case(own_models.Stealthy, same_axes("[-1]")),
        lambda _: None,
        "forward changed the buffer 'scale' without a trace, as .data and batch_norm do; "
        "list it under [state] in the manifest if it is meant to change",
    ),
    "a tensor in an attribute": Refused(
        Case(own_models.PythonState, same_axes("[-1]")),
        lambda _: None,
        KEEPS.format("sum"),
    ),
    "a list in an attribute": Refused(
        Case(own_models.Appending, same_axes("[-1]")),
        lambda _: None,
        KEEPS.format("memory"),
    ),
    "a number in an attribute": Refused(
        Case(own_models.Counting, same_axes("[-1]")),
        lambda _: None,
        KEEPS.format("position"),
    ),
    "that there was a call": Refused(
        Case(own_models.Started, same_axes("[-1]")), lambda _: None, KEEPS.format("started")
    ),
    "text in an attribute": Refused(
        Case(own_models.Phased, same_axes("[-1]")), lambda _: None, UNSTORED.format("phase", "str")
    ),
    "a set in an attribute": Refused(
        Case(own_models.Known, same_axes("[-1]")), lambda _: None, UNSTORED.format("known", "set")
    ),
    "no forward": Refused(
        Case(own_models.Stepping, same_axes("[-1]")),
        lambda _: None,
        'method: Stepping has no forward; expected method = "step" or method = "observe"',
    ),
    "no such method": Refused(
        Case(own_models.Stepping, same_axes("[-1]") + 'method = "stepp"\n'),
        lambda _: None,
        'method: Stepping has no method \'stepp\'; expected method = "step" or method = "observe"',
    ),
    "what the first call was given": Refused(
        Case(own_models.Calibrating, same_axes("[-1]")),
        lambda _: None,
        KEEPS.format("mean"),
    ),
    "a class that remembers": Refused(
        Case(own_models.OfItsClass, same_axes("[-1]")),
        lambda _: None,
        OUTSIDE.format("a global variable, a class or a closure"),
    ),
    "an iterator": Refused(
        Case(own_models.Iterating, same_axes("[-1]")),
        lambda _: None,
        OUTSIDE.format("the attribute 'calls', a count"),
    ),
    "an attribute with stars that nothing has": Refused(
        Case(own_models.Counting, same_axes("[-1]") + '[state.h]\nattribute = "layers.*.h"\n'),
        lambda _: None,
        "state.h: attribute = 'layers.*.h': a Counting has no 'layers'",
    ),
    "a buffer that is a view of another": Refused(
        Case(own_models.Window, same_axes("[-1]"), as_state_dict),
        edited('"y", datatype = "FP32", shape = [-1]', '"y", datatype = "FP32", shape = [2]'),
        "forward writes to the buffer 'past', and the buffer 'first' is a view of the same memory; "
        "register one of them, and take the other from it in forward",
    ),
    "a forward that ends the process": Refused(
        Case(own_models.Exiting, same_axes("[-1]")),
        lambda _: None,
        "forward failed on zeros of x [1]: all is zero",
    ),
    "a buffer that forward registers": Refused(
        Case(own_models.Late, same_axes("[-1]")),
        lambda _: None,
        KEEPS.format("sum"),
    ),
    "sessions that see each other": Refused(
        Case(own_models.AcrossSessions, same_axes("[-1, 1, 2]", 1) + "state.sum.batch_dim = 0"),
        lambda _: None,
        "batch_dim: sessions in one batch give another 'y' than each alone; "
        "leave batch_dim out, and they run one at a time",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_reported_in_one_sentence(tmp_path: Path, what: str) -> None:
    refused = REFUSED[what]
    folder = refused.case.write(tmp_path, "gru")
    refused.spoil(folder)
    with pytest.raises(ConfigurationError) as caught:
        load_model(folder)
    text = str(caught.value)
    assert text.startswith(str(folder))
    assert text.partition(": ")[2].replace(str(folder), "…") == refused.sentence


NO_GPU = 'device = "cuda:9": this machine has no such GPU, or torch cannot use it'


@pytest.mark.skipif(torch.cuda.device_count() > 9, reason="this machine has ten GPUs")
def test_a_gpu_that_is_not_there_is_rejected(tmp_path: Path) -> None:
    folder = Case(own_models.Gru, GRU + 'device = "cuda:9"').write(tmp_path, "gru")
    with pytest.raises(ConfigurationError) as caught:
        load_model(folder)
    assert str(caught.value) == f"{folder}/model.toml (version 1): {NO_GPU}"


def legacy(held: object, size: int | None = None) -> bytes:
    """What torch.save wrote before 1.6, or the first bytes of it."""
    file = io.BytesIO()
    torch.save(held, file, _use_new_zipfile_serialization=False)
    return file.getvalue()[:size]


def in_pt(data: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "1" / "weights.safetensors").unlink()
        (folder / "1" / "weights.pt").write_bytes(data)

    return spoil


UNTOLD: dict[str, tuple[Case, Spoil]] = {
    "a model that fails on anything but zeros": (
        Case(own_models.Particular, same_axes("[-1, 1]", 1)),
        lambda _: None,
    ),
    "a model that writes a frozen buffer in its second call": (
        Case(own_models.Seldom, same_axes("[-1, 1]", 1)),
        lambda _: None,
    ),
    "a file that ends the process": (gru, written("own_models.py", b"import sys\nsys.exit(1)\n")),
    "a half-copied file of an old torch": (gru, in_pt(legacy({"hidden": torch.zeros(1)}, 16))),
    "names that are numbers": (gru, pickled({1: torch.zeros(1)})),
    "a frozen buffer that is sparse": (OTHERS["sparse"], lambda _: None),
}


@pytest.mark.parametrize("what", UNTOLD)
def test_nothing_that_is_wrong_with_a_model_ends_the_service(tmp_path: Path, what: str) -> None:
    case, spoil = UNTOLD[what]
    folder = case.write(tmp_path, "model")
    spoil(folder)
    try:
        load_model(folder)
    except ConfigurationError as error:
        assert re.fullmatch(rf"{folder}\S*( \(version 1\))?: .+", str(error))  # noqa: PT017 - it need not be raised
    except SystemExit as ended:
        raise AssertionError("the model ended the process") from ended


UNDETECTED = {
    "view in the place of a transposition": Case(own_models.Scrambled, GRU.replace("Gru", "Scrambled")),
    "a state buffer that changes its datatype": Case(own_models.Drifting, same_axes("[-1]")),
}


@pytest.mark.parametrize("what", UNDETECTED)
def test_what_cannot_be_served_is_rejected_when_it_is_loaded(tmp_path: Path, what: str) -> None:
    folder = UNDETECTED[what].write(tmp_path, "model")
    with pytest.raises(ConfigurationError):
        load_model(folder)


def test_a_model_may_have_a_generator_of_random_numbers(tmp_path: Path) -> None:
    folder = Case(own_models.Noisy, same_axes("[-1]")).write(tmp_path, "sampling")
    assert not load_model(folder).default.stateful


def test_an_attribute_that_changes_after_all_is_put_back_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    version = load_model(Case(own_models.Halting, same_axes("[-1]")).write(tmp_path, "halting")).default
    for x in (1.0, 5000.0, 6000.0, 1.0):
        result = version.run([Call({"x": np.array([x], np.float32)}, b"")])[0]
        assert result.outputs["y"] == (0 if x > 1000 else 2 * x)
    (record,) = caplog.records
    assert record.getMessage().startswith("halting version 1: forward has changed the attribute 'halted', which it did")


def test_a_model_that_draws_random_numbers_may_count_them(tmp_path: Path) -> None:
    folder = Case(own_models.Dicing, same_axes("[-1]")).write(tmp_path, "dicing")
    assert not load_model(folder).default.stateful


@pytest.mark.parametrize(
    "cls",
    [own_models.Shared, own_models.Late, own_models.Learning, own_models.Adapting, own_models.PythonState],
)
def test_nothing_stays_in_a_module_from_one_call_to_the_next(tmp_path: Path, cls: type[nn.Module]) -> None:
    assert_forgets(Case(cls, same_axes("[-1]")).write(tmp_path, "model"))


def test_a_listed_buffer_may_change_without_a_trace(tmp_path: Path) -> None:
    folder = Case(own_models.Stealthy, same_axes("[-1]") + "state.scale = {}").write(tmp_path, "model")
    assert load_model(folder).default.stateful
    assert_forgets(folder)


def assert_forgets(folder: Path) -> None:
    """A call gives the same again, or the model is rejected."""
    try:
        version = load_model(folder).default
    except ConfigurationError:
        return
    call = Call({"x": torch.ones(2).numpy()}, version.initial_state)
    first = version.run([call])[0].outputs["y"].tolist()
    assert version.run([call])[0].outputs["y"].tolist() == first
