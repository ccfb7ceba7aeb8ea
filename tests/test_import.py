import io
import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from cubes import fill, grid
from measured import SMALL
from original import HEADS, LAYERS, PROMPT, VOCAB, WIDTHS, original
from tempocube.cli import exchange
from tempocube.dataset.cube import Cube
from tempocube.dataset.imported import Given, bring_in
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import CHECKS, DONE, FAILED, NOT_APPLICABLE, PASS
from tempocube.dataset.simulated import Effects
from tempocube.dataset.verify import verify
from tempocube.errors import BadInput
from tempocube.stats.legacy import export
from tempocube.stats.measures import experiments

KNOWN = ("rows_sum", "finite", "width")  # checks that files allow


def said(made):
    return {what: count for what, _, count in made.missing}


@pytest.fixture
def there_and_back(make, tmp_path):
    """Exports a simulated cube, imports what was written, and gives both."""

    def both(design=SMALL, effects=None, **options):
        cube = make(design, effects, **options)
        export(cube, tmp_path / "files")
        made = bring_in(tmp_path / "files", tmp_path / "back.zarr")
        return open_cube(cube).load(), open_cube(made.url).load(), made

    return both


def test_an_exported_cube_comes_back_with_every_stored_value(there_and_back):
    cube, back, made = there_and_back(replace(SMALL, modes=("isolated", "visible", "single")))
    assert made.done == 18
    assert np.array_equal(cube.digest, back.digest)
    assert np.array_equal(cube.log_attention, back.log_attention, equal_nan=True)
    for name in cube.coords:
        assert cube[name].values.tolist() == back[name].values.tolist()
    assert verify(made.url).ok


def test_exact_values_stay_exact(there_and_back):
    exact = {"attention": "float32", "logits": "float32"}
    cube, back, made = there_and_back(replace(SMALL, categories=(1,), seeds=1), storage=exact)
    assert np.array_equal(cube.digest, back.digest)
    assert verify(made.url).ok


def test_layers_heads_and_rows_come_back_as_they_were_captured(there_and_back):
    part = {"attention": {"layers": [1], "heads": [0, 2], "queries": "generated"}, "logits": False}
    cube, back, made = there_and_back(capture=part)
    assert back.attrs["captured_layers"] == [1]
    assert back.attrs["captured_heads"] == [0, 2]
    assert back.attrs["captured_queries"] == "generated"
    assert np.array_equal(cube.attention, back.attention, equal_nan=True)
    assert "logits" not in back
    assert "logits: no readout" in said(made)


def test_next_token_rows_are_a_last_query_capture_that_lacks_its_last_row(there_and_back):
    cube, back, made = there_and_back(capture={"attention": {"queries": "last"}})
    assert back.attrs["captured_queries"] == "last"
    assert "attention: next-token rows only, no sibling rows" in said(made)
    for index in np.ndindex(cube.status.shape):
        one, other = (each.attention.values[index] for each in (cube, back))
        wide = cube.width.values[index][-1] > 1
        late = (cube.slot_step.values[index] == SMALL.steps - 1) & wide
        assert np.array_equal(one[:, :, ~late], other[:, :, ~late], equal_nan=True)
        assert not np.isfinite(other[:, :, late]).any()


def test_a_control_stays_one(there_and_back):
    _, back, _ = there_and_back(effects=Effects(control="clone"))
    assert back.attrs["control"] == "clone"


def test_an_imported_cube_says_so_and_no_check_that_files_do_not_allow_is_passed(there_and_back):
    _, back, made = there_and_back(replace(SMALL, modes=("visible",)))
    told = back.attrs["imported"]
    assert told["from"] == "files"
    assert "attention_weights.npz" in told["files"]["p0_s42_visible"]
    assert [each["what"] for each in told["missing"]] == [what for what, _, _ in made.missing]
    assert back.attrs["model"]["sha256"].startswith("imported-")
    results = dict(zip(CHECKS, back.check_result.values.reshape(-1, len(CHECKS)).T, strict=True))
    assert {name for name, result in results.items() if (result != NOT_APPLICABLE).any()} <= set(KNOWN)
    assert (results["rows_sum"] == PASS).all()


