"""The storage benchmark in small: every row is there, and shows what must be true of it."""

import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempocube.dataset.reading import open_cube
from tempocube.dataset.verify import verify
from tempocube.dataset.visibility import visibility

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FORMATS = ["npz", "zarr defaults", "exact float32", "float16", "linear uint16", "log16"]


def storage(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, BENCHMARKS / "storage.py", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("benchmark")
    scratch = folder / "scratch"
    scratch.mkdir()
    asked = ("--json", folder / "lines.json", "--scratch", scratch, "--keep", folder / "kept")
    done = storage("--profile", "tiny", *asked)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "lines.json").read_text().splitlines()]
    rows = {line["format"]: line for line in lines if line["kind"] == "row"}
    return {"text": done.stdout, "lines": lines, "rows": rows, "folder": folder}


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import planted

    return planted


def test_every_format_has_its_rows(run: dict[str, Any]) -> None:
    assert list(run["rows"]) == FORMATS
    assert all(name in run["text"] for name in FORMATS)
    kinds = Counter(line["kind"] for line in run["lines"])
    assert kinds == {"run": 1, "sample": 12, "row": 6, "ratio": 5, "decode": 5, "estimate": 4}


def test_the_machine_and_the_maps_are_named(run: dict[str, Any]) -> None:
    about = run["lines"][0]
    assert about["machine"]["cores"] >= 1
    assert {"python", "numpy", "zarr", "tempocube"} <= about["machine"]["versions"].keys()
    assert "planted softmax maps" in about["maps"]
    assert "planted softmax maps" in run["text"]


def test_log16_keeps_every_weight_and_the_short_formats_lose_some(run: dict[str, Any]) -> None:
    rows = run["rows"]
    assert rows["log16"]["largest_relative_error"] <= 0.004
    assert rows["exact float32"]["largest_relative_error"] < 1e-6
    assert [rows[name]["share_lost"] for name in ("npz", "exact float32", "log16")] == [0, 0, 0]
    assert 0 < rows["float16"]["share_lost"] < rows["linear uint16"]["share_lost"]


def test_hidden_pairs_stay_without_weight(run: dict[str, Any]) -> None:
    for row in run["rows"].values():
        assert row["hidden_pairs"] > 0
        assert row["hidden_with_weight"] == 0


def test_sizes_are_in_the_order_they_must_be(run: dict[str, Any]) -> None:
    size = {name: row["stored_bytes"] for name, row in run["rows"].items()}
    raw = run["lines"][0]["raw_bytes"]
    assert size["linear uint16"] < size["log16"] < size["exact float32"] < raw
    assert size["npz"] < raw


def test_times_come_with_their_spread(run: dict[str, Any]) -> None:
    for row in run["rows"].values():
        for name in ("write_mbs", "read_layer_mbs", "read_cell_ms", "read_all_mbs"):
            assert 0 < row[name]["least"] <= row[name]["median"] <= row[name]["most"]


def test_reading_a_layer_counts_its_requests(run: dict[str, Any]) -> None:
    cells, rows = run["lines"][0]["cells"], run["rows"]
    assert rows["npz"]["layer_share"] == 1
    assert rows["log16"]["layer_requests"] >= cells  # at least one of each cell
    assert rows["log16"]["layer_share"] < 1


def test_the_constants_of_estimates_are_printed_by_name(run: dict[str, Any]) -> None:
    found = {line["name"]: line["value"] for line in run["lines"] if line["kind"] == "estimate"}
    assert list(found) == ["attention.float32", "attention.log16", "logits.float32", "logits.log16"]
    assert found["attention.log16"] < found["attention.float32"] < 1
    for name, value in found.items():
        assert f"{name} = {value:.4f}" in run["text"]


