"""The tools of seeds/002 on cubes whose weights, readouts and prunings were planted by hand."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax

from cubes import facts, grid
from pages import ROOT
from tempocube.dataset.cell import Cell
from tempocube.dataset.encoding import row_axis
from tempocube.dataset.reading import open_cube
from tempocube.dataset.schema import CHECKS, PASS
from tempocube.dataset.store import Driver
from tempocube.dataset.visibility import asked_rows, existence, visibility
from tempocube.errors import BadInput
from tempocube.stats.tools import AttentionAnalyzer, AttentionVisualizer, compare, layers
from tempocube.stats.tools.cross import cross_parallel
from tempocube.stats.view import view

PROMPT = 4
VOCAB = 60
WORDS = [f" w{i}" for i in range(VOCAB)]
EXACT = {"attention": "float32", "logits": "float32", "activations": "float32"}
Change = Callable[[Cell, dict[str, Any], np.ndarray, np.ndarray], None]


def unchanged(cell: Cell, small: dict[str, Any], weights: np.ndarray, readout: np.ndarray) -> None:
    """Leave an experiment as it is made."""


def planted(where: Path, change: Change = unchanged, widths=(1, 3, 1, 2), words=WORDS, **options: Any) -> str:
    """A cube of the same numbers in every cell, but for what `change` does to them in place."""
    own = {"seeds": [1, 2], "modes": ["isolated", "visible"], "max_tokens": len(widths), "storage": EXACT}
    asked, model = grid(**{"count": 3, **own, **options}), facts(layers=3, heads=2, vocab=VOCAB)
    with Driver(where, asked, model, PROMPT, vocabulary=lambda: words) as run:
        for task in run.todo():
            small, weights, readout = made(task.cell, widths)
            change(task.cell, small, weights, readout)
            writer = task.writer()
            for name, variable in writer.cube.data.items():
                values = readout if name == "logits" else weights
                assert values.shape[row_axis(variable)] <= 64
                writer.write(name, values.astype(np.float32), 0)
            writer.finish(small)
    return str(where)


def made(cell: Cell, widths: tuple[int, ...]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Index values, weights and log-probabilities, the same whatever the seed and mode."""
    rng = np.random.default_rng(7)
    width = np.ones(len(widths), int) if cell.mode == "single" else np.array(widths)
    steps = np.repeat(np.arange(len(width)), width)
    slot_step = np.r_[np.full(PROMPT, -1), steps]
    logical = np.r_[np.arange(PROMPT), PROMPT + steps]
    seen = visibility(cell.mode, logical, slot_step, np.full(slot_step.size, -1))
    score = np.where(seen, rng.normal(size=(3, 2, slot_step.size, slot_step.size)), -np.inf)
    weights = np.where(existence(slot_step), softmax(score, axis=-1), np.nan)
    rng = np.random.default_rng(8)  # of its own: a set of one token has the readout that a wider one has
    readout = rng.normal(0, 2, (len(width), VOCAB))
    readout -= np.logaddexp.reduce(readout, axis=-1, keepdims=True)
    first = np.cumsum(widths) - widths
    tokens = np.arange(10, 10 + sum(widths))
    own = tokens[np.concatenate([first[i] + np.arange(n) for i, n in enumerate(width)])]
    best = np.argsort(-readout, axis=1)[:, :16]
    small = {
        "token": np.r_[np.arange(PROMPT), own],
        "logical": logical,
        "slot_step": slot_step,
        "width": width,
        "probability": np.r_[np.full(PROMPT, np.nan), rng.uniform(0.1, 0.3, own.size)],
        "threshold_used": np.full(len(width), 0.1),
        "entropy": -(np.exp(readout) * readout).sum(axis=1),
        "top_token": best,
        "top_logprob": np.take_along_axis(readout, best, axis=1),
        "check_result": [PASS] * len(CHECKS),
        "text": "planted",
        "seconds": 0.5,
        "worker": "here",
    }
    return small, weights, readout


@pytest.fixture(scope="module")
def cube(tmp_path_factory) -> str:
    return planted(tmp_path_factory.mktemp("tools") / "cube.zarr")