def test_prompts_with_other_seeds_are_asked_for_as_they_are(tmp_path):
    fill(tmp_path / "cube.zarr", grid(2))
    for prompt, seed in (("p0", 1), ("p1", 2)):
        export(tmp_path / "cube.zarr", tmp_path / "files", prompts=[prompt], seeds=[seed])
    made = bring_in(tmp_path / "files", tmp_path / "back.zarr")
    verdict = verify(tmp_path / "back.zarr")
    assert (made.done, verdict.ok) == (4, True)
    assert verdict.counts["not asked"] == 4


def test_rows_of_the_original_lie_where_their_tokens_do(tmp_path):
    wrote = original(tmp_path / "exp1_isolated", "sets")
    made = bring_in(tmp_path, tmp_path / "cube.zarr", Given(prompt="The cat", category="simple", seed=3))
    cell = open_cube(made.url).load().isel(prompt=0, seed=0, mode=0)
    assert (str(cell.prompt_text.values), str(cell.category.values)) == ("The cat", "simple")
    assert (int(cell.seed), str(cell["mode"].values)) == (3, "isolated")
    assert cell.width.values.tolist() == list(WIDTHS)
    for step in range(len(WIDTHS)):
        row = wrote[f"step_{step}_attention"][:, 0, :, 0]
        keys = row.shape[-1]
        assert cell.attention.values[:, :, keys - 1, :keys] == pytest.approx(row, rel=5e-3)
        logits = wrote[f"step_{step}_logits"][0].astype(float)
        assert cell.logits.values[step] == pytest.approx(logits - np.logaddexp.reduce(logits), abs=1e-3)
    for each in wrote["sets"]:
        assert cell.token.values[each["positions"]].tolist() == each["tokens"]
    assert "attention: next-token rows only, no sibling rows" in said(made)


def test_rows_that_are_written_again_at_every_step_are_taken_once(tmp_path):
    wrote = original(tmp_path / "exp1_visible", "whole")
    made = bring_in(tmp_path, tmp_path / "cube.zarr")
    cell = open_cube(made.url).load().isel(prompt=0, seed=0, mode=0)
    last = wrote[f"step_{len(WIDTHS) - 1}_attention"][:, 0]
    keys, prompt = last.shape[-1], slice(0, PROMPT)
    assert cell.attention.values[:, :, prompt, prompt] == pytest.approx(
        np.where(np.tri(PROMPT) > 0, last[:, :, prompt, prompt], np.nan), rel=5e-3, nan_ok=True
    )
    assert np.isfinite(cell.attention.values[:, :, keys - 1, :keys]).all()


def test_columns_that_are_not_the_sets_tokens_are_left_out_counted_and_said(tmp_path):
    original(tmp_path / "exp1_visible", "cache")
    made = bring_in(tmp_path, tmp_path / "cube.zarr")
    assert "attention" not in open_cube(made.url)
    # step 1 took slots 5, 6, 7, and the matrix of step 2 has columns 0 to 6
    assert said(made)["positions of parallel sets that lie outside the matrix that comes next"] == 1


def test_a_cache_of_one_token_a_step_can_be_read_as_what_it_is(tmp_path):
    wrote = original(tmp_path / "exp1_visible", "cache")
    made = bring_in(tmp_path, tmp_path / "cube.zarr", keys="cache")
    cell = open_cube(made.url).load().isel(prompt=0, seed=0, mode=0)
    assert cell.width.values.tolist() == [1] * len(WIDTHS)
    for step in range(len(WIDTHS)):
        row = wrote[f"step_{step}_attention"][:, 0, :, 0]
        assert cell.attention.values[:, :, PROMPT + step, : row.shape[-1]] == pytest.approx(row, rel=5e-3)
    assert said(made)["parallel tokens that were never fed: left out"] == sum(WIDTHS) - len(WIDTHS)


def test_two_modes_of_one_folder_name_are_one_prompt(tmp_path):
    for mode in ("isolated", "visible"):
        original(tmp_path / "results" / f"exp1_{mode}", "sets")
    made = bring_in(tmp_path / "results", tmp_path / "cube.zarr")
    frame = experiments(open_cube(made.url))
    assert frame["mode"].tolist() == ["isolated", "visible"]
    assert open_cube(made.url).prompt_text.values.tolist() == ["imported: exp1"]
    for what in ("prompts: texts unknown, named by their folders", "seeds: unknown, called 0"):
        assert what in said(made)


