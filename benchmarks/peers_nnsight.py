"""A process of the peer benchmark that has nnsight, around the model that transformers loads.

A process of its own, because what it wraps is slower from then on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peers_torch
from peers_torch import Found


class Tool(peers_torch.Tool):
    """A loaded and wrapped model."""

    def __init__(self, folder: Path, threads: int) -> None:
        from nnsight import TransformersModel
        from transformers import AutoTokenizer

        super().__init__(folder, threads)
        words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.wrapped: Any = TransformersModel(self.net, task="text-generation", tokenizer=words)

    def batched(self, prompts: Sequence[list[int]], tokens: int) -> Found:
        """Generation of all prompts, of which weights and readouts are saved as they come by."""
        from nnsight import save

        self.forget()
        given, pads = self.padded(prompts)
        lm = self.wrapped
        with lm.generate(given, max_new_tokens=tokens, do_sample=False) as tracer:
            weights, readouts = save([]), save([])
            for _ in tracer.iter[:tokens]:
                weights.append([layer.self_attn.output[1] for layer in lm.model.layers])
                readouts.append(lm.lm_head.output)
            out = save(tracer.result)
        self.kept = [(weights, row, pad) for row, pad in enumerate(pads)]
        self.readouts = readouts
        return self.found(prompts, tokens, out[:, -tokens:].tolist())