# --- two experiments beside each other


def test_the_same_attention_is_identical_and_a_planted_difference_shows_in_its_layer_only(tmp_path):
    def moved(cell, small, weights, readout):
        if cell.seed == 2:
            weights[1, 0, 5, 2] += 0.01

    where = planted(tmp_path / "c.zarr", moved)
    one, other = (view(where, seed=seed, mode="visible") for seed in (1, 2))
    found = compare.attention(one, other)
    assert found.most == pytest.approx(0.01, abs=1e-7)
    assert not found.identical
    assert found.parted == -1
    assert found.by_layer["most"].tolist() == pytest.approx([0, 0.01, 0], abs=1e-7)
    assert found.by_step["most"].tolist() == pytest.approx([0, 0.01, 0, 0], abs=1e-7)
    same = compare.attention(one, one)
    assert same.identical
    assert (same.mean, same.most, same.correlation) == (0, 0, 1)


def test_what_one_mode_hides_is_told_apart_from_what_both_see(cube):
    one, other = (view(cube, mode=mode) for mode in ("isolated", "visible"))
    found = compare.attention(one, other)
    weights = other.cube_attention()
    hidden = ~one.visible & other.visible
    assert found.apart == pytest.approx(weights[..., hidden].max())
    assert found.apart > 0
    gap = np.abs(weights - one.cube_attention())[..., one.visible & other.visible]
    assert found.mean == pytest.approx(gap.mean(), rel=1e-5)
    assert found.pairs == gap.size
    assert len(found.by_layer) == 3


def test_comparisons_end_at_the_first_set_that_differs(tmp_path):
    def other_token(cell, small, weights, readout):
        if cell.seed == 2:
            small["token"][PROMPT + 4] = 50  # the one token of step 2

    where = planted(tmp_path / "c.zarr", other_token)
    one, other = (view(where, seed=seed) for seed in (1, 2))
    assert compare.parting(one, other) == 2
    assert compare.attention(one, other).by_step["step"].tolist() == [0, 1]
    assert compare.logits(one, other)["step"].tolist() == [0, 1, 2]


def test_divergences_of_readouts_are_those_of_scipy(tmp_path):
    def shifted(cell, small, weights, readout):
        if cell.seed == 2:
            readout[:] += np.random.default_rng(3).normal(size=readout.shape)

    where = planted(tmp_path / "c.zarr", shifted)
    one, other = (view(where, seed=seed) for seed in (1, 2))
    found = compare.logits(one, other)
    held = open_cube(where).logits.isel(prompt=0, mode=0).values.astype(np.float64)
    p, q = (softmax(each[: one.steps], axis=1) for each in held)
    assert found["kl"].tolist() == pytest.approx(rel_entr(p, q).sum(axis=1).tolist(), abs=1e-10)
    assert found["kl_back"].tolist() == pytest.approx(rel_entr(q, p).sum(axis=1).tolist(), abs=1e-10)
    assert found["js"].tolist() == pytest.approx((jensenshannon(p, q, axis=1) ** 2).tolist(), abs=1e-10)
    cosine = (p * q).sum(axis=1) / np.linalg.norm(p, axis=1) / np.linalg.norm(q, axis=1)
    assert found["cosine"].tolist() == pytest.approx(cosine.tolist(), abs=1e-12)
    best = [[set(np.argsort(-row)[:5].tolist()) for row in each] for each in (p, q)]
    assert found["overlap_5"].tolist() == pytest.approx(
        [len(a & b) / len(a | b) for a, b in zip(*best, strict=True)]
    )
    nothing = compare.logits(one, one)
    assert (nothing[["kl", "kl_back", "js"]] == 0).all(axis=None)
    assert (nothing[[f"overlap_{k}" for k in compare.TOPS]] == 1).all(axis=None)


def test_readouts_that_were_not_captured_give_a_table_without_rows(tmp_path, cube):
    one, other = (view(planted(tmp_path / "c.zarr", capture={"logits": False}), seed=seed) for seed in (1, 2))
    assert compare.logits(one, other).empty
    columns = compare.logits(view(cube), view(cube)).columns
    assert compare.logits(one, other).columns.tolist() == columns.tolist()