def test_what_the_metadata_say_needs_no_guess(tmp_path):
    original(tmp_path / "run", "sets", prompt="The dog", isolate=True, seed=7)
    made = bring_in(tmp_path, tmp_path / "cube.zarr")
    labels = Cube.open(made.url).labels
    assert (labels.prompt_text, labels.seed, labels.mode) == (("The dog",), (7,), ("isolated",))


def test_rows_that_do_not_sum_to_one_fail_the_experiment(tmp_path):
    half = {"step_0_attention": np.full((LAYERS, 1, HEADS, 1, PROMPT), 0.5 / PROMPT, dtype="f4")}
    original(tmp_path / "exp1_visible", "sets", weights=half)
    original(tmp_path / "exp2_visible", "sets")
    made = bring_in(tmp_path, tmp_path / "cube.zarr")
    cube = Cube.open(made.url)
    assert (len(cube.cells(DONE)), len(cube.cells(FAILED))) == (1, 1)
    assert made.failed == ("exp1_visible: treatment check rows_sum failed",)


def rewrite(path, **change):
    with np.load(path, allow_pickle=True) as file:
        kept = {name: file[name] for name in file.files if name != "metadata"}
    np.savez(path, **kept | change)


def claim(path, values):
    """Add an array whose header claims so many values, and which has none."""
    header = io.BytesIO()
    told = {"descr": "<f8", "fortran_order": False, "shape": (values,)}
    np.lib.format.write_array_header_1_0(header, told)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("step_7_logits.npy", header.getvalue())


def spoil_config(folder, config):
    (folder / "experiment_metadata.json").write_text(json.dumps({"config": config}))


