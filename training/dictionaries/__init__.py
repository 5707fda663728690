"""Bilingual dictionaries as parallel text: a headword beside its English glosses."""
