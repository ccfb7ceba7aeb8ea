"""What each of the twelve questions is called, and how it is asked."""

__all__ = ["TITLES", "title"]

TITLES = {
    "downweighting": "Down-weighting",
    "prompt_variance": "Between prompts",
    "outliers": "Outliers",
    "effect_size": "Effect size",
    "category": "Categories",
    "seeds": "Seeds",
    "generalisation": "A new prompt",
    "modes": "Modes",
    "cross_parallel": "Among siblings",
    "logits": "Logits",
    "maps": "Layers and heads",
    "over_steps": "Over steps",
}
ASKED = {
    "downweighting": "Do parallel tokens receive less attention than single ones at the same distance?",
    "prompt_variance": "How much do prompts differ?",
    "outliers": "Is any prompt unlike the others?",
    "effect_size": "How large is that, measured by the scatter of prompts?",
    "category": "Do categories of prompts differ?",
    "seeds": "How much do seeds add?",
    "generalisation": "What is to be expected of a new prompt?",
    "modes": "Does it matter whether siblings see each other?",
    "cross_parallel": "How much do siblings attend to each other?",
    "logits": "Do the modes predict different next tokens?",
    "maps": "Where in the model does it happen?",
    "over_steps": "Does it change as the text grows?",
}
OWN = {"downweighting": "How large is the mean over prompts?", "modes": "Do the modes differ?"}


def title(key: str, response: str) -> tuple[str, str]:
    """Name and question of an answer, which for a response of one's own are about that."""
    if response == "downweighting":
        return TITLES[key], ASKED[key]
    return (response if key == "downweighting" else TITLES[key]), OWN.get(key, ASKED[key])