def spoil_sets(folder, **change):
    told = json.loads((folder / "parallel_sets.json").read_text())
    told["parallel_sets"][0] |= change
    (folder / "parallel_sets.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(
            lambda f: rewrite(f / "attention_weights.npz", step_1_attention=np.array([{}], dtype=object)),
            "step_1_attention is a pickled object",
            id="pickle",
        ),
        pytest.param(
            lambda f: rewrite(f / "attention_weights.npz", step_1_attention=np.zeros((2, 3, 4))),
            r"step_1_attention has shape \(2, 3, 4\), expected",
            id="shape",
        ),
        pytest.param(
            lambda f: rewrite(f / "attention_weights.npz", step_1_attention=np.ones((9, 1, 3, 1, 5))),
            "step_1_attention has 9 layers, 3 heads, 5 keys; the others have 2, 3",
            id="layers",
        ),
        pytest.param(
            lambda f: rewrite(f / "logits_distributions.npz", step_1_logits=np.zeros((1, 7))),
            "vocabularies of .7, 40. tokens",
            id="vocabulary",
        ),
        pytest.param(
            lambda f: rewrite(f / "logits_distributions.npz", step_1_positions=np.arange(9, 12)),
            "its files differ in the positions of step 1",
            id="positions of two files",
        ),
        pytest.param(
            lambda f: spoil_sets(f, positions=[50, 51, 52]),
            r"step 1 has 3 tokens at \[50, 51, 52\]; captured: \[5, 6, 7\]",
            id="positions of sets",
        ),
        pytest.param(
            lambda f: spoil_sets(f, tokens=[1, 2, VOCAB]), f"token {VOCAB} is not among the 40", id="token"
        ),
        pytest.param(
            lambda f: (f / "attention_weights.npz").write_bytes(b"PK no zip"), "not a whole npz", id="no zip"
        ),
        pytest.param(
            lambda f: (f / "attention_weights.npz").write_bytes(
                (f / "attention_weights.npz").read_bytes()[:900]
            ),
            "not a whole npz",
            id="cut short",
        ),
        pytest.param(
            lambda f: (f / "parallel_sets.json").write_text("{"), "parallel_sets.json: is not JSON", id="json"
        ),
        pytest.param(lambda f: f.rename(f.with_name("exp1")), "nothing says its mode", id="mode"),
        pytest.param(
            lambda f: rewrite(f / "attention_weights.npz", step_0_positions=np.array([3e8])),
            r"step_0_positions must hold whole numbers of at least 0 and below 1048576, got 300000000",
            id="positions that ask for all memory",
        ),
        pytest.param(
            lambda f: rewrite(f / "attention_weights.npz", step_0_positions=np.array([np.nan])),
            "step_0_positions must hold whole numbers .* got nan",
            id="no position",
        ),
        pytest.param(
            lambda f: rewrite(f / "attention_weights.npz", step_0_positions=np.array([-3])),
            "step_0_positions must hold whole numbers .* got -3",
            id="position below 0",
        ),
        pytest.param(
            lambda f: rewrite(f / "attention_weights.npz", step_2_query=np.array([], dtype=int)),
            "step_2_query must be one slot, got 0",
            id="no query",
        ),
        pytest.param(
            lambda f: (
                [path.unlink() for path in f.glob("[!l]*")]
                and np.savez(
                    f / "logits_distributions.npz",
                    step_0_logits=np.zeros((1, 5)),
                    step_0_positions=np.arange(3, 12),
                )
            ),
            "step 0 has 9 positions, its readout 5 tokens",
            id="a set wider than its readout",
        ),
        pytest.param(
            lambda f: (
                [path.unlink() for path in f.glob("*")]
                and np.savez_compressed(
                    f / "attention_weights.npz",
                    step_0_attention=np.zeros((1, 1, 1, 1, 50_000), dtype="f4"),
                    step_0_positions=np.array([50_000]),
                )
            ),
            "1 layers, 1 heads and 50001 slots are more than the 2147483648 weights",
            id="a row that asks for a huge matrix",
        ),
        pytest.param(
            lambda f: claim(f / "logits_distributions.npz", 10**13), "not a whole npz file", id="a huge array"
        ),
        pytest.param(
            lambda f: spoil_sets(f, tokens=[-5, -6, 1]),
            r"parallel_sets\.json: parallel_sets\[0\]\.tokens\[0\]: must be a token's number .*got -5",
            id="token below 0",
        ),
        pytest.param(
            lambda f: (f / "parallel_sets.json").write_text('{"parallel_sets": 5}'),
            r"parallel_sets\.json: parallel_sets: must be a list",
            id="no sets",
        ),
        pytest.param(
            lambda f: spoil_sets(f, step=float("inf")),
            r"parallel_sets\[0\]\.step: must be a whole",
            id="step",
        ),
        pytest.param(
            lambda f: (f / "parallel_sets.json").write_text("[" * 100_000), "is not JSON", id="deep json"
        ),
        pytest.param(lambda f: spoil_config(f, None), "metadata.json: config: must be a mapping", id="null"),
        pytest.param(lambda f: spoil_config(f, [1]), "metadata.json: config: must be a mapping", id="list"),
        pytest.param(
            lambda f: spoil_config(f, {"seed": "abc"}), 'config.seed: must be a whole .*got "abc"', id="seed"
        ),
        pytest.param(
            lambda f: spoil_config(f, {"prompt": {"a": 1}}), "config.prompt: must be text", id="prompt"
        ),
    ],
)
def test_what_does_not_fit_is_one_line_and_makes_no_cube(tmp_path, spoil, message):
    original(tmp_path / "files" / "exp1_visible", "sets")
    spoil(tmp_path / "files" / "exp1_visible")
    with pytest.raises(BadInput, match=message) as error:
        bring_in(tmp_path / "files", tmp_path / "cube.zarr")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cube.zarr").exists()


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """The folder of one exported experiment."""
    folder = tmp_path_factory.mktemp("ours")
    fill(folder / "cube.zarr", grid(1, seeds=[1], modes=["visible"]))
    export(folder / "cube.zarr", folder / "files")
    return folder / "files" / "p0_s1_visible"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"steps": []}, "steps: must not be an empty list"),
        ({"steps": 3}, "steps: must be a list"),
        ({"model": {}}, r"model\.id: is missing"),
        ({"model": {"vocab": 10**10}}, r"model\.vocab: must be a whole number from 1 to 2097152"),
        ({"model": {"vocab": 51}}, "its arrays have 50 tokens, generation_log.json says 51"),
        ({"layers": [0]}, "its arrays have 2 layers, generation_log.json says 1"),
        ({"layers": [0, 99]}, "layers: must be rising numbers below the model's 2"),
        ({"step": {"tokens": None}}, r"steps\[0\]\.tokens: must be a list"),
        ({"step": {"probabilities": ["a"]}}, r"steps\[0\]\.probabilities\[0\]: must be a probability"),
        ({"step": {"probabilities": [2.0]}}, r"probabilities\[0\]: must be a probability .*got 2\.0"),
        ({"step": {"pruned_at": []}}, r"steps\[0\]\.pruned_at: must have one item for each of tokens"),
        ({"step": {"logical": 77}}, r"steps\[0\]\.logical: must be 5 for each token of this set"),
        ({"prompt_logical": [0] * 5}, "prompt_logical: must count the 5 prompt_tokens from 0"),
        ({"parameters": {"max_tokens": 1}}, "has 6 sets, its max_tokens allows 1"),
    ],
)
def test_a_log_that_is_not_as_it_was_written_is_one_line(ours, tmp_path, spoil, message):
    files = shutil.copytree(ours, tmp_path / "files")
    log = json.loads((files / "generation_log.json").read_text())
    width = len(log["steps"][0]["tokens"])
    for name, value in spoil.get("step", {}).items():
        log["steps"][0][name] = [value] * width if isinstance(value, int) else value and value * width
    for name, value in spoil.items():
        if name != "step":
            log[name] = log[name] | value if isinstance(value, dict) and value else value
    (files / "generation_log.json").write_text(json.dumps(log))
    with pytest.raises(BadInput, match=message) as error:
        bring_in(files, tmp_path / "cube.zarr")
    assert "\n" not in str(error.value)
    assert str(files) in str(error.value)
    assert not (tmp_path / "cube.zarr").exists()


