"""What the commands refuse: in one line that names the value, with exit code 2 for bad input and 1 for the rest."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sqlalchemy import select

from evolution.costs import CostTables
from service.bundles.paths import check_output
from service.candidates.queries import architecture
from service.cli import display
from service.context import Context
from service.costs import cost_kind
from service.devices.measurements import fit_measurements_file
from service.errors import InputError, without_password
from service.quantities import BYTES, COUNTS, MILLISECONDS, PLAIN, Units, fraction, quantity, round_amount, rounded
from service.storage.database import Database
from service.storage.tables import ApiKey, Candidate
from supernet.families import preset
from supernet.space import Architecture
from tests.support.command_line import Run, refused

SECRET = "hunter2"
NOBODY = f"postgresql://user:{SECRET}@127.0.0.1:1/supple"  # a port at which nothing listens


@pytest.fixture(autouse=True)
def _own_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "data"))
    monkeypatch.delenv("SUPPLE_DATABASE_URL", raising=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("search BUNDLE --max-flops lots", "'lots' is not a quantity"),
        ("search BUNDLE --max-flops 8ms", "'8ms' is not a quantity here; write it as 8.5 or 4.5k or 300M or 1.2G"),
        ("search BUNDLE --max-latency-ms 8k", "'8k' is not a quantity here; write it as 8.5 or 8.5ms"),
        ("search BUNDLE --max-flops=-3M", "a positive number is needed"),
        ("search BUNDLE --max-model-bytes 3M", "'3M' is not a quantity here; write it as 8.5 or 512KB or 1.5MB or 2Mi"),
        ("search BUNDLE --max-resolution 7", "max_resolution is 7; the smallest of mbv3-digits is 8"),
        ("search BUNDLE --choices kernel_size", "'kernel_size' is not a restricted gene; write it as kernel_size=3,5"),
        ("search BUNDLE --choices kernel_size=3,x", "'kernel_size=3,x' is not a restricted gene"),
        ("search BUNDLE --choices kernel_size=3 --choices kernel_size=5", "kernel_size is restricted twice; write all"),
        (
            "search BUNDLE --choices colour=3",
            "mbv3-digits has no gene 'colour'; its genes are resolution, depth, kernel",
        ),
        (
            "search BUNDLE --choices stage1.kernel_size=9",
            "stage1.kernel_size has no choice 9; its choices are 3, 5, 7",
        ),
        ("search BUNDLE --max-latency-ms 3", "needs --device"),
        ("search BUNDLE --minimise latency_ms --min-accuracy 0.9", "needs --device"),
        ("search BUNDLE --max-latency-ms phone=3", "--device is phone: No such file"),
        ("search BUNDLE --max-latency-ms phone=3k", "'3k' is not a quantity here"),
        ("search BUNDLE --min-accuracy 0.9", "give both or neither"),
        ("search BUNDLE --minimise flops", "give both or neither"),
        (
            "search BUNDLE --minimise flops --min-accuracy 78",
            "'78' is not a fraction between 0 and 1; write 78% or 0.78",
        ),
        (
            "search BUNDLE --minimise flops --min-accuracy 100%",
            "'100%' is not a fraction between 0 and 1; write less th",
        ),
        ("search BUNDLE --max-latency-ms 3 --device FOLDER/none.json", "--device is .*none.json: No such file"),
        ("search BUNDLE --max-latency-ms 3 --device FOLDER", "--device is .*: Is a directory"),
        ("search FOLDER --max-flops 1M", "is not a bundle"),
        ("describe mbv3-digits --arch {}", "an architecture is written"),
        ("describe mbv3-digits --arch {", "--arch is not JSON"),
        ("describe mbv3-digits --arch FOLDER/a.json", "--arch is '.*a.json': No such file or directory"),
        (
            "describe mbv3-digits --arch 0123456789abcdef",
            "is the id 0123456789abcdef, and there is no database at sqli",
        ),
        ("describe nope --arch largest", "unknown space 'nope'"),
        ("train FOLDER/none.yaml -o FOLDER", "cannot read the configuration"),
        ("probe BUNDLE -o FOLDER", "--output is .*, a folder; name a file in it"),
        ("probe BUNDLE -o FOLDER/none/x.json", "--output is .*x.json, where no file can be written: .*: No such file"),
        ("probe BUNDLE -o FOLDER/x.json --threads 5000", "threads is 5000; this process may use"),
        ("probe BUNDLE -o FOLDER/x.json --runtime tvm", "runtime is 'tvm'; choose one of onnxruntime"),
        ("probe BUNDLE", "name the BUNDLE to measure and --output, or a file to --import"),
        ("probe --import FOLDER/none.json --server http://127.0.0.1:1 --device d", "--import is .*none.json': No such"),
        ("probe --import FOLDER/none.json", "--import posts a file: it needs --server and --device"),
        ("plan BUNDLE -o FOLDER", "--output is .*, a folder"),
        ("export BUNDLE --arch largest -o FOLDER", "--output is .*, a folder"),
        ("export BUNDLE --arch largest -o FOLDER/none/x.onnx", "--output is .*x.onnx, where no file can be written"),
        (f"export BUNDLE --arch largest -o FOLDER/{'x' * 256}", "--output is .*xxx, where .*: File name too long"),
        ("probe BUNDLE -o FOLDER/x.json --server http://127.0.0.1:1", "--server and --device belong together"),
        ("probe BUNDLE -o FOLDER/x.json --server here --device d", "address is 'here'; it must start with http://"),
    ],
)
def test_bad_input(arguments: str, message: str, bundle_path: Path, tmp_path: Path, run: Run) -> None:
    places = {"BUNDLE": bundle_path, "FOLDER": tmp_path}
    ran = run(*(re.sub("BUNDLE|FOLDER", lambda found: str(places[found[0]]), one) for one in arguments.split()))
    refused(ran, 2, message)
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_output_may_be_a_device_or_a_pipe_but_no_socket(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    for name in ("null", "pipe"):
        check_output("--output", tmp_path / name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(InputError, match=r"--output is .*socket, a socket; name a file"):
            check_output("--output", tmp_path / "socket")


def test_a_service_that_does_not_answer_is_found_out_before_measuring(
    bundle_path: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.devices.measure.measure_machine", lambda *_, **__: pytest.fail("measured"))
    output = tmp_path / "x.json"
    ran = run("probe", str(bundle_path), "-o", str(output), "--server", "http://127.0.0.1:1", "--device", "d")
    refused(ran, 1, "the service at http://127.0.0.1:1 does not answer: .*Connection refused; check that it runs")
    assert not output.exists()


@pytest.mark.parametrize("command", ["keys create me", "register BUNDLE", "serve", "worker"])
def test_a_database_without_its_tables(command: str, bundle_path: Path, run: Run) -> None:
    ran = run(*command.replace("BUNDLE", str(bundle_path)).split())
    refused(ran, 1, "the database at sqlite:///.*supple.db is not at this release's version; run `supple db upgrade`")


@pytest.mark.parametrize("command", ["keys create me", "register BUNDLE", "serve", "worker", "db upgrade"])
@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        (NOBODY, 1, r"database at postgresql://\*\*\*@127.0.0.1:1/supple cannot be used: .*Connection refused"),
        ("foo", 2, "SUPPLE_DATABASE_URL is 'foo', which is not the address of a database; write sqlite:///FILE or"),
        (f"postgresql:/user:{SECRET}@host/supple", 2, r"SUPPLE_DATABASE_URL is '\*\*\*@host/supple', which is no"),
        (f"postgresql://user:{SECRET}@host:port/supple", 2, r"is 'postgresql://\*\*\*@host:port/supple', which is no"),
        ("postgresql://user:a@hunter2@host/supple", 2, r"'postgresql://\*\*\*@host/supple', whose .* write it as %40"),
        ("postgresql://user:a@1/hunter2@host/supple", 2, r"'postgresql://\*\*\*@host/supple', whose .* it as %40"),
        ("postgresql://user:a@1?hunter2@host/supple", 2, r"'postgresql://\*\*\*', whose .* it as %40"),
        ("postgresql://user:?/hunter2@127.0.0.1:1/supple", 1, r"at postgresql://\*\*\* cannot be used: .*refused"),
        ("sqlite:///BUNDLE/manifest.json", 1, "cannot be used: file is not a database"),
        ("mysql://host/supple", 2, "use sqlite:///FILE or postgresql"),
    ],
)
def test_a_database_that_cannot_be_used(
    command: str, address: str, code: int, message: str, bundle_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPPLE_DATABASE_URL", address.replace("BUNDLE", str(bundle_path)))
    ran = run(*command.replace("BUNDLE", str(bundle_path)).split())
    refused(ran, code, message)
    assert SECRET not in ran.stderr + ran.stdout


@pytest.mark.slow
@given(st.text(max_size=20), st.text(max_size=20), st.sampled_from(["postgresql://", "", "x:/"]))
def test_no_password_is_printed(noise: str, more: str, scheme: str) -> None:
    assert SECRET not in without_password(f"{scheme}user:{noise}{SECRET}{more}@host?password={SECRET}")
    assert without_password("postgresql://host/name") == "postgresql://host/name"


def test_blanks_around_settings_are_removed(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUPPLE_DATABASE_URL", f"sqlite:///{tmp_path / 'some.db'}\r\n")
    assert run("db", "upgrade").code == 0
    assert (tmp_path / "some.db").is_file()


def test_a_bad_setting_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUPPLE_PORT", "70000")
    refused(run("db", "upgrade"), 2, "SUPPLE_PORT is '70000': Input should be less than or equal to 65535")


def test_a_refused_search_says_all_that_it_knows(
    bundle_path: Path, measurements: dict[str, Any], tmp_path: Path, run: Run
) -> None:
    device = tmp_path / "board.json"
    device.write_text(json.dumps(measurements))
    limits = ["--max-latency-ms", "0.001ms", "--max-flops", "1000", "--max-params", "12345678"]
    ran = run("search", str(bundle_path), "--device", str(device), *limits)
    assert ran.code == 2
    for said in ("latency_ms@board", "0.001", "1,000", "12,345,678", "resolution  8 x 8", "stage 3", "not enough"):
        assert said in ran.stderr
    ran = run("search", str(bundle_path), "--device", str(device), *limits, "--json")
    assert ran.code == 2
    problem = json.loads(ran.stdout)
    assert problem["limits"] == {"latency_ms@board": 0.001, "flops": 1000, "params": 12_345_678}
    assert problem["proven"]
    assert all(problem["floors"][name] > problem["limits"][name] for name in ("latency_ms@board", "flops"))
    space = preset("mbv3-digits")
    assert problem["smallest"]["arch"]["stages"]
    assert problem["floors"]["flops"] == sum(record.flops for record in space.operators(space.smallest()))


def test_one_search_meets_the_limits_of_several_devices(
    bundle_path: Path, measurements: dict[str, Any], tables: CostTables, tmp_path: Path, run: Run
) -> None:
    slower = {key: 2 * ms for key, ms in measurements["blocks"].items()}
    networks = [{**network, "ms": 2 * network["ms"]} for network in measurements["networks"]]
    for name, measured in (("a", measurements), ("b", {**measurements, "blocks": slower, "networks": networks})):
        (tmp_path / f"{name}.json").write_text(json.dumps(measured))
    a, b = (str(tmp_path / f"{name}.json") for name in "ab")
    limits = ["--max-latency-ms", "0.06ms", "--max-latency-ms", f"{b}=0.09", "--max-latency-ms", f"{b}=0.11"]
    command = ["search", str(bundle_path), "--device", a, *limits, "--evaluations", "300"]
    found = json.loads(run(*command, "--json").stdout)
    assert {(limit["cost"], limit["device"]): limit["max"] for limit in found["limits"]} == {
        ("latency_ms", "a"): 0.06,
        ("latency_ms", "b"): 0.09,
    }
    best = found["best"]
    assert list(best["predicted_latency_ms"]) == ["a", "b"]
    assert best["predicted_latency_ms"]["a"] <= 0.06
    assert best["predicted_latency_ms"]["b"] <= 0.09
    genome = tables.space.encode(Architecture.from_json(best["arch"]))[None]
    assert best["model_bytes"] == tables.model_bytes(genome)[0]
    assert best["peak_memory_bytes"] == tables.peak_memory_bytes(genome)[0]
    assert found["elapsed_ms"] > 0
    assert 0 < found["evaluations"] <= 300
    assert found["optimality"] == {"proven": True, "bound": best["predicted_accuracy"], "gap": 0.0}
    shown = run(*command).stdout
    assert "optimal for the predictor: it is proven that no architecture within the limits has a higher" in shown
    assert [one["cost"] for one in found["sensitivity"]] == ["latency_ms@a", "latency_ms@b"]
    assert re.search(r"\n  latency_ms@a +0.001 ms more: \+\d.*%   0.001 ms less: ", shown)
    assert "cheapest change: stage" in shown
    assert re.search(r"predicted latency .* ms on a   limit 0.06\npredicted latency .* ms on b   limit 0.09\n", shown)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.json").write_text(json.dumps(measurements))
    twice = run(*command, "--max-latency-ms", f"{tmp_path}/other/a.json=1")
    refused(twice, 2, "two of them have one name, so rename a file")


def test_a_strategy_that_proves_nothing_says_what_its_local_search_did(bundle_path: Path, run: Run) -> None:
    command = ["search", str(bundle_path), "--max-flops", "2M", "--strategy", "evolution", "--evaluations", "300"]
    found = json.loads(run(*command, "--json").stdout)
    shown = run(*command).stdout
    assert found["strategy"] == "evolution"
    assert found["optimality"] is None
    assert (
        "no change of one or two genes within the limits improves" in shown
        if found["two_opt"]
        else "more --evaluations may find a better architecture" in shown
    )
    assert "more --seconds may find a better architecture" in run(*command, "--seconds", "1e-9").stdout


def test_the_least_of_a_cost_at_an_accuracy(bundle_path: Path, run: Run) -> None:
    command = ["search", str(bundle_path), "--evaluations", "500", "--json"]
    least = json.loads(run(*command, "--minimise", "flops", "--min-accuracy", "95%").stdout)["best"]
    assert least["predicted_accuracy"] >= 0.95
    assert least["flops"] < json.loads(run(*command).stdout)["best"]["flops"]
    smallest_peak = ["--minimise", "peak_memory_bytes", "--min-accuracy", "91%", "--max-resolution", "8"]
    shown = run(*command[:2], *smallest_peak).stdout
    assert "within the limits has this accuracy at a lower peak_memory_bytes" in shown
    beyond = ["--minimise", "peak_memory_bytes", "--min-accuracy", "0.99999"]
    found = json.loads(run(*command, *beyond).stdout)
    assert found["min_accuracy_reached"] is False
    assert 0.95 < found["best"]["predicted_accuracy"] < 0.99999
    said = run(*command[:-1], *beyond)
    assert said.code == 0
    interval = r" ± 0\.\d{4} \(95 % interval\)"
    assert re.search(rf"predicted accuracy +0\.9\d+{interval}   0.99999 was not reached\n", said.stdout)


def test_a_search_keeps_to_the_choices_that_are_open(bundle_path: Path, run: Run) -> None:
    command = ["search", str(bundle_path), "--evaluations", "500", "--max-flops", "1.2M"]
    choices = ["--choices", "kernel_size=3,5", "--choices", "stage3.depth=2 stage1.expand_ratio=4"]
    found = json.loads(run(*command, *choices, "--json").stdout)
    assert found["request"]["choices"] == {"kernel_size": [3, 5], "stage1.expand_ratio": [4], "stage3.depth": [2]}
    for candidate in (found["best"], *found["front"]):
        stages = candidate["arch"]["stages"]
        assert {kernel_size for stage in stages for kernel_size, _ in stage} <= {3, 5}
        assert {ratio for _, ratio in stages[0]} == {4}
        assert len(stages[2]) == 2
    ran = run(*command, *choices, "--max-params", "10k")
    assert ran.code == 2
    assert "mbv3-digits with kernel_size 3 or 5, stage1.expand_ratio 4, stage3.depth 2 is below" in ran.stderr


def test_file_size_peak_memory_and_resolution_are_limited(bundle_path: Path, tables: CostTables, run: Run) -> None:
    command = ["search", str(bundle_path), "--evaluations", "500", "--max-resolution", "12"]
    limits = ["--max-model-bytes", "0.2MB", "--max-peak-memory", "32KiB"]
    found = json.loads(run(*command, *limits, "--json").stdout)
    assert {limit["cost"]: limit["max"] for limit in found["limits"]} == {
        "model_bytes": 200_000,
        "peak_memory_bytes": 32_768,
    }
    assert found["best"]["model_bytes"] <= 200_000
    assert found["best"]["peak_memory_bytes"] <= 32_768
    assert found["best"]["arch"]["resolution"] <= 12
    assert found["min_accuracy_reached"] is None
    ran = run(*command, "--max-peak-memory", "1KB", "--max-params", "1M", "--max-flops", "1k", "--json")
    nearest = json.loads(ran.stdout)["nearest"]
    assert nearest == {name: {"max": None, "proven": True} for name in ("flops", "params", "peak_memory_bytes")}
    ran = run(*command, "--max-peak-memory", "1KB", "--max-params", "1M")
    least = f"{tables.peak_memory_cost.floors.min():,.0f}"
    assert f"raise the limit to at least {least}\n" in ran.stderr
    assert ran.stderr.count(least) > 2
    assert re.search("with the.*others", ran.stderr)


def test_a_refused_limit_is_written_with_every_digit(bundle_path: Path, run: Run) -> None:
    ran = run("search", str(bundle_path), "--max-flops", "123456.75", "--resolution", "16")
    assert "flops is limited to 123,456.75, and no" in ran.stderr


def test_an_architecture_is_found_by_its_id(
    context: Context, supernet: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = preset("mbv3-digits")
    monkeypatch.setenv("SUPPLE_DATABASE_URL", context.settings.database)
    genome = space.sample(np.random.default_rng(0), 1)[0]
    arch = space.decode(genome)
    row = Candidate(
        id="f" * 32,
        supernet_id=supernet,
        architecture_id=space.id(genome),
        architecture=arch.to_json(),
        genome=genome.tobytes(),
        resolution=arch.resolution,
        flops=1,
        params=1,
    )
    with context.database.writing() as session:
        session.add(row)
    for name in (space.id(genome), "f" * 32):
        ran = run("describe", "mbv3-digits", "--arch", name, "--json")
        assert json.loads(ran.stdout)["arch"] == arch.to_json(), ran.stderr
    ran = run("describe", "mbv3-digits", "--arch", space.id(space.largest()), "--json")
    assert json.loads(ran.stdout)["arch"] == space.largest().to_json()
    refused(run("describe", "mbv3-digits", "--arch", "0" * 16), 2, "id 0{16}, which is not in the database at")
    with context.database.reading() as session:
        assert architecture(session, "nothing") is None


def test_keys_are_made_once_the_tables_are_there(run: Run, tmp_path: Path) -> None:
    assert run("db", "upgrade").code == 0
    ran = run("keys", "create", "me")
    assert ran.stdout.startswith("supple_")
    refused(run("keys", "create", "me"), 2, "there is a key named 'me'")
    database = Database(f"sqlite:///{tmp_path}/data/supple.db")
    with database.reading() as session:
        assert session.scalars(select(ApiKey.name)).all() == ["me"]
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize("command", [["--help"], ["describe", "mbv3-digits", "--arch", "largest"], ["db", "upgrade"]])
def test_what_needs_no_weights_loads_no_torch(command: list[str]) -> None:
    script = (
        "import sys; from service.cli.main import app; app(standalone_mode=False); assert 'torch' not in sys.modules"
    )
    script = script.replace("app(", "sys.argv[0] = 'supple'; app(")
    subprocess.run([sys.executable, "-c", script, *command], check=True, stdout=subprocess.DEVNULL)


# Measurements as a file.


def broken(measurements: dict[str, Any]) -> list[tuple[Any, str]]:
    network = measurements["networks"][0]
    infinite = {**network, "architecture": {**network["architecture"], "resolution": float("inf")}}
    keys = list(measurements["blocks"])
    return [
        ({**measurements, "blocks": list(measurements["blocks"])}, "blocks: "),
        ({**measurements, "blocks": {**measurements["blocks"], keys[0]: "1"}}, f"blocks.{keys[0]}: "),
        ({**measurements, "blocks": {**measurements["blocks"], keys[0]: 0.0}}, "must be a positive number"),
        ({**measurements, "space_hash": 3}, "space_hash: "),
        ({**measurements, "space_hash": "0" * 64}, "measures search space 0000000000000000; the bundle's is"),
        ({**measurements, "networks": [infinite] * 5}, "architecture"),
        ({**measurements, "networks": []}, "at least 4 pairs"),
        ([], "the file: "),
        (b"\xff\xfe\x00", "is not what `supple probe` writes"),
    ]


def test_a_bad_measurement_file_is_named(tables: CostTables, measurements: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    for content, message in broken(measurements):
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with pytest.raises(ValueError, match=re.escape(message)) as raised:
            fit_measurements_file(tables, path)
        assert str(path) in str(raised.value)


def test_equal_block_times_still_make_a_latency_model(
    tables: CostTables, measurements: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps({**measurements, "blocks": dict.fromkeys(measurements["blocks"], 0.01)}))
    predicted = fit_measurements_file(tables, path).predict(tables.space.sample(np.random.default_rng(0), 50))
    measured = [network["ms"] for network in measurements["networks"]]
    assert 0.5 * min(measured) < predicted.min() <= predicted.max() < 2 * max(measured)


# Numbers, and what is shown.


@pytest.mark.parametrize(
    ("text", "units", "value"),
    [
        ("300M", COUNTS, 3e8),
        ("8ms", MILLISECONDS, 8.0),
        ("8", MILLISECONDS, 8.0),
        ("4.5k", COUNTS, 4500.0),
        ("1.2G", COUNTS, 1.2e9),
        ("7", PLAIN, 7.0),
        ("1.5MB", BYTES, 1.5e6),
        ("512KB", BYTES, 512e3),
        ("2 MiB", BYTES, 2.0**21),
        ("3kib", BYTES, 3072.0),
        ("1GiB", BYTES, 2.0**30),
        ("10b", BYTES, 10.0),
        ("4096", BYTES, 4096.0),
    ],
)
def test_quantities_are_read_as_people_write_them(text: str, units: Units, value: float) -> None:
    assert quantity(text, units) == value


@pytest.mark.parametrize(
    ("limit", "cost", "amount", "text"),
    [
        (20, "latency_ms", 1, "1 ms"),
        (0.05, "latency_ms", 0.001, "0.001 ms"),
        (3e8, "flops", 1e7, "10 M"),
        (2**22, "model_bytes", 2**20, "1 MiB"),
        (2**19, "peak_memory_bytes", 2**10, "1 KiB"),
    ],
)
def test_an_amount_to_speak_of_is_round(limit: float, cost: str, amount: float, text: str) -> None:
    units = cost_kind(cost).units
    assert round_amount(limit, units) == pytest.approx(amount)
    assert rounded(round_amount(limit, units), units) == text


@pytest.mark.parametrize(("text", "value"), [("78%", 0.78), ("0.785", 0.785), (" 98.5 % ", 0.985)])
def test_an_accuracy_is_a_fraction_or_per_cent(text: str, value: float) -> None:
    assert fraction(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "ms", "nan", "inf", "0", "-1", "3 apples"])
@pytest.mark.parametrize("units", [COUNTS, MILLISECONDS, PLAIN])
def test_what_is_no_limit_is_refused(text: str, units: Units) -> None:
    with pytest.raises(ValueError, match="is not a"):
        quantity(text, units)


@pytest.mark.parametrize(("text", "units"), [("8ms", COUNTS), ("8k", MILLISECONDS), ("8m", PLAIN), ("8M", BYTES)])
def test_a_unit_must_fit_its_cost(text: str, units: Units) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is not a quantity here"):
        quantity(text, units)


def test_a_predictor_that_ranks_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    card = {"pairs": 5, "rmse": 0.1, "kendall_tau": None, "validation": "none"}
    display.show_corners({"corners": {}, "predictor": card}, Console())
    assert "Kendall tau none" in capsys.readouterr().out
    assert display.tau({"kendall_tau": 0.987}) == "0.99"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf8_is_printed_to(encoding: str, bundle_path: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(bundle_path, tmp_path / "\N{GREEK SMALL LETTER LAMDA}")
    command = [sys.executable, "-m", "service.cli", "export", str(bundle), "--arch", "smallest", "-o", f"{bundle}.onnx"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ended = subprocess.run(command, env=environment, capture_output=True, encoding=encoding, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "?.onnx written" in ended.stdout


def test_other_programs_that_disturb_a_measurement_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for busy, said in ((None, False), (0.05, False), (0.3, True)):
        display.warn_of_measurements({"busy": busy, "runtime": {"fallback": None}}, Console())
        assert ("other programs held the processor for 30% of the time" in capsys.readouterr().out) == said
