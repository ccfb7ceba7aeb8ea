"""Names of the original TEMPO's result files, and what marks those that were written here."""

ATTENTION = "attention_weights.npz"
LOGITS = "logits_distributions.npz"
CACHE = "kv_cache_states.npz"  # the original's .pkl: nothing here writes or reads a pickle
SETS = "parallel_sets.json"
POSITIONS = "rope_positions.json"
LOG = "generation_log.json"
METADATA = "experiment_metadata.json"
SCORES = "cross_parallel_scores.json"
DIVERGENCE = "kl_divergence.json"
ANALYSIS = "analysis.txt"
ROWS = "sibling_attention.npz"  # of our own: rows that the original never captured

FORMAT = "tempocube-legacy-1"
