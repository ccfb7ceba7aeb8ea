import json

import numpy as np
import pandas as pd
import pytest
import typer
import xarray as xr
from typer.testing import CliRunner

from cubes import facts, fill, grid
from measured import SMALL
from tempocube.cli import exchange
from tempocube.dataset.reading import open_cube
from tempocube.dataset.simulated import Effects
from tempocube.errors import BadInput
from tempocube.stats import measures
from tempocube.stats.divergence import kl, normalised
from tempocube.stats.legacy import export
from tempocube.stats.legacy_files import Captured
from tempocube.stats.table import load
from tempocube.stats.tables_out import TABLES, save
from tempocube.stats.view import view


@pytest.fixture
def exported(make, tmp_path):
    """One prompt and seed of a simulated cube, its folder, and what was written."""
    cube, folder = make(), tmp_path / "results"
    return open_cube(cube).load(), folder, export(cube, folder, prompts=["p0"], seeds=[42])


def arrays(path):
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def text(path):
    return json.loads(path.read_text("utf-8"))


def cell_of(cube, mode, seed=42):
    cell = cube.sel(prompt="p0", seed=seed, mode=mode)
    n, sets = int(cell.length), int((cell.width > 0).sum())
    return cell.isel(slot=slice(n), query=slice(n), key=slice(n), step=slice(sets))


def starts(cell):
    return np.r_[(cell.slot_step < 0).sum(), cell.width.values].cumsum()


def test_attention_has_the_documented_keys_and_shapes_and_the_weights_of_the_cube(exported):
    cube, folder, _ = exported
    cell = cell_of(cube, "visible")
    found, begins = arrays(folder / "p0_s42_visible" / "attention_weights.npz"), starts(cell)
    for step, begin in enumerate(begins[:-1]):
        query = begins[step - 1] if step else begin - 1
        weights = found[f"step_{step}_attention"]
        assert weights.shape == (2, 1, 3, 1, begin)
        assert np.array_equal(weights[:, 0, :, 0], cell.attention.values[:, :, query, :begin])
        assert found[f"step_{step}_positions"].tolist() == list(range(begin, begins[step + 1]))
        assert int(found[f"step_{step}_logical"]) == step
    assert len(found) == 4 * SMALL.steps


@pytest.mark.parametrize("readout", ["top", "last", "mixture"])
def test_the_row_of_a_step_is_that_of_the_token_its_readout_came_from_most(tmp_path, readout):
    fill(tmp_path / "cube.zarr", grid(1, seeds=[1], readout=readout, max_tokens=12))
    export(tmp_path / "cube.zarr", tmp_path / "out", modes=["visible"])
    found = arrays(tmp_path / "out" / "p0_s1_visible" / "attention_weights.npz")
    log = text(tmp_path / "out" / "p0_s1_visible" / "generation_log.json")
    cell = cell_of(open_cube(tmp_path / "cube.zarr").load(), "visible", seed=1)
    begins, elsewhere = starts(cell), 0
    for step in range(1, 12):
        before = np.arange(begins[step - 1], begins[step])
        likely = before[np.argmax(cell.probability.values[before])]
        query = {"top": before[0], "last": before[-1], "mixture": likely}[readout]
        row = found[f"step_{step}_attention"][:, 0, :, 0]
        assert np.array_equal(row, cell.attention.values[:, :, query, : begins[step]])
        assert (int(found[f"step_{step}_query"][0]), log["steps"][step]["attention_query"]) == (query, query)
        elsewhere += query != before[0]
    assert (elsewhere > 0) == (readout != "top")
    assert {"top": "best token", "last": "last token", "mixture": "weighs most"}[readout] in log[
        "attention_rows"
    ]


def test_a_token_that_was_hidden_before_the_readout_is_not_where_it_came_from(tmp_path):
    cube = fill(tmp_path / "cube.zarr", grid(1, seeds=[1], readout="last"))
    seen = view(cube.place)
    step = seen.wide_steps[0]
    seen.pruned_at = np.full(seen.slots, -1)
    seen.pruned_at[seen.of_step(step)[-1]] = step + 1
    assert Captured("", seen, None, None, {}).source(step + 1) == seen.of_step(step)[-2]
    seen.pruned_at[seen.of_step(step)[-1]] = step + 2  # after it was read
    assert Captured("", seen, None, None, {}).source(step + 1) == seen.of_step(step)[-1]


