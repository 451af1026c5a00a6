"""A corpus of speech to shards of tokens: sources, plan, workers, sinks, resume, verify."""
