"""What a user of `engine.keep` and `engine.capture` meets: refusals, text, and a second capture."""

import numpy as np
import pytest

from runs import grid, run
from tempocube.capture import model as models
from tempocube.capture.engine import again, capture, keep
from tempocube.capture.experiment import Track
from tempocube.capture.rows import Kept
from tempocube.capture.wanted import Wanted
from tempocube.dataset.grid import Grid
from tempocube.dataset.schema import CHECKS
from tempocube.errors import BadInput
from tiny import checkpoint


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return models.load(str(checkpoint(tmp_path_factory.mktemp("tiny") / "llama", "llama")))


def small(model, **options):
    return Grid.from_dict(
        {"model": str(model.path), "prompts": {"a": ["the cat"]}, "max_tokens": 2} | options
    )


def test_no_cells_are_no_work(llama):
    work = capture(llama, [], [], Wanted())
    assert (work.passes, work.nodes) == (0, 0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"capture": {"internals": [1], "neurons": [96]}}, "capture.neurons"),
        ({"capture": {"internals": [3]}}, "capture.internals"),
        ({"capture": {"attention": {"layers": [0, 3]}}}, "capture.attention.layers"),
        ({"capture": {"attention": {"heads": [4]}}}, "capture.attention.heads"),
        ({"prune": {"threshold": 0.1, "layers": [3]}}, "prune.layers"),
        ({"ablate": ["L3H0"]}, "ablate"),
        ({"ablate": ["L0H4"]}, "ablate"),
        ({"max_slots": 3}, "max_slots"),
        ({"max_tokens": 600}, "positions"),
    ],
)
def test_what_the_model_has_not_got_is_refused_by_name(llama, options, named):
    with pytest.raises(BadInput, match=named):
        keep(llama, small(llama, **options))


def test_a_grid_for_another_model_is_refused(llama):
    with pytest.raises(BadInput, match="asks for model 'embedded', and this one is 'llama'"):
        keep(llama, grid())


@pytest.mark.parametrize("part", [{"internals": [3]}, {"internals": [0], "neurons": [96]}])
def test_a_capture_without_a_cube_looks_too(llama, part):
    chosen = Grid.from_dict({"prompts": {"a": ["the cat"]}, "capture": part})
    with pytest.raises(BadInput, match="the model has 0 to"):
        Wanted.of(chosen.capture, chosen.storage, llama.facts)


def test_what_is_kept_says_what_it_is(llama):
    found = keep(llama, small(llama, control="no_mask", threshold=0.05, max_tokens=6))
    kept = next(kept for cell, kept in found.items() if cell.mode == "isolated")
    assert list(kept.checks) == list(CHECKS)
    assert kept.checks["isolation"] == "fail"
    assert kept.checks["rows_sum"] == "pass"
    assert "log_attention (3, 4," in repr(kept)
    assert "isolation failed" in repr(kept)


def test_a_character_of_several_tokens_is_whole_in_the_text(llama):
    phrase = " naïve “smile” 😀 ни"
    tokens = llama.tokenizer.encode(phrase, add_special_tokens=False)
    cell = grid(prompts={"a": ["the cat"]}, modes=["single"], max_tokens=len(tokens)).cells()[0]
    track = Track(closed=True)
    for token in tokens:
        track.sets.append(
            Track.recorded(
                {
                    "slot_step": [0],
                    "token": [token],
                    "probability": [0.5],
                    "capped": [False],
                    "threshold_used": [0.1],
                    "width": [1],
                    "pruned_at": [-1],
                }
            ).sets[0]
        )
    track.pruned_at = np.full(100, -1, np.int32)
    kept, _ = again(llama, cell, track, Wanted())
    assert kept.small["text"] == "the cat" + phrase


def test_a_lone_repeated_cell_has_a_noise_floor_and_not_zero(llama):
    asked = grid(control="repeat", modes=["visible"])
    cell = asked.cells()[0]
    kept = run(llama, asked, [cell])[cell]
    noise = kept.small["check_value"][CHECKS.index("repeat_attention")]
    assert 0 < noise < 1e-5


def test_clones_that_must_go_leave_their_best_ranked(llama):
    asked = grid(control="clone", prune={"threshold": 1.0}, max_tokens=6, modes=["isolated"])
    pruned = 0
    for kept in run(llama, asked).values():
        step, gone = kept.small["slot_step"], kept.small["pruned_at"] >= 0
        for number in range(5):
            members = np.flatnonzero(step == number)
            if len(members) > 1:
                assert not gone[members[0]]
                assert gone[members[1:]].all()
                pruned += 1
    assert pruned > 3


def test_a_sink_that_keeps_is_a_sink(llama):
    cell = grid().cells()[0]
    sink = Kept()
    capture(llama, [cell], [sink], Wanted(logits=True))
    assert sink.data["logits"].shape == (cell.max_tokens, llama.facts.vocab)
