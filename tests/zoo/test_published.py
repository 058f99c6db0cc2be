"""The examples with published weights: their clients get what the packages themselves give."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carryover.client import Client
from examples._published import audio, prepare
from examples._published.decoder import client as decoder
from examples._published.pitch import client as pitch
from examples._published.speech import client as speech
from examples._published.speech.speech import shipped
from tests.support.service import Service


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    prepare.main(folder)
    return folder


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[str]:
    service = Service(tmp_path_factory.mktemp("service"), MODEL_REPOSITORY=repository)
    try:
        yield f"http://127.0.0.1:{service.start().port}"
    finally:
        service.end()


def test_speech_starts_and_ends_when_sileros_own_module_says_so(url: str) -> None:
    sound = audio.vowels()
    module: Any = torch.jit.load(shipped("silero_vad", "data", "silero_vad.jit"))  # type: ignore[no-untyped-call]
    module.reset_states()
    chunks = [sound[start : start + 512] for start in range(0, sound.size - 511, 512)]
    with torch.inference_mode():
        expected = [module(torch.from_numpy(chunk)[None], 16_000).item() for chunk in chunks]
    with Client(url) as client:
        found = list(speech.probabilities(client, sound))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    said = list(speech.changes(found))
    assert said == list(speech.changes(expected))
    assert [speaking for _, speaking in said] == [True, False, True, False]


def test_the_pitch_is_that_of_the_package_and_of_the_tone(url: str) -> None:
    sound, frequency = audio.glide()
    module: Any = import_module("examples._published.pitch.pitch").Crepe("tiny")
    module.load_state_dict(prepare.pitch())
    frames = pitch.frames(sound)
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(frames))
    with Client(url) as client:
        found = client.predict("pitch", frames).array()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    middles = frequency[pitch.FRAME // 2 :: pitch.HOP][: len(frames)]
    assert np.abs(1200 * np.log2(pitch.hertz(found) / middles)).max() < 50, "within half a semitone"


def test_the_decoder_continues_as_without_a_cache(url: str, repository: Path) -> None:
    module = prepare.network()
    module.load_state_dict(torch.load(repository / "decoder" / "1" / "weights.pt"))
    text = "the terms of this "
    tokens = list(text.encode())
    with torch.inference_mode():
        for _ in range(40):
            tokens.append(int(module.eval()(torch.tensor([tokens]))[0, -1].argmax()))
    with Client(url) as client:
        found = text + "".join(decoder.continued(client, text, 40))
    assert found.encode() == bytes(tokens)
    assert len(set(found)) > 8