def test_of_tied_tokens_the_lower_id_is_among_the_best(tmp_path):
    def tied(cell, small, weights, readout):
        readout[:] = -np.log(VOCAB)
        if cell.seed == 2:
            readout[:, 30] += 1e-3

    where = planted(tmp_path / "c.zarr", tied)
    found = compare.logits(*(view(where, seed=seed) for seed in (1, 2)))
    # of equals the best five are 0 to 4; with 30 above them, 30 and 0 to 3
    assert found["overlap_5"].tolist() == pytest.approx([4 / 6] * 4)


def test_entropy_over_steps_names_the_best_token(cube):
    seen = view(cube)
    found = compare.entropy(seen)
    p = softmax(open_cube(cube).logits.isel(prompt=0, seed=0, mode=0).values.astype(np.float64), axis=1)
    assert found["entropy"].tolist() == pytest.approx((-(p * np.log(p)).sum(axis=1)).tolist(), rel=1e-5)
    assert found["top_label"].tolist() == [WORDS[i] for i in p.argmax(axis=1)]
    assert found["top_probability"].tolist() == pytest.approx(p.max(axis=1).tolist(), rel=1e-5)


# --- siblings


def test_planted_weights_on_siblings_come_back_without_the_diagonal(tmp_path):
    def sibling(cell, small, weights, readout):
        weights[..., 5:8, 5:8] = [[0.5, 0.2, 0.2], [0.2, 0.5, 0.2], [0.2, 0.2, 0.5]]

    where = planted(tmp_path / "c.zarr", sibling, modes=["visible"])
    found = cross_parallel(view(where))
    assert found["step"].tolist() == [1, 3]
    assert found["width"].tolist() == [3, 2]
    assert found.loc[0, ["mean", "max"]].tolist() == pytest.approx([0.2, 0.2])
    assert found.loc[0, "variance"] == pytest.approx(0, abs=1e-12)


def test_scores_of_siblings_and_context_are_those_of_numpy(cube):
    seen = view(cube, mode="visible")
    weights = seen.attention(1).astype(np.float64)
    own, row = weights[5:8, 5:8][~np.eye(3, dtype=bool)], cross_parallel(seen, layer=1).loc[0]
    assert row[["mean", "max", "variance"]].tolist() == pytest.approx([own.mean(), own.max(), own.var()])
    assert row["sink"] == pytest.approx(weights[5:8, 0].mean())
    assert row["prompt"] == pytest.approx(weights[5:8, 1:4].mean())
    assert row["generated"] == pytest.approx(weights[5:8, 4].mean())
    assert row["prior"] == pytest.approx(weights[5:8, :5].mean())
    assert row["matched"] == pytest.approx(weights[5:8, 4].mean())  # the one key a position before
    assert row["ratio"] == pytest.approx(row["mean"] / row["matched"])


def test_hidden_siblings_have_a_score_of_exactly_0(cube):
    found = cross_parallel(view(cube, mode="isolated"))
    assert (found[["mean", "max", "variance"]] == 0).all(axis=None)
    assert (found["matched"] > 0).all()


# --- AttentionAnalyzer


def test_the_summary_is_a_hand_count(cube):
    summary = AttentionAnalyzer.capture(cube, prompt="p1", seed=2, mode="visible").get_attention_summary()
    assert summary["total_steps"] == 4
    assert summary["parallel_steps"] == 2
    assert summary["max_parallel_width"] == 3
    assert summary["slots"] == PROMPT + 7


def test_the_five_keys_that_get_most_are_told_in_order(tmp_path):
    order = [3, 0, 6, 2, 4]

    def ordered(cell, small, weights, readout):
        weights[..., 5, :8] = 0.01
        for i, key in enumerate(order):
            weights[..., 5, key] = 0.3 - 0.05 * i

    where = planted(tmp_path / "c.zarr", ordered, modes=["visible"])
    found = AttentionAnalyzer(where).analyze_parallel_attention(1)
    assert [each["slot"] for each in found["tokens"][0]["top"]] == order
    assert found["tokens"][0]["top"][0]["weight"] == pytest.approx(0.3)
    assert found["tokens"][0]["label"] == " w11"
    assert found["logical"] == [PROMPT + 1]


