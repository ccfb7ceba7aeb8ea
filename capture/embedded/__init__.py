"""The embedded model: a small Llama in the Hugging Face layout, and the script that trained it."""
