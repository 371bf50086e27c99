"""One contract for all runtimes of the probe: they load, they run, and they compute what onnxruntime computes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from service.devices import probe
from service.devices.probe import ProbeError, Runtime, make_runtime, run_plan
from supernet.export.parity import run_onnx
from supernet.export.probe_plan import ProbeModel, network_model, probe_plan, reference_models, write_plan
from supernet.families import preset

SPACE = preset("mbv3-digits")


@pytest.fixture(scope="module")
def network() -> ProbeModel:
    return network_model(SPACE, SPACE.smallest())


class FakeRuntime(Runtime):
    """Runs networks by onnxruntime's own convenience, and says that a second provider executes some nodes."""

    name, version = "fake", "1"

    def load(self, model: bytes, batch_size: int, shape: probe.Shape | None = None) -> probe.Loaded:
        assert shape is not None
        images = probe._images(batch_size, shape)
        outputs: list[Any] = []

        def run() -> None:
            outputs[:] = [run_onnx(model, images)]

        return probe.Loaded(run, lambda: outputs[0])

    def nodes(self, model: bytes, batch_size: int) -> dict[str, int]:
        return {"CPU": 3, "OTHER": 1}


RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "fake": lambda: FakeRuntime(1, ""),
    **{name: lambda name=name: make_runtime(name) for name in probe.RUNTIMES},  # type: ignore[misc]
}


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    for module in {"openvino": ["openvino"], "ncnn": ["ncnn", "pnnx"], "torch": ["onnx2torch"]}.get(request.param, []):
        pytest.importorskip(module)
    return RUNTIMES[request.param]()


@pytest.fixture(scope="module")
def models() -> dict[str, list[ProbeModel]]:
    """The first two models of each kind that a plan holds."""
    by_kind: dict[str, list[ProbeModel]] = {}
    for model in [*reference_models(), *probe_plan(SPACE, np.random.default_rng(0), 1)]:
        by_kind.setdefault(model.kind, []).append(model)
    return {kind: of_kind[:2] for kind, of_kind in by_kind.items()}


@pytest.mark.parametrize("kind", ["reference", "empty", "edge", "block", "network"])
def test_it_computes_what_onnxruntime_computes(
    runtime: Runtime, models: dict[str, list[ProbeModel]], kind: str
) -> None:
    loaded = [runtime.load(model.onnx(), 1, model.input_shape) for model in models[kind]]
    for model, network in zip(models[kind], loaded, strict=True):
        for _ in range(2):
            network.run()
        expected = run_onnx(model.onnx(), probe._images(1, model.input_shape))
        assert network.output().shape == expected.shape
        np.testing.assert_allclose(network.output(), expected, rtol=1e-3, atol=1e-4)


def test_it_measures_a_plan(runtime: Runtime, models: dict[str, list[ProbeModel]], tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.zip", SPACE, [*models["empty"], *models["network"]])
    result = run_plan(tmp_path / "plan.zip", runtime=runtime, samples=1)
    assert result["status"] == "complete"
    assert result["overhead_ms"] > 0
    assert all(network["ms"] > 0 for network in result["networks"])


def test_it_says_what_it_is(runtime: Runtime) -> None:
    assert runtime.threads == 1
    assert runtime.provider
    assert runtime.version[0].isdigit()
    assert str(runtime) == f"{runtime.name} {runtime.version}, CPU"


def test_it_counts_nodes_by_provider(runtime: Runtime, network: ProbeModel) -> None:
    nodes = runtime.nodes(network.onnx(), 1)
    assert all(isinstance(name, str) and count > 0 for name, count in nodes.items())


def test_a_batch_is_run_or_refused(runtime: Runtime, network: ProbeModel) -> None:
    if runtime.name == "ncnn":
        with pytest.raises(ProbeError, match="one image of a known size; batch size is 3"):
            runtime.load(network.onnx(), 3, network.input_shape)
    else:
        loaded = runtime.load(network.onnx(), 3, network.input_shape)
        loaded.run()
        assert loaded.output().shape == (3, SPACE.classes)


def test_ncnn_says_how_to_install_pnnx(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ncnn")
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(ProbeError, match="pip install --no-deps pnnx"):
        make_runtime("ncnn")


def test_what_is_no_network_raises(runtime: Runtime, network: ProbeModel) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011
        runtime.load(network.onnx()[:100], 1, network.input_shape).run()


def test_a_provider_that_leaves_nodes_to_another_one_is_named(network: ProbeModel, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.zip", SPACE, [network])
    result = run_plan(tmp_path / "plan.zip", runtime=FakeRuntime(1, ""), samples=1)
    assert result["runtime"]["fallback"] == {"provider": "OTHER", "nodes": 1, "of": 4}
    assert "OTHER executed 1 of 4 nodes, because CPU cannot" in " ".join(probe.warnings(result))


def test_onnxruntimes_own_profile_tells_that_a_provider_executes_nothing(network: ProbeModel, tmp_path: Path) -> None:
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of onnxruntime has no provider that leaves everything to the CPU")
    azure = make_runtime(provider="azure")
    assert set(azure.nodes(network.onnx(), 1)) == {"CPUExecutionProvider"}
    write_plan(tmp_path / "plan.zip", SPACE, [network])
    with pytest.raises(ProbeError, match=r"Azure.* executes none of the \d+ nodes; CPUExecutionProvider executes them"):
        run_plan(tmp_path / "plan.zip", runtime=azure, samples=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "tvm"}, "runtime is 'tvm'; choose one of onnxruntime, openvino, ncnn, torch"),
        ({"provider": "NPU"}, "provider is 'NPU'; this build of onnxruntime offers .*CPUExecutionProvider"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 10_000}, "threads is 10000; this process may use"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        make_runtime(**settings)
