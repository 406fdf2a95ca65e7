"""Advice on how to fine-tune: measures, the papers' findings as rules, a search in function space."""
