"""What is watched inside a layer, held to the model's own modules called by hand; what cannot be watched."""

import numpy as np
import pytest

from runs import PROMPTS, grid, run, tiny
from tempocube.capture.forest import Forest
from tempocube.capture.parts import inner_model
from tempocube.capture.probes import Probes
from tempocube.capture.tap import Tap
from tempocube.capture.wanted import Wanted
from tempocube.errors import BadInput
from tiny import CONFIGS, LLAMA, SHAPE, mx, nn

CLOSE = {"rtol": 1e-5, "atol": 1e-4}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

# What a layer's MLP is given, from the stream into the layer and after attention, as the model's code has it.
GIVEN = {
    "llama": lambda layer, x, h: layer.post_attention_layernorm(h),
    "gpt2": lambda layer, x, h: layer.ln_2(h),
    "gpt_neox": lambda layer, x, h: layer.post_attention_layernorm(x),  # beside attention
    "gpt_neox in series": lambda layer, x, h: layer.post_attention_layernorm(h),
    "olmo2": lambda layer, x, h: h,
    "gemma3": lambda layer, x, h: layer.pre_feedforward_layernorm(h),
    "phi3": lambda layer, x, h: layer.post_attention_layernorm(h),
}
# What is added to the stream, from what the MLP puts out.
ADDED = {
    "olmo2": lambda layer, out: layer.post_feedforward_layernorm(out),
    "gemma3": lambda layer, out: layer.post_feedforward_layernorm(out),
}
UP = {"gpt2": "c_fc", "gpt_neox": "dense_h_to_4h", "phi3": "gate_up_proj"}
DOWN = {"gpt2": "c_proj", "gpt_neox": "dense_4h_to_h"}

