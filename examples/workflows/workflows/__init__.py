"""Workflows: steps that ask a language model, some of them at the same time."""
