"""A process of the peer benchmark that has TransformerLens, as a bridge to the model that transformers loads.

It keeps attention of one prompt at a time only, by one more pass over all that was generated.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Found = dict[str, Any]
PATTERN = "attn.hook_pattern"


class Tool:
    """A bridged model; prompts come as tokens."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from transformer_lens.model_bridge import TransformerBridge
        from transformers.utils import logging

        logging.disable_progress_bar()
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.net: Any = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
        self.kept: list[Any] = []

    def one_by_one(self, prompts: Sequence[list[int]], tokens: int) -> Found:
        """Generation with the cache of all patterns, and readouts."""
        self.kept, taken, fed = [], [], 0
        for prompt in prompts:
            answer, cache = self.net.generate(
                self.torch.tensor([prompt]),
                max_new_tokens=tokens,
                do_sample=False,
                stop_at_eos=False,
                return_cache=True,
                output_logits=True,
                names_filter=lambda name: name.endswith(PATTERN),
                return_type="tokens",
                prepend_bos=False,
                verbose=False,
            )
            self.kept.append((answer, cache))
            taken.append(answer.sequences[0, len(prompt) :].tolist())
            fed += len(prompt) + tokens - 1 + len(prompt) + tokens  # the second pass feeds all again
        return {"nodes": fed, "tokens": taken}

    def attention(self, number: int) -> Any:
        """(layer, head, query, key): weights of a prompt of the last call; NaN where there was no key."""
        cache = self.kept[number][1]
        layers = range(self.net.cfg.n_layers)
        weights = np.stack([cache[f"blocks.{layer}.{PATTERN}"][0].numpy() for layer in layers])
        return np.where(np.tri(weights.shape[-1], dtype=bool), weights, np.float32(np.nan))
