"""`model.toml`: what a model's folder says about it, checked before anything is loaded."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from carryover.errors import ConfigurationError
from carryover.runtime.datatypes import Array, Datatype

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_CLASS = r"^([A-Za-z_][\w.]*|([A-Za-z_][\w-]*/)*[A-Za-z_][\w-]*\.py):[A-Za-z_][\w.]*$"

FILE_AND_KEY = r"(?P<file>.+\.(?:safetensors|pt))(?::(?P<key>.+))?"
"""A file that state starts from, and what in it: `start.safetensors:h`."""

EXAMPLE_LENGTHS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Sizes of what varies that a model's forward is tried on, until it takes one."""

Size = Annotated[int, Field(ge=-1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _datatype(value: object) -> object:
    if isinstance(value, str):
        if value in Datatype.__members__:
            return Datatype[value]
        raise ValueError(f"{value!r} is not one of {', '.join(Datatype.__members__)}")
    return value


def _name_of(datatype: Datatype) -> str:
    return datatype.name


class TensorSpec(_Strict):
    """One input or output.

    `shape` holds sizes, or -1 for an axis that varies; the first of those is the axis that instances lie along.
    `batch_dim` is the axis along which requests are batched. An output may say under which path the `result` of
    forward has it. An input may be `optional`: forward has a default for it; where this is None, it is so if
    forward has one and runs without the input. `example` is a number, or nested numbers, that forward takes where it
    does not take zeros.
    """

    name: str = Field(min_length=1)
    datatype: Datatype
    shape: tuple[Size, ...]
    batch_dim: int | None = Field(default=None, ge=0)
    result: str | int | None = None
    optional: bool | None = None
    example: Any = None
    _example_length: int = PrivateAttr(1)

    _read_datatype = field_validator("datatype", mode="before")(_datatype)
    _write_datatype = field_serializer("datatype")(_name_of)

    @model_validator(mode="after")
    def _axes(self) -> "TensorSpec":
        if self.batch_dim is not None and self.batch_dim >= len(self.shape):
            raise ValueError(f"batch_dim = {self.batch_dim} is not an axis of shape {list(self.shape)}")
        if self.example is not None:
            try:
                given = np.asarray(self.example, dtype=self.datatype.numpy)
            except (TypeError, ValueError):
                raise ValueError(f"example = {self.example!r:.80} is not made of {self.datatype.name}") from None
            if given.ndim not in (0, len(self.shape)):
                raise ValueError(f"example: expected a number, or nested as shape {list(self.shape)} is")
        return self

    def filled(self, shape: Sequence[int]) -> Array:
        """Return the example, repeated to fill a shape; zeros where there is none."""
        return np.resize(np.asarray(0 if self.example is None else self.example, self.datatype.numpy), tuple(shape))

    def changed(self, **update: object) -> "TensorSpec":
        """Return the spec with other values of some keys."""
        return TensorSpec.model_validate(self.model_dump() | update)

    def of_one_session(self) -> "TensorSpec":
        """Return the spec of a stateful model's tensor, where a varying `batch_dim` is one session wide."""
        if self.batch_dim is None or self.shape[self.batch_dim] != -1:
            return self
        shape = (*self.shape[: self.batch_dim], 1, *self.shape[self.batch_dim + 1 :])
        return self.model_copy(update={"shape": shape})

    @cached_property
    def instance_axis(self) -> int | None:
        """The axis that instances lie along; None where one call takes, or gives, exactly one."""
        return self.shape.index(-1) if -1 in self.shape else None

    @cached_property
    def instance_shape(self) -> tuple[int, ...]:
        """The shape of one instance: `shape` without the instance axis."""
        axis = self.instance_axis
        return self.shape if axis is None else self.shape[:axis] + self.shape[axis + 1 :]

    @property
    def example_length(self) -> int:
        """What stands for -1 in an example: 1, unless the model takes no less than more."""
        return self._example_length

    @property
    def example_shape(self) -> tuple[int, ...]:
        """`shape` with `example_length` for -1, and one request's `batch_dim`: what the dry run feeds."""
        return self.sized(1, self._example_length)

    def sized(self, batch: int, length: int) -> tuple[int, ...]:
        """Return `shape` with sizes for -1: that of `batch_dim`, and that of all others."""
        return tuple(
            size if size != -1 else batch if axis == self.batch_dim else length for axis, size in enumerate(self.shape)
        )

    def with_example_length(self, length: int) -> "TensorSpec":
        """Return the spec with longer examples."""
        spec = self.model_copy()
        spec._example_length = length  # noqa: SLF001 - of its own class
        return spec


def by_example_length(specs: Sequence[TensorSpec]) -> Iterator[tuple[TensorSpec, ...]]:
    """Yield inputs with examples of length 1 first, and then of lengths that a model may need (a window, a frame)."""
    varies = any(-1 in spec.shape for spec in specs)
    for length in EXAMPLE_LENGTHS if varies else EXAMPLE_LENGTHS[: bool(specs)]:
        yield tuple(spec.with_example_length(length) for spec in specs)


Axis = Annotated[int, Field(ge=0)]


class StateSpec(_Strict):
    """What a manifest may say about one entry of state: a buffer, unless it names another place.

    `input` and `output` are a parameter of forward and the path of the result that is passed to it in the next
    step; `attribute` is the dotted name of an attribute. `initial` is what step 0 starts from: "zeros" of `shape`,
    "class" for what the class has, "empty" for an empty list, a file as "start.safetensors:h", or the dotted name
    of an attribute, parameter or buffer, or of a method that returns it; `shape` is nested as the state is.
    `batch_dim` is one axis for all tensors of the entry, or one for each path. `shared`: sessions are batched where
    it has one value in all of them. An `increment` is added to a number in each step.
    """

    input: str | None = Field(default=None, min_length=1)
    output: str | int | None = None
    attribute: str | None = Field(default=None, min_length=1)
    initial: str | None = Field(default=None, min_length=1)
    shape: tuple[Any, ...] | dict[str, Any] | None = None
    datatype: Datatype = Datatype.FP32
    batch_dim: Axis | dict[str, Axis] | None = None
    shared: bool = False
    increment: int | None = None

    _read_datatype = field_validator("datatype", mode="before")(_datatype)
    _write_datatype = field_serializer("datatype")(_name_of)

    @model_validator(mode="after")
    def _one_place(self) -> "StateSpec":
        if self.increment is not None:
            if self.input is None or self.output is not None:
                raise ValueError("increment is for an input that counts, and has no output")
        elif (self.input is None) != (self.output is None):
            raise ValueError("input and output belong together: the parameter, and the result that is passed to it")
        if self.input is not None and self.attribute is not None:
            raise ValueError("it is in an attribute, or in an input and an output, not in both")
        if self.initial in ("zeros", None) and self.shape is None:
            return self
        if self.initial == "class" and self.input is not None:
            raise ValueError('initial = "class": the class has no value for an argument; "zeros", or leave it out')
        if self.shape is not None and (self.initial != "zeros" or self.buffer):
            raise ValueError('shape is that of initial = "zeros" for an input or an attribute')
        if (
            self.initial not in ("zeros", "class")
            and self.buffer
            and not re.fullmatch(FILE_AND_KEY, self.initial or "")
        ):
            raise ValueError(
                f'initial = "{self.initial}": a buffer starts as the checkpoint has it, or as the "class" has it, from '
                '"zeros", or from a file, as "start.safetensors:h"'
            )
        return self

    @property
    def buffer(self) -> bool:
        """Whether it is a buffer of the module."""
        return self.input is None and self.attribute is None

    def said(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        said = self.model_dump(exclude_defaults=True, exclude={"datatype"})
        if str(said.get("output", "")).isdecimal():
            said["output"] = int(said["output"])
        return said

    def dim_of(self, path: str) -> int | None:
        """Return the batch axis of the tensor under a path of the entry."""
        return self.batch_dim.get(path) if isinstance(self.batch_dim, dict) else self.batch_dim


class WeightsSpec(_Strict):
    """How a checkpoint holds the state dict.

    `key` are the dotted keys that lead to it, or those of each part of the module by its name. `prefix` selects the
    tensors whose names start with it, and is removed; `ignore` are names, or what names start with, that are left out;
    `rename` are such names, and what the class calls them.
    """

    key: str | dict[str, str] | None = None
    prefix: str = ""
    rename: dict[str, str] = Field(default_factory=dict)
    ignore: tuple[str, ...] = ()


class Manifest(_Strict):
    """A whole `model.toml`; without `target` its versions are programs, which bring their own code."""

    target: str | None = Field(default=None, alias="class", pattern=_CLASS)
    arguments: dict[str, Any] = Field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    method: str = Field(default="forward", pattern=r"^[A-Za-z_]\w*$")
    call: dict[str, Any] = Field(default_factory=dict)
    train: tuple[str, ...] = ()
    state: dict[str, StateSpec] = Field(default_factory=dict)
    state_batch_dim: int | None = Field(default=None, ge=0, alias="state.batch_dim")
    weights: WeightsSpec = WeightsSpec()
    version: str | None = Field(default=None, pattern=r"^[0-9]+$")
    device: str = Field(default="cpu", pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$")

    @model_validator(mode="before")
    @classmethod
    def _state_as_a_whole(cls, document: Any) -> Any:
        """Read `[state] batch_dim = 1`, which is for all entries that do not say it."""
        state = document.get("state") if isinstance(document, dict) else None
        if not isinstance(state, dict) or isinstance(state.get("batch_dim", {}), dict):
            return document
        rest = {name: spec for name, spec in state.items() if name != "batch_dim"}
        return {**document, "state": rest, "state.batch_dim": state["batch_dim"]}

    @field_validator("inputs", "outputs")
    @classmethod
    def _names(cls, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            raise ValueError(f"the names {names} are not distinct")
        return specs

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        of_class = self.arguments or self.weights != WeightsSpec() or self.method != "forward" or self.train
        if self.target is None and of_class:
            raise ValueError("arguments, weights, method and train are those of a class, and there is no class")
        if self.target is None and self.device not in ("cpu", "auto"):
            raise ValueError(f"device = {self.device!r}: without a class it is a program, which runs on the CPU")
        if any(spec.result is not None for spec in self.inputs):
            raise ValueError("result says where an output is in what forward returns; an input has none")
        if any(spec.optional or spec.example is not None for spec in self.outputs):
            raise ValueError("optional and example are of inputs")
        if all(spec.optional for spec in self.inputs):
            raise ValueError("inputs: at least one must not be optional")
        if taken := [spec.input for spec in self.state.values() if spec.input in {i.name for i in self.inputs}]:
            raise ValueError(f"state: {taken[0]!r} is an input of the request, so it cannot be state")
        dims = [spec.batch_dim is None for spec in (*self.inputs, *self.outputs)]
        if any(dims) and not all(dims):
            raise ValueError("batch_dim must be given for every input and output, or for none")
        if self.labels is not None:
            output = self.outputs[0]
            if len(self.outputs) != 1 or not output.shape or output.shape[-1] != len(self.labels):
                raise ValueError(
                    f"labels: a classifier has one output whose last axis has the size of its {len(self.labels)} labels"
                )
        return self


def read(path: Path) -> tuple[Manifest | None, list[str]]:
    """Return a manifest, or None and every fault there is in it: the file, the key and what was expected.

    Raises:
        ConfigurationError: the file cannot be read as TOML.

    """
    try:
        document = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file; every model's folder needs one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not TOML: {error}") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return Manifest.model_validate(document), []
    except ValidationError as error:
        # A list of which no item is valid counts as empty, too; that says nothing new.
        faults = [fault for fault in error.errors() if fault["type"] != "too_short" or not fault["input"]]
        # Unknown keys come first: one that is misspelt explains why another is missing.
        faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
        return None, [f"{path}: {_sentence(fault)}" for fault in faults]


def _sentence(fault: ErrorDetails) -> str:
    key = ".".join(str(part) for part in fault["loc"]) or "the file as a whole"
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if fault["type"] == "missing":
        return f"{key}: missing"
    given = "" if fault["type"] == "value_error" else f" (it is {fault['input']!r:.80})"
    return f"{key}: {fault['msg'].removeprefix('Value error, ')}{given}"