# Layers of other makings: what one hands on, from the stream into it and after attention.
OTHERS = {
    "nanochat": lambda layer, x, h: h + layer.mlp(mx.fast.rms_norm(h, None, 1e-6)),
    "dbrx": lambda layer, x, h: h + layer.ffn(layer.norm_attn_norm.norm_2(h)),
    "gptj": lambda layer, x, h: h + layer.mlp(layer.ln_1(x)),  # beside attention
    "exaone": lambda layer, x, h: h + layer.mlp(layer.ln_2(h)),
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64}
MORE_CONFIGS = {
    "nanochat": {key: value for key, value in SHAPE.items() if key != "rope_parameters"}
    | {"model_type": "nanochat", "rope_theta": 10000.0},
    "dbrx": {"model_type": "dbrx", "d_model": 64, "n_heads": 4, "n_layers": 3, "vocab_size": 320}
    | {"ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2}, "max_seq_len": 512}
    | {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}, "eos_token_id": 0},
    "gptj": {"model_type": "gptj", "n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 512}
    | {"rotary_dim": 8, "layer_norm_epsilon": 1e-5, "vocab_size": 320, "eos_token_id": 0}
    | {"tie_word_embeddings": False},
    "gptj_whole": {"model_type": "gptj", "n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 512}
    | {"rotary_dim": 16, "layer_norm_epsilon": 1e-5, "vocab_size": 320, "eos_token_id": 0}
    | {"tie_word_embeddings": False},
    "exaone": {key: value for key, value in SHAPE.items() if key != "rope_parameters"}
    | {"model_type": "exaone", "num_layers": 3, "layer_norm_epsilon": 1e-5, "rope_theta": 10000.0}
    | {"activation_function": "silu"},
    "llama_yarn": LLAMA | {"rope_parameters": YARN | {"beta_fast": 32.0, "beta_slow": 1.0}},
    "phi3_longrope": CONFIGS["phi3"]
    | {"original_max_position_embeddings": 64}
    | {"rope_parameters": LONGROPE | {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}},
}


@pytest.fixture(scope="module", autouse=True)
def more_configs():
    """Checkpoints of these can be made too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, config in MORE_CONFIGS.items():
            patch.setitem(CONFIGS, name, config)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A function that gives a tiny model by the name it has above."""
    made = {}

    def make(name):
        if name not in made:
            architecture, *series = name.split(" in ")
            changes = {"use_parallel_residual": False} if series else {}
            made[name] = tiny(tmp_path_factory.mktemp("model"), architecture, **changes)
        return made[name]

    return make


def watched(model, **options):
    """Everything that can be watched, of one experiment with wide sets."""
    layers = list(range(model.facts.layers))
    asked = grid(
        prompts={"a": PROMPTS[:1]},
        modes=["visible"],
        capture={"residual": True, "internals": layers, "keys_values": True},
        **options,
    )
    (kept,) = run(model, asked).values()
    assert (kept.small["width"] > 1).any()
    return kept.data


def by_hand(module, *rows):
    return np.asarray(module(*[mx.array(each)[None] for each in rows])[0])


# what is watched


@pytest.mark.parametrize("name", GIVEN)
def test_streams_add_up_layer_by_layer(model, name):
    data, layers = watched(model(name)), model(name).net.layers
    for number, layer in enumerate(layers):
        added = data["mlp_down"][number]
        if name in ADDED:
            added = by_hand(lambda out, layer=layer: ADDED[name](layer, out), added)
        np.testing.assert_allclose(
            data["residual"][number + 1], data["after_attention"][number] + added, **CLOSE
        )
        assert np.abs(data["after_attention"][number] - data["residual"][number]).max() > 0.1


@pytest.mark.parametrize("name", OTHERS)
def test_the_stream_after_attention_is_what_the_mlp_is_added_to_however_a_layer_is_written(model, name):
    asked = grid(prompts={"a": PROMPTS[:1]}, modes=["isolated"], capture={"residual": True})
    (kept,) = run(model(name), asked).values()
    data = kept.data
    for number, layer in enumerate(model(name).net.layers):
        x, h = data["residual"][number], data["after_attention"][number]
        out = by_hand(lambda x, h, layer=layer: OTHERS[name](layer, x, h), x, h)
        np.testing.assert_allclose(data["residual"][number + 1], out, **CLOSE)
        assert np.abs(h - x).max() > 0.1
        (without,) = run(model(name), asked.model_copy(update={"ablate": ((f"L{number}.mlp",),)})).values()
        prompt = kept.small["slot_step"].tolist().count(-1)
        np.testing.assert_array_equal(without.data["residual"][number + 1, :prompt], h[:prompt])


@pytest.mark.parametrize("name", GIVEN)
def test_the_mlp_is_given_what_the_architecture_says_and_not_something_near_it(model, name):
    data, layers, architecture = watched(model(name)), model(name).net.layers, name.split()[0]
    for number, layer in enumerate(layers):
        given = by_hand(
            lambda x, h, layer=layer: GIVEN[name](layer, x, h),
            data["residual"][number],
            data["after_attention"][number],
        )
        up = by_hand(layer.mlp[UP.get(architecture, "up_proj")], given)
        if architecture == "phi3":
            gate, up = np.split(up, 2, axis=-1)
            np.testing.assert_allclose(data["mlp_gate"][number], gate, **CLOSE)
        elif "gate_proj" in layer.mlp:
            gate = by_hand(layer.mlp.gate_proj, given)
            np.testing.assert_allclose(data["mlp_gate"][number], gate, **CLOSE)
        else:
            assert np.isnan(data["mlp_gate"][number]).all()
        np.testing.assert_allclose(data["mlp_up"][number], up, **CLOSE)


@pytest.mark.parametrize("name", GIVEN)
def test_what_goes_into_the_down_projection_gives_what_the_mlp_puts_out(model, name):
    data, layers = watched(model(name)), model(name).net.layers
    for number, layer in enumerate(layers):
        down = by_hand(layer.mlp[DOWN.get(name.split()[0], "down_proj")], data["mlp_act"][number])
        np.testing.assert_allclose(data["mlp_down"][number], down, **CLOSE)


@pytest.mark.parametrize("name", ["llama", "gemma3", "olmo2", "gpt_neox"])
def test_queries_and_keys_are_kept_as_they_were_before_rope(model, name):
    data = watched(model(name))
    assert data["q"].shape[2] == model(name).facts.heads
    np.testing.assert_array_equal(data["v"].swapaxes(1, 2), data["cached_value"])
    before, after = data["k"].swapaxes(1, 2), data["cached_key"]
    np.testing.assert_array_equal(before[:, :, 0], after[:, :, 0])  # position 0 is not turned
    np.testing.assert_allclose(np.linalg.norm(before, axis=-1), np.linalg.norm(after, axis=-1), **CLOSE)
    assert np.abs(before - after)[:, :, 1:].max() > 0.1


@pytest.mark.parametrize("name", ["llama", "llama_yarn", "phi3", "phi3_longrope"])
def test_queries_are_the_projection_of_the_stream_whatever_rope_scales(model, name):
    data, (layer, *_) = watched(model(name)), model(name).net.layers
    phi3 = name.startswith("phi3")
    project = layer.self_attn.qkv_proj if phi3 else layer.self_attn.q_proj
    q = by_hand(lambda x: project(layer.input_layernorm(x))[..., :64], data["residual"][0])
    np.testing.assert_allclose(data["q"][0].reshape(q.shape), q, **CLOSE)
    if phi3:
        k = by_hand(lambda x: project(layer.input_layernorm(x))[..., 64:96], data["residual"][0])
    else:
        k = by_hand(lambda x: layer.self_attn.k_proj(layer.input_layernorm(x)), data["residual"][0])
    np.testing.assert_allclose(data["k"][0].reshape(k.shape), k, **CLOSE)


def test_queries_are_told_from_keys_where_keys_are_turned_first(model, monkeypatch):
    first, net = watched(model("llama")), model("llama").net
    kind = type(net.layers[0].self_attn)

    def keys_first(self, x, mask=None, cache=None):
        nodes = x.shape[0]
        k = self.rope(self.k_proj(x).reshape(nodes, 1, 2, 16).swapaxes(1, 2), offset=cache.offset)
        q = self.rope(self.q_proj(x).reshape(nodes, 1, 4, 16).swapaxes(1, 2), offset=cache.offset)
        k, v = cache.update_and_fetch(k, self.v_proj(x).reshape(nodes, 1, 2, 16).swapaxes(1, 2))
        attend = model("llama").module.scaled_dot_product_attention
        return self.o_proj(attend(q, k, v, cache=cache, scale=self.scale, mask=mask).reshape(nodes, 1, 64))

    monkeypatch.setattr(kind, "__call__", keys_first)
    for name, values in watched(model("llama")).items():
        np.testing.assert_allclose(values, first[name], **CLOSE)


def test_gate_and_up_that_are_called_alike_are_told_apart(model):
    data = watched(model("exaone"))
    for number, layer in enumerate(model("exaone").net.layers):
        given = by_hand(layer.ln_2, data["after_attention"][number])
        np.testing.assert_allclose(data["mlp_gate"][number], by_hand(layer.mlp.c_fc_0, given), **CLOSE)
        np.testing.assert_allclose(data["mlp_up"][number], by_hand(layer.mlp.c_fc_1, given), **CLOSE)
        np.testing.assert_allclose(
            data["mlp_down"][number], by_hand(layer.mlp.c_proj, data["mlp_act"][number]), **CLOSE
        )


# ablation


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "olmo2"])
def test_an_ablated_mlp_adds_nothing_and_other_layers_go_on(model, name):
    data = watched(model(name), ablate=["L1.mlp"])
    assert (data["mlp_down"][1] == 0).all()
    np.testing.assert_array_equal(data["residual"][2], data["after_attention"][1])
    assert np.abs(data["mlp_down"][2]).max() > 0.1


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_without_its_heads_an_attention_adds_nothing(model, name):
    heads = range(model(name).facts.heads)
    data = watched(model(name), ablate=[f"L1H{head}" for head in heads])
    np.testing.assert_array_equal(data["after_attention"][1], data["residual"][1])
    assert np.abs(data["after_attention"][2] - data["residual"][2]).max() > 0.1


