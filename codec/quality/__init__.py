"""How good coded speech is: metrics, judges with networks, evaluation of a model, comparison with other codecs."""
