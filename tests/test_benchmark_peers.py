"""The peer benchmark in small: who is missing is skipped by name, and nothing is compared that differs."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempocube.capture.model import embedded_path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TORCH = find_spec("torch") is not None
TEXTS = ["Once upon a time", "He couldn't believe"]


@pytest.fixture
def peering(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import peering

    return peering


@pytest.fixture
def peers(peering: Any) -> Any:
    import peers

    return peers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("peers")
    (folder / "scratch").mkdir()
    asked = ["--model", "tiny", "--prompts", 3, "--tokens", 3, "--repeats", 2, "--cores", 2]
    asked += [
        "--only",
        "mlx-lm",
        "tempocube",
        "--json",
        folder / "lines.json",
        "--scratch",
        folder / "scratch",
    ]
    command = list(map(str, [sys.executable, BENCHMARKS / "peers.py", *asked]))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (folder / "lines.json").read_text().splitlines()]
    return {"text": done.stdout, "lines": lines, "folder": folder}


def kind(run: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [line for line in run["lines"] if line["kind"] == name]


@pytest.mark.slow
def test_every_arm_has_its_turn_in_every_round(run: dict[str, Any]) -> None:
    ours = [line["arm"] for line in kind(run, "arm")]
    assert len(ours) == 7
    for repeat in (0, 1):
        assert {line["arm"] for line in kind(run, "sample") if line["repeat"] == repeat} == set(ours)
    assert {"python", "mlx", "mlx-lm"} <= run["lines"][0]["machine"]["versions"].keys()
    assert not list((run["folder"] / "scratch").iterdir())


@pytest.mark.slow
def test_tokens_fed_are_counted_the_same_on_any_number_of_processes(run: dict[str, Any]) -> None:
    nodes = {line["arm"]: line["nodes"] for line in kind(run, "arm")}
    assert (
        nodes["tempocube, packed"]
        == nodes["tempocube, packed, 2 processes"]
        == nodes["tempocube, one by one"]
    )
    assert nodes["mlx-lm, no capture"] == nodes["tempocube, packed"] - 3  # it does not feed the last ones
    assert nodes["tempocube, parallel tokens, 2 processes"] > nodes["tempocube, packed"]


@pytest.mark.slow
def test_ratios_are_of_the_same_task_only(run: dict[str, Any]) -> None:
    pairs = {(line["arm"], line["over"]) for line in kind(run, "ratio")}
    assert ("tempocube, packed", "mlx-lm, no capture") in pairs
    assert not any("parallel" in arm + over for arm, over in pairs)
    samples = {(line["arm"], line["repeat"]): line["wall_s"] for line in kind(run, "sample")}
    for line in kind(run, "ratio"):
        within = [samples[line["over"], n] / samples[line["arm"], n] for n in (0, 1)]
        assert (line["times"]["least"], line["times"]["most"]) == (min(within), max(within))


def test_a_tool_that_is_not_installed_is_skipped_with_what_to_install(peering: Any, peers: Any) -> None:
    arm = peering.Arm("some tool, batched", "peers_torch", "batched", 1, 2, ("numpy", "no_such_package"))
    assert peers.skipped([arm]) == [
        {
            "kind": "skipped",
            "arm": "some tool, batched",
            "why": "no_such_package not installed: pip install no_such_package",
        }
    ]


def tool(peering: Any, name: str) -> Any:
    import importlib

    return importlib.import_module(name).Tool(embedded_path(), 1)


def test_our_ways_take_the_tokens_that_mlx_lm_takes(peering: Any) -> None:
    ours = tool(peering, "peers_mlx")
    one, packed, plain = (getattr(ours, way)(TEXTS, 4) for way in ("one_by_one", "packed", "without_capture"))
    assert one["tokens"] == packed["tokens"] == plain["tokens"]
    assert [len(each) for each in plain["tokens"]] == [4, 4]
    assert one["nodes"] == packed["nodes"] == plain["nodes"] + 2


@pytest.mark.skipif(not TORCH, reason="torch is not installed (pip install torch)")
def test_transformers_take_the_same_tokens_with_the_same_attention(peering: Any) -> None:
    ours, theirs = (tool(peering, name) for name in ("peers_mlx", "peers_torch"))
    tokens = [ours.model.prompt_tokens(text) for text in TEXTS]
    taken = ours.packed(TEXTS, 4)["tokens"]
    for way in (theirs.one_by_one, theirs.batched):
        assert way(tokens, 4)["tokens"] == taken
        for number in (0, 1):
            assert peering.apart(ours.attention(number), theirs.attention(number)) < 1e-5


def weights(slots: int) -> Any:
    made = np.full((1, 1, slots, slots), 0.5, np.float32)
    made[..., ~np.tri(slots, dtype=bool)] = np.nan
    return made


def test_weights_are_compared_over_the_slots_of_both(peering: Any) -> None:
    one, other = weights(5), weights(4)
    assert peering.apart(one, other) == 0
    other[0, 0, 3, 1] += 0.25
    assert peering.apart(one, other) == 0.25
    other[0, 0, 0, 0] = np.nan
    assert peering.apart(one, other) == np.inf
    assert peering.apart(one, weights(0)) == np.inf
    assert peering.apart(one, np.concatenate([one, one])) == np.inf


def test_tools_that_took_other_tokens_are_not_compared(peering: Any) -> None:
    lead, arm = (peering.Arm(name, "peers_mlx", "packed", 1, 1) for name in ("first", "second"))
    task = peering.Task("a model", Path(), ["A text", "Another"], [[1], [2]], 3)
    row = {"tokens": [[1, 2, 3], [4, 5, 6]]}
    peering.must_take_the_same(lead, row, arm, row, task)
    for wrong, told in (
        ([1, 2, 4], "second: 'A text': token 2 is not what first took; no ratio is shown"),
        ([1, 2], "token 2 is not what first took"),
        ([], "token 0 is not what first took"),
    ):
        with pytest.raises(RuntimeError, match=told):
            peering.must_take_the_same(lead, row, arm, {"tokens": [wrong, [4, 5, 6]]}, task)
    with pytest.raises(RuntimeError, match="token 0"):  # nothing is no result
        peering.must_take_the_same(lead, {"tokens": [[], []]}, arm, {"tokens": [[], []]}, task)


@pytest.mark.parametrize(
    ("least", "most", "told"),
    [(1.0, 1.5, "met"), (0.5, 0.9, "missed"), (0.9, 1.1, "cannot tell from the range")],
)
def test_the_target_is_judged_only_where_all_rounds_agree(
    least: float, most: float, told: str, peers: Any
) -> None:
    assert peers.verdict({"median": (least + most) / 2, "least": least, "most": most}) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--tokens", "0"], "--tokens must be at least 1"),
        (["--only", "vllm"], "invalid choice: 'vllm'"),
        (["--json", "no/such/folder/lines.json"], "no such folder"),
    ],
)
def test_bad_words_are_refused_before_a_model_is_loaded(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], peers: Any
) -> None:
    with pytest.raises(SystemExit) as left:
        peers.main(words)
    assert left.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.skipif(TORCH, reason="torch is installed")
def test_without_any_tool_nothing_is_measured(capsys: pytest.CaptureFixture[str], peers: Any) -> None:
    assert peers.main(["--only", "transformers", "nnsight"]) == 1
    told = capsys.readouterr().out
    assert "skipped: transformers, batched: torch not installed: pip install torch" in told
    assert "nothing is left to measure" in told