def test_an_ablated_head_is_taken_out_of_its_own_experiment_only(model):
    one = {"prompts": {"a": PROMPTS[:1]}, "modes": ["isolated"]}
    (alone,) = run(model("llama"), grid(**one)).values()
    whole, ablated = run(model("llama"), grid(**one, ablate=[None, ["L0H1"]])).values()
    np.testing.assert_allclose(whole.data["logits"][0], alone.data["logits"][0], atol=1e-5)
    assert np.abs(ablated.data["logits"][0] - alone.data["logits"][0]).max() > 0.01


# what cannot be watched


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A model whose MLPs are mixtures of experts."""
    return tiny(tmp_path_factory.mktemp("experts"), "llama", model_type="mixtral", **EXPERTS)


def test_the_insides_of_experts_are_refused_by_name(experts):
    with pytest.raises(
        BadInput, match=r"capture.internals: layer 1's MLP is made of gate, switch_mlp"
    ) as error:
        run(experts, grid(capture={"internals": [1]}))
    assert "\n" not in str(error.value)


def test_attention_streams_and_ablation_work_around_experts(experts):
    asked = grid(prompts={"a": PROMPTS[:1]}, modes=["single"], capture={"residual": True})
    (kept,) = run(experts, asked).values()
    data = kept.data
    for number, layer in enumerate(experts.net.layers):
        out = by_hand(
            lambda h, of=layer: of.block_sparse_moe(of.post_attention_layernorm(h)),
            data["after_attention"][number],
        )
        np.testing.assert_allclose(
            data["residual"][number + 1], data["after_attention"][number] + out, **CLOSE
        )
    (without,) = run(experts, asked.model_copy(update={"ablate": (("L1.mlp",),)})).values()
    np.testing.assert_array_equal(without.data["residual"][2], without.data["after_attention"][1])


def test_a_layer_of_other_parts_is_refused_with_their_names(model, monkeypatch):
    monkeypatch.setitem(model("llama").net.layers[1], "memory", nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(BadInput, match="layer 1 is made of self_attn, mlp, memory; ") as error:
        run(model("llama"), grid(capture={"residual": True}))
    assert "\n" not in str(error.value)


def test_two_projections_that_may_both_be_up_are_refused_with_their_names(model, monkeypatch):
    mlp = model("llama").net.layers[1].mlp
    monkeypatch.setitem(mlp, "fc1", mlp.up_proj)
    with pytest.raises(BadInput, match="MLP is made of gate_proj, down_proj, up_proj, fc1; ") as error:
        run(model("llama"), grid(capture={"internals": [1]}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gptj", "gptj_whole"])
def test_queries_that_cannot_be_told_from_parts_or_from_keys_are_refused(model, name):
    with pytest.raises(BadInput, match="layer 1 turns parts of its queries and keys") as error:
        run(model(name), grid(capture={"internals": [1]}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["self_attn", "mlp"])
@pytest.mark.parametrize("times", [0, 2])
def test_a_layer_that_does_not_call_its_parts_once_is_refused(model, monkeypatch, part, times):
    def called(self, x, mask=None, cache=None):
        for _ in range(times if part == "self_attn" else 1):
            x = x + self.self_attn(self.input_layernorm(x), mask, cache)
        for _ in range(times if part == "mlp" else 1):
            x = x + self.mlp(self.post_attention_layernorm(x))
        return x

    monkeypatch.setattr(type(model("llama").net.layers[0]), "__call__", called)
    with pytest.raises(BadInput, match=r"capture\.residual: layer 0 does not call") as error:
        run(model("llama"), grid(capture={"residual": True}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fault", ["a copy is handed on", "a layer is passed over"])
def test_layers_that_do_not_hand_one_stream_on_are_refused(model, monkeypatch, fault):
    def called(self, inputs, cache, _):
        h = self.embed_tokens(inputs)
        for number, (layer, pool) in enumerate(zip(self.layers, cache, strict=True)):
            if fault == "a copy is handed on":
                h = layer(h * 1, pool.make_mask(1), cache=pool)
            elif number != 1:
                h = layer(h, pool.make_mask(1), cache=pool)
            else:
                layer.self_attn(h, pool.make_mask(1), cache=pool)
        return self.norm(h)

    monkeypatch.setattr(type(model("llama").net.model), "__call__", called)
    with pytest.raises(BadInput, match="its layers do not hand one stream on") as error:
        run(model("llama"), grid(capture={"residual": True}))
    assert "\n" not in str(error.value)


def test_a_projection_asks_nothing_of_what_a_layer_is_made_of(model, monkeypatch, tmp_path):
    np.save(tmp_path / "one.npy", np.ones(64))
    asked = grid(prompts={"a": PROMPTS[:1]}, capture={"project": {"one": str(tmp_path / "one.npy")}})
    before = run(model("llama"), asked)
    monkeypatch.setitem(model("llama").net.layers[1], "memory", nn.Sequential(nn.Linear(4, 4)))
    for cell, kept in run(model("llama"), asked).items():
        np.testing.assert_array_equal(kept.data["projection"], before[cell].data["projection"])


# what it costs


def calls(model):
    """What each class of a model's modules does when called, so far as it says itself."""
    return {kind: vars(kind).get("__call__") for kind in {type(each) for each in model.net.modules()}}


