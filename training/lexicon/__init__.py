"""A word lexicon counted from parallel text, and the start it gives to a small MILCO."""