def test_steps_whose_row_was_not_captured_are_said(make, tmp_path):
    cube = make(readout="last", capture={"attention": {"queries": "last"}})
    made = export(cube, tmp_path / "out", prompts=["p0"], seeds=[42], modes=["visible"])
    assert ("attention_weights.npz, some steps", 1) in {(name, n) for (name, _), n in made.left_out.items()}
    steps = text(tmp_path / "out" / "p0_s42_visible" / "generation_log.json")["steps"]
    there = arrays(tmp_path / "out" / "p0_s42_visible" / "attention_weights.npz")
    for each in steps:
        assert (each["attention_query"] is None) == (f"step_{each['step']}_attention" not in there)
    assert {each["attention_query"] is None for each in steps} == {True, False}


def test_readouts_positions_and_sets_are_those_of_the_cube(exported):
    cube, folder, _ = exported
    here, cell = folder / "p0_s42_isolated", cell_of(cube, "isolated")
    logits, begins = arrays(here / "logits_distributions.npz"), starts(cell)
    for step in range(SMALL.steps):
        assert logits[f"step_{step}_logits"].shape == (1, SMALL.vocab)
        assert np.array_equal(logits[f"step_{step}_logits"][0], cell.logits.values[step])
    assert text(here / "rope_positions.json") == {
        str(i): p for i, p in enumerate(cell.logical.values.tolist())
    }
    sets, wide = text(here / "parallel_sets.json"), np.flatnonzero(cell.width.values > 1)
    assert [each["step"] for each in sets["parallel_sets"]] == wide.tolist()
    for each in sets["parallel_sets"]:
        slots = list(range(begins[each["step"]], begins[each["step"] + 1]))
        assert (each["count"], each["positions"]) == (len(slots), slots)
        assert each["tokens"] == cell.token.values[slots].tolist()
    assert sets["summary"] == {"total_parallel_steps": len(wide), "max_parallel_width": int(cell.width.max())}


def test_the_metadata_that_the_original_loader_opens_first_say_prompt_and_mode(exported):
    cube, folder, _ = exported
    told = text(folder / "p0_s42_isolated" / "experiment_metadata.json")
    assert told["config"]["prompt"] == str(cube.prompt_text.values[0])
    assert told["config"]["isolate"]
    assert told["num_steps"] == SMALL.steps


def test_scores_between_siblings_are_the_weights_of_their_rows(exported):
    cube, folder, _ = exported
    cell = cell_of(cube, "visible")
    scores, begins = text(folder / "p0_s42_visible" / "cross_parallel_scores.json")["sets"], starts(cell)
    assert scores
    for each in scores:
        slots = np.arange(begins[each["step"]], begins[each["step"] + 1])
        among = cell.attention.values[:, :, slots][..., slots][:, :, ~np.eye(slots.size, dtype=bool)]
        before = cell.attention.values[:, :, slots, : slots[0]]
        assert each["cross_parallel_score"] == pytest.approx(among.mean(dtype=float))
        assert each["prior_context_score"] == pytest.approx(before.mean(dtype=float))
    isolated = text(folder / "p0_s42_isolated" / "cross_parallel_scores.json")["sets"]
    assert {each["cross_parallel_max"] for each in isolated} == {0.0}


def test_a_pair_of_modes_has_the_divergence_of_its_readouts(exported):
    cube, folder, made = exported
    told = text(folder / "p0_s42" / "kl_divergence.json")
    one, other = (normalised(cell_of(cube, mode).logits.values) for mode in told["modes"])
    assert made.pairs == ("p0_s42",)
    assert told["modes"] == ["isolated", "visible"]
    assert [step["kl"] for step in told["steps"]] == pytest.approx(kl(one, other).tolist())
    assert (folder / "p0_s42" / "analysis.txt").read_text().count("KL(isolated || visible)") == 1


