"""The answers: from a cube to measures, from measures to honest conclusions."""