def test_the_shares_of_a_token_come_to_all_of_its_weight(cube):
    for step in (0, 1, 2, 3):
        found = AttentionAnalyzer(cube, mode="visible").analyze_parallel_attention(step)
        for token in found["tokens"]:
            assert sum(token["shares"].values()) == pytest.approx(1, abs=1e-5)


def test_a_row_that_was_not_captured_has_no_shares_and_says_so(tmp_path):
    def last(cell, small, weights, readout):
        weights[..., ~asked_rows("last", small["slot_step"]), :] = np.nan

    where = planted(tmp_path / "c.zarr", last, capture={"attention": {"queries": "last"}})
    analyzer = AttentionAnalyzer(where, mode="isolated")
    found = analyzer.analyze_parallel_attention(1)
    assert sum(found["tokens"][0]["shares"].values()) == pytest.approx(1, abs=1e-5)
    assert set(found["tokens"][1]["shares"].values()) == {None}
    text = AttentionVisualizer().visualize_parallel_attention(found)
    assert text.count("row not captured") == 2
    cross = AttentionVisualizer().visualize_cross_parallel(analyzer.analyze_cross_parallel_attention(1))
    assert "siblings get exactly 0, in the rows that were captured" in cross
    assert layers.shares(analyzer.view).drop(columns="layer").sum(axis=1).tolist() == pytest.approx(
        [1, 1, 1], abs=1e-5
    )


def test_isolation_is_verified_and_a_leak_is_found(tmp_path, cube):
    isolated, visible = (AttentionAnalyzer(cube, mode=mode) for mode in ("isolated", "visible"))
    assert isolated.verify_isolation()["holds"]
    assert isolated.verify_isolation()["hidden_pairs"] == (6 + 2) * 3 * 2  # pairs, layers, heads
    assert visible.verify_isolation()["hidden_pairs"] == 0
    assert visible.verify_isolation()["holds"] is None  # nothing is hidden, so nothing was verified
    assert visible.verify_isolation()["visible_mean"] > 0
    assert isolated.analyze_cross_parallel_attention(1)["isolated"]
    assert not visible.analyze_cross_parallel_attention(1)["isolated"]

    def leak(cell, small, weights, readout):
        weights[2, 1, 6, 5] = 1e-3

    found = AttentionAnalyzer(planted(tmp_path / "c.zarr", leak), mode="isolated").verify_isolation()
    assert not found["holds"]
    assert found["hidden_weight"] == pytest.approx(1e-3)


def test_what_is_exported_comes_back_as_the_slice_of_the_cube(tmp_path, cube):
    analyzer = AttentionAnalyzer(cube, prompt="p2", mode="visible", layer=1, head=0)
    source = analyzer.export_to_json(tmp_path / "attention.json")
    target = AttentionVisualizer().export_attention_heatmap_data(source, tmp_path / "heatmap.json")
    data = json.loads(target.read_text())
    held = open_cube(cube).attention.sel(prompt="p2", seed=1, mode="visible", layer=1, head=0).values
    matrix = np.array(data["matrix"], dtype=np.float64)  # null becomes NaN
    np.testing.assert_allclose(matrix, held[:11, :11], atol=1e-6)
    assert data["source_tokens"] == [WORDS[token] for token in analyzer.view.token]
    assert [each["step"] for each in data["steps"]] == [1, 3]
    np.testing.assert_allclose(np.array(data["steps"][0]["matrix"], float), held[5:8, :11], atol=1e-6)
    assert json.loads(source.read_text())["summary"]["parallel_steps"] == 2


