"""From a generator to files that other runtimes take."""