def changed(model, wanted, ablations=frozenset()):
    """Classes whose calls are watched in a run."""
    before = calls(model)
    with Probes(model, wanted, ablations):
        inside = calls(model)
    assert calls(model) == before
    return {kind for kind in before if inside[kind] is not before[kind]}


def kinds(modules):
    return {type(each) for each in modules}


def test_what_is_not_asked_for_is_not_watched(model):
    net, layer = model("llama").net, model("llama").net.layers[0]
    head = kinds([inner_model(net)])  # where the rows that are read are taken out
    assert changed(model("llama"), Wanted()) == head
    everything = Wanted(
        attention="attention", layers=(0, 1, 2), heads=(0,), logits=True, nodes=("cached_key",)
    )
    assert changed(model("llama"), everything) == head
    assert changed(model("llama"), Wanted(), frozenset({"L1H0"})) == head
    assert changed(model("llama"), Wanted(), frozenset({"L1.mlp"})) == head | kinds([layer.mlp])
    inside = kinds([layer.mlp, layer.mlp.up_proj, layer.self_attn.rope])
    assert changed(model("llama"), Wanted(internals=(1,))) == head | inside
    assert changed(model("llama"), Wanted(nodes=("residual",))) == head | kinds([layer])
    between = changed(model("llama"), Wanted(nodes=("residual", "after_attention")))
    assert between == head | kinds([layer, layer.self_attn, layer.mlp])


def test_a_pass_keeps_nothing_of_the_nodes_that_was_not_asked_for(model):
    prompt = tuple(model("llama").prompt_tokens(PROMPTS[0]))
    with Tap(model("llama"), Wanted()) as tap:
        (feed,) = Forest().plant([prompt], [()])
        passed = tap.forward(feed, [0])
    assert passed.nodes == {}
    assert [block.attention for block in passed.blocks] == [None]