def test_modes_are_compared_up_to_the_first_set_that_differs(tmp_path):
    fill(tmp_path / "cube.zarr", grid(1), facts())
    export(tmp_path / "cube.zarr", tmp_path / "out", seeds=[1])
    told = text(tmp_path / "out" / "p0_s1" / "kl_divergence.json")
    assert len(told["steps"]) == told["first_difference"] + 1


def test_what_was_not_captured_is_not_written_and_said(tmp_path):
    bare = grid(1, seeds=[1], capture={"attention": False, "logits": False, "keys_values": True})
    fill(tmp_path / "cube.zarr", bare)
    made = export(tmp_path / "cube.zarr", tmp_path / "out")
    there = {path.name for path in (tmp_path / "out" / "p0_s1_isolated").iterdir()}
    lacking = {"attention_weights.npz", "logits_distributions.npz", "cross_parallel_scores.json"}
    assert not there & lacking
    assert "kv_cache_states.npz" in there
    told = {name for name, _ in made.left_out}
    assert told == {*lacking, "sibling_attention.npz", "kl_divergence.json"}
    assert set(text(tmp_path / "out" / "p0_s1_isolated" / "generation_log.json")["left_out"]) == told - {
        "kl_divergence.json"
    }


def test_the_cache_is_written_layer_by_layer_without_a_pickle(tmp_path):
    fill(tmp_path / "cube.zarr", grid(1, seeds=[1], capture={"keys_values": True}))
    export(tmp_path / "cube.zarr", tmp_path / "out", modes=["visible"])
    found = arrays(tmp_path / "out" / "p0_s1_visible" / "kv_cache_states.npz")
    cell = open_cube(tmp_path / "cube.zarr").sel(mode="visible").isel(prompt=0, seed=0)
    n = int(cell.length)
    for kind in ("key", "value"):
        wanted = cell[f"cached_{kind}"].values[1, :, :n]
        assert np.array_equal(found[f"layer_1_{kind}"], wanted[None])


def test_existing_experiments_are_left_alone_unless_overwritten(exported, make):
    _, folder, _ = exported
    (folder / "p0_s42_visible" / "mine.txt").write_text("mine")
    with pytest.raises(BadInput, match="p0_s42_isolated exists already; --overwrite"):
        export(make(), folder)
    assert (folder / "p0_s42_visible" / "mine.txt").exists()
    assert not (folder / "p1_s42_visible").exists()
    export(make(), folder, prompts=["p0"], overwrite=True)
    assert not (folder / "p0_s42_visible" / "mine.txt").exists()
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ({"prompts": ["p9"]}, r"prompt 'p9': not in this cube; it has p0 \(Simulated .*\), p1 "),
        ({"seeds": [7]}, "seed 7: not in this cube"),
        ({"modes": ["single"]}, "it has isolated, visible"),
        ({"at": {"threshold": "0.1"}}, "has no 'threshold'; it has prompt, seed, mode"),
    ],
)
def test_what_is_not_there_is_named(make, tmp_path, which, said):
    with pytest.raises(BadInput, match=said):
        export(make(), tmp_path / "out", **which)
    assert not (tmp_path / "out").exists()


def test_a_value_of_a_swept_axis_is_chosen_and_named(tmp_path):
    fill(tmp_path / "cube.zarr", grid(1, seeds=[1], threshold=[0.05, 0.1]))
    made = export(tmp_path / "cube.zarr", tmp_path / "out", at={"threshold": "0.10"}, modes=["visible"])
    assert made.experiments == ("p0_s1_visible_threshold-0.1",)


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".parquet", ".nc"])
@pytest.mark.parametrize("table", TABLES)
def test_tables_come_back_from_every_kind_of_file(make, tmp_path, kind, table):
    cube = make()
    wanted = getattr(measures, table)(cube)
    path = save(cube, tmp_path / f"out{kind}", table)
    frame = wanted if isinstance(wanted, pd.DataFrame) else wanted.to_dataframe().reset_index()
    if kind == ".nc":
        with xr.open_dataset(path, engine="scipy") as found:
            if table == "maps":
                assert found.sizes == wanted.sizes
                assert np.array_equal(found.downweighting, wanted, equal_nan=True)
            back = found.to_dataframe().reset_index()
    else:
        back = load(path)
    assert len(back) == len(frame)
    for name in frame.columns:
        if frame[name].dtype.kind in "fiub":
            assert np.allclose(back[name].astype(frame[name].dtype), frame[name], rtol=1e-12, equal_nan=True)
        else:
            assert ["" if isinstance(each, float) else each for each in back[name]] == frame[name].tolist()