def test_a_cube_without_attention_and_a_foreign_file_are_refused_in_one_line(tmp_path):
    where = planted(tmp_path / "c.zarr", capture={"attention": False})
    with pytest.raises(BadInput, match="attention was not captured"):
        AttentionAnalyzer(where)
    (tmp_path / "x.json").write_text('{"labels": []}')
    with pytest.raises(BadInput, match="no experiment, attention, parallel"):
        AttentionVisualizer().export_attention_heatmap_data(tmp_path / "x.json", tmp_path / "y.json")


# --- AttentionVisualizer


def test_a_small_heatmap_looks_like_this():
    matrix = [[1.0, np.nan, np.nan], [0.2, 0.8, np.nan], [0.1, 0.0, 0.9]]
    text = AttentionVisualizer().visualize_attention_matrix(matrix, ["a", " bc", "d"], ["a", " bc", "d"])
    assert text.split("\n") == [
        "       b",
        "     a c d",
        "a   |@",
        " bc |+ @",
        "d   |- x @",
        "from . 0, : 0.012, - 0.049, = 0.11, + 0.2, * 0.31, # 0.44, % 0.6, @ 0.79",
        "x hidden (exactly 0); blank: no such pair",
    ]


def test_a_wide_matrix_is_cut_in_its_middle_and_says_by_how_much():
    tokens = [f" t{i}" for i in range(334)]
    text = AttentionVisualizer(width=80).visualize_attention_matrix(np.eye(334), tokens, tokens, height=20)
    assert max(map(cell_len, text.split("\n"))) <= 80
    assert re.search(r"~ \d+ columns not shown: \d+ to \d+", text)
    assert "... 314 rows not shown: 6 to 319" in text


@pytest.mark.parametrize("odd", ["日本語の単語", "\n\t\x1b[31m", "e\u0301", "🙂🙂", "\u202eabc", "<script>"])
def test_odd_tokens_keep_columns_straight_and_never_reach_the_terminal_raw(odd):
    tokens = ["plain", odd, "x"]
    for encoding in ("utf-8", "ascii"):
        shown = AttentionVisualizer(60, encoding)
        rows = shown.visualize_attention_matrix(np.full((3, 3), 0.5), tokens, tokens).split("\n")
        bars = [row for row in rows if "|" in row and row.endswith(("@", "@ "))]
        assert len(bars) == 3
        assert len({cell_len(row[: row.rindex("|")]) for row in bars}) == 1
        text = "\n".join(rows)
        assert text.encode(encoding)
        assert all(c.isprintable() or c == "\n" for c in text)


def test_siblings_and_context_of_a_set_are_told_in_a_page_width(cube):
    analyzer, shown = AttentionAnalyzer(cube, mode="visible"), AttentionVisualizer(width=60)
    parallel = shown.visualize_parallel_attention(analyzer.analyze_parallel_attention(1))
    assert parallel.startswith("step 1: 3 parallel tokens at logical position 5\n")
    assert parallel.count("  p 0.") == 3
    cross = shown.visualize_cross_parallel(analyzer.analyze_cross_parallel_attention(1))
    assert re.search(r"^each sibling gets 0\.\d{4} on average$", cross, re.M)
    assert max(map(cell_len, f"{parallel}\n{cross}".split("\n"))) <= 60
    alone = shown.visualize_cross_parallel(analyzer.analyze_cross_parallel_attention(0))
    assert alone == "step 0: one token, no sibling"
    isolated = AttentionAnalyzer(cube, mode="isolated").analyze_cross_parallel_attention(1)
    assert "isolated: siblings get exactly 0" in shown.visualize_cross_parallel(isolated)


def test_a_matrix_of_another_shape_than_its_tokens_is_refused():
    with pytest.raises(BadInput, match=r"must be \(2, 3\) by its 2 source and 3 target tokens, got \(3, 2\)"):
        AttentionVisualizer().visualize_attention_matrix(np.ones((3, 2)), ["a", "b"], ["a", "b", "c"])


# --- the page


def test_the_code_of_the_page_about_tools_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted(tmp_path / "cube.zarr")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tools.md").read_text(), re.DOTALL):
        exec(compile(code, "tools.md", "exec"), names)
    assert names["summary"]["parallel_steps"] == 2
    assert (tmp_path / "heatmap.json").exists()
