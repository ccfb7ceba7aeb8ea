"""A process of the peer benchmark that has torch: Hugging Face transformers.

It loads the same files as our engine, in float32, with eager attention, and generates greedily with all
weights and all readouts kept. An end token ends nothing, as in ours.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Found = dict[str, Any]
PAD = 0  # masked, whatever it is


class Tool:
    """A loaded model, and every way to the task; prompts come as tokens."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.folder = torch, folder
        self.net = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
        self.net.generation_config.eos_token_id = None
        self.net.generation_config.pad_token_id = PAD
        self.kept: list[tuple[Any, int, int]] = []  # a pass' weights by layer, row of the batch, padding
        self.readouts: list[Any] = []  # as they are kept by whoever asks for them

    def one_by_one(self, prompts: Sequence[list[int]], tokens: int) -> Found:
        """`generate`, a prompt at a time."""
        self.forget()
        taken = [self.generated([prompt], tokens)[0] for prompt in prompts]
        return self.found(prompts, tokens, taken)

    def batched(self, prompts: Sequence[list[int]], tokens: int) -> Found:
        """`generate` on all prompts, padded on the left."""
        self.forget()
        return self.found(prompts, tokens, self.generated(prompts, tokens))

    def attention(self, number: int) -> Any:
        """(layer, head, query, key): weights of a prompt of the last call; NaN where there was no key."""
        passes, row, pad = self.kept[number]
        steps = [np.stack([layer[row].numpy() for layer in each]) for each in passes]
        size = steps[-1].shape[-1] - pad
        layers, heads = steps[0].shape[:2]
        out, done = np.full((layers, heads, size, size), np.nan, np.float32), 0
        for step in steps:
            part = step[:, :, pad if not done else 0 :, pad:]
            out[:, :, done : done + part.shape[2], : part.shape[3]] = part
            done += part.shape[2]
        return np.where(np.tri(size, dtype=bool), out, np.float32(np.nan))

    def generated(self, prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
        """Tokens that a batch takes; weights and readouts stay."""
        given, pads = self.padded(prompts)
        found = self.net.generate(
            **given,
            max_new_tokens=tokens,
            do_sample=False,
            output_attentions=True,
            output_scores=True,
            return_dict_in_generate=True,
        )
        self.kept += [(found.attentions, row, pad) for row, pad in enumerate(pads)]
        self.readouts.append(found.scores)
        new: list[list[int]] = found.sequences[:, -tokens:].tolist()
        return new

    def padded(self, prompts: Sequence[list[int]]) -> tuple[dict[str, Any], list[int]]:
        """A batch of prompts, padded on the left, and by how much each is."""
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        ids = [[PAD] * pad + prompt for pad, prompt in zip(pads, prompts, strict=True)]
        seen = [[0] * pad + [1] * len(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
        tensor = self.torch.tensor
        return {"input_ids": tensor(ids), "attention_mask": tensor(seen)}, pads

    def forget(self) -> None:
        """Of the time before, so that no call pays for another's memory."""
        self.kept, self.readouts = [], []

    def found(self, prompts: Sequence[list[int]], tokens: int, taken: list[list[int]]) -> Found:
        """What is told of a call: tokens fed, tokens taken."""
        fed = sum(map(len, prompts)) + len(prompts) * (tokens - 1)  # the last one is not fed
        return {"nodes": fed, "tokens": taken}
