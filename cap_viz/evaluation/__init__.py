"""Evaluations of a dense or pruned model: accuracy, written answers, perplexity and solution loss."""

from cap_viz._moved import names_of

__getattr__ = names_of("cap_viz.evaluation", "evaluation.choice", "evaluation.comparison")
