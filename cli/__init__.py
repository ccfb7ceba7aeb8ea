"""The commands: parse, call one verb, exit with a code."""
