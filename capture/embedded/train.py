"""Train the embedded model: a 5.5 M-parameter Llama on public-domain English prose.

    python -m tempocube.capture.embedded.train CORPUS.txt.xz OUT --minutes 60

CORPUS is text, one paragraph a line, plain or .xz. Needs the extra `train`. The learning rate follows the
clock, so that any budget ends annealed. Writes a Hugging Face directory in float16, and what was measured in
training.json.
"""

import argparse
import json
import logging
import lzma
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

try:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
except ModuleNotFoundError as error:
    raise SystemExit(
        f"training needs {error.name}: pip install 'tempocube[train]', or -e '.[train]' in a clone"
    ) from None

END = "<|end|>"  # id 0, before every paragraph
CONTEXT, BATCH = 256, 32
STEP_TOKENS = CONTEXT * BATCH
LOG_EVERY, LOG_ROWS = 100, 20
WARM_UP_STEPS, LOWEST_RATE = 100, 0.05
SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 704,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "attention_dropout": 0.0,
}

Tokens = npt.NDArray[np.uint16]
Row = dict[str, float]

log = logging.getLogger("train")


def read_paragraphs(path: Path) -> list[str]:
    """The paragraphs of a corpus, in random order."""
    if path.suffix == ".xz":
        text = lzma.decompress(path.read_bytes()).decode("utf-8")
    else:
        text = path.read_text("utf-8")
    paragraphs = [line for line in text.split("\n") if line]
    np.random.default_rng(0).shuffle(paragraphs)
    return paragraphs


def train_tokenizer(paragraphs: list[str]) -> Tokenizer:
    """A byte-level BPE tokenizer that puts the end token before each text."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words.train_from_iterator(paragraphs, trainer)
    words.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END}:1 $B:1", special_tokens=[(END, 0)]
    )
    return words


def encode(words: Tokenizer, paragraphs: list[str], at_once: int = 20_000) -> Tokens:
    """(token,): the paragraphs one after the other, an end token before each."""
    starts = range(0, len(paragraphs), at_once)
    parts = (words.encode_batch(paragraphs[start : start + at_once]) for start in starts)
    return np.concatenate([np.array(each.ids, dtype=np.uint16) for part in parts for each in part])


def draw(data: Tokens, rng: np.random.Generator) -> torch.Tensor:
    """(BATCH, CONTEXT + 1): pieces of the text from random places."""
    starts = rng.integers(0, len(data) - CONTEXT - 1, BATCH)
    pieces = [data[start : start + CONTEXT + 1] for start in starts]
    return torch.from_numpy(np.stack(pieces).astype(np.int64))


def loss_of(model: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """Nats a token, over a batch."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=tokens[:, :-1]).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def held_out(model: LlamaForCausalLM, data: Tokens, batches: int) -> float:
    """Nats a token on text that training does not see, always at the same places."""
    rng = np.random.default_rng(1)
    with torch.no_grad():
        losses = [float(loss_of(model, draw(data, rng))) for _ in range(batches)]
    return sum(losses) / batches


def optimizer(model: LlamaForCausalLM, rate: float) -> torch.optim.AdamW:
    """AdamW that lets matrices decay and vectors stay."""
    matrices = [each for each in model.parameters() if each.ndim == 2]
    vectors = [each for each in model.parameters() if each.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))


def rate_at(step: int, gone: float) -> float:
    """Part of the highest learning rate, a warm-up and then a half cosine over the time that is `gone`."""
    cosine = LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * gone))
    return min((step + 1) / WARM_UP_STEPS, cosine)


def steps(model: LlamaForCausalLM, data: Tokens, minutes: float, rate: float) -> Iterator[float]:
    """Train until the time is over; gives each step's loss."""
    rng, optimiser, start, step = np.random.default_rng(0), optimizer(model, rate), time.monotonic(), 0
    while (gone := (time.monotonic() - start) / (60 * minutes)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_at(step, gone)
        loss = loss_of(model, draw(data, rng))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        yield loss.item()


def fit(model: LlamaForCausalLM, data: Tokens, test: Tokens, minutes: float, rate: float) -> list[Row]:
    """Train, and log both losses every so many steps and at the end."""
    rows: list[Row] = []
    step, loss = 0, math.nan
    for step, loss in enumerate(steps(model, data, minutes, rate), start=1):
        if step % LOG_EVERY == 0:
            rows.append(_row(step, loss, held_out(model, test, 8)))
            log.info("%s", rows[-1])
    return [*rows, _row(step, loss, held_out(model, test, 40))]


def _row(step: int, loss: float, other: float) -> Row:
    return {"step": step, "tokens": step * STEP_TOKENS, "train": round(loss, 4), "held_out": round(other, 4)}


def write(out: Path, model: LlamaForCausalLM, words: Tokenizer, measured: dict[str, Any]) -> None:
    """Write the model, its tokenizer and what was measured, as transformers 4, 5 and mlx-lm read them."""
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    _edit(out / "config.json", {"rope_theta": SHAPE["rope_theta"]})
    wrapped = PreTrainedTokenizerFast(tokenizer_object=words, bos_token=END, eos_token=END)
    wrapped.save_pretrained(out)
    _edit(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    (out / "training.json").write_text(json.dumps(measured, indent=1) + "\n", "utf-8")


def _edit(path: Path, changes: dict[str, Any]) -> None:
    changed = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps(changed, indent=2) + "\n", "utf-8")


def train(corpus: Path, out: Path, minutes: float, rate: float) -> None:
    """Train tokenizer and model on a corpus, of which each hundredth paragraph is held out."""
    torch.manual_seed(0)
    paragraphs = read_paragraphs(corpus)
    border = max(1, len(paragraphs) // 100)
    kept_out, kept_in = paragraphs[:border], paragraphs[border:]
    words = train_tokenizer(kept_in[::3])
    data, test = encode(words, kept_in), encode(words, kept_out)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    log.info("%.2f M parameters, %.1f M tokens", model.num_parameters() / 1e6, len(data) / 1e6)
    rows = fit(model, data, test, minutes, rate)
    bytes_per_token = sum(len(each.encode()) for each in kept_out) / len(test)
    last = rows.pop()
    measured = {
        "steps": last["step"],
        "tokens": last["tokens"],
        "corpus_tokens": len(data),
        "held_out_nats_per_token": last["held_out"],
        "held_out_bits_per_byte": last["held_out"] / math.log(2) / bytes_per_token,
        "bytes_per_token": bytes_per_token,
        "log": rows[:: max(1, len(rows) // LOG_ROWS)],
    }
    write(out, model, words, measured)
    log.info(
        "held out: %(held_out_nats_per_token).3f nats, %(held_out_bits_per_byte).3f bits a byte", measured
    )


def main() -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description="Train the embedded model.")
    parser.add_argument("corpus", type=Path, help="text, plain or .xz")
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("--minutes", type=float, default=60, help="time to train (default: 60)")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate (default: 0.003)")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(arguments.corpus, arguments.out, arguments.minutes, arguments.rate)


if __name__ == "__main__":
    main()