def test_a_swept_axis_does_not_come_back_and_one_value_of_it_does(tmp_path):
    fill(tmp_path / "cube.zarr", grid(1, seeds=[1], threshold=[0.05, 0.1]))
    export(tmp_path / "cube.zarr", tmp_path / "all")
    with pytest.raises(
        BadInput, match=r"differ in threshold \(0\.05, 0\.1\): export one .*--at threshold=VALUE"
    ):
        bring_in(tmp_path / "all", tmp_path / "back.zarr")
    export(tmp_path / "cube.zarr", tmp_path / "one", at={"threshold": "0.1"})
    assert bring_in(tmp_path / "one", tmp_path / "back.zarr").done == 2


def test_two_folders_of_the_same_experiment_are_refused(tmp_path):
    for name in ("one_visible", "two_visible"):
        original(tmp_path / "files" / name, "sets")
    with pytest.raises(BadInput, match="both hold prompt 'The cat', seed 0, mode visible"):
        bring_in(tmp_path / "files", tmp_path / "cube.zarr", Given(prompt="The cat"))


def test_folders_without_experiments_and_cubes_that_are_there_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        bring_in(tmp_path / "nowhere", tmp_path / "cube.zarr")
    original(tmp_path / "files" / ".exp1_visible.part", "sets")  # of an export that was killed
    with pytest.raises(BadInput, match=r"no attention_weights\.npz, logits_distributions\.npz or generation"):
        bring_in(tmp_path / "files", tmp_path / "cube.zarr")
    original(tmp_path / "files" / "exp1_visible", "sets")
    bring_in(tmp_path / "files", tmp_path / "cube.zarr")
    with pytest.raises(BadInput, match="exists already; --overwrite"):
        bring_in(tmp_path / "files", tmp_path / "cube.zarr")
    assert bring_in(tmp_path / "files", tmp_path / "cube.zarr", overwrite=True).done == 1


def test_the_command_says_what_is_missing(tmp_path):
    original(tmp_path / "files" / "exp1_visible", "cache")
    app = typer.Typer()
    app.command()(exchange.import_)
    found = CliRunner().invoke(app, [str(tmp_path / "files"), str(tmp_path / "cube.zarr"), "--keys", "cache"])
    assert found.exit_code == 0, found.output
    assert "imported 1 experiment into" in found.output
    assert "positions: written by the recorder, not read from the model" in found.output
    assert "parallel tokens that were never fed: left out (in 1 experiment, 3 in all)" in found.output