def test_only_what_was_asked_for_stays_on_the_disk(run: dict[str, Any]) -> None:
    assert not list((run["folder"] / "scratch").iterdir())
    assert sorted(path.name for path in (run["folder"] / "kept").iterdir()) == sorted(FORMATS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cells", "0"], "--cells must be at least 1"),
        (["--profile", "huge"], "invalid choice: 'huge'"),
        (["--profile", "long", "--cells", "100000"], "GB of disk"),
        (["--keep", "."], "is there already"),
        (["--json", "no/such/folder/lines.json"], "no such folder"),
        (["--maps", "embedded", "--cells", "3"], "an even number of --cells"),
        (["--maps", "embedded", "--estimate"], "no --estimate"),
        (["--report", "--only", "npz"], "reads the cube of log16"),
    ],
)
def test_bad_words_are_refused_before_anything_is_written(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import storage

    with pytest.raises(SystemExit) as left:
        storage.main(words)
    assert left.value.code == 2
    assert told in capsys.readouterr().err


def test_maps_are_softmax_maps_of_isolated_sets(planted: Any) -> None:
    profile = planted.PROFILES["tiny"]
    there, seen = planted.structure(profile, 0).masks()
    for start, logs in planted.maps(profile, 0):
        rows, keys = slice(start, start + logs.shape[2]), slice(logs.shape[3])
        assert np.array_equal(np.isnan(logs), np.broadcast_to(~there[rows, keys], logs.shape))
        assert np.array_equal(logs > -np.inf, np.broadcast_to(seen[rows, keys], logs.shape))
        assert np.allclose(np.nansum(np.exp(logs), axis=-1), 1, atol=1e-5)


def test_no_map_is_repeated(planted: Any) -> None:
    profile = planted.PROFILES["tiny"]
    first = [
        logs[layer, head, -1, :5].tobytes()
        for cell in range(3)
        for _, logs in planted.maps(profile, cell)
        for layer in range(profile.layers)
        for head in range(profile.heads)
    ]
    assert len(set(first)) == len(first)


def test_long_maps_are_made_one_block_at_a_time(planted: Any) -> None:
    profile = replace(planted.PROFILES["long"], layers=4)  # seven times as many take seven times as much
    block = profile.layers * profile.heads * 64 * 334 * 4
    queries_and_keys = 2 * profile.layers * profile.heads * 334 * planted.RANK * 4
    tracemalloc.start()
    rows = 0
    for start, logs in planted.maps(profile, 0):
        assert start == rows
        rows += logs.shape[2]
        del logs
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 334
    assert most < queries_and_keys + 2 * block


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("real")
    (folder / "scratch").mkdir()
    asked = ("--profile", "tiny", "--cells", 4, "--repeats", 1, "--workers", 1, "--only", "log16")
    files = ("--json", folder / "lines.json", "--scratch", folder / "scratch", "--keep", folder / "kept")
    done = storage(*asked, "--maps", "embedded", "--report", *files)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (folder / "lines.json").read_text().splitlines()]
    return {"text": done.stdout, "lines": lines, "folder": folder}


@pytest.mark.slow
def test_real_maps_are_of_different_texts_and_none_is_repeated(real: dict[str, Any]) -> None:
    about = real["lines"][0]
    assert (about["texts"], about["captured"]) == (2, 2 * 2 * 48)  # two texts, two modes, 6 layers x 8 heads
    assert about["distinct"] == about["captured"]
    assert about["maps"].endswith("2 texts, 192 of 192 maps distinct")
    assert "maps of the embedded model" in " ".join(real["text"].split())


@pytest.mark.slow
def test_real_maps_lie_under_the_mask_of_their_cell(real: dict[str, Any]) -> None:
    where = real["folder"] / "kept" / "log16"
    assert verify(where).ok
    cube = open_cube(where).isel(seed=0).load()
    assert cube.sizes["prompt"] == 2
    for cell in (cube.isel(prompt=p, mode=m) for p in range(2) for m in range(2)):
        slots = int(cell.length)
        small = (cell[name].values[:slots] for name in ("logical", "slot_step", "pruned_at"))
        seen = visibility(str(cell.mode.values), *small)
        weights = cell.attention.values[..., :slots, :slots]
        assert (np.nan_to_num(weights)[..., ~seen] == 0).all()
        assert np.allclose(np.nansum(weights, axis=-1), 1, atol=0.01)
    parted = cube.attention.sel(mode="visible") - cube.attention.sel(mode="isolated")
    assert float(abs(parted).max()) > 0.01


@pytest.mark.slow
def test_reading_it_is_held_against_decoding_it_once(real: dict[str, Any]) -> None:
    ways = [line["way"] for line in real["lines"] if line["kind"] == "reading"]
    assert sorted(ways) == ["decode", "report", "survey"]
    (read,) = (line for line in real["lines"] if line["kind"] == "read")
    assert read["decode_times"]["median"] == 1
    assert read["report_s"]["median"] > 0 < read["report_gib"]
    assert "tempo-stats report, with page and figures: " in real["text"]
    assert not list((real["folder"] / "scratch").iterdir())
