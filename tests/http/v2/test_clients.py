"""NVIDIA's own client, unmodified: each of its calls that this service supports."""

import asyncio
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.support.open_inference import connected, tensor, wanted
from tests.support.repository import batchnorm, rnn
from tests.support.service import Service

RANDOM = np.random.default_rng(7)


def rows(count: int) -> NDArray[Any]:
    return RANDOM.standard_normal((count, 3)).astype(np.float32)


def test_readiness_and_metadata(service: Service) -> None:
    with connected(service) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("rnn")
        assert client.is_model_ready("rnn", "1")
        assert not client.is_model_ready("nope")
        assert not client.is_model_ready("rnn", "2")
        assert client.get_server_metadata()["name"] == "carryover"
        assert client.get_model_metadata("rnn", "1")["inputs"][0]["name"] == "x"
        assert client.get_model_config("rnn")["input"][0]["dims"] == [-1, 1, 3]


def test_errors_arrive_as_sentences(service: Service) -> None:
    with connected(service) as client:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("nope", [tensor(rows(1))])
        assert caught.value.message() == "Request for unknown model: 'nope' is not found"
        assert caught.value.status() == "404"
        with pytest.raises(InferenceServerException) as caught:
            client.infer("batchnorm", [tensor(rows(1).astype(np.float64))])
        assert "data-type is 'FP64', but model 'batchnorm' expects 'FP32'" in caught.value.message()
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'nope' is not found"):
            client.get_model_metadata("nope")


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_inference(service: Service, packed: str | None, binary: bool) -> None:
    x = rows(300)
    with connected(service) as client:
        result = client.infer(
            "batchnorm",
            [tensor(x, binary=binary)],
            model_version="1",
            outputs=[wanted("x", binary=binary)],
            request_id="one",
            priority=1,
            timeout=10**6,
            request_compression_algorithm=packed,
            response_compression_algorithm=packed,
            parameters={"own": "value"},
        )
    expected = batchnorm()(_torch(x)).detach().numpy()
    np.testing.assert_allclose(result.as_numpy("x"), expected, rtol=1e-5, atol=1e-6)
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("one", "batchnorm", "1")


def test_without_outputs_all_come_as_bytes(service: Service) -> None:
    with connected(service) as client:
        result = client.infer("pair", [tensor(np.array([1, -1], np.float32))])
    assert [output["parameters"]["binary_data_size"] for output in result.get_response()["outputs"]] == [8, 2]
    assert result.as_numpy("x").tolist() == [2.0, -2.0]
    assert result.as_numpy("positive").tolist() == [True, False]


def test_concurrent_calls_of_the_gevent_client(service: Service) -> None:
    with connected(service, concurrency=8) as client:
        given = [rows(5) for _ in range(40)]
        calls = [client.async_infer("identity-fp32-1", [tensor(x)]) for x in given]
        for x, call in zip(given, calls, strict=True):
            assert call.get_result().as_numpy("x").tobytes() == x.tobytes()


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_the_asyncio_client(service: Service, packed: str | None, binary: bool) -> None:
    given = [rows(200) for _ in range(20)]

    async def run() -> list[Any]:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{service.port}") as client:
            assert await client.is_server_ready()
            assert await client.is_model_ready("rnn")
            assert (await client.get_model_metadata("rnn"))["name"] == "rnn"
            assert (await client.get_inference_statistics("rnn"))["model_stats"][0]["name"] == "rnn"
            assert {"name": "rnn", "version": "1", "state": "READY", "reason": ""} in (
                await client.get_model_repository_index()
            )
            with pytest.raises(InferenceServerException, match="Request for unknown model"):
                await client.infer("nope", [tensor(given[0])])
            return await asyncio.gather(
                *(
                    client.infer(
                        "identity-fp32-1",
                        [tensor(x, binary=binary)],
                        outputs=[wanted("x", binary=binary)],
                        request_compression_algorithm=packed,
                        response_compression_algorithm=packed,
                    )
                    for x in given
                )
            )

    for x, result in zip(given, asyncio.run(run()), strict=True):
        assert result.as_numpy("x").tobytes() == x.tobytes()


@pytest.mark.parametrize("binary", [True, False])
def test_classification(service: Service, binary: bool) -> None:
    x = np.array([[1, 10, 5], [7, 7, -1]], np.float32)
    with connected(service) as client:
        best = client.infer("identity-fp32-1", [tensor(x)], outputs=[wanted("x", binary=binary, classes=2)])
        every = client.infer("identity-int8-0", [tensor(np.array([3, -4], np.int8))], outputs=[wanted("x", classes=9)])
    assert _texts(best) == [["10.0:1", "5.0:2"], ["7.0:0", "7.0:1"]]
    assert best.get_output("x")["datatype"] == "BYTES"
    assert _texts(every) == ["3:0", "-4:1"]


def test_classification_with_labels(service: Service) -> None:
    pixels = RANDOM.integers(0, 16, (3, 64)).astype(np.float32)
    with connected(service) as client:
        name = client.get_model_metadata("digits-batchnorm")["outputs"][0]["name"]
        values = client.infer("digits-batchnorm", [tensor(pixels, "pixels")]).as_numpy(name)
        texts = _texts(
            client.infer("digits-batchnorm", [tensor(pixels, "pixels")], outputs=[wanted(name, classes=3)]), name
        )
    assert np.shape(texts) == (3, 3)
    for row, classes in zip(values, texts, strict=True):
        order = np.argsort(-row)[:3]
        assert [text.split(":")[1:] for text in classes] == [[str(index), str(index)] for index in order]
        np.testing.assert_allclose([float(text.split(":")[0]) for text in classes], row[order], rtol=1e-5)


def test_a_model_of_sequences_without_one(service: Service) -> None:
    x = RANDOM.standard_normal((4, 1, 3)).astype(np.float32)
    with connected(service) as client:
        found = client.infer("rnn", [tensor(x)]).as_numpy("y")
    np.testing.assert_allclose(found, rnn()(_torch(x)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_what_the_service_does_not_do_is_an_error(service: Service) -> None:
    with connected(service) as client:
        for call in (client.get_trace_settings, client.get_log_settings, client.get_system_shared_memory_status):
            with pytest.raises(InferenceServerException, match="no shared memory, and no trace or log settings"):
                call()


def _torch(array: NDArray[Any]) -> Any:
    import torch  # noqa: PLC0415

    return torch.from_numpy(array)


def _texts(result: triton.InferResult, name: str = "x") -> Any:
    return np.vectorize(lambda text: text.decode() if isinstance(text, bytes) else text)(result.as_numpy(name)).tolist()
