"""Texts: how they are read, cut into words, kept as ids, and mapped to what a model has learnt."""
