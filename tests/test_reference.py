"""The oracle is itself compared with mlx-lm and, where torch is there, with transformers."""

import hashlib
import json
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.utils import _get_classes, load_model
from safetensors.numpy import save_file

from reference import (
    Reference,
    frequencies,
    generate,
    gumbel,
    log_softmax,
    select,
    visible,
    windows,
)

ATTENTION_TOLERANCE = (
    1e-6  # of float32's making: transformers has softmax and RMSNorm in float32 even in float64
)
MLX_TOLERANCE = 1e-4  # mlx-lm runs in float32 here

COMMON = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "tie_word_embeddings": False,
}
STRETCHED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA = COMMON | {
    "model_type": "gemma3_text",
    "head_dim": 24,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 20,
    "sliding_window": 4,
    "sliding_window_pattern": 2,
    "rope_local_base_freq": 50.0,
}
NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 500,
    "rotary_pct": 0.25,
    "hidden_act": "gelu_new",
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 97,
    "n_embd": 64,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "n_ctx": 128,
    "layer_norm_epsilon": 1e-5,
}
CONFIGS = {
    "llama": COMMON | {"model_type": "llama", "tie_word_embeddings": True},
    "llama with biases": COMMON
    | {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "head_dim": 24},
    "llama3": COMMON | {"model_type": "llama", "rope_scaling": STRETCHED},
    "mistral": COMMON | {"model_type": "mistral", "sliding_window": None},
    "qwen2": COMMON | {"model_type": "qwen2"},
    "qwen3": COMMON | {"model_type": "qwen3", "head_dim": 24},
    "gemma3": GEMMA,
    "phi3": COMMON | {"model_type": "phi3", "partial_rotary_factor": 0.5, "pad_token_id": 0},
    "gpt_neox": NEOX,
    "gpt_neox in series": NEOX | {"use_parallel_residual": False},
    "olmo2": COMMON | {"model_type": "olmo2"},
    "smollm3": COMMON | {"model_type": "smollm3", "no_rope_layer_interval": 2, "pad_token_id": 0},
    "gpt2": GPT2,
}
MLX_ONLY = {  # transformers does otherwise
    "gemma3 with a rounded scale": GEMMA | {"hidden_size": 72},
    "llama with windows": COMMON
    | {
        "model_type": "llama",
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}

# Five tokens of prompt, then sets of 3, 1, 4 and 2.
STEPS = [-1] * 5 + [0] * 3 + [1] + [2] * 4 + [3] * 2
POSITIONS = [0, 1, 2, 3, 4, *(5 + step for step in STEPS[5:])]
PRUNED_AT = [2 if slot == 6 else 3 if slot == 9 else -1 for slot in range(len(STEPS))]
TOKENS = [int(token) for token in np.random.default_rng(1).integers(3, 97, len(STEPS))]
PROMPT = TOKENS[:5]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A function that gives the folder of a tiny random checkpoint as mlx-lm stores it."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            config = (CONFIGS | MLX_ONLY)[name]
            made[name] = tmp_path_factory.mktemp("model")
            (made[name] / "config.json").write_text(json.dumps(config))
            save_file(random_weights(config), made[name] / "model.safetensors")
        return made[name]

    return make


def random_weights(config):
    build, arguments = _get_classes(config)
    rng, weights = np.random.default_rng(0), {}
    for name, value in tree_flatten(build(arguments.from_dict(config)).parameters()):
        spread = 0.3 if value.ndim == 1 else value.shape[-1] ** -0.5
        middle = 1.0 if "norm" in name and value.ndim == 1 and "gemma" not in config["model_type"] else 0.0
        weights[name] = (middle + spread * rng.normal(size=value.shape)).astype(np.float32)
    if config.get("tie_word_embeddings"):
        weights.pop("lm_head.weight", None)
        weights["model.embed_tokens.weight"] *= 3  # peaked enough for sets of several widths
    return weights


@pytest.fixture(scope="session")
def llama(checkpoint):
    return Reference(checkpoint("llama"))


def sights(config, mode):
    return np.stack([visible(mode, STEPS, POSITIONS, PRUNED_AT, window) for window in windows(config)])


@pytest.mark.parametrize("name", CONFIGS | MLX_ONLY)
def test_logits_are_those_of_mlx_lm(name, checkpoint):
    net, _ = load_model(checkpoint(name))
    reference = Reference(checkpoint(name))
    order = list(range(len(TOKENS)))
    mask = np.stack(
        [visible("single", order, order, [-1] * len(order), window) for window in windows(reference.config)]
    )
    ours = reference.forward(TOKENS, order, mask).logits
    assert np.abs(ours).max() > 1
    np.testing.assert_allclose(ours, np.asarray(net(mx.array([TOKENS]))[0]), atol=MLX_TOLERANCE)


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_stream_and_logits_are_those_of_transformers(name, tmp_path):
    net = in_transformers(CONFIGS[name], tmp_path)
    reference = Reference(tmp_path)
    for mode in ("isolated", "causal", "visible"):
        ours = reference.forward(TOKENS, POSITIONS, sights(reference.config, mode))
        theirs = run_transformers(net, mode)
        streams = np.stack([stream[0].numpy() for stream in theirs.hidden_states[:-1]])
        attention = np.stack([weights[0].numpy() for weights in theirs.attentions])
        assert np.abs(ours.attention - attention).max() < ATTENTION_TOLERANCE
        assert apart(ours.residual[:-1], streams) < ATTENTION_TOLERANCE
        assert apart(ours.logits, theirs.logits[0].numpy()) < ATTENTION_TOLERANCE


def apart(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def in_transformers(config, folder):
    """A random model of transformers in float64, stored in float32 and in the new style of config."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    made = transformers.AutoConfig.for_model(**config)
    net = transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in net.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            inputs = value.shape[0 if ".c_" in name else -1]
            value.copy_(value + 0.3 * noise if value.ndim == 1 else noise * inputs**-0.5)
    net.save_pretrained(folder)
    return net.double()


def run_transformers(net, mode):
    torch = pytest.importorskip("torch")

    def added(window):
        sight = visible(mode, STEPS, POSITIONS, PRUNED_AT, window)
        return torch.tensor(np.where(sight, 0.0, np.finfo(np.float64).min))[None, None]

    mask = added(None)
    if net.config.model_type == "gemma3_text":
        mask = {"full_attention": mask, "sliding_attention": added(net.config.sliding_window)}
    with torch.no_grad():
        return net(
            input_ids=torch.tensor([TOKENS]),
            attention_mask=mask,
            position_ids=torch.tensor([POSITIONS]),
            output_attentions=True,
            output_hidden_states=True,
            use_cache=False,
        )


@pytest.mark.parametrize("name", ["llama with biases", "gemma3", "olmo2"])
def test_internals_are_those_of_transformers(name, tmp_path):
    net, seen = in_transformers(CONFIGS[name], tmp_path), {}
    layer = net.model.layers[1]
    for part in ("mlp", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.v_proj"):
        layer.get_submodule(part).register_forward_hook(
            lambda _, given, out, part=part: seen.update({part: (given[0][0].numpy(), out[0].numpy())})
        )
    run_transformers(net, "visible")
    reference = Reference(tmp_path)
    ours = reference.forward(TOKENS, POSITIONS, sights(reference.config, "visible"))
    for mine, theirs in [
        (ours.mlp_gate, seen["mlp.gate_proj"][1]),
        (ours.mlp_up, seen["mlp.up_proj"][1]),
        (ours.mlp_act, seen["mlp.down_proj"][0]),
        (ours.mlp_down, seen["mlp"][1]),
        (ours.v.reshape(4, len(TOKENS), -1), seen["self_attn.v_proj"][1]),
    ]:
        assert apart(mine[1], theirs) < ATTENTION_TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gpt_neox in series", "gpt2", "smollm3"])
def test_the_parts_of_a_pass_fit_together(name, checkpoint):
    reference = Reference(checkpoint(name))
    done = reference.forward(TOKENS, POSITIONS, sights(reference.config, "visible"))
    np.testing.assert_allclose(done.after_attention + done.mlp_down, done.residual[1:], atol=1e-12)
    np.testing.assert_array_equal(done.values, done.v.swapaxes(1, 2))
    lengths = [np.linalg.norm(part, axis=-1) for part in (done.keys, done.k.swapaxes(1, 2))]
    np.testing.assert_allclose(*lengths, rtol=1e-12)  # RoPE only turns
    turned = np.abs(done.keys - done.k.swapaxes(1, 2)).max((1, 2, 3)) > 0
    without = {"gpt2": [False] * 3, "smollm3": [True, False] * 2}
    assert list(turned) == without.get(name, [True] * reference.layers)


def picture(mask):
    return ["".join("x" if seen else "." for seen in row) for row in mask]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("isolated", ["x....", "xx...", "xxx..", "xx.x.", "xxxxx"]),
        ("causal", ["x....", "xx...", "xxx..", "xxxx.", "xxxxx"]),
        ("visible", ["x....", "xx...", "xxxx.", "xxxx.", "xxxxx"]),
    ],
)
def test_masks_of_a_prompt_of_two_a_pair_and_a_single_token(mode, expected):
    assert picture(visible(mode, [-1, -1, 0, 0, 1], [0, 1, 2, 2, 3], [-1] * 5)) == expected


def test_a_pruned_key_is_hidden_from_its_step_on_and_not_before():
    sight = visible("visible", [-1, 0, 0, 1, 2], [0, 1, 1, 2, 3], [-1, -1, 2, -1, -1])
    assert picture(sight) == ["x....", "xxx..", "xxx..", "xxxx.", "xx.xx"]


def test_a_window_counts_positions_and_not_slots():
    sight = visible("visible", [-1, -1, 0, 0, 1], [0, 1, 2, 2, 3], [-1] * 5, window=2)
    assert picture(sight) == ["x....", "xx...", ".xxx.", ".xxx.", "..xxx"]


def test_rows_sum_to_one_and_hidden_pairs_are_exactly_zero(llama):
    sight = visible("isolated", STEPS, POSITIONS, PRUNED_AT)
    attention = llama.forward(TOKENS, POSITIONS, sight).attention
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-12)
    assert (attention[..., ~sight] == 0).all()
    assert (attention[..., sight] > 0).all()


def test_an_isolated_token_is_computed_as_if_its_siblings_were_not_there(llama):
    together = llama.forward(
        [*PROMPT, 7, 8, 9], [0, 1, 2, 3, 4, 5, 5, 5], visible("isolated", STEPS[:8], POSITIONS[:8], [-1] * 8)
    )
    for rank, token in enumerate((7, 8, 9)):
        alone = llama.forward([*PROMPT, token], range(6), np.tri(6, dtype=bool))
        np.testing.assert_allclose(together.logits[5 + rank], alone.logits[5], atol=1e-12)


def test_a_sibling_that_is_seen_changes_what_a_token_says(llama):
    done = {
        mode: llama.forward(TOKENS[:8], POSITIONS[:8], visible(mode, STEPS[:8], POSITIONS[:8], [-1] * 8))
        for mode in ("isolated", "causal", "visible")
    }
    isolated, causal, both = (done[mode].logits for mode in ("isolated", "causal", "visible"))
    np.testing.assert_allclose(isolated[:6], causal[:6], atol=1e-12)  # the best-ranked sees no sibling
    assert (np.abs(isolated - causal).max(-1)[6:] > 1e-3).all()
    assert (np.abs(causal - both).max(-1)[5:7] > 1e-3).all()
    np.testing.assert_allclose(causal[5:6], isolated[5:6], atol=1e-12)


def test_a_removed_part_counts_like_one_whose_weights_out_are_zero(checkpoint):
    whole, cut = Reference(checkpoint("gemma3")), Reference(checkpoint("gemma3"))
    cut.weights["layers.1.self_attn.o_proj.weight"][:, 2 * 24 : 3 * 24] = 0
    cut.weights["layers.2.mlp.down_proj.weight"][:] = 0
    sight = sights(whole.config, "visible")
    ablated = whole.forward(TOKENS, POSITIONS, sight, ("L1H2", "L2.mlp"))
    np.testing.assert_allclose(
        ablated.logits, cut.forward(TOKENS, POSITIONS, sight).logits, rtol=0, atol=1e-12
    )
    assert np.abs(ablated.logits - whole.forward(TOKENS, POSITIONS, sight).logits).max() > 1e-2


def test_a_removed_mlp_takes_its_bias_along(checkpoint):
    reference = Reference(checkpoint("gpt2"))
    done = reference.forward(TOKENS, POSITIONS, sights(reference.config, "visible"), ["L1.mlp"])
    np.testing.assert_array_equal(done.residual[2], done.after_attention[1])
    assert (done.residual[1] != done.after_attention[0]).all()


@pytest.mark.parametrize("name", ["L9H0", "L0H4", "L0", "L0.mlps"])
def test_what_cannot_be_removed_is_refused(name, llama):
    with pytest.raises(ValueError, match=name):
        llama.forward(PROMPT, range(5), np.tri(5, dtype=bool), [name])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rope_theta": 500.0}, {"rope_theta": 500.0, "rope_type": "default"}),
        ({"rope_theta": 500.0, "rope_scaling": STRETCHED}, STRETCHED | {"rope_theta": 500.0}),
        (
            {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0},
        ),
        ({"rotary_emb_base": 500, "rotary_pct": 0.5}, {"rope_theta": 500.0, "partial_rotary_factor": 0.5}),
    ],
)
def test_old_and_new_configs_turn_alike(old, new):
    before = frequencies({"model_type": "llama", "num_hidden_layers": 1} | old, 0, 16)
    after = frequencies({"model_type": "llama", "num_hidden_layers": 1, "rope_parameters": new}, 0, 16)
    np.testing.assert_array_equal(before, after)
    assert (
        before != frequencies({"model_type": "llama", "num_hidden_layers": 1}, 0, 16)[: len(before)]
    ).any()


def test_gemma3_turns_each_kind_of_layer_by_its_own_base():
    types = ["sliding_attention", "full_attention"] * 2
    nested = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        "full_attention": {"rope_type": "default", "rope_theta": 500.0},
    }
    new = {"layer_types": types, "rope_parameters": nested, "sliding_window": 4}
    plain = {"model_type": "gemma3_text", "num_hidden_layers": 4}
    assert windows(plain | new) == windows(GEMMA) == [4, None, 4, None]
    for layer, base in enumerate([50.0, 500.0] * 2):
        np.testing.assert_allclose(frequencies(GEMMA, layer, 24), base ** (-np.arange(12) / 12))
        np.testing.assert_array_equal(frequencies(plain | new, layer, 24), frequencies(GEMMA, layer, 24))


@pytest.mark.parametrize(
    ("chances", "threshold", "max_width", "single", "chosen", "gap"),
    [
        ([0.1, 0.5, 0.3, 0.1], 0.25, 16, False, [1, 2], 0.05),  # 0.3 passes by 0.05
        ([0.1, 0.5, 0.3, 0.1], 0.12, 16, False, [1, 2], 0.02),  # 0.1 fails by 0.02
        ([0.2, 0.5, 0.3], 0.01, 16, False, [1, 2, 0], 0.1),  # all pass; the order hangs on 0.1
        ([0.2, 0.45, 0.35], 0.1, 2, False, [1, 2], 0.1),  # the cap decides at the same distance
        ([0.2, 0.45, 0.35], 0.9, 16, False, [1], 0.1),  # none passes
        ([0.2, 0.45, 0.35], 0.1, 16, True, [1], 0.1),
        ([0.25, 0.25, 0.25, 0.25], 0.25, 16, False, [0, 1, 2, 3], 0.0),  # ties: the lower token first
    ],
)
def test_sets_by_hand(chances, threshold, max_width, single, chosen, gap):
    found, near = select(np.log(chances), threshold * (1 - 1e-12), max_width, single)
    assert found == chosen
    assert near == pytest.approx(gap, abs=1e-9)


def test_noise_depends_on_seed_step_and_prompt_and_is_standard_gumbel():
    noise = gumbel(42, 3, "Once upon a time", 50_000)
    np.testing.assert_array_equal(noise[:9], gumbel(42, 3, "Once upon a time", 9))
    for other in (
        gumbel(43, 3, "Once upon a time", 9),
        gumbel(42, 4, "Once upon a time", 9),
        gumbel(42, 3, "", 9),
    ):
        assert (other != noise[:9]).all()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.02)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.04)


def test_noise_is_made_of_the_first_sixteen_bytes_of_the_hash_read_little_endian():
    key = np.frombuffer(hashlib.sha256("7|0|déjà vu".encode()).digest()[:16], "<u8")
    raw = [int(word) for word in np.random.Philox(key=key).random_raw(3)]
    expected = [-math.log(-math.log(((word >> 11) + 0.5) / 2**53)) for word in raw]
    np.testing.assert_allclose(gumbel(7, 0, "déjà vu", 3), expected, rtol=1e-12)


def test_single_mode_is_greedy_decoding_of_mlx_lm(checkpoint, llama):
    net, _ = load_model(checkpoint("llama"))
    greedy = [int(token) for token, _ in generate_step(mx.array(PROMPT), net, max_tokens=8)]
    assert generate(llama, PROMPT, "single", 0.01, 8).sets == [[token] for token in greedy]


@pytest.mark.parametrize("mode", ["isolated", "causal", "visible"])
def test_an_experiment_obeys_its_options(mode, llama):
    done = generate(llama, PROMPT, mode, [0.2, 0.04, 0.04, 0.04, 0.04], 5, max_width=6)
    widths = [len(chosen) for chosen in done.sets]
    assert widths[0] <= 5
    assert 2 < max(widths) <= 6
    assert done.slots.positions == [*range(5), *np.repeat(range(5, 10), widths)]
    assert done.slots.tokens == PROMPT + [token for chosen in done.sets for token in chosen]
    assert done.capture.logits.shape == (len(done.slots.tokens), 97)
    for chosen, chances, readout in zip(done.sets, done.probabilities, done.readouts, strict=True):
        np.testing.assert_allclose(np.exp(readout).sum(), 1)
        np.testing.assert_allclose(chances, np.exp(readout[chosen]))
        assert chances == sorted(chances, reverse=True)
    assert not np.signbit(done.gaps).any()


def test_readouts_read_the_last_set_as_they_promise(llama):
    done = {
        kind: generate(llama, PROMPT, "causal", 0.04, 2, readout=kind) for kind in ("mixture", "top", "last")
    }
    first, chances = done["mixture"].sets[0], np.asarray(done["mixture"].probabilities[0])
    assert len(first) > 1
    said = np.exp(log_softmax(done["mixture"].capture.logits[5 : 5 + len(first)]))
    np.testing.assert_allclose(np.exp(done["top"].readouts[1]), said[0])
    np.testing.assert_allclose(np.exp(done["last"].readouts[1]), said[-1])
    np.testing.assert_allclose(np.exp(done["mixture"].readouts[1]), chances @ said / chances.sum())


def test_noise_selects_but_is_not_in_the_probabilities(llama):
    calm, noisy = (
        generate(llama, PROMPT, "isolated", 0.04, 1, temperature=t, prompt_text="x") for t in (0, 1)
    )
    np.testing.assert_array_equal(calm.readouts, noisy.readouts)
    assert calm.sets != noisy.sets
    np.testing.assert_allclose(noisy.probabilities[0], np.exp(calm.readouts[0][noisy.sets[0]]))
    again = generate(llama, PROMPT, "isolated", 0.04, 1, temperature=1, seed=1, prompt_text="x")
    assert again.sets != noisy.sets


def test_an_end_token_in_a_wide_set_stays_a_slot_but_is_hidden_afterwards(llama):
    free = generate(llama, PROMPT, "visible", 0.04, 3)
    width = len(free.sets[0])
    assert width > 1
    ended = generate(llama, PROMPT, "visible", 0.04, 3, end_tokens=free.sets[0][:1])
    assert ended.sets[0] == free.sets[0]
    assert ended.slots.pruned_at[5 : 5 + width] == [1] + [-1] * (width - 1)
    assert (ended.capture.attention[:, :, 5 + width :, 5] == 0).all()
    assert (ended.capture.attention[:, :, 5 : 5 + width, 5] > 0).all()
    said = np.exp(log_softmax(ended.capture.logits[6 : 5 + width]))
    weights = np.asarray(ended.probabilities[0][1:]) / sum(ended.probabilities[0][1:])
    np.testing.assert_allclose(np.exp(ended.readouts[1]), weights @ said)


def test_an_experiment_ends_with_a_set_of_end_tokens_which_is_fed_and_kept(llama):
    first = generate(llama, PROMPT, "visible", 0.04, 1).sets[0]
    done = generate(llama, PROMPT, "visible", 0.04, 3, end_tokens=first)
    assert done.sets == [first]
    assert done.slots.pruned_at == [-1] * (5 + len(first))


def second_of_first(state, slots, step):
    assert state.attention.shape[-1] == len(slots.tokens)
    return [6] if step == 1 else []


def test_a_pruned_token_gets_exactly_nothing_in_later_steps_and_followers_prune_alike(llama):
    leader = generate(llama, PROMPT, "isolated", 0.04, 4, prune=second_of_first)
    follower = generate(llama, PROMPT, "visible", 0.04, 4, replay=leader)
    later = np.asarray(leader.slots.steps) >= 2
    own = np.asarray(leader.slots.steps) == 1
    for done in (leader, follower):
        assert done.slots.pruned_at[6] == 2
        assert (done.capture.attention[:, :, later, 6] == 0).all()
        assert (done.capture.attention[:, :, own, 6] > 0).all()
    assert follower.sets == leader.sets
    assert np.isinf(follower.gaps).all()
    assert np.abs(follower.readouts[1:] - leader.readouts[1:]).max() > 1e-3


def test_clones_are_treated_alike(llama):
    done = generate(llama, PROMPT, "visible", 0.04, 2, clone=True)
    width = len(done.sets[0])
    assert width > 1
    assert done.sets[0] == done.sets[0][:1] * width
    np.testing.assert_allclose(done.capture.logits[5], done.capture.logits[5 + width - 1], atol=1e-12)
    assert done.probabilities[0] == done.probabilities[0][:1] * width