def test_a_table_in_parquet_still_knows_its_checks(make, tmp_path):
    path = save(make(), tmp_path / "out.parquet")
    assert load(path).attrs["checks"]["rows_sum"]["fail"] == 0


def test_a_csv_of_a_control_says_that_it_is_one(make, tmp_path):
    path = save(make(effects=Effects(control="clone")), tmp_path / "out.csv")
    assert set(load(path)["control"]) == {"clone"}


def test_files_of_a_control_say_that_it_is_one(make, tmp_path):
    export(make(effects=Effects(control="clone")), tmp_path / "out", prompts=["p0"], seeds=[42])
    here = tmp_path / "out" / "p0_s42_visible"
    assert text(here / "experiment_metadata.json")["config"]["control"] == "clone"
    for file in (here / "analysis.txt", tmp_path / "out" / "p0_s42" / "analysis.txt"):
        assert "control: clone\n" in file.read_text()


def test_seeds_that_no_float_holds_are_text_in_netcdf(tmp_path):
    seeds = [2**53 + 1, 2**62 + 3]
    fill(tmp_path / "cube.zarr", grid(1, seeds=seeds))
    path = save(tmp_path / "cube.zarr", tmp_path / "out.nc")
    with xr.open_dataset(path, engine="scipy") as found:
        assert set(found.seed.values.tolist()) == {str(seed) for seed in seeds}


def test_nothing_is_written_into_a_cube_nor_over_one(tmp_path):
    cube = tmp_path / "p0_s1_visible"
    fill(cube, grid(1, seeds=[1]))
    there = sorted(cube.iterdir())
    for folder in (cube, cube / "attention" / "mine"):
        with pytest.raises(BadInput, match="p0_s1_visible is a cube, which nothing is written into"):
            export(cube, folder)
    with pytest.raises(BadInput, match="is a cube"):
        export(cube, tmp_path, overwrite=True)
    with pytest.raises(BadInput, match="is a cube"):
        save(cube, cube / "out.csv")
    assert sorted(cube.iterdir()) == there


def test_a_table_goes_into_a_known_kind_of_new_file(make, tmp_path):
    cube, path = make(), tmp_path / "out.csv"
    save(cube, path)
    with pytest.raises(BadInput, match=r"out\.csv exists already"):
        save(cube, path)
    with pytest.raises(BadInput, match=r"ends in \.csv, \.tsv, \.parquet, \.nc"):
        save(cube, tmp_path / "out.xlsx")
    with pytest.raises(BadInput, match="no table 'pairs'; there are experiments"):
        save(cube, tmp_path / "pairs.csv", "pairs")
    assert [each.name for each in tmp_path.glob("*.csv")] == ["out.csv"]


def test_the_command_writes_both_and_says_what_it_left_out(make, tmp_path):
    app = typer.Typer()
    app.command()(exchange.export)
    out = ["--legacy", str(tmp_path / "out"), "--measures", str(tmp_path / "maps.nc"), "--table", "maps"]
    found = CliRunner().invoke(app, [make(), *out, "--prompt", "p0", "--seed", "42"])
    assert found.exit_code == 0, found.output
    assert "wrote 2 experiments and 1 pair of modes" in found.output
    assert "not written in 2 folders: kv_cache_states.npz: keys and values were not captured" in found.output
    with xr.open_dataset(tmp_path / "maps.nc", engine="scipy") as maps:
        assert maps.sizes["prompt"] == 1
