"""Every grid file that cannot be used is refused in one line: file, line, key, what would be right."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempocube.dataset.grid import Grid
from tempocube.errors import BadInput

THRESHOLD = "must be a number above 0 and at most 1, or a curve such as {start: 0.3, end: 0.1, curve: linear}"
SEED = "must be a whole number of at least 0 and below 2**63"
COUNT = "must be a whole number of at least 1"
TARGET = "must be a head such as L3H5, or an MLP such as L7.mlp"

# What stands on line 2 of a grid file, and the refusal after "grid.yaml:2: ".
WRONG_OPTIONS = [
    ("threshhold: 0.1", "threshhold: unknown key; did you mean threshold?"),
    ("attention: false", "attention: unknown key; did you mean capture.attention?"),
    ("capture: {attention: {layer: [1]}}", "capture.attention.layer: unknown key; did you mean layers?"),
    (
        "threshold: {start: 0.3, end: 0.1, slope: 2}",
        "threshold.slope: unknown key; valid here: start, end, curve, points, activation",
    ),
    ("prune: {treshold: 0.1}", "prune.treshold: unknown key; did you mean threshold?"),
    (
        "modes: [isolated, visable]",
        'modes[1]: must be isolated, causal, visible or single; did you mean visible? (got "visable")',
    ),
    ("modes: [no]", 'modes[0]: must be isolated, causal, visible or single (got "no")'),
    ("modes: isolated", 'modes: must be a list such as [isolated, visible] (got "isolated")'),
    ("modes: [single, single]", 'modes[1]: is the same as item [0] (got "single")'),
    ("seeds: 42", "seeds: must be a list such as [42, 123] (got 42)"),
    ("seeds: [42, true]", f"seeds[1]: {SEED} (got true)"),
    ("seeds: [-1]", f"seeds[0]: {SEED} (got -1)"),
    ("seeds: [9223372036854775808]", f"seeds[0]: {SEED} (got 9223372036854775808)"),
    ("seeds: [42, 7, 42]", "seeds[2]: is the same as item [0] (got 42)"),
    ("seeds: []", "seeds: must not be an empty list (got [])"),
    ('threshold: "0.1"', f'threshold: {THRESHOLD} (got "0.1")'),
    ("threshold: 0", f"threshold: {THRESHOLD} (got 0)"),
    ("threshold: .nan", f"threshold: {THRESHOLD} (got NaN)"),
    ("threshold: null", f"threshold: {THRESHOLD} (got null)"),
    ("threshold: [0.2, 0.1, 0.2]", "threshold[2]: is the same as item [0] (got 0.2)"),
    ("threshold: [0.1, -.inf]", f"threshold[1]: {THRESHOLD} (got -Infinity)"),
    ("threshold: {start: 0.3}", "threshold.end: is missing"),
    (
        "threshold: {start: 2, end: 0.1}",
        "threshold.start: must be a number above 0 and at most 1 (got 2)",
    ),
    (
        "threshold: {start: 0.3, end: 0.1, curve: liner}",
        'threshold.curve: must be linear, bezier or relu; did you mean linear? (got "liner")',
    ),
    (
        "threshold: {start: 0.3, end: 0.1, points: [0.2, 0.8]}",
        "threshold.points: belongs to curve: bezier, and this one is linear (got [0.2, 0.8])",
    ),
    (
        "threshold: [{start: 0.3, end: 0.1, curve: bezier, activation: 0.2}]",
        "threshold[0].activation: belongs to curve: relu, and this one is bezier (got 0.2)",
    ),
    (
        "threshold: {start: 0.3, end: 0.1, curve: bezier, points: [0.2, 1.8]}",
        "threshold.points: must be two numbers from 0 to 1 such as [0.25, 0.75] (got [0.2, 1.8])",
    ),
    (
        "threshold: {start: 0.3, end: 0.1, curve: relu, activation: 1}",
        "threshold.activation: must be a number from 0 to below 1 (got 1)",
    ),
    ("temperature: -0.5", "temperature: must be a number of at least 0 (got -0.5)"),
    ("temperature: .inf", "temperature: must be a number of at least 0 (got Infinity)"),
    ("max_tokens: 10.0", f"max_tokens: {COUNT} (got 10.0)"),
    ("max_tokens: [10, 0]", f"max_tokens[1]: {COUNT} (got 0)"),
    ("max_tokens: []", "max_tokens: must not be an empty list (got [])"),
    ("max_slots: 0", "max_slots: must be a whole number of at least 1, or null (got 0)"),
    ("readout: [top, lst]", 'readout[1]: must be mixture, top or last; did you mean last? (got "lst")'),
    (
        "replay: causal",
        'replay: must be one of this grid\'s modes, isolated, visible, or null (got "causal")',
    ),
    (
        "replay: single",
        'replay: must be isolated, causal, visible or null; did you mean visible? (got "single")',
    ),
    ("control: clon", 'control: must be clone, repeat, no_mask or null; did you mean clone? (got "clon")'),
    ("stop_at_eos: yes", 'stop_at_eos: must be true or false (got "yes")'),
    ("ablate: L3H5", 'ablate: must be a list such as [L3H5, L7.mlp] (got "L3H5")'),
    ("ablate: [L3.H5]", f'ablate[0]: {TARGET} (got "L3.H5")'),
    ("ablate: [L7.mlp, L7.mlp]", 'ablate[1]: is the same as item [0] (got "L7.mlp")'),
    (
        "ablate: [[L3H5, L7.mlp], [L7.mlp, L3H5]]",
        'ablate[1]: is the same as item [0] (got ["L7.mlp", "L3H5"])',
    ),
    ("ablate: [null, []]", "ablate[1]: is the same as item [0] (got [])"),
    ("ablate: [null, L3H5]", 'ablate[1]: must be a list such as [L3H5, L7.mlp] (got "L3H5")'),
    (
        "prune: 0.05",
        "prune: must be a mapping with the keys threshold, relative, layers, weighting (got 0.05)",
    ),
    ("prune: [{threshold: 2}]", "prune[0].threshold: must be a number from 0 to 1 (got 2)"),
    ("prune: {threshold: 0.1, layers: []}", "prune.layers: must not be an empty list (got [])"),
    (
        "capture: {attention: 0}",
        "capture.attention: must be true, false or a mapping such as {queries: last} (got 0)",
    ),
    (
        "capture: {attention: {layers: 5}}",
        "capture.attention.layers: must be all, or a list of numbers such as [0, 5] (got 5)",
    ),
    ("capture: {internals: [1, 1]}", "capture.internals[1]: is the same as item [0] (got 1)"),
    ("capture: {internals: 5}", "capture.internals: must be a list such as [0, 5] (got 5)"),
    ("capture: {logits: 1}", "capture.logits: must be true or false (got 1)"),
    ("capture: {project: {calm: calm.npy}}", 'capture.project.calm: no such file (got "calm.npy")'),
    (
        "capture: {project: {calm: calm.txt}}",
        'capture.project.calm: must be the path of an .npy file (got "calm.txt")',
    ),
    (
        "storage: {attention: float16}",
        'storage.attention: must be log16 or float32; did you mean float32? (got "float16")',
    ),
    ("model: 5", "model: must be embedded, a local path or a hub id (got 5)"),
    ("model: ./no-such-model", 'model: no such folder (got "./no-such-model")'),
    ("max_tokens: " + "9" * 5000, f'max_tokens: {COUNT} (got "{"9" * 56}...)'),
    ("x: !!python/object:os.system {}", "the tag !!python/object:os.system is not allowed: plain YAML only"),
    ("x: !secret 3", "the tag !secret is not allowed: plain YAML only"),
    ("? [a]\n: 3", "a key must be text"),
    ("x: &a [1, *a]", "an alias contains itself"),
    ("\tseeds: [1]", "not valid YAML: a tab cannot indent YAML: use spaces"),
    ("---\nseeds: [1]", "not valid YAML: `---` begins a second document; a grid file has one"),
    ("seeds: *none", "not valid YAML: found undefined alias 'none'"),
    ("seeds: [1, \x01]", "not valid YAML: the character U+0001 is not allowed"),
]

# Whole files.
WRONG_FILES = [
    (b"", "grid.yaml: is empty; a grid needs at least `prompts: [...]`"),
    (b"# nothing yet\n", "grid.yaml: is empty; a grid needs at least `prompts: [...]`"),
    (b"- a\n", 'grid.yaml: must be a mapping of options such as `seeds: [42]` (got ["a"])'),
    (b"seeds: [42]\n", "grid.yaml: prompts: is missing; prompts or prompts_file is needed"),
    (b"prompt: [a]\n", "grid.yaml:1: prompt: unknown key; did you mean prompts?"),
    (
        b"prompts: [a]\nseeds: [1]\n\nseeds: [2]\n",
        "grid.yaml:4: seeds: given twice (first on line 2)",
    ),
    (
        b"prompts:\n  x: [a]\n  x: [b]\n",
        "grid.yaml:3: prompts.x: given twice (first on line 2)",
    ),
    (
        b"threshold: 5\nprompts: [a]\nmodes: [all]\nmax_tokens: x\n",
        f"grid.yaml:1: threshold: {THRESHOLD} (got 5) (and 2 more)",
    ),
    (b"a: [1,\nb: 2", "grid.yaml:2: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    (b"prompts: [a]\nmodel: \xff\n", "grid.yaml:2: not UTF-8 text (byte 0xff)"),
    (b"prompts: [a]\n\0\n", "grid.yaml:2: not a text file (it has NUL bytes)"),
    (b"x: " + b"[" * 1000, "grid.yaml: nested too deeply to be a grid"),
]


def refusal(path: Path | str) -> str:
    with pytest.raises(BadInput) as refused:
        Grid.load(path)
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("option", "message"), WRONG_OPTIONS, ids=[o[:40] for o, _ in WRONG_OPTIONS])
def test_a_wrong_option_is_named_with_its_line_and_what_would_be_right(option: str, message: str) -> None:
    Path("grid.yaml").write_text(f"prompts: [Once upon a time]\n{option}\n", encoding="utf-8", newline="")
    assert refusal("grid.yaml") == f"grid.yaml:2: {message}"


@pytest.mark.parametrize(("content", "message"), WRONG_FILES, ids=[str(c[:25]) for c, _ in WRONG_FILES])
def test_a_file_that_is_no_grid_is_refused(content: bytes, message: str) -> None:
    Path("grid.yaml").write_bytes(content)
    assert refusal("grid.yaml") == message


def test_a_key_of_the_original_projects_yaml_is_refused() -> None:
    text = "prompts: [a]\nthreshold: 0.1\nallow_intraset_token_visibility: true\n"
    Path("grid.yaml").write_text(text, encoding="utf-8")
    assert refusal("grid.yaml").startswith("grid.yaml:3: allow_intraset_token_visibility: unknown key; valid")


def test_an_item_on_its_own_line_is_named_with_that_line() -> None:
    Path("grid.yaml").write_text("prompts: [a]\nseeds:\n  - 1\n  - 2\n  - x\n", encoding="utf-8")
    assert refusal("grid.yaml").startswith("grid.yaml:5: seeds[2]: ")


def test_aliases_are_fine_and_a_bomb_of_them_is_not() -> None:
    Path("grid.yaml").write_text("prompts: {a: [b]}\nmax_tokens: &n 5\nmax_width: *n\n", encoding="utf-8")
    assert Grid.load("grid.yaml").max_width == 5
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    Path("grid.yaml").write_text("\n".join(bomb), encoding="utf-8")
    assert refusal("grid.yaml").endswith("aliases stand for more than 100,000 values")


def test_yaml_is_version_1_2() -> None:
    text = "%YAML 1.2\n---\nprompts:\n  no: [yes, on]\n  2024: [2020-01-01]\n"
    text += "threshold: 1e-2\nseeds: [0o17, 0x1F]\n"
    Path("grid.yaml").write_text(text, encoding="utf-8-sig")
    grid = Grid.load("grid.yaml")
    assert [(p.category, p.text) for p in grid.prompts] == [
        ("no", "yes"),
        ("no", "on"),
        ("2024", "2020-01-01"),
    ]
    assert (grid.threshold, grid.seeds) == (0.01, (15, 31))


def test_json_works_with_lines_too() -> None:
    text = '{\n\t"prompts": ["\\ud83d\\ude00 \x7f \U0001f600"],\n\t"seeds": [1, SEED]\n}'
    Path("grid.json").write_text(text.replace("SEED", "2"), encoding="utf-8")
    assert Grid.load("grid.json").prompt_texts == ("\U0001f600 \x7f \U0001f600",)
    Path("grid.json").write_text(text.replace("SEED", "-2"), encoding="utf-8")
    assert refusal("grid.json") == f"grid.json:3: seeds[1]: {SEED} (got -2)"


def test_a_missing_file_is_named_with_its_nearest_neighbour() -> None:
    Path("grid.yaml").write_text("prompts: [a]", encoding="utf-8")
    assert refusal("gird.yaml") == "gird.yaml: no such file; did you mean grid.yaml?"
    assert refusal("no/grid.yaml") == "no/grid.yaml: no such file"
    Path("folder.yaml").mkdir()
    assert refusal("folder.yaml") == "folder.yaml: is a folder, not a file"


def test_a_name_that_is_neither_file_nor_preset_lists_the_presets() -> None:
    message = refusal("seeds10")
    assert message.startswith(
        "seeds10: no such grid file or preset; did you mean seeds100?; presets: exp1, exp2"
    )


def test_a_presets_name_wins_over_a_file_unless_it_is_a_path() -> None:
    Path("exp1").write_text("prompts: [mine]", encoding="utf-8")
    assert Grid.load("exp1").prompt_texts == ("The cat sat on the",)
    for path in ("./exp1", Path("exp1")):
        assert Grid.load(path).prompt_texts == ("mine",)


def test_paths_in_a_grid_file_start_at_its_folder() -> None:
    Path("sub/model").mkdir(parents=True)
    Path("sub/calm.npy").write_bytes(b"")
    text = "prompts: [a]\nmodel: ./model\ncapture: {project: {calm: calm.npy}}\n"
    Path("sub/grid.yaml").write_text(text, encoding="utf-8")
    grid = Grid.load("sub/grid.yaml")
    assert grid.model == str(Path("sub/model").resolve())
    assert dict(grid.capture.project) == {"calm": str(Path("sub/calm.npy").resolve())}
    # What a cube has stored must open on another machine, too.
    assert Grid.from_dict(grid.to_dict() | {"model": "./elsewhere"}).model == "./elsewhere"


def test_a_mapping_is_refused_like_a_file() -> None:
    for options, message in [
        ({"prompts": ["a"], "seed": [1]}, "here: seed: unknown key; did you mean seeds?"),
        ({"prompts": ["a"], 5: 1}, "here: [5]: must be text (got 5)"),
        (["a"], 'here: must be a mapping of options (got ["a"])'),
    ]:
        with pytest.raises(BadInput) as refused:
            Grid.from_dict(options, source="here")  # type: ignore[arg-type]
        assert str(refused.value) == message


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["start", "curve", "layers", "threshold", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(sorted({*Grid.model_fields, "prompts_file", "seed"})), junk, max_size=4)
)
def test_junk_is_refused_in_plain_words(options: dict[str, Any]) -> None:
    said = _refusal_or_nothing({"prompts": ["a"]} | options)
    for jargon in ("Input should", "validation error", "pydantic", "<value>", "<list>", "<mapping>"):
        assert jargon not in said
    assert said.startswith("grid: ") or not said


def _refusal_or_nothing(options: dict[str, Any]) -> str:
    try:
        Grid.from_dict(options)
    except BadInput as refused:
        return str(refused)
    return ""
